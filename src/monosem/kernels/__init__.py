"""The two operations that carry all sparsity: read (x to selected latents) and write (latents to x_r_hat).

`reference` is plain torch and defines what is computed; `sparse` touches only active cells and
brings its own gradients. Both take the weights as a list of blocks.
"""

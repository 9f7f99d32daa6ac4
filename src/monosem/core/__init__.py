"""The model x_r_hat = W_D sigma(W_E (x_p - b_in) + b_E) + b_D + W_skip x_p, and what it is made of."""

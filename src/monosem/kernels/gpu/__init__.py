"""The same operations as Triton programs, for CUDA devices; docs/gpu.md says which and why.

`programs` holds the Triton code, `launch` compiles it when it first runs; `select` ranks, `cells` sums over active
cells, `rows` takes optimiser steps from cells. Without Triton, the plain torch
operations serve on a GPU as well.
"""

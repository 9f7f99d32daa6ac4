"""Compiled CPU kernels: optional, built once from the C files beside this one, same results as the plain torch path."""

"""Experiments of the paper on real rows: table 2 and figure 7; importing catalog registers them."""

"""The claims of the paper's section 3, each a check that can fail; `registry.CHECKS` holds them all."""

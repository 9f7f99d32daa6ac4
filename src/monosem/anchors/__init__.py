"""Feature anchoring (Tang et al. 2025, section 4): known directions hold some of the latents."""

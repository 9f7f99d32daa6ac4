"""The page of latents: what a dictionary learned, on one page."""

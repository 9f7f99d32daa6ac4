"""The page of latents: what a dictionary learned, on one page."""

__all__: list[str] = []

"""Pinned third-party models and data, fetched by name."""

__all__: list[str] = []

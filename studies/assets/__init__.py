"""Pinned third-party models and data, fetched by name."""

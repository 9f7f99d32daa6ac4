"""Classical dictionary learning and sparse inference."""

__all__: list[str] = []

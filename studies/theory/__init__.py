"""A figure for every check, drawn from fresh measurements."""

__all__: list[str] = []

"""Tables and figures of studies."""

__all__: list[str] = []

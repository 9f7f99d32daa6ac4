"""Reports: records summarised over seeds, figures, and one self-contained page."""

__all__: list[str] = []

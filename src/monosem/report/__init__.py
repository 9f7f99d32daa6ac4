"""Reports: records summarised over seeds, figures, and one self-contained page."""

"""A figure for every check, drawn from fresh measurements."""

"""Training: one loop that can be read aloud, state that survives a kill, a log."""

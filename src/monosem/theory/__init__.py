"""The theory of the SDL landscape, executable: problems, patterns, exact losses, checks and search."""

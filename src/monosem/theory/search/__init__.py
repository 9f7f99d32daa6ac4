"""Search: alternating convex search, certified global optima of small problems, and the atlas of their patterns."""

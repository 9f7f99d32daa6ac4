"""Real representations: tables in files, rows of a training source, labels and the anchors they give."""

"""Rows from anywhere: files, stores, labels, texts, and the class means of labelled rows."""

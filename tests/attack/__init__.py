"""Damaged and hostile files against every command that reads one, and processes that are killed while they write."""

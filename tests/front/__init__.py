"""Tests of the first calls."""

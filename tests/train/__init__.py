"""Tests of training: the loop, what it saves, and what a kill leaves."""

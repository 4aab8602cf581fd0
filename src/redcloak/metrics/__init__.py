"""Scores: pictures -> one value each, reduced as late as possible. One file, one family."""

"""Scorers of sentiment, one file each."""

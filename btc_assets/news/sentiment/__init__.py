"""Sentiment scorers, one file per scorer."""

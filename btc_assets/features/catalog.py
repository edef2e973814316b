"""Placeholder until the catalogue lands."""
from dataclasses import dataclass
import polars as pl


@dataclass(frozen=True)
class Feature:
    name: str
    about: str
    unit: str

FEATURES = (Feature("sma_20", "x", "USD"),)

"""Models of the kinds that people publish, written for this catalogue, with small synthetic data."""

from catalogue import discrete, hierarchical, networks, regressions, series, survival, vectors
from catalogue.entry import MODELS, Entry

__all__ = [
    "MODELS",
    "Entry",
    "discrete",
    "hierarchical",
    "networks",
    "regressions",
    "series",
    "survival",
    "vectors",
]

"""Programs: NumPyro models bound to their data, and what is known of each example."""

from dtda_prob.program.plates import Indices
from dtda_prob.program.program import Program

__all__ = ["Indices", "Program"]

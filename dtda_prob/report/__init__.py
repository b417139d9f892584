"""A study as one self-contained page, and what a person can look at of its data."""

from dtda_prob.report.examples import examples as examples
from dtda_prob.report.page import write as write

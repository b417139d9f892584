"""A study as one self-contained page, and what to show of its examples."""

from dtda_prob.report.checked import write_checked as write_checked
from dtda_prob.report.examples import examples as examples
from dtda_prob.report.page import write as write

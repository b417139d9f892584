"""Which rows of a table look wrong."""

from dtda_prob.suspects.check import Checked as Checked
from dtda_prob.suspects.check import check as check

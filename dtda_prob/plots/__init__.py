"""Pictures, on arviz-plots."""

from dtda_prob.plots.calibration import calibration as calibration
from dtda_prob.plots.evaluation import agreement as agreement
from dtda_prob.plots.outcomes import compare as compare

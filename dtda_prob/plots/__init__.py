"""Pictures, on arviz-plots."""

from dtda_prob.plots.distributions import calibration as calibration
from dtda_prob.plots.distributions import compare as compare
from dtda_prob.plots.evaluation import agreement as agreement
from dtda_prob.plots.evaluation import agreement_by_draws as agreement_by_draws
from dtda_prob.plots.evaluation import pruning as pruning
from dtda_prob.plots.evaluation import removal_curves as removal_curves
from dtda_prob.plots.scores import ranks as ranks
from dtda_prob.plots.scores import shift_against_spread as shift_against_spread

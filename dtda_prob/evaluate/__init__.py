"""Is the prediction right: predicted against retrained effects, and uses of attribution."""

from dtda_prob.evaluate.agreement import agreement as agreement
from dtda_prob.evaluate.agreement import agreement_by_draws as agreement_by_draws
from dtda_prob.evaluate.agreement import reliability as reliability
from dtda_prob.evaluate.arms import effects as effects
from dtda_prob.evaluate.arms import predictions as predictions
from dtda_prob.evaluate.arms import retrainings as retrainings
from dtda_prob.evaluate.designs import CompareOptions as CompareOptions
from dtda_prob.evaluate.designs import Subsets as Subsets
from dtda_prob.evaluate.designs import compare as compare
from dtda_prob.evaluate.designs import lds as lds
from dtda_prob.evaluate.designs import loo as loo
from dtda_prob.evaluate.mislabels import mislabels as mislabels
from dtda_prob.evaluate.pruning import compare_rules as compare_rules
from dtda_prob.evaluate.pruning import pruning as pruning
from dtda_prob.evaluate.removal import CurveOptions as CurveOptions
from dtda_prob.evaluate.removal import brittleness as brittleness
from dtda_prob.evaluate.removal import removal_curves as removal_curves

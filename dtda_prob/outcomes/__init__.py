"""Sample sets of the outcomes of training."""

from dtda_prob.outcomes.sampling import sample as sample
from dtda_prob.outcomes.store import load as load

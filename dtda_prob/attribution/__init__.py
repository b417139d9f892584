"""Scores of examples: a divergence per query and example or group, with errors and ranks."""

from dtda_prob.attribution.arms import Arms as Arms
from dtda_prob.attribution.arms import comparison as comparison
from dtda_prob.attribution.attribute import attribute as attribute
from dtda_prob.attribution.attribute import price_of_scores as price_of_scores
from dtda_prob.attribution.choose import Choice as Choice
from dtda_prob.attribution.choose import choose as choose
from dtda_prob.attribution.fuse import fuse as fuse
from dtda_prob.attribution.fuse import price_of_fused as price_of_fused
from dtda_prob.attribution.matrices import read_scores as read_scores
from dtda_prob.attribution.power import Power as Power
from dtda_prob.attribution.power import power as power
from dtda_prob.attribution.until import precision as precision
from dtda_prob.attribution.until import settled as settled
from dtda_prob.attribution.until import until as until

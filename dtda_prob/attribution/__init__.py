"""Scores of data: a divergence per query and datum or group, with errors and ranks."""

from dtda_prob.attribution.arms import Arms as Arms
from dtda_prob.attribution.arms import draw_arms as draw_arms
from dtda_prob.attribution.attribute import attribute as attribute
from dtda_prob.attribution.pilot import Power as Power
from dtda_prob.attribution.pilot import power as power
from dtda_prob.attribution.sequential import precision as precision
from dtda_prob.attribution.sequential import settled as settled
from dtda_prob.attribution.sequential import until as until

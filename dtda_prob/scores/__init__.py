"""Tables of scores: rankings, discoveries, groups."""

from dtda_prob.scores.aggregates import aggregate as aggregate
from dtda_prob.scores.discoveries import influential as influential
from dtda_prob.scores.discoveries import spread_without_shift as spread_without_shift
from dtda_prob.scores.rankings import overall as overall
from dtda_prob.scores.rankings import rank_correlation as rank_correlation
from dtda_prob.scores.rankings import strongest as strongest

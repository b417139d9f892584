"""What scores say: discoveries, agreement of rankings, groups."""

from dtda_prob.scores.aggregates import aggregate as aggregate
from dtda_prob.scores.discoveries import influential as influential
from dtda_prob.scores.discoveries import spread_without_shift as spread_without_shift
from dtda_prob.scores.rankings import agreement as agreement
from dtda_prob.scores.rankings import overlap as overlap
from dtda_prob.scores.strongest import strongest as strongest

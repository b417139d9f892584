"""What is asked of a trained model: outputs that are transported, and the readout taken of them.

A measure's outputs are the parameters of the predictive distribution at each query, in unconstrained
space: logits for a categorical, mean and log scale for a normal. Push-forwards transport these, and the
readout (loss, margin, probability, ...) is taken of the transported outputs.
"""

from dtda_prob.measures.functions import function as function
from dtda_prob.measures.functions import parameters as parameters
from dtda_prob.measures.measure import Measure as Measure
from dtda_prob.measures.predictive import Predictive as Predictive
from dtda_prob.measures.queries import accuracy as accuracy
from dtda_prob.measures.queries import log_likelihood as log_likelihood
from dtda_prob.measures.queries import loss as loss
from dtda_prob.measures.queries import margin as margin
from dtda_prob.measures.queries import prediction as prediction
from dtda_prob.measures.queries import squared_error as squared_error
from dtda_prob.measures.statistics import Statistic as Statistic
from dtda_prob.measures.statistics import auroc as auroc
from dtda_prob.measures.statistics import averaged as averaged
from dtda_prob.measures.statistics import contrast as contrast
from dtda_prob.measures.statistics import worst_group as worst_group

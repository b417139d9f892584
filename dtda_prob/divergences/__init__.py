"""How far apart two sample sets are: discrepancies between distributions, with errors and nulls."""

from dtda_prob.divergences.discrepancy import energy as energy
from dtda_prob.divergences.discrepancy import gaussian as gaussian
from dtda_prob.divergences.discrepancy import laplacian as laplacian
from dtda_prob.divergences.discrepancy import mmd as mmd
from dtda_prob.divergences.divergence import Divergence as Divergence
from dtda_prob.divergences.divergence import VectorDivergence as VectorDivergence
from dtda_prob.divergences.divergence import of_function as of_function
from dtda_prob.divergences.entropic_transport import sinkhorn as sinkhorn
from dtda_prob.divergences.entropies import expected_entropy as expected_entropy
from dtda_prob.divergences.entropies import mutual_information as mutual_information
from dtda_prob.divergences.entropies import predictive_entropy as predictive_entropy
from dtda_prob.divergences.estimates import Estimate as Estimate
from dtda_prob.divergences.estimates import estimate as estimate
from dtda_prob.divergences.information import jensen_shannon as jensen_shannon
from dtda_prob.divergences.information import kullback_leibler as kullback_leibler
from dtda_prob.divergences.meaning import Meaning as Meaning
from dtda_prob.divergences.moments import log_sd_ratio as log_sd_ratio
from dtda_prob.divergences.moments import mean as mean
from dtda_prob.divergences.moments import quantile as quantile
from dtda_prob.divergences.moments import tail_probability as tail_probability
from dtda_prob.divergences.moments import variance as variance
from dtda_prob.divergences.registry import available as available
from dtda_prob.divergences.registry import register as register
from dtda_prob.divergences.registry import resolve as resolve
from dtda_prob.divergences.suprema import kolmogorov_smirnov as kolmogorov_smirnov
from dtda_prob.divergences.suprema import total_variation as total_variation
from dtda_prob.divergences.transport import sliced_wasserstein as sliced_wasserstein
from dtda_prob.divergences.transport import wasserstein as wasserstein

register(
    mean(),
    variance(),
    log_sd_ratio(),
    quantile(),
    wasserstein(order=1),
    wasserstein(),
    sliced_wasserstein(),
    sinkhorn(),
    energy(),
    mmd(),
    kullback_leibler(),
    jensen_shannon(),
    total_variation(),
    kolmogorov_smirnov(),
    predictive_entropy(),
    expected_entropy(),
    mutual_information(),
)

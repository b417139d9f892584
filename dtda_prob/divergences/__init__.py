"""How far apart two sample sets are: discrepancies between distributions, with errors and nulls."""

from dtda_prob.divergences.discrepancy import energy as energy
from dtda_prob.divergences.discrepancy import gaussian as gaussian
from dtda_prob.divergences.discrepancy import laplacian as laplacian
from dtda_prob.divergences.discrepancy import mmd as mmd
from dtda_prob.divergences.divergence import Divergence as Divergence
from dtda_prob.divergences.divergence import Functional as Functional
from dtda_prob.divergences.estimates import Estimate as Estimate
from dtda_prob.divergences.estimates import available as available
from dtda_prob.divergences.estimates import estimate as estimate
from dtda_prob.divergences.estimates import resolve as resolve
from dtda_prob.divergences.moments import log_sd_ratio as log_sd_ratio
from dtda_prob.divergences.moments import mean as mean
from dtda_prob.divergences.moments import variance as variance
from dtda_prob.divergences.quantiles import quantile as quantile
from dtda_prob.divergences.quantiles import tail_probability as tail_probability
from dtda_prob.divergences.transport import sliced_wasserstein as sliced_wasserstein
from dtda_prob.divergences.transport import wasserstein as wasserstein

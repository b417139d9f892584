"""Training algorithms as stochastic kernels."""

from dtda_prob.kernels.average import average as average
from dtda_prob.kernels.cut import cut as cut
from dtda_prob.kernels.exact import exact as exact
from dtda_prob.kernels.given import given as given
from dtda_prob.kernels.hamiltonian import hmc as hmc
from dtda_prob.kernels.hamiltonian import nuts as nuts
from dtda_prob.kernels.kernel import Kernel as Kernel
from dtda_prob.kernels.kernel import Phase as Phase
from dtda_prob.kernels.kernel import keep as keep
from dtda_prob.kernels.kernel import path as path
from dtda_prob.kernels.kernel import run as run
from dtda_prob.kernels.kernel import segment_sizes as segment_sizes
from dtda_prob.kernels.kernel import then as then
from dtda_prob.kernels.langevin import sghmc as sghmc
from dtda_prob.kernels.langevin import sgld as sgld
from dtda_prob.kernels.langevin import sgnht as sgnht
from dtda_prob.kernels.laplace import laplace as laplace
from dtda_prob.kernels.lbfgs import lbfgs as lbfgs
from dtda_prob.kernels.precision import in_precision as in_precision
from dtda_prob.kernels.sgd import sgd as sgd
from dtda_prob.kernels.svi import svi as svi

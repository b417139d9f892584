"""Training algorithms as stochastic kernels."""

from dtda_prob.kernels.early_stopping import best as best
from dtda_prob.kernels.hamiltonian import hmc as hmc
from dtda_prob.kernels.hamiltonian import nuts as nuts
from dtda_prob.kernels.kernel import Kernel as Kernel
from dtda_prob.kernels.kernel import Phase as Phase
from dtda_prob.kernels.langevin import sghmc as sghmc
from dtda_prob.kernels.langevin import sgld as sgld
from dtda_prob.kernels.langevin import sgnht as sgnht
from dtda_prob.kernels.modes import exact as exact
from dtda_prob.kernels.modes import laplace as laplace
from dtda_prob.kernels.modes import lbfgs as lbfgs
from dtda_prob.kernels.pretrained import pretrained as pretrained
from dtda_prob.kernels.sgd import sgd as sgd
from dtda_prob.kernels.svi import svi as svi
from dtda_prob.kernels.wrappers import average as average
from dtda_prob.kernels.wrappers import in_precision as in_precision
from dtda_prob.kernels.wrappers import keep as keep
from dtda_prob.kernels.wrappers import sequence as sequence
from dtda_prob.kernels.wrappers import truncate as truncate

"""Curvatures: symmetric matrices on parameter space, and functions of them times vectors."""

from dtda_prob.curvature.curvature import Curvature as Curvature
from dtda_prob.curvature.dense import dense as dense
from dtda_prob.curvature.dense import gram as gram
from dtda_prob.curvature.diagonal import block_diagonal as block_diagonal
from dtda_prob.curvature.diagonal import diagonal as diagonal
from dtda_prob.curvature.diagonal import identity as identity
from dtda_prob.curvature.filters import auto as auto
from dtda_prob.curvature.filters import relative as relative
from dtda_prob.curvature.kronecker import kronecker as kronecker
from dtda_prob.curvature.krylov import conjugate_gradient as conjugate_gradient
from dtda_prob.curvature.krylov import lanczos as lanczos
from dtda_prob.curvature.krylov import neumann as neumann
from dtda_prob.curvature.matrices import empirical_fisher as empirical_fisher
from dtda_prob.curvature.matrices import fisher as fisher
from dtda_prob.curvature.matrices import gauss_newton as gauss_newton
from dtda_prob.curvature.matrices import hessian as hessian
from dtda_prob.curvature.refined import chebyshev as chebyshev
from dtda_prob.curvature.sketch import nystroem as nystroem
from dtda_prob.curvature.sketch import projection as projection

"""Linear operators on parameter space, inverted."""

from dtda_prob.curvature.curvature import Curvature as Curvature
from dtda_prob.curvature.dense import dense as dense
from dtda_prob.curvature.krylov import conjugate_gradient as conjugate_gradient

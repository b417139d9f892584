"""Can a prediction be trusted: draws, coupling, range, solves, tails, calibration; and a verdict."""

from dtda_prob.diagnostics.along_training import along_training as along_training
from dtda_prob.diagnostics.calibration import calibration as calibration
from dtda_prob.diagnostics.coupling import coupling as coupling
from dtda_prob.diagnostics.draws import draws as draws
from dtda_prob.diagnostics.linear_range import linear_range as linear_range
from dtda_prob.diagnostics.modes import modes as modes
from dtda_prob.diagnostics.null_space import null_space as null_space
from dtda_prob.diagnostics.pareto import pareto_k as pareto_k
from dtda_prob.diagnostics.residuals import residuals as residuals
from dtda_prob.diagnostics.sensitivity import sensitivity as sensitivity
from dtda_prob.diagnostics.verdict import Verdict as Verdict
from dtda_prob.diagnostics.verdict import judge as judge
from dtda_prob.diagnostics.verdict import verdict as verdict

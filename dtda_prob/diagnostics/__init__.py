"""Can a prediction be trusted: draws, coupling, range, solves, tails, calibration; and a verdict."""

from dtda_prob.diagnostics.along_training import along_training as along_training
from dtda_prob.diagnostics.calibration import calibration as calibration
from dtda_prob.diagnostics.independence import independence as independence
from dtda_prob.diagnostics.linear_range import linear_range as linear_range
from dtda_prob.diagnostics.modes import modes as modes
from dtda_prob.diagnostics.posterior import k_hats as k_hats
from dtda_prob.diagnostics.posterior import pareto_k as pareto_k
from dtda_prob.diagnostics.posterior import sensitivity as sensitivity
from dtda_prob.diagnostics.sampling import coupling as coupling
from dtda_prob.diagnostics.sampling import draws as draws
from dtda_prob.diagnostics.simulated import simulated as simulated
from dtda_prob.diagnostics.solves import null_space as null_space
from dtda_prob.diagnostics.solves import residuals as residuals
from dtda_prob.diagnostics.verdict import Verdict as Verdict
from dtda_prob.diagnostics.verdict import VerdictOptions as VerdictOptions
from dtda_prob.diagnostics.verdict import judge as judge
from dtda_prob.diagnostics.verdict import verdict as verdict

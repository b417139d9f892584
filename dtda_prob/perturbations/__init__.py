"""Perturbed data sets: weights of examples, counterfactual rows, and settings that vary."""

from dtda_prob.perturbations.counterfactuals import Counterfactual, add, relabel
from dtda_prob.perturbations.settings import changed, part, vary
from dtda_prob.perturbations.weights import (
    Data,
    Removal,
    check_weights,
    groups,
    labelled,
    leave_one_out,
    num_removed,
    positions_of,
    random_subsets,
    remove,
    remove_leading,
    upweight,
)

__all__ = [
    "Counterfactual",
    "Data",
    "Removal",
    "add",
    "changed",
    "check_weights",
    "groups",
    "labelled",
    "leave_one_out",
    "num_removed",
    "part",
    "positions_of",
    "random_subsets",
    "relabel",
    "remove",
    "remove_leading",
    "upweight",
    "vary",
]

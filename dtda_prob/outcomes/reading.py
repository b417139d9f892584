"""What is kept of an outcome: its value, how its run ended, and what else was asked for."""

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array

from dtda_prob.training import Training
from dtda_prob.typing import Outcome, Params, Weights

DENSITIES = ("log_likelihood", "log_prior")
KEEPABLE = ("parameters", "losses", *DENSITIES)


@dataclass(frozen=True)
class Reading:
    """Keep the value, the statistics and what else was asked for; equal ones share a compilation."""

    training: Training
    keep: frozenset[str]

    def __call__(self, outcome: Outcome, weights: Weights) -> dict[str, Any]:
        stats = self.training.stats(outcome, weights)
        kept: dict[str, Any] = {"value": outcome.value, "stats": stats}
        if "losses" in self.keep:
            kept["losses"] = outcome.losses
        if "parameters" in self.keep:
            kept["params"] = self.training.each_state(self._named)(outcome.params)
        densities = self.keep.intersection(DENSITIES)
        return kept | {name: self._densities(name, outcome.params) for name in densities}

    def _named(self, params: Params) -> dict[str, Array]:
        """Constrain the parameters and name each leaf by its path."""
        leaves = jax.tree.leaves_with_path(self.training.program.constrain(params))
        return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}

    def _densities(self, name: str, params: Params) -> dict[str, Array]:
        program, each = self.training.program, self.training.each_state
        if name == "log_prior":
            return each(program.log_prior)(params)
        return {name: each(lambda params: -program.losses(params))(params)}

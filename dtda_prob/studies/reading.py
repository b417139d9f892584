"""What is kept of an outcome, by the group of ArviZ's schema and the name within it."""

import jax
from jaxtyping import Array

from dtda_prob.training import Training, each_state
from dtda_prob.typing import Outcome, Params, Weights

DENSITIES = ("log_likelihood", "log_prior")
KEEPABLE = ("parameters", "losses", *DENSITIES)
VALUE, STATS = "posterior_predictive", "sample_stats"


def read(
    training: Training, keep: tuple[str, ...], outcome: Outcome, weights: Weights
) -> dict[str, Array]:
    """Return measured values of an outcome, `(state, ...)`, and what else is kept, as `group.name`.

    Args:
        training: whose outcome it is.
        keep: among `KEEPABLE`, "statistics" of how the run ended, or names of the run's own statistics.
        outcome: of a run.
        weights: the data it belongs to.
    """
    kept = {f"{VALUE}.{training.measure.name}": outcome.value}
    if "statistics" in keep:
        statistics = training.stats(outcome, weights)
        kept |= {f"{STATS}.{name}": value for name, value in statistics.items()}
    kept |= {f"{STATS}.{name}": outcome.stats[name] for name in keep if name in outcome.stats}
    if "losses" in keep:
        kept[f"{STATS}.losses"] = outcome.losses
    if "parameters" in keep:
        leaves = each_state(lambda params: named(training, params), outcome.params)
        kept |= {f"posterior.{name}": leaf for name, leaf in leaves.items()}
    if "log_likelihood" in keep:
        losses = each_state(training.program.losses, outcome.params)
        kept["log_likelihood.log_likelihood"] = -losses
    if "log_prior" in keep:
        densities = each_state(training.program.log_prior, outcome.params)
        kept |= {f"log_prior.{plain(name)}": density for name, density in densities.items()}
    return kept


def named(training: Training, params: Params) -> dict[str, Array]:
    """Name each leaf of the parameters on their supports, and of deterministic sites, by its path."""
    leaves = jax.tree.leaves_with_path(training.program.sites(params))
    return {
        plain(jax.tree_util.keystr(path, simple=True, separator=".")): leaf for path, leaf in leaves
    }


def plain(name: str) -> str:
    """Return the name of a site as a tree can hold it: `net.bias` for `net/bias`."""
    return name.replace("/", ".")

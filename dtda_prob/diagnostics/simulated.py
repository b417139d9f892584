"""Does a kernel draw from posteriors: calibration on data that the model itself makes up."""

from typing import Any

import jax
import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Array, Float, Key
from numpyro import handlers

from dtda_prob.blocks import map_rows
from dtda_prob.compiling import compiled
from dtda_prob.kernels.supports import site_types, unconstrain
from dtda_prob.program import Program
from dtda_prob.training import Training, each_state
from dtda_prob.transforms.push_forward import check_posterior
from dtda_prob.typing import PRNGKey, check_key


def simulated(
    training: Training, key: PRNGKey, num_simulations: int = 100, num_draws: int | None = None
) -> xr.Dataset:
    """Rank true values among draws of the posterior on data that were simulated from them.

    Parameters are drawn from the prior, data from the model at these, and the kernel draws from the
    posterior on these data. If it is right, each true value is equally likely to have any rank among
    the draws (simulation-based calibration; Talts et al., arXiv 1804.06788). For an approximation such
    as `svi`, which is often too narrow, a weaker question is whether it is off to one side on average
    (Yao et al., arXiv 1802.02538). Costs `num_simulations` times a sample.

    Args:
        training: of a kernel that draws from the posterior of temperature 1; its measure is ranked.
        key: one typed key.
        num_simulations: number of datasets.
        num_draws: draws for each, about independent: let the kernel take `thinning` steps from state to
            state. If None one run where it keeps several states, and 50 runs of others.

    Returns:
        By query `p_value`, small where ranks are not uniform (Kolmogorov and Smirnov); `bias`, the mean
        of `pit` less 1/2, negative where draws are too high, and its `bias_p_value` (Wilcoxon's signed
        ranks); and `pit` by simulation, the share of draws below the true value.

    Raises:
        ValueError: if the kernel draws from no posterior of temperature 1, or draws exist already; if
            the model has parameters without a prior, or observations that cannot be simulated; for
            measures of vectors.
    """
    check_key(key)
    _check(training)
    several = training.kernel.num_states
    num_runs = training.num_runs((several if several > 1 else 50) if num_draws is None else num_draws)
    keys = jax.random.split(key, num_simulations)
    below, tied = map(np.asarray, compiled(_counts)(training, num_runs, keys))
    ties = jax.random.fold_in(key, 1)  # broken at random, by the key
    spread = np.asarray(jax.random.uniform(ties, below.shape))
    pit = (below + spread * (tied + 1)) / (num_runs * several + 1)
    each = [(scipy.stats.kstest(own, "uniform"), scipy.stats.wilcoxon(own - 0.5)) for own in pit.T]
    return xr.Dataset(
        {
            "p_value": ("query", [uniform.pvalue for uniform, _ in each]),
            "bias": ("query", pit.mean(0) - 0.5),
            "bias_p_value": ("query", [signed.pvalue for _, signed in each]),
            "pit": (("simulation", "query"), pit),
        },
        {"query": training.measure.queries},
    )


def _counts(training: Training, num_runs: int, keys: Key[Array, " simulation"]) -> tuple[Array, Array]:
    """Count draws below and equal to the true values of each simulation."""
    program, weights = training.program, training.program.full_weights()

    def one(key: PRNGKey) -> tuple[Array, Array]:
        data_key, key = jax.random.split(key)
        truth, observed = _simulate(program, data_key)
        true = training.measure.readout(training.measure.outputs(truth))
        own = program.observing(observed)

        def drawn(key: PRNGKey) -> Float[Array, "*state query"]:
            return each_state(training.observe, training.kernel.run(key, own, weights).params)[1]

        values = jax.vmap(drawn)(jax.random.split(key, num_runs)).reshape(-1, true.size)
        return (values < true).sum(0), (values == true).sum(0)

    return map_rows(one, keys, 8)


def _simulate(program: Program, key: PRNGKey) -> tuple[Any, dict[str, Array]]:
    """Draw parameters from the prior, in unconstrained space, and observations at them."""
    hidden = program.observing(dict.fromkeys(program.observed))
    model = handlers.seed(hidden.joint, key)
    sites = handlers.trace(model).get_trace(*program.args, **program.kwargs)
    truth = {name: sites[name]["value"] for name in program.shapes}
    return unconstrain(program, truth), {name: sites[name]["value"] for name in program.observed}


def _check(training: Training) -> None:
    program, kernel = training.program, training.kernel
    if check_posterior(training, "simulated") != 1 or kernel.num_runs is not None:
        raise ValueError(
            "simulated trains on many datasets and asks for the posterior of temperature 1; take a "
            "kernel that draws from it, such as kernels.nuts()"
        )
    without = [*program.structure.factors, *program.structure.losses]
    without += [name for name, kind in site_types(program).items() if kind == "param"]
    if without:
        raise ValueError(
            f"simulated draws from the model, and sites {without} have no distribution to draw from"
        )
    measure = training.measure
    value = jax.eval_shape(lambda params: measure.readout(measure.outputs(params)), program.shapes)
    if value.ndim > 1:
        raise ValueError("simulated ranks numbers: take a measure of one output, such as parameters()")

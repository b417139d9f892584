"""The Sinkhorn divergence, by OTT-JAX."""

import warnings
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from dtda_prob.compiling import compiled
from dtda_prob.divergences.divergence import Draws, Value, VectorDivergence, centred, signed_root
from dtda_prob.divergences.pairwise import Distances, over_pairs
from dtda_prob.divergences.resampling import halves

Array = np.ndarray
THRESHOLD, MAX_STEPS = 1e-3, 2000
NUM_SPLITS = 2
"""Splits of the draws into halves that are averaged over."""


class sinkhorn(VectorDivergence):
    """Sinkhorn divergence, the root of OT(old, new) - OT(old, old) / 2 - OT(new, new) / 2.

    OT is optimal transport at squared Euclidean cost with entropic regularisation (Genevay, Peyre and
    Cuturi, 2018): W_2 without any, the distance of the means with much. Draws are carried to draws in
    the other half only, never to themselves or their partners, averaged over splits, so that the
    estimate is centred on zero when nothing moves. Contributions are the dual potentials (Feydy et
    al., 2019). Needs `pip install 'dtda_prob[transport]'`.

    Args:
        epsilon: regularisation, in units of the mean squared distance between old draws of the query.

    Raises:
        ValueError: if `epsilon` is not positive.
        ImportError: when it is used, if OTT-JAX is not installed.

    Warns:
        RuntimeWarning: when it is used, if the iteration does not converge.
    """

    epsilon: float = 0.1
    squared = True

    def __check_init__(self) -> None:
        if self.epsilon <= 0:
            raise ValueError(
                f"epsilon={self.epsilon} must be positive; wasserstein has no regularisation"
            )

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return over_pairs(partial(_divergence, self.epsilon), old, new, coupled)[0]

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        _, by_old, by_new = over_pairs(partial(_divergence, self.epsilon), old, new, coupled)
        return centred(by_old), centred(by_new)

    def report(self, value: Value) -> Value:
        return signed_root(value)


def _divergence(
    epsilon: float, distances: Distances
) -> tuple[Float[Array, " pair"], Float[Array, "pair old"], Float[Array, "pair new"]]:
    """Return the divergence and the potentials of all draws."""
    costs, (n, m) = _costs(distances), distances.between.shape[1:]
    scale = costs[:, :n, :n].sum((1, 2)) / (n * (n - 1))
    epsilons = epsilon * np.where(scale == 0, 1.0, scale)
    value, potentials = np.zeros(len(costs)), np.zeros(costs.shape[:2])
    for split in range(NUM_SPLITS):
        (old_a, old_b), (new_a, new_b) = (halves(size, split, NUM_SPLITS) for size in (n, m))
        apart = (old_a, n + new_b, 1), (n + new_a, old_b, 1)
        alike = (old_a, old_b, -1), (n + new_a, n + new_b, -1)
        for first, second, sign in apart + alike:
            cost, left, right = _plan(costs[:, first][:, :, second], epsilons)
            value += sign * cost / 2
            potentials[:, first] += sign * left
            potentials[:, second] += sign * right
    value, potentials = value / NUM_SPLITS, potentials / NUM_SPLITS
    return value, potentials[:, :n], potentials[:, n:]


def _costs(distances: Distances) -> Float[Array, "pair draw draw"]:
    """Return the squared distances between all draws of both arms."""
    old, new, between, _ = distances
    old, new = (np.broadcast_to(own, (len(between), *own.shape[1:])) for own in (old, new))
    turned = np.swapaxes(between, 1, 2)
    return np.square(np.block([[old, between], [turned, new]]), dtype=np.float32)


def _plan(
    costs: Float[Array, "pair first second"], epsilon: Float[Array, " pair"]
) -> tuple[Array, ...]:
    """Return the cost of carrying one set of draws to another, and both potentials."""
    *plan, converged = _solutions(costs, epsilon.astype(np.float32))
    if not np.all(converged):
        warnings.warn(
            f"sinkhorn has not converged for {int(np.sum(~converged))} pairs: raise epsilon",
            RuntimeWarning,
            stacklevel=2,
        )
    return tuple(np.asarray(part, float) for part in plan)


@compiled
def _solutions(costs: jax.Array, epsilon: jax.Array) -> tuple[jax.Array, ...]:
    """Solve many problems at once."""
    geometry, linear = _ott()

    def solve(costs: jax.Array, epsilon: jax.Array) -> tuple[jax.Array, ...]:
        problem = geometry.Geometry(cost_matrix=costs, epsilon=epsilon)
        out = linear.solve(problem, threshold=THRESHOLD, max_iterations=MAX_STEPS)
        return out.reg_ot_cost, out.f, out.g, out.converged

    return jax.vmap(solve)(costs, epsilon)


def _ott() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a package that OTT-JAX imports
            from ott.geometry import geometry
            from ott.solvers import linear
    except ImportError as error:
        raise ImportError("sinkhorn needs OTT-JAX: pip install 'dtda_prob[transport]'") from error
    return geometry, linear

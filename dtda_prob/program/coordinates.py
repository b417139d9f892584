"""Distributions in unconstrained coordinates: logits; mean and log scale; and so on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array
from numpyro.distributions import (
    BernoulliLogits,
    BernoulliProbs,
    BinomialLogits,
    BinomialProbs,
    CategoricalLogits,
    CategoricalProbs,
    GeometricLogits,
    GeometricProbs,
    biject_to,
    constraints,
)
from numpyro.distributions.distribution import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)
from numpyro.distributions.transforms import (
    IdentityTransform,
    ParameterFreeTransform,
    SigmoidTransform,
    Transform,
)

from dtda_prob.program.log_odds import Known, Log, LogOdds, with_log_odds

Distributions = dict[str, Distribution]
Outputs = dict[str, Array]

_IDENTITY = IdentityTransform()


class Coordinates(NamedTuple):
    """A chart of distributions of the same families and shapes.

    It keeps distributions and no tree structure: in another process NumPyro flattens them in another
    order, and a structure sent there would exchange their fields in silence.

    Attributes:
        template: distributions, with shapes and types for arrays.
    """

    template: Distributions

    def outputs(self, distributions: Callable[[], Distributions]) -> Outputs:
        """Return the parameters of distributions on the real line, keyed by name as in `y.loc`.

        Args:
            distributions: computes them; what its sigmoids and softmaxes are of is taken from inside.
        """
        transforms = _unconstraining(self.template)
        if not any(map(_carried, transforms.values())):
            leaves = zip(transforms.items(), jax.tree.leaves(distributions()), strict=True)
            return {leaf: jnp.asarray(transform.inv(value)) for (leaf, transform), value in leaves}
        computed, known = with_log_odds(distributions)
        named = zip(transforms.items(), jax.tree.leaves(computed), known, strict=True)
        return {leaf: _coordinate(transform, value, own) for (leaf, transform), value, own in named}

    def distributions(self, outputs: Outputs) -> Distributions:
        """Return the distributions with these parameters; logits stand for probabilities."""
        transforms = _unconstraining(self.template)
        leaves = [transform(outputs[leaf]) for leaf, transform in transforms.items()]
        fns = jax.tree.unflatten(jax.tree.structure(self.template), leaves)
        return {name: _by_log_odds(fn, name, outputs) for name, fn in fns.items()}


def _by_log_odds(fn: Distribution, path: str, outputs: Outputs) -> Distribution:
    if type(fn) in _BY_LOGITS and f"{path}.probs" in outputs:
        return _BY_LOGITS[type(fn)](outputs[f"{path}.probs"], fn)
    if isinstance(fn, ExpandedDistribution | MaskedDistribution | Independent):
        fn.base_dist = _by_log_odds(fn.base_dist, f"{path}.base_dist", outputs)
    return fn


def coordinates(like: Distributions) -> Coordinates:
    """Return the chart of distributions of the same families and shapes as these."""
    return Coordinates(jax.eval_shape(lambda tree: tree, like))


def _unconstraining(
    tree: Any, path: str = "", transform: Transform = _IDENTITY
) -> dict[str, Transform]:
    """Map the leaves of a tree of distributions, by name, to transforms from the real line.

    Leaves go by name, as in `y.loc`: NumPyro flattens a distribution in another order in another
    process, so that a position means nothing.
    """
    if isinstance(tree, Distribution):
        fields = zip(type(tree).gather_pytree_data_fields(), tree.tree_flatten()[0], strict=True)
        parts = [(field, part, _to_constraint(tree, field)) for field, part in fields]
    elif isinstance(tree, dict):
        parts = [(site, tree[site], transform) for site in sorted(tree)]
    elif isinstance(tree, list | tuple):
        parts = [(str(k), part, transform) for k, part in enumerate(tree)]
    else:
        return {f"{path}.{k}" if k else path: transform for k in range(len(jax.tree.leaves(tree)))}
    named = [_unconstraining(part, f"{path}.{name}".lstrip("."), t) for name, part, t in parts]
    return {leaf: t for leaves in named for leaf, t in leaves.items()}


def _to_constraint(fn: Distribution, field: str) -> Transform:
    constraint = fn.arg_constraints.get(field, constraints.real)
    for bounded, transform in _SATURATING:
        if constraint is bounded:
            return transform
    try:
        return biject_to(constraint)
    except NotImplementedError:
        return _IDENTITY


class _Softmax(ParameterFreeTransform):
    """From logits to probabilities above 0; unlike stick breaking, accurate for the smallest."""

    def __call__(self, x: Array) -> Array:
        return _above_zero(jax.nn.softmax(x))

    def _inverse(self, y: Array) -> Array:
        return jnp.log(_above_zero(y))


class _Logistic(SigmoidTransform):
    """From log-odds to a probability; one that was rounded to 0 or 1 has finite log-odds."""

    def _inverse(self, y: Any) -> Any:
        return super()._inverse(jnp.minimum(_above_zero(y), 1 - jnp.finfo(y.dtype).eps))


def _above_zero(probs: Array) -> Array:
    return jnp.maximum(probs, jnp.finfo(probs.dtype).tiny)


_LOGISTIC, _SOFTMAX = _Logistic(), _Softmax()
_SATURATING = ((constraints.simplex, _SOFTMAX), (constraints.unit_interval, _LOGISTIC))
_BY_LOGITS: dict[type, Callable[[Array, Any], Distribution]] = {
    BernoulliProbs: lambda logits, fn: BernoulliLogits(logits),
    BinomialProbs: lambda logits, fn: BinomialLogits(logits, fn.total_count),
    CategoricalProbs: lambda logits, fn: CategoricalLogits(logits),
    GeometricProbs: lambda logits, fn: GeometricLogits(logits),
}


def _coordinate(transform: Transform, value: Array, known: Known) -> Array:
    """Return a parameter on the real line, from what is known of it where that is its coordinate."""
    if known is not None and type(known) is _carried(transform):
        return known.array
    return jnp.asarray(transform.inv(value))


def _carried(transform: Transform) -> type[LogOdds | Log] | None:
    """Return what of a probability is its coordinate, where it is known."""
    return LogOdds if transform is _LOGISTIC else Log if transform is _SOFTMAX else None

"""What is asked of a trained model: outputs that are carried, and what is read off them.

A measure's outputs are the parameters of the predictive distribution at each query, in
unconstrained space: logits for a categorical, mean and log scale for a normal. Push-forwards carry
these, and the readout (loss, margin, probability, ...) is taken of the carried outputs.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree
from numpyro.distributions import (
    BernoulliLogits,
    BernoulliProbs,
    CategoricalLogits,
    CategoricalProbs,
)
from numpyro.distributions.distribution import (
    Distribution,
    ExpandedDistribution,
    MaskedDistribution,
)
from numpyro.distributions.mixtures import MixtureGeneral

from dtda_prob.coordinates import coordinates
from dtda_prob.program import Program
from dtda_prob.typing import Params

Value = Float[Array, "query *output"]
Readout = Callable[[Distribution, Any], Any]


class Measure(NamedTuple):
    """A measure bound to a program.

    Attributes:
        name: what the values are called in a sample set.
        outputs: `(params) -> outputs`, a pytree of arrays.
        readout: `(outputs) -> value`, shape `(query,)` or `(query, output)`.
        queries: one label per query.
    """

    name: str
    outputs: Callable[[Params], PyTree]
    readout: Callable[[PyTree], Value]
    queries: np.ndarray

    def __repr__(self) -> str:
        return f"{self.name} of {len(self.queries)} queries"


Unbound = Callable[[Program], Measure]
"""A measure still to be bound to a program, which is what the constructors here return."""


def loss(*args: Any, queries: Sequence[Hashable] | None = None, **kwargs: Any) -> Unbound:
    """Measure -log p(y | theta) of each query, in nats, summed over observed sites.

    Args:
        *args: the model's arguments, bound to the queries.
        queries: one label per query; by default their positions.
        **kwargs: the model's keyword arguments, observations included.

    >>> measure = loss(jnp.ones((2, 3)), y=jnp.zeros(2))
    """
    surprise = _sum_of(lambda fn, y: -jnp.asarray(fn.log_prob(_given(y))))
    return _predictive("loss", surprise, args, kwargs, queries)


def log_likelihood(*args: Any, queries: Sequence[Hashable] | None = None, **kwargs: Any) -> Unbound:
    """Measure log p(y | theta) of each query, in nats, summed over observed sites; see `loss`."""
    log_prob = _sum_of(lambda fn, y: fn.log_prob(_given(y)))
    return _predictive("log_likelihood", log_prob, args, kwargs, queries)


def prediction(
    *args: Any, queries: Sequence[Hashable] | None = None, site: str | None = None, **kwargs: Any
) -> Unbound:
    """Measure the predictive mean: probabilities for a categorical; see `loss` for arguments.

    `site` names the observed site where the program has several.
    """
    return _predictive("prediction", _only(site, _mean), args, kwargs, queries)


def squared_error(
    *args: Any, queries: Sequence[Hashable] | None = None, site: str | None = None, **kwargs: Any
) -> Unbound:
    """Measure (y - predictive mean)^2 of numbers, summed over dimensions; see `prediction`.

    What the program masks counts as 0, as it does in `loss`.
    """
    return _predictive("squared_error", _only(site, _squared, _summed), args, kwargs, queries)


def margin(
    *args: Any, queries: Sequence[Hashable] | None = None, site: str | None = None, **kwargs: Any
) -> Unbound:
    """Measure log p(y) - log(1 - p(y)), the log-odds of the observed class; see `prediction`."""
    return _predictive("margin", _only(site, _log_odds), args, kwargs, queries)


def accuracy(
    *args: Any, queries: Sequence[Hashable] | None = None, site: str | None = None, **kwargs: Any
) -> Unbound:
    """Measure 1 where the likeliest class is the observed one, else 0; see `prediction`.

    It is a step function, so its own derivative is zero: carry the outputs or the parameters.
    """
    return _predictive("accuracy", _only(site, _is_correct), args, kwargs, queries)


def averaged(measure: Unbound) -> Unbound:
    """Measure the mean over the queries of another measure: one query, "mean", for the price of one.

    >>> measure = averaged(loss(jnp.ones((2, 3)), y=jnp.zeros(2)))
    """

    def bind(program: Program) -> Measure:
        each = measure(program)

        def readout(outputs: PyTree) -> Value:
            return each.readout(outputs).mean(0, keepdims=True)

        return Measure(f"mean_{each.name}", each.outputs, readout, np.array(["mean"]))

    return bind


def parameters() -> Unbound:
    """Measure every parameter on the support of its site; one query per scalar parameter."""

    def bind(program: Program) -> Measure:
        shapes = jax.eval_shape(program.constrain, program.init(jax.random.key(0)))
        return Measure(
            "parameters",
            outputs=lambda params: params,
            readout=lambda params: ravel_pytree(program.constrain(params))[0],
            queries=_scalar_names(shapes),
        )

    return bind


def function(
    fun: Callable[[Params], Value], *, name: str | None = None, queries: Any = None
) -> Unbound:
    """Measure any function of the parameters.

    Args:
        fun: from parameters, a dict from site name to value on its support, to an array of shape
            `(query,)` or `(query, output)`.
        name: what the values are called; the function's own name if None.
        queries: one label per query; by default their positions.

    Raises:
        ValueError: when bound, if `fun` gives an array of another rank.
    """

    def bind(program: Program) -> Measure:
        def outputs(params: Params) -> Value:
            return jnp.asarray(fun(program.constrain(params)))

        shape = jax.eval_shape(outputs, program.init(jax.random.key(0))).shape
        label = name or getattr(fun, "__name__", "function")
        return Measure(label, outputs, lambda value: value, _labels(label, queries, shape))

    return bind


def _predictive(
    name: str,
    readout: Callable[[dict], Value],
    args: tuple,
    kwargs: dict,
    queries: Sequence[Hashable] | None,
) -> Unbound:
    """Build a measure that reads the predictive distributions at given inputs."""

    def bind(program: Program) -> Measure:
        def predictive(params: Params) -> dict:
            return program.predictive(params, *args, **kwargs)

        def distributions(params: Params) -> dict[str, Distribution]:
            return {site: fn for site, (fn, _, _) in predictive(params).items()}

        start = program.init(jax.random.key(0))
        observed = {site: (value, dim) for site, (_, value, dim) in predictive(start).items()}
        unconstrained = coordinates(distributions(start))

        def outputs(params: Params) -> dict[str, Any]:
            return unconstrained.outputs(distributions(params))

        def read(outputs: dict[str, Array]) -> Value:
            fns = unconstrained.distributions(outputs)
            return readout({site: (fns[site], *observed[site]) for site in fns})

        shape = jax.eval_shape(lambda params: read(outputs(params)), start).shape
        return Measure(name, outputs, read, _labels(name, queries, shape))

    return bind


def _sum_of(readout: Readout) -> Callable[[dict], Value]:
    def read(sites: dict) -> Value:
        parts = [_summed(readout(fn, y), fn, dim) for fn, y, dim in sites.values()]
        return jnp.sum(jnp.stack(parts), axis=0)

    return read


def _only(name: str | None, readout: Readout, arrange: Callable | None = None) -> Callable:
    def read(sites: dict) -> Value:
        if (name is None and len(sites) > 1) or name not in (None, *sites):
            raise ValueError(f"site={name!r}: choose one of the observed sites {sorted(sites)}")
        fn, y, dim = sites[name or next(iter(sites))]
        return (arrange or _kept)(readout(fn, y), fn, dim)

    return read


def _kept(array: Array, fn: Distribution, dim: int) -> Value:
    """Bring the plate to the front and keep what is left of each query, flat, as outputs."""
    array = jnp.moveaxis(array, len(fn.batch_shape) + dim, 0)
    return array if array.ndim == 1 else array.reshape(len(array), -1)


def _summed(array: Array, fn: Distribution, dim: int) -> Float[Array, " query"]:
    """Bring the plate to the front and sum what is left of each query."""
    array = jnp.moveaxis(array, len(fn.batch_shape) + dim, 0)
    return array.reshape(len(array), -1).sum(-1)


def _base(fn: Distribution) -> Distribution:
    while isinstance(fn, ExpandedDistribution | MaskedDistribution):
        fn = fn.base_dist
    return fn


def _class_logits(fn: Distribution, measure: str) -> Array:
    base = _base(fn)
    if isinstance(base, MixtureGeneral) and _has_classes(base):
        logits = _mixed_logits(base, measure)
    elif isinstance(base, CategoricalLogits | CategoricalProbs):
        logits = jnp.asarray(base.logits)
    else:
        raise ValueError(f"measures.{measure} needs classes, and got {type(base).__name__}")
    return jnp.broadcast_to(logits, (*fn.batch_shape, logits.shape[-1]))


def _has_classes(fn: Distribution) -> bool:
    """Say whether observations are classes, mixed over discrete latent sites or not."""
    base = _base(fn)
    if isinstance(base, MixtureGeneral):
        return all(_has_classes(component) for component in base.component_distributions)
    return isinstance(base, CategoricalLogits | CategoricalProbs)


def _mixed_logits(mixture: MixtureGeneral, measure: str) -> Array:
    components = [_class_logits(component, measure) for component in mixture.component_distributions]
    log_probs = jax.nn.log_softmax(jnp.stack(components, -2))
    shares = jax.nn.log_softmax(jnp.asarray(mixture.mixing_distribution.logits))
    return jax.nn.logsumexp(log_probs + shares[..., None], axis=-2)


def _given(y: Any) -> Array:
    if y is None:
        raise ValueError("the queries hold no observations; pass them too, as in `loss(x, y)`")
    return y


def _mean(fn: Distribution, y: Any) -> Array:
    if _has_classes(fn):
        return jax.nn.softmax(_class_logits(fn, "prediction"))
    return fn.mean


def _squared(fn: Distribution, y: Any) -> Array:
    """Give the squared error; what is masked counts as 0, as it does in a loss."""
    masks, base = [], fn
    while isinstance(base, ExpandedDistribution | MaskedDistribution):
        masks += [base._mask] if isinstance(base, MaskedDistribution) else []
        base = base.base_dist
    shown = [jnp.reshape(mask, jnp.shape(mask) + (1,) * fn.event_dim) for mask in masks]
    visible = jnp.all(jnp.stack(jnp.broadcast_arrays(True, *shown)), axis=0)
    return jnp.where(visible, jnp.where(visible, _given(y), 0.0) - fn.mean, 0.0) ** 2


def _log_odds(fn: Distribution, y: Any) -> Array:
    base, y = _base(fn), _given(y)
    if isinstance(base, BernoulliLogits | BernoulliProbs):
        return jnp.broadcast_to(base.logits, fn.batch_shape) * (2 * y - 1)
    logits = _class_logits(fn, "margin")
    own = jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
    chosen = jnp.take_along_axis(logits, y[..., None].astype(int), -1)[..., 0]
    return chosen - jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)


def _is_correct(fn: Distribution, y: Any) -> Array:
    base, y = _base(fn), _given(y)
    if isinstance(base, BernoulliLogits | BernoulliProbs):
        hit = (jnp.broadcast_to(base.logits, fn.batch_shape) > 0) == (y == 1)
    else:
        hit = _class_logits(fn, "accuracy").argmax(-1) == y
    return hit.astype(jnp.result_type(float))


def _scalar_names(shapes: Params) -> np.ndarray:
    """Name every scalar of a tree, as in `slope` or `net.w[0,2]`."""
    names = []
    for path, leaf in jax.tree.leaves_with_path(shapes):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        scalars = np.ndindex(leaf.shape)
        names += [f"{name}[{','.join(map(str, i))}]" if i else name for i in scalars]
    return np.array(names)


def _labels(name: str, queries: Any, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) not in (1, 2):
        raise ValueError(
            f"measure {name!r} gives an array of shape {shape}; it must be (query,) or (query, output)"
        )
    labels = np.arange(shape[0]) if queries is None else np.asarray(queries)
    if labels.shape != shape[:1]:
        raise ValueError(f"queries must be one label per query, {shape[0]}; got {labels.shape}")
    return labels

"""What is read off a predictive distribution: means, squared errors, log-odds and hits."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import (
    BernoulliLogits,
    BernoulliProbs,
    CategoricalLogits,
    CategoricalProbs,
)
from numpyro.distributions.distribution import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)
from numpyro.distributions.mixtures import MixtureGeneral

from dtda_prob.program.plates import base

Value = Float[Array, "query *output"]
Per = Literal["token"] | tuple[tuple[int, int], ...] | None
"""What is a query: all observations of an example (None), each token of them, or spans of tokens."""
Site = tuple[Distribution, Any, int]


def only(name: str | None, sites: dict[str, Site]) -> Site:
    """Return the one site that is meant.

    Raises:
        ValueError: if there are several and none is named, or there is no such site.
    """
    if (name is None and len(sites) > 1) or name not in (None, *sites):
        raise ValueError(f"site={name!r}: choose one of the observed sites {sorted(sites)}")
    return sites[name or next(iter(sites))]


def as_per(per: Any) -> Per:
    """Return what is a query: None, "token", or spans as pairs of integers.

    Raises:
        ValueError: for anything else.
    """
    if per is None or per == "token":
        return per
    spans = np.asarray(per)
    if spans.ndim != 2 or spans.shape[1] != 2 or spans.dtype.kind not in "iu" or (spans < 0).any():
        raise ValueError(f"per={per!r} must be 'token', or spans (start, stop) as pairs of integers")
    return tuple((start, stop) for start, stop in spans.tolist())


def parts(per: Per, number: int) -> list[str]:
    """Return the names of the parts of a query: positions of tokens, or spans."""
    if isinstance(per, tuple):
        return [f"{start}:{stop}" for start, stop in per]
    return [str(token) for token in range(number)]


def keep(array: Array, fn: Distribution, dim: int, per: Per = None) -> Value:
    """Move the plate to the front and flatten the rest of each query into outputs, or queries."""
    array = jnp.moveaxis(array, len(fn.batch_shape) + dim, 0)
    if per is not None:
        return _split(array, len(fn.batch_shape), per)
    return array if array.ndim == 1 else array.reshape(len(array), -1)


def sum_rest(array: Array, fn: Distribution, dim: int, per: Per = None) -> Float[Array, " query"]:
    """Move the plate to the front and sum over the rest of each query, or make parts of it queries."""
    array = jnp.moveaxis(array, len(fn.batch_shape) + dim, 0)
    if per is not None:
        number = len(fn.batch_shape)
        return _split(array.sum(tuple(range(number, array.ndim))), number, per)
    return array.reshape(len(array), -1).sum(-1)


def _split(array: Array, num_dims: int, per: Per) -> Value:
    """Return tokens, or sums over spans of them, as queries: all of one query, then of the next."""
    array = array.reshape(len(array), -1, *array.shape[num_dims:])
    if isinstance(per, tuple):
        outside = [span for span in per if not span[0] < span[1] <= array.shape[1]]
        if outside:
            raise ValueError(
                f"per: spans {outside} do not lie in the {array.shape[1]} tokens of a query"
            )
        array = jnp.stack([array[:, start:stop].sum(1) for start, stop in per], 1)
    return array.reshape(-1, *array.shape[2:])


def opened(fn: Distribution, dim: int) -> tuple[Distribution, int]:
    """Return a distribution with the elements of its events side by side, and the plate's dimension."""
    if isinstance(fn, Independent):
        return opened(fn.base_dist, dim - fn.reinterpreted_batch_ndims)
    if not isinstance(fn, ExpandedDistribution | MaskedDistribution):
        return fn, dim
    inner, moved = opened(fn.base_dist, dim)
    more = dim - moved
    if isinstance(fn, ExpandedDistribution):
        own = inner.batch_shape[len(inner.batch_shape) - more :]
        return inner.expand(fn.batch_shape + own), moved
    return inner.mask(jnp.reshape(fn._mask, jnp.shape(fn._mask) + (1,) * more)), moved


def mean(fn: Distribution) -> Array:
    """Return the mean: the probabilities of classes.

    Raises:
        ValueError: if the distribution has none that is known.
    """
    if has_classes(fn):
        return jax.nn.softmax(class_logits(fn, "prediction"))
    try:
        return fn.mean
    except NotImplementedError as error:
        raise ValueError(
            "measures.prediction and squared_error need a mean, which "
            f"{type(base(fn)).__name__} has not; take measures.loss"
        ) from error


def squared_error(fn: Distribution, y: Array) -> Array:
    """Compute the squared error; what is masked counts as 0, as it does in a loss."""
    masks, inner = [], fn
    while isinstance(inner, ExpandedDistribution | MaskedDistribution):
        masks += [inner._mask] if isinstance(inner, MaskedDistribution) else []
        inner = inner.base_dist
    shown = [jnp.reshape(mask, jnp.shape(mask) + (1,) * fn.event_dim) for mask in masks]
    visible = jnp.all(jnp.stack(jnp.broadcast_arrays(True, *shown)), axis=0)
    y = jnp.asarray(y, jnp.result_type(y, float))
    return jnp.where(visible, jnp.where(visible, y, 0.0) - mean(fn), 0.0) ** 2


def log_odds(fn: Distribution, y: Array) -> Array:
    """Compute the log-odds of the observed class."""
    inner = base(fn)
    if isinstance(inner, BernoulliLogits | BernoulliProbs):
        return jnp.where(y == 1, 1.0, -1.0) * jnp.broadcast_to(inner.logits, fn.batch_shape)
    logits = class_logits(fn, "margin")
    own = jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
    chosen = jnp.take_along_axis(logits, y[..., None].astype(int), -1)[..., 0]
    return chosen - jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)


def is_correct(fn: Distribution, y: Array) -> Array:
    """Return 1 where the likeliest class is the observed one, else 0."""
    inner = base(fn)
    if isinstance(inner, BernoulliLogits | BernoulliProbs):
        hit = (jnp.broadcast_to(inner.logits, fn.batch_shape) > 0) == (y == 1)
    else:
        hit = class_logits(fn, "accuracy").argmax(-1) == y
    return hit.astype(jnp.result_type(float))


def has_classes(fn: Distribution) -> bool:
    """Return whether observations are classes, mixed over discrete latent sites or not."""
    inner = _events(fn)
    if isinstance(inner, MixtureGeneral):
        return all(has_classes(component) for component in inner.component_distributions)
    return isinstance(inner, CategoricalLogits | CategoricalProbs)


def class_logits(fn: Distribution, measure: str) -> Array:
    """Return the logits of classes, of each element of an event too.

    Raises:
        ValueError: if observations are no classes.
    """
    inner = _events(fn)
    if isinstance(inner, MixtureGeneral) and has_classes(inner):
        logits = _mixed_logits(inner, measure)
    elif isinstance(inner, CategoricalLogits | CategoricalProbs):
        logits = jnp.asarray(inner.logits)
    else:
        raise ValueError(f"measures.{measure} needs classes, and got {type(inner).__name__}")
    return jnp.broadcast_to(logits, (*fn.shape(), logits.shape[-1]))


def _events(fn: Distribution) -> Distribution:
    """Return a distribution without plates, masks and `.to_event`."""
    fn = base(fn)
    while isinstance(fn, Independent):
        fn = base(fn.base_dist)
    return fn


def _mixed_logits(mixture: MixtureGeneral, measure: str) -> Array:
    components = [class_logits(component, measure) for component in mixture.component_distributions]
    log_probs = jax.nn.log_softmax(jnp.stack(components, -2))
    shares = jax.nn.log_softmax(jnp.asarray(mixture.mixing_distribution.logits))
    return jax.nn.logsumexp(log_probs + shares[..., None], axis=-2)

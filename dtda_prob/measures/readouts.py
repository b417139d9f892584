"""What is read off a predictive distribution: means, squared errors, log-odds and hits."""

from typing import Any

import jax
import jax.numpy as jnp
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
Site = tuple[Distribution, Any, int]


def only(name: str | None, sites: dict[str, Site]) -> Site:
    """Return the one site that is meant.

    Raises:
        ValueError: if there are several and none is named, or there is no such site.
    """
    if (name is None and len(sites) > 1) or name not in (None, *sites):
        raise ValueError(f"site={name!r}: choose one of the observed sites {sorted(sites)}")
    return sites[name or next(iter(sites))]


def keep(array: Array, fn: Distribution, dim: int) -> Value:
    """Move the plate to the front and flatten the rest of each query into outputs."""
    array = jnp.moveaxis(array, len(fn.batch_shape) + dim, 0)
    return array if array.ndim == 1 else array.reshape(len(array), -1)


def sum_rest(array: Array, fn: Distribution, dim: int) -> Float[Array, " query"]:
    """Move the plate to the front and sum over the rest of each query."""
    array = jnp.moveaxis(array, len(fn.batch_shape) + dim, 0)
    return array.reshape(len(array), -1).sum(-1)


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

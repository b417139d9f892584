"""Sites of a trace and the plates around them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
from numpyro.distributions.distribution import Distribution, ExpandedDistribution, MaskedDistribution

from dtda_prob.typing import Params

Indices = Int[Array, " batch"]
Site = Mapping[str, Any]
Sites = Mapping[str, Site]


def base(fn: Distribution) -> Distribution:
    """Return a distribution without what plates and masks put around it."""
    while isinstance(fn, ExpandedDistribution | MaskedDistribution):
        fn = fn.base_dist
    return fn


def frames(site: Site) -> list[Any]:
    """Return the plates around a site, with their `name`, `dim` and `size`."""
    return site["cond_indep_stack"]


def is_latent(site: Site) -> bool:
    """Return whether a site is sampled and not observed."""
    return site["type"] == "sample" and not site["is_observed"]


def is_observed(site: Site) -> bool:
    """Return whether a site is sampled and observed."""
    return site["type"] == "sample" and site["is_observed"]


def plate_sizes(sites: Sites) -> dict[str, int]:
    """Return the size of each plate; one inside a scan is known by its sites alone."""
    inside = {frame.name: frame.size for site in _samples(sites) for frame in frames(site)}
    return inside | {name: site["args"][0] for name, site in sites.items() if site["type"] == "plate"}


def num_batch_dims(site: Site) -> int:
    """Count the batch dimensions of a site's value."""
    if site["type"] == "sample":
        return len(site["fn"].batch_shape)
    return jnp.ndim(site["value"]) - site["kwargs"]["event_dim"]


def has_own_value(site: Site) -> bool:
    """Return whether a site is a continuous latent one, or a parameter that plates divide."""
    if site["type"] == "param":
        return site["kwargs"].get("event_dim") is not None
    return is_latent(site) and not site["fn"].support.is_discrete


def gather(params: Params, axes: Mapping[str, int], indices: Indices) -> Params:
    """Take the rows of some elements of the plate from local parameters; leave the others."""
    local = {
        name: jax.tree.map(lambda leaf, axis=axis: jnp.take(leaf, indices, axis), params[name])
        for name, axis in axes.items()
    }
    return params | local


def _samples(sites: Sites) -> list[Site]:
    return [site for site in sites.values() if site["type"] == "sample"]

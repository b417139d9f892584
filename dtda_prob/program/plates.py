"""The plate whose elements are the examples: its sites, its dimension and its size."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
from numpyro.distributions.distribution import Distribution, ExpandedDistribution, MaskedDistribution
from numpyro.primitives import Messenger

from dtda_prob.typing import Params

Indices = Int[Array, " batch"]
Site = Mapping[str, Any]
Sites = Mapping[str, Site]


class whole(Messenger):
    """Visit all elements of a plate, whatever `subsample_size` the model gives it.

    Which elements a batch visits is decided outside the model, by substituting the plate's indices.
    """

    def __init__(self, fn: Callable | None = None, *, plate: str):
        super().__init__(fn)
        self.plate = plate

    def process_message(self, msg: Any) -> None:
        """Take all indices, before other handlers substitute theirs."""
        if msg["type"] == "plate" and msg["name"] == self.plate:
            size, _ = msg["args"]
            msg["args"], msg["value"] = (size, None), jnp.arange(size)


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


def in_plate(site: Site, plate: str) -> bool:
    """Return whether a site lies inside a plate."""
    return any(frame.name == plate for frame in site["cond_indep_stack"])


def plate_dim(site: Site, plate: str) -> int:
    """Return the dimension of a plate among the batch dimensions of a site, a negative integer."""
    return next(frame.dim for frame in site["cond_indep_stack"] if frame.name == plate)


def plate_size(sites: Sites, plate: str) -> int:
    """Return the size of a plate.

    Raises:
        ValueError: if there is no such plate.
        NotImplementedError: if it lies inside a scan.
    """
    sizes = {name: site["args"][0] for name, site in sites.items() if site["type"] == "plate"}
    inside = [n for n, s in sites.items() if s["type"] == "sample" and in_plate(s, plate)]
    if plate not in sizes and inside:
        raise NotImplementedError(
            f"plate={plate!r} with sites {inside} lies inside a scan, where examples have no "
            "sites of their own; put the scan inside the plate: jax.lax.scan over noise that is "
            "sampled before it, or a forward pass over discrete states with numpyro.factor"
        )
    if plate not in sizes:
        outside = {n: jnp.shape(s["value"]) for n, s in sites.items() if _is_observed_alone(s)}
        hint = "".join(
            f"; observed site {name!r} of shape {shape} lies in no plate: write `with "
            f"numpyro.plate({plate!r}, {shape[0]}):` around it"
            for name, shape in list(outside.items())[:1]
        )
        raise ValueError(f"plate={plate!r}: the model has no such plate, it has {sorted(sizes)}{hint}")
    return sizes[plate]


def observed_sites(sites: Sites, plate: str) -> tuple[str, ...]:
    """Return the names of the observed sites inside a plate.

    Raises:
        ValueError: if there is no such site.
    """
    observed = tuple(
        name
        for name, site in sites.items()
        if site["type"] == "sample" and site["is_observed"] and in_plate(site, plate)
    )
    if not observed:
        raise ValueError(
            f"plate={plate!r} holds no observed site; pass the observations (obs=...) when binding. "
            "Where they lie in another plate and are indexed by this one, that other plate holds the "
            "examples: bind to it, and remove groups of its examples with dtda.groups"
        )
    return observed


def describe(site: Site, plate: str) -> tuple[Distribution, Any, int]:
    """Return the distribution of a site, its observation (None if latent) and the plate's dimension."""
    return site["fn"], None if is_latent(site) else site["value"], plate_dim(site, plate)


def local_axes(sites: Sites, plate: str) -> dict[str, int]:
    """Return the axis of the plate in the value of each latent site or parameter inside it.

    Batch dimensions lead, so that the axis counts from the left and is the same in unconstrained
    space, where events may have other dimensions.
    """
    return {
        name: _num_batch_dims(site) + plate_dim(site, plate)
        for name, site in sites.items()
        if (_is_continuous(site) or _is_local_param(site)) and in_plate(site, plate)
    }


def _is_observed_alone(site: Site) -> bool:
    observed = site["type"] == "sample" and not is_latent(site)
    return observed and not site["cond_indep_stack"] and jnp.ndim(site["value"]) > 0


def _num_batch_dims(site: Site) -> int:
    if site["type"] == "sample":
        return len(site["fn"].batch_shape)
    return jnp.ndim(site["value"]) - site["kwargs"]["event_dim"]


def _is_continuous(site: Site) -> bool:
    return is_latent(site) and not site["fn"].support.is_discrete


def _is_local_param(site: Site) -> bool:
    return site["type"] == "param" and site["kwargs"].get("event_dim") is not None


def gather(params: Params, axes: Mapping[str, int], indices: Indices) -> Params:
    """Take the rows of some elements of the plate from local parameters; leave the others."""
    local = {
        name: jax.tree.map(lambda leaf, axis=axis: jnp.take(leaf, indices, axis), params[name])
        for name, axis in axes.items()
    }
    return params | local

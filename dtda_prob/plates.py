"""The plate whose elements are the data: which sites lie in it, along which dimension, how large."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
from numpyro.distributions.distribution import Distribution
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


def is_latent(site: Site) -> bool:
    """Say whether a site is sampled and not observed."""
    return site["type"] == "sample" and not site["is_observed"]


def in_plate(site: Site, plate: str) -> bool:
    """Say whether a site lies inside a plate."""
    return any(frame.name == plate for frame in site["cond_indep_stack"])


def plate_dim(site: Site, plate: str) -> int:
    """Give the dimension of a plate among the batch dimensions of a site, a negative integer."""
    return next(frame.dim for frame in site["cond_indep_stack"] if frame.name == plate)


def plate_size(sites: Sites, plate: str) -> int:
    """Give the size of a plate.

    Raises:
        ValueError: if there is no such plate.
        NotImplementedError: if it lies inside a scan.
    """
    sizes = {name: site["args"][0] for name, site in sites.items() if site["type"] == "plate"}
    inside = [n for n, s in sites.items() if s["type"] == "sample" and in_plate(s, plate)]
    if plate not in sizes and inside:
        raise NotImplementedError(
            f"plate={plate!r} with sites {inside} lies inside a scan, where data cannot be told apart; "
            "put the scan inside the plate: jax.lax.scan over noise that is sampled before it, or a "
            "forward pass over discrete states with numpyro.factor"
        )
    if plate not in sizes:
        raise ValueError(f"plate={plate!r}: the model has no such plate, it has {sorted(sizes)}")
    return sizes[plate]


def observed_sites(sites: Sites, plate: str) -> tuple[str, ...]:
    """Name the observed sites inside a plate.

    Raises:
        ValueError: if there is none.
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
            "data: bind to it, and remove groups of its data with dtda.groups"
        )
    return observed


def describe(site: Site, plate: str) -> tuple[Distribution, Any, int]:
    """Give the distribution of a site, what is observed of it, and the dimension of the plate."""
    return site["fn"], None if is_latent(site) else site["value"], plate_dim(site, plate)


def local_axes(sites: Sites, plate: str) -> dict[str, int]:
    """Give the axis of the plate in the value of each latent site or parameter inside it.

    Batch dimensions lead, so that the axis counts from the left and is the same in unconstrained
    space, where events may have other dimensions.
    """
    return {
        name: _num_batch_dims(site) + plate_dim(site, plate)
        for name, site in sites.items()
        if (_is_continuous(site) or _is_local_param(site)) and in_plate(site, plate)
    }


def _num_batch_dims(site: Site) -> int:
    if site["type"] == "sample":
        return len(site["fn"].batch_shape)
    return jnp.ndim(site["value"]) - site["kwargs"]["event_dim"]


def _is_continuous(site: Site) -> bool:
    return is_latent(site) and not site["fn"].support.is_discrete


def _is_local_param(site: Site) -> bool:
    return site["type"] == "param" and site["kwargs"].get("event_dim") is not None


def gather(params: Params, axes: Mapping[str, int], indices: Indices) -> Params:
    """Take what belongs to some elements of the plate; the other parameters are as they were."""
    local = {
        name: jax.tree.map(lambda leaf, axis=axis: jnp.take(leaf, indices, axis), params[name])
        for name, axis in axes.items()
    }
    return params | local

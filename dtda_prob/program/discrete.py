"""Discrete latent sites, summed out exactly: an example's own, or those that examples share.

An example's own sites give log sum_z p(z_i) p(y_i | z_i, theta), which stays linear in the weights;
shared sites give log sum_z p(z) prod_i p(y_i | z, theta)^w_i, which is not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool
from numpyro import handlers

from dtda_prob.program.layout import Layout
from dtda_prob.program.plates import Site, Sites, frames, is_latent, is_observed

ROUNDS = 4
"""Random assignments of discrete sites by which examples are compared."""


@dataclass(frozen=True)
class Discrete:
    """The discrete latent sites of examples, and the observations beside them.

    Attributes:
        sizes: the sites, and how many values each has.
        observed: the observed sites of the same examples.
        plate: the plate of these examples.
        nested: whether sites and observations lie in different plates, in a scan, or are scaled.
        depth: dimensions that plates take.
    """

    sizes: tuple[tuple[str, int], ...]
    observed: tuple[str, ...]
    plate: str
    nested: bool
    depth: int


def of_examples(sites: Sites, layout: Layout) -> Discrete | None:
    """Return the discrete latent sites of examples, if there are any.

    Raises:
        NotImplementedError: if a site has infinitely many values, or sites lie in several plates of
            examples.
    """
    sizes = {
        name: _num_values(site)
        for name, site in sites.items()
        if is_latent(site) and site["fn"].support.is_discrete and layout.holds(site)
    }
    if not sizes:
        return None
    plates = {layout.plate(sites[name]) for name in sizes}
    if len(plates) > 1:
        raise NotImplementedError(
            f"discrete latent sites {[*sizes]} lie in several plates of examples, {sorted(plates)}; "
            "name one of them, or marginalise the sites by hand with a mixture distribution"
        )
    plate = plates.pop()
    observed = tuple(
        name
        for name, site in sites.items()
        if is_observed(site) and layout.holds(site) and layout.plate(site) == plate
    )
    nested = _is_nested(sites, (*sizes, *observed), plate)
    return Discrete(tuple(sizes.items()), observed, plate, nested, num_batch_dims(sites))


def _is_nested(sites: Sites, names: tuple[str, ...], plate: str) -> bool:
    plates = {frozenset(frame.name for frame in frames(sites[name])) for name in names}
    shapes = {sites[name]["fn"].batch_shape for name in names}
    is_scaled = any(sites[name]["scale"] is not None for name in names)
    return len(plates) > 1 or len(shapes) > 1 or plate not in sites or is_scaled


def separates(
    model: Callable, args: tuple, kwargs: dict, discrete: Discrete, layout: Layout, sites: Sites
) -> dict[str, Bool[Array, ""]]:
    """Return by site whether its density factorises over examples, given all discrete sites.

    The density of an example must not change with the discrete sites of others, and the density of any
    other site with none of them: two random assignments and a mixture of both, example by example, are
    compared, at the values of the other sites in a trace of the model.
    """
    run = handlers.seed(model, jax.random.key(0))
    fixed = {k: s["value"] for k, s in sites.items() if _has_value(s, discrete)}
    local = (*dict(discrete.sizes), *discrete.observed)

    one, other, chosen = _assignments(sites, discrete, layout.rows(sites[local[0]])[1])
    picks = {name: _along(chosen, layout.dim(sites[name])) for name in local}
    mixed = {name: _pick(picks[name], one[name], other[name], sites[name]) for name in one}
    three = jax.tree.map(lambda *each: jnp.concatenate(each), one, other, mixed)
    found = jax.lax.map(lambda own: _densities(_trace(run, args, kwargs, fixed | own)), three)
    thirds = {name: jnp.split(each, 3) for name, each in found.items()}
    return {name: _agree(picks.get(name), *each) for name, each in thirds.items()}


def check_separable(separable: Mapping[str, Any]) -> None:
    """Refuse models whose sum over discrete sites does not factorise over examples; see `separates`.

    Raises:
        NotImplementedError: naming the site, and what to do.
    """
    for name, is_separable in separable.items():
        if not is_separable:
            raise NotImplementedError(
                f"site {name!r} depends on the discrete latent sites of several examples, or it is a "
                "latent site or outside the plate and depends on any: they cannot be summed example by "
                "example; marginalise by hand (a mixture distribution, a forward pass with "
                "numpyro.factor)"
            )


def value_of(fn: Any, number: Any) -> Array:
    """Return the value of that number for each element of a discrete site."""
    values = fn.enumerate_support(expand=False)
    values = values.reshape(len(values), *fn.event_shape)
    return values[jnp.broadcast_to(jnp.asarray(number), fn.batch_shape)]


def shared_sites(sites: Sites, layout: Layout) -> tuple[str, ...]:
    """Return the names of the discrete latent sites outside a plate.

    Raises:
        NotImplementedError: if there are discrete sites inside the plate too.
    """
    discrete = {n: s for n, s in sites.items() if is_latent(s) and s["fn"].support.is_discrete}
    shared = tuple(name for name, site in discrete.items() if not layout.holds(site))
    if shared and layout.sites:
        name = layout.sites[0]
        raise NotImplementedError(
            f"examples share the discrete latent sites {[*shared]}, and site {name!r} lies in no "
            "plate, which their enumeration needs: write `with numpyro.plate('data', "
            f"{layout.size}):` around it"
        )
    if 0 < len(shared) < len(discrete):
        raise NotImplementedError(
            f"latent sites {[*discrete]} are discrete, and some are shared by examples where others "
            "belong to one; marginalise one kind by hand, for instance with a mixture distribution"
        )
    return shared


def num_batch_dims(sites: Sites) -> int:
    """Count the dimensions that plates take, to the left of which sites may be enumerated."""
    return max(len(site["fn"].batch_shape) for site in sites.values() if site["type"] == "sample")


def refuse_shared(shared: tuple[str, ...], what: str) -> None:
    """Refuse what is only defined example by example, where discrete sites are shared.

    Raises:
        NotImplementedError: if there are any.
    """
    if shared:
        raise NotImplementedError(
            f"{what}: examples share the discrete latent sites {[*shared]}, so that the log density is "
            "no sum over examples; train on all of them at every step, measure with "
            "measures.parameters or measures.function, take retrain, unroll or influence with the "
            "Hessian, or marginalise by hand"
        )


def _trace(model: Callable, args: tuple, kwargs: dict, values: Mapping[str, Any]) -> Sites:
    known = handlers.substitute(model, data=dict(values))
    return handlers.trace(known).get_trace(*args, **kwargs)


def _assignments(
    sites: Sites, discrete: Discrete, number: int
) -> tuple[dict[str, Array], dict[str, Array], np.ndarray]:
    """Return two random values of each discrete site, and which to take for each example, by round."""
    generator = np.random.default_rng(0)
    fns = {name: sites[name]["fn"] for name, _ in discrete.sizes}

    def draw(name: str, size: int) -> Array:
        shape = ROUNDS, *fns[name].batch_shape
        return jax.vmap(partial(value_of, fns[name]))(generator.integers(0, size, shape))

    one, other = ({name: draw(name, size) for name, size in discrete.sizes} for _ in range(2))
    return one, other, generator.random((ROUNDS, number)) < 0.5


def _along(chosen: np.ndarray, dim: int) -> np.ndarray:
    return chosen.reshape((*chosen.shape, *(1,) * (-dim - 1)))


def _pick(chosen: np.ndarray, one: Array, other: Array, site: Site) -> Array:
    shape = [*chosen.shape, *(1,) * site["fn"].event_dim]
    missing = jnp.ndim(one) - len(shape)
    return jnp.where(chosen.reshape(shape[0], *(1,) * missing, *shape[1:]), one, other)


def _agree(chosen: Any, one: Array, other: Array, mixed: Array) -> Bool[Array, ""]:
    if chosen is not None:
        chosen = chosen.reshape(ROUNDS, *(1,) * (one.ndim - chosen.ndim), *chosen.shape[1:])
    expected = one if chosen is None else jnp.where(chosen, one, other)
    same = jnp.allclose(mixed, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    return same & (chosen is not None or jnp.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True))


def _densities(sites: Sites) -> dict[str, Array]:
    sampled = {name: site for name, site in sites.items() if site["type"] == "sample"}
    return {name: jnp.asarray(s["fn"].log_prob(s["value"])) for name, s in sampled.items()}


def _has_value(site: Site, discrete: Discrete) -> bool:
    is_free = is_latent(site) and site["name"] not in dict(discrete.sizes)
    return site["type"] == "param" or is_free


def _num_values(site: Site) -> int:
    try:
        return len(site["fn"].enumerate_support(expand=False))
    except NotImplementedError as error:
        raise NotImplementedError(
            f"latent site {site['name']!r} is discrete and takes infinitely many values, which cannot "
            "be summed; marginalise it by hand, for instance with a mixture distribution"
        ) from error

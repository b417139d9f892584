"""A NumPyro guide of a program's posterior: its parameters, its ELBO and its draws."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.infer import Trace_ELBO
from numpyro.infer.autoguide import (
    AutoDAIS,
    AutoDelta,
    AutoGuide,
    AutoLaplaceApproximation,
    AutoSemiDAIS,
)

from dtda_prob.kernels import supports
from dtda_prob.program import Indices, Program
from dtda_prob.program.layout import laid_out
from dtda_prob.typing import Params, PRNGKey, Weights

MakeGuide = Callable[[Callable], Callable]


class Guide(eqx.Module):
    """A guide that is bound to a program.

    Attributes:
        start: `(params) -> variational`, the initial parameters of guide and model, by site and in
            unconstrained space.
        loss: `(key, variational, program, weights, indices) -> -ELBO / n`, of a batch or of all data.
        draw: `(key, variational) -> params`, a draw from the guide, in unconstrained space.
    """

    start: Callable[[Params], Params] = eqx.field(static=True)
    loss: Callable[..., Float[Array, ""]] = eqx.field(static=True)
    draw: Callable[[PRNGKey, Params], Params] = eqx.field(static=True)


def is_point(make: MakeGuide) -> bool:
    """Return whether the guide is a point."""
    return isinstance(make(_nothing), AutoDelta)


def check(make: MakeGuide) -> None:
    """Raise if `make` makes no guide that can be fitted to a weighted model.

    Raises:
        TypeError: if it is an autoguide that has its model already.
        ValueError: if it cannot be called with a model alone, returns nothing that can be called, or
            approximates the posterior of the model as it is rather than of weighted data.
    """
    if isinstance(make, AutoGuide):
        name = type(make).__name__
        raise TypeError(f"guide must be the class {name} itself, or a function from a model to a guide")
    try:
        made = make(_nothing)
    except Exception as error:
        raise ValueError(f"guide={make!r} cannot be called with a model alone: {error}") from error
    if not callable(made):
        raise ValueError(
            f"guide={make!r} must map a model to a guide, as numpyro's autoguides do; wrap a guide of "
            "your own as `lambda model: my_guide`"
        )
    if isinstance(made, _UNWEIGHTED):
        raise ValueError(
            f"guide={type(made).__name__} looks at the density of the model itself, where no example "
            "has a weight; use another guide, or kernels.laplace for Laplace's approximation"
        )


_UNWEIGHTED = (AutoDAIS, AutoSemiDAIS, AutoLaplaceApproximation)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Replace a model, for making a guide that does not call it yet."""


def bind(make: MakeGuide, program: Program, num_particles: int) -> Guide:
    """Set a guide up on the program's data, within whatever traces it.

    Raises:
        ValueError: if the guide draws other sites than the program's latent ones.
    """
    guide = make(program.model)
    guide = guide if isinstance(guide, AutoGuide) else laid_out(guide, layout=program.layout)
    sites, latents = _look(guide, program), _look(program.joint, program)
    drawn = _check_sites(sites, latents)
    variational = _parameters(sites)
    transforms = {
        k: supports.transform(v) for k, v in (latents | sites).items() if v["type"] == "param"
    }
    own = _parameters(latents).keys()
    elbo = Trace_ELBO(num_particles=num_particles, sum_sites=False)

    def start(params: Params) -> Params:
        free = {k: jax.tree.map(transforms[k].inv, value) for k, value in variational.items()}
        return free | _locations(guide, free, params, drawn) | {k: params[k] for k in own}

    def constrain(free: Params) -> Params:
        return {k: jax.tree.map(transforms[k], value) for k, value in free.items()}

    def loss(
        key: PRNGKey, free: Params, program: Program, weights: Weights, indices: Indices | None
    ) -> Float[Array, ""]:
        program, weights = program.at(weights)
        model = program.reweighted(weights, indices)
        fitted = guide
        if indices is not None and program.follows_indices:
            fitted = program.of_batch(guide, weights, indices)
        parts = elbo.loss(key, constrain(free), model, fitted, *program.args, **program.kwargs)
        # NumPyro sums in the order of a set, which processes differ in; leaves are sorted by name.
        return sum(jax.tree.leaves(parts), start=jnp.array(0.0)) / program.num_rows

    def draw(key: PRNGKey, free: Params) -> Params:
        fitted = handlers.substitute(handlers.seed(guide, key), data=constrain(free))
        traced = handlers.trace(fitted).get_trace(*program.args, **program.kwargs)
        values = {name: traced[name]["value"] for name in drawn}
        return supports.unconstrain(program, values) | {k: free[k] for k in own}

    return Guide(start, loss, draw)


def _look(model: Callable, program: Program) -> dict[str, Any]:
    seeded = handlers.seed(model, jax.random.key(0))
    return handlers.trace(seeded).get_trace(*program.args, **program.kwargs)


def _parameters(sites: dict[str, Any]) -> Params:
    return {name: site["value"] for name, site in sites.items() if site["type"] == "param"}


def _latent(sites: dict[str, Any]) -> list[str]:
    """Return the names of the latent sites, without a guide's auxiliary ones."""
    return [
        name
        for name, site in sites.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site["infer"].get("is_auxiliary")
    ]


def _check_sites(sites: dict[str, Any], latents: dict[str, Any]) -> list[str]:
    drawn, expected = _latent(sites), _latent(latents)
    if set(drawn) != set(expected):
        raise ValueError(
            f"the guide draws the sites {sorted(drawn)}, and the program's latent sites are "
            f"{sorted(expected)}"
        )
    return drawn


def _locations(guide: Callable, free: Params, params: Params, drawn: list[str]) -> Params:
    """Return an autoguide's location parameters, at the program's parameters."""
    if not isinstance(guide, AutoGuide):
        return {}
    whole, each = f"{guide.prefix}_loc", {f"{name}_{guide.prefix}_loc": name for name in drawn}
    located = {k: params[name].reshape(free[k].shape) for k, name in each.items() if k in free}
    if whole in free:
        flat = jnp.concatenate([params[name].ravel() for name in drawn])
        located[whole] = flat.reshape(free[whole].shape)
    return located

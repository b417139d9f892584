"""A NumPyro guide of a program's posterior: its parameters, its ELBO and its draws."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Guide:
    """A guide that is bound to a program, within whatever traces it; only itself equals it.

    Attributes:
        guide: the guide, which follows the program's layout.
        program: whose latent sites it draws.
        num_particles: draws of the guide in each estimate of the ELBO.
        sites: the guide's sites, as NumPyro traces them.
        latents: the sites of the model.
    """

    guide: Callable
    program: Program
    num_particles: int
    sites: dict[str, Any]
    latents: dict[str, Any]

    def start(self, params: Params) -> Params:
        """Return the initial parameters of guide and model, by site and in unconstrained space."""
        transforms = self._transforms
        initial = _parameters(self.sites).items()
        free = {name: jax.tree.map(transforms[name].inv, value) for name, value in initial}
        return free | self._locations(free, params) | self._own(params)

    def loss(
        self,
        key: PRNGKey,
        variational: Params,
        program: Program,
        weights: Weights,
        indices: Indices | None,
    ) -> Float[Array, ""]:
        """Compute -ELBO / n, of a batch or of all data."""
        program, weights = program.at(weights)
        model, guide = program.reweighted(weights, indices), self.guide
        if indices is not None and program.follows_indices:
            guide = program.of_batch(guide, weights, indices)
        elbo = Trace_ELBO(num_particles=self.num_particles, sum_sites=False)
        values = self._constrain(variational)
        parts = elbo.loss(key, values, model, guide, *program.args, **program.kwargs)
        # NumPyro sums in the order of a set, which processes differ in; leaves are sorted by name.
        return sum(jax.tree.leaves(parts), start=jnp.array(0.0)) / program.num_rows

    def draw(self, key: PRNGKey, variational: Params) -> Params:
        """Draw from the guide, in unconstrained space."""
        seeded = handlers.seed(self.guide, key)
        sites = _trace(handlers.substitute(seeded, data=self._constrain(variational)), self.program)
        values = {name: sites[name]["value"] for name in _latent(self.sites)}
        return supports.unconstrain(self.program, values) | self._own(variational)

    def _constrain(self, variational: Params) -> Params:
        return {k: jax.tree.map(self._transforms[k], value) for k, value in variational.items()}

    @property
    def _transforms(self) -> dict[str, Any]:
        """Return the transform of each parameter of guide and model, from unconstrained space."""
        sites = self.latents | self.sites
        return {k: supports.transform(v) for k, v in sites.items() if v["type"] == "param"}

    def _own(self, params: Params) -> Params:
        """Return the parameters of the model, which are optimised along."""
        return {name: params[name] for name in _parameters(self.latents)}

    def _locations(self, free: Params, params: Params) -> Params:
        """Return an autoguide's location parameters, at the program's parameters."""
        if not isinstance(self.guide, AutoGuide):
            return {}
        prefix, drawn = self.guide.prefix, _latent(self.sites)
        whole, each = f"{prefix}_loc", {f"{name}_{prefix}_loc": name for name in drawn}
        located = {k: params[name].reshape(free[k].shape) for k, name in each.items() if k in free}
        if whole in free:
            flat = jnp.concatenate([params[name].ravel() for name in drawn])
            located[whole] = flat.reshape(free[whole].shape)
        return located


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
    sites, latents = (
        _trace(handlers.seed(each, jax.random.key(0)), program) for each in (guide, program.joint)
    )
    drawn, expected = sorted(_latent(sites)), sorted(_latent(latents))
    if drawn != expected:
        raise ValueError(
            f"the guide draws the sites {drawn}, and the program's latent sites are {expected}"
        )
    return Guide(guide, program, num_particles, sites, latents)


def _trace(model: Callable, program: Program) -> dict[str, Any]:
    return handlers.trace(model).get_trace(*program.args, **program.kwargs)


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

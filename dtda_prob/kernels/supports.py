"""From the supports of sites to unconstrained space."""

import jax
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import Transform

from dtda_prob.program import Program
from dtda_prob.program.plates import Site
from dtda_prob.typing import Params


def unconstrain(program: Program, values: Params) -> Params:
    """Carry values of some sites from their supports to unconstrained space.

    It is the inverse of `Program.constrain`. A support that depends on other sites is theirs where they
    have the values given, or else a draw from the prior.
    """
    model = handlers.substitute(handlers.seed(program.model, jax.random.key(0)), data=values)
    sites = handlers.trace(model).get_trace(*program.args, **program.kwargs)
    return {name: jax.tree.map(transform(sites[name]).inv, value) for name, value in values.items()}


def transform(site: Site) -> Transform:
    """Give the bijection from unconstrained space to the support of a site."""
    if site["type"] == "param":
        return biject_to(site["kwargs"].get("constraint", constraints.real))
    return biject_to(site["fn"].support)

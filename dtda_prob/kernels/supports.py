"""From the supports of sites to unconstrained space."""

import jax
from numpyro import handlers

from dtda_prob.program import Program, binding
from dtda_prob.program.abstraction import per_structure
from dtda_prob.program.data import unbound
from dtda_prob.program.supports import transform
from dtda_prob.typing import Params


def unconstrain(program: Program, values: Params) -> Params:
    """Return values of some sites in unconstrained space: the inverse of `Program.constrain`.

    A support that depends on other sites is evaluated at their values, or at a draw from the prior for
    sites without values.
    """
    model = handlers.substitute(handlers.seed(program.joint, jax.random.key(0)), data=values)
    sites = handlers.trace(model).get_trace(*program.args, **program.kwargs)
    return {name: jax.tree.map(transform(sites[name]).inv, value) for name, value in values.items()}


@per_structure
def site_types(program: Program) -> dict[str, str]:
    """Return the types of all sites of the model by name, deterministic and observed ones included."""
    sites = binding.trace(program.model, program.layout, unbound(program.data), jax.random.key(0))
    return {name: site["type"] for name, site in sites.items()}

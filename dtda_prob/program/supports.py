"""Bijections from unconstrained space to the supports of sites."""

from collections.abc import Callable
from typing import Any

import jax
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import IdentityTransform, Transform
from numpyro.primitives import Messenger

from dtda_prob.program.plates import Site


def transform(site: Site) -> Transform:
    """Return the bijection from unconstrained space to the support of a site."""
    if site["type"] == "mutable":
        return IdentityTransform()
    if site["type"] == "param":
        return biject_to(site["kwargs"].get("constraint", constraints.real))
    return biject_to(site["fn"].support)


class constrained(Messenger):
    """Carry parameters that are substituted in unconstrained space to their constraints."""

    def __init__(self, fn: Callable, names: tuple[str, ...]):
        super().__init__(fn)
        self.names = names

    def postprocess_message(self, msg: Any) -> None:
        """Map the value of each parameter that is named."""
        if msg["type"] == "param" and msg["name"] in self.names:
            msg["value"] = jax.tree.map(transform(msg), msg["value"])

"""The handlers that give each example a weight, and sites other observations."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array
from numpyro.primitives import Messenger

from dtda_prob.program.layout import Layout
from dtda_prob.program.plates import Indices, Site, is_latent
from dtda_prob.typing import Weights


class reweight(Messenger):
    """Reweight the observations of examples, one weight for each.

    The log-likelihood of example i is multiplied by `weights[i]`; priors (of an example's own latent
    sites too), other plates and the plate's own N/B scale are left alone. An example of weight 0 may
    lie outside the support: it counts as 0, not as 0 * -inf. The handler composes with all others, so
    that NumPyro's own inference takes a reweighted model.

    Args:
        fn: the model.
        weights: shape `(example,)`, one per example, however many a batch has.
        layout: where the examples lie.
        share: the share of the examples that a batch stands for. Everything that belongs to examples
            is multiplied by it, priors of an example's own latent sites too.
    """

    def __init__(
        self,
        fn: Callable | None = None,
        *,
        weights: Weights,
        layout: Layout,
        share: float | Array | None = None,
    ):
        super().__init__(fn)
        self.weights, self.share = weights, share
        self.layout = layout
        self.indices: dict[str, Indices] = {}
        self._jacobians: set[str] = set()

    def postprocess_message(self, msg: Any) -> None:
        """Note which elements a plate visits."""
        if msg["type"] == "plate" and msg["name"] in self.layout.plates:
            self.indices[msg["name"]] = msg["value"]

    def process_message(self, msg: Any) -> None:
        """Multiply the scale of each site that belongs to examples."""
        if msg["type"] != "sample" or not self.layout.holds(msg):
            return
        if self.share is not None:
            _scale(msg, self.share)
        if is_latent(msg):
            # NumPyro adds a latent site's Jacobian as a factor of this name; it belongs to the prior.
            self._jacobians.add(f"_{msg['name']}_log_det")
        elif msg["name"] not in self._jacobians:
            weights = self.layout.weights(msg, self.weights)
            visited = self.indices.get(self.layout.plate(msg), slice(None))
            weights = weights[visited].reshape((-1,) + (1,) * (-self.layout.dim(msg) - 1))
            msg["fn"] = msg["fn"].mask(_is_inside(msg) | (weights != 0))
            _scale(msg, weights)


class observe(Messenger):
    """Observe other values at some sites; none where the value is None, so that it is drawn.

    Args:
        fn: the model.
        values: by site.
    """

    def __init__(self, fn: Callable | None = None, *, values: Mapping[str, Any]):
        super().__init__(fn)
        self.values = values

    def process_message(self, msg: Any) -> None:
        """Set the value of a site, before it is drawn."""
        if msg["type"] == "sample" and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["is_observed"] = msg["value"] is not None


def _scale(msg: Any, factor: float | Array) -> None:
    msg["scale"] = factor if msg["scale"] is None else msg["scale"] * factor


def _is_inside(site: Site) -> Array:
    """Return for each example whether its observation lies in the support of its site.

    The supports of `numpyro.factor` and of improper priors are of single numbers, not of events.
    """
    support = site["fn"].support
    inner = site["fn"].event_dim - support.event_dim
    return jnp.all(support(site["value"]), axis=tuple(range(-inner, 0)))

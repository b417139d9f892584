"""A mixture of posteriors on perturbed data, as what a sampler draws from."""

import jax
from jaxtyping import Array, Float

from dtda_prob.module import Module
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class mixture(Module):
    """The objective whose posterior is the sum of the unnormalised posteriors at several weights.

    The ratio of any of them to the sum is at most 1, so that importance weights have no heavy tails
    (Silva and Zanella, arXiv 2209.09190). A removal of which the others know little has the larger
    share. It takes the place of a program in a sampler, whatever weights the sampler passes.

    Attributes:
        program: the model and its data.
        weights: one row for each component.
        temperature: of the posteriors.
    """

    program: Program
    weights: Float[Array, "component example"]
    temperature: float

    @property
    def num_rows(self) -> int:
        """Number of examples that the objective is normalised by."""
        return self.program.num_rows

    def init(self, key: PRNGKey) -> Params:
        """Draw initial parameters, in unconstrained space."""
        return self.program.init(key)

    def objective(self, params: Params, weights: Weights) -> Float[Array, ""]:
        """Evaluate the mixture's objective; `weights` play no part."""
        scale = self.program.num_rows / self.temperature
        return -jax.nn.logsumexp(-scale * self._each(params)) / scale

    def _each(self, params: Params) -> Float[Array, " component"]:
        if not self.program.is_linear:
            return jax.lax.map(lambda row: self.program.objective(params, row), self.weights)
        full = self.program.full_weights()
        at_all, slopes = jax.value_and_grad(self.program.objective, argnums=1)(params, full)
        return at_all + (self.weights - full) @ slopes

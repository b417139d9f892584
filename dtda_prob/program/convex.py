"""A program whose gradient has the Gauss-Newton matrix for its derivative in the parameters."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from numpyro.distributions.distribution import Distribution

from dtda_prob.program.coordinates import Outputs, coordinates
from dtda_prob.program.plates import Indices
from dtda_prob.program.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class ConvexProgram(Program):
    """A program with its own objective and gradient, and another second derivative.

    In the parameters the derivative of its gradient is the Gauss-Newton matrix of the likelihood, which
    has no negative eigenvalue, plus the Hessian of the prior; in the weights and settings it is exact.
    Whatever differentiates training through this program carries displacements that a network's
    non-linearity does not amplify.
    """

    def objective(
        self,
        params: Params,
        weights: Weights,
        indices: Indices | None = None,
        key: PRNGKey | None = None,
    ) -> Float[Array, ""]:
        """Evaluate L(theta, w), or its estimate from a batch; see `Program`."""
        return _value(self, params, weights, indices, jax.random.key(0) if key is None else key)

    def value_and_grad(
        self,
        params: Params,
        weights: Weights,
        indices: Indices | None = None,
        key: PRNGKey | None = None,
    ) -> tuple[Float[Array, ""], Params, Params]:
        """Evaluate the objective for a step of training; the state that layers leave is exact."""
        if not self.structure.state:
            return super().value_and_grad(params, weights, indices, key)
        key = jax.random.key(0) if key is None else key
        value, _, left = _exact(self).value_and_grad(params, weights, indices, key)
        return value, self.trained(_gradient(self, params, weights, indices, key)), left


def convex(program: Program) -> ConvexProgram:
    """Return the program with the Gauss-Newton matrix in place of the Hessian."""
    return _as(ConvexProgram, program)


def _exact(program: Program) -> Program:
    return _as(Program, program)


def _as(kind: type, program: Program) -> Any:
    copy = object.__new__(kind)
    for name in Program.__dataclass_fields__:
        object.__setattr__(copy, name, getattr(program, name))
    return copy


# Whatever may be traced is an argument: a rule must not close over it.


@eqx.filter_custom_jvp
def _value(program: Program, params: Params, weights: Weights, *batch: Any) -> Float[Array, ""]:
    return Program.objective(program, params, weights, *batch)


@_value.def_jvp
def _value_rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    program, params, weights, *batch = primals
    along_params, along_weights = _filled(primals, tangents)

    def value(weights: Weights) -> Float[Array, ""]:
        return Program.objective(program, params, weights, *batch)

    here, by_weights = jax.jvp(value, (weights,), (along_weights,))
    return here, by_weights + optax.tree.vdot(_gradient(*primals), along_params)


@eqx.filter_custom_jvp
def _gradient(program: Program, params: Params, weights: Weights, *batch: Any) -> Params:
    return jax.grad(partial(Program.objective, program))(params, weights, *batch)


@_gradient.def_jvp
def _gradient_rule(primals: tuple, tangents: tuple) -> tuple[Params, Params]:
    program, params, weights, *batch = primals
    along_params, along_weights = _filled(primals, tangents)
    slope = jax.grad(partial(Program.objective, program))
    here, by_weights = jax.jvp(lambda w: slope(params, w, *batch), (weights,), (along_weights,))
    by_params = _likelihood_product(*primals, along_params)
    if program.has_prior:
        nothing = jnp.zeros_like(weights)
        prior = jax.jvp(lambda p: slope(p, nothing, *batch), (params,), (along_params,))[1]
        by_params = optax.tree.add(by_params, prior)
    return here, optax.tree.add(by_weights, by_params)


def _filled(primals: tuple, tangents: tuple) -> tuple[Params, Weights]:
    """Return the tangents of parameters and weights, with zeros for those that are missing."""
    fill = lambda x, t: jnp.zeros_like(x) if t is None else t  # noqa: E731
    params, weights = jax.tree.map(fill, primals[1:3], tangents[1:3])
    return params, weights


def _likelihood_product(
    program: Program,
    params: Params,
    weights: Weights,
    indices: Indices | None,
    key: PRNGKey,
    vector: Params,
) -> Params:
    """Return J' H J v: J the Jacobian of the outputs of a batch, H the Hessian of its loss in them."""
    program, rows = program.at(weights)
    visited = jnp.arange(program.num_data) if indices is None else indices
    share = 1.0 if indices is None else program.num_visited(rows) / len(indices)
    factors = rows[visited] * share / program.num_rows
    here = program.observations(jax.lax.stop_gradient(params), visited, key)
    chart = coordinates({name: fn for name, (fn, _, _) in here.items()})
    scales = program.scales(params, visited)

    def outputs(params: Params) -> Outputs:
        seen = program.observations(params, visited, key)
        every = chart.outputs(lambda: {name: fn for name, (fn, _, _) in seen.items()})
        return {k: v for k, v in every.items() if jnp.issubdtype(v.dtype, jnp.floating)}

    def loss(some: Outputs) -> Float[Array, ""]:
        fns = chart.distributions(fixed | some)
        return -jnp.stack([total(name, fn) for name, fn in fns.items()]).sum()

    def total(name: str, fn: Distribution) -> Float[Array, ""]:
        _, value, dim = here[name]
        by_example = factors.reshape(-1, *[1] * (-dim - 1))
        return (by_example * scales[name] * fn.log_prob(value)).sum()

    fixed = chart.outputs(lambda: {name: fn for name, (fn, _, _) in here.items()})
    point, push = jax.linearize(outputs, params)
    curved = jax.jvp(jax.grad(loss), (point,), (push(vector),))[1]
    return jax.linear_transpose(push, params)(curved)[0]

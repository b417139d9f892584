"""The likelihood of each datum as a function of its outputs, which is where curvature comes from."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from dtda_prob.coordinates import Coordinates, Distributions, Outputs, coordinates
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey

Index = Int[Array, ""]
OutputVector = Float[Array, " output"]
Label = dict[str, Array]
PROBES = 16
"""Data by which it is decided which outputs depend on the parameters."""


class Likelihood(NamedTuple):
    """p(y_i | outputs), datum by datum.

    Outputs are the parameters of the observed distributions in unconstrained space, as a vector; those
    that do not depend on the program's parameters (a known noise scale) are left out.

    Attributes:
        outputs: `(params, index) -> outputs`, shape `(output,)`.
        label: `(key, outputs, index) -> y`, drawn from p(. | outputs), by observed site.
        loss_of: `(y, outputs, index) -> -log p(y | outputs)`.
        loss: `(outputs, index) -> -log p(y_i | outputs)`, of what is observed.
    """

    outputs: Callable[[Params, Index], OutputVector]
    label: Callable[[PRNGKey, OutputVector, Index], Label]
    loss_of: Callable[[Label, OutputVector, Index], Float[Array, ""]]
    loss: Callable[[OutputVector, Index], Float[Array, ""]]


def likelihood(program: Program) -> Likelihood:
    """Split the log-likelihood of a program into its outputs and what is observed of them.

    It is worked out once for each program.

    Raises:
        ValueError: if the program cannot visit its data one by one.
        NotImplementedError: if observations are scaled or masked one by one inside the model.
    """
    if "likelihood" not in program.derived:
        program.derived["likelihood"] = _split(program)
    return program.derived["likelihood"]


def _split(program: Program) -> Likelihood:
    program.check_batches(1)
    start = program.init(jax.random.key(0))
    chart = coordinates(jax.eval_shape(partial(_distributions, program), start, jnp.zeros((), int)))
    moving = _moving(program, chart, start)

    def everything(params: Params, index: Index) -> Outputs:
        return chart.outputs(_distributions(program, params, index))

    def outputs(params: Params, index: Index) -> OutputVector:
        return ravel_pytree({name: everything(params, index)[name] for name in moving})[0]

    def distributions(vector: OutputVector, index: Index) -> Distributions:
        fixed = everything(start, index)
        unravel = ravel_pytree({name: fixed[name] for name in moving})[1]
        return chart.distributions(fixed | unravel(vector))

    def label(key: PRNGKey, vector: OutputVector, index: Index) -> Label:
        fns = distributions(vector, index)
        keys = jax.random.split(key, len(fns))
        named = zip(sorted(fns), keys, strict=True)
        return {name: jnp.asarray(fns[name].sample(k)) for name, k in named}

    def loss_of(values: Label, vector: OutputVector, index: Index) -> Float[Array, ""]:
        fns = distributions(vector, index)
        return -jnp.stack([jnp.sum(fns[name].log_prob(values[name])) for name in sorted(fns)]).sum()

    def loss(vector: OutputVector, index: Index) -> Float[Array, ""]:
        values = {k: v for k, (_, v, _) in program.observations(start, index[None]).items()}
        return loss_of(values, vector, index)

    found = Likelihood(outputs, label, loss_of, loss)
    _check_losses(program, found, start)
    return found


def _distributions(program: Program, params: Params, index: Index) -> Distributions:
    return {name: fn for name, (fn, _, _) in program.observations(params, index[None]).items()}


def _moving(program: Program, chart: Coordinates, start: Params) -> list[str]:
    """Name the outputs that move with the parameters, by a derivative in a random direction."""
    theta, unravel = ravel_pytree(start)
    direction = jax.random.normal(jax.random.key(1), theta.shape, theta.dtype)

    def outputs(theta: Array) -> Outputs:
        some = jnp.arange(min(PROBES, program.num_data))
        return jax.vmap(lambda i: chart.outputs(_distributions(program, unravel(theta), i)))(some)

    tangents = jax.jit(lambda: jax.jvp(outputs, (theta,), (direction,))[1])()
    return sorted(name for name, tangent in tangents.items() if _moves(tangent))


def _moves(tangent: Array) -> bool:
    """Say whether a tangent is anything but zero; masks and counts have none."""
    return tangent.dtype != jax.dtypes.float0 and bool(np.any(np.asarray(tangent) != 0))


def _check_losses(program: Program, found: Likelihood, start: Params) -> None:
    some = jnp.arange(min(PROBES, program.num_data))

    def both(params: Params) -> tuple[Array, Array]:
        one_by_one = jax.vmap(lambda i: found.loss(found.outputs(params, i), i))(some)
        return one_by_one, program.losses(params)[some]

    one_by_one, expected = jax.jit(both)(start)
    if not np.allclose(one_by_one, expected, rtol=1e-3, atol=1e-4):
        raise NotImplementedError(
            "the log-likelihood of a datum is not that of its observed distributions alone (a scale or "
            "mask inside the model, or dropout that differs for a datum alone and in a batch: draw it "
            "for all data and index it by the plate), so that only curvature.hessian is available"
        )

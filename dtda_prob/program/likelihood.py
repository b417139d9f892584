"""The likelihood of each example as a function of its outputs, which is where curvature comes from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from dtda_prob.compiling import compiled
from dtda_prob.module import Module
from dtda_prob.program.abstraction import is_concrete, per_structure, remembered
from dtda_prob.program.coordinates import Coordinates, Distributions, Outputs, coordinates
from dtda_prob.program.program import Program
from dtda_prob.typing import Params, PRNGKey

Index = Int[Array, ""]
OutputVector = Float[Array, " output"]
Label = dict[str, Array]
PROBES = 16
"""Examples whose losses are checked."""


class Likelihood(Module):
    """p(y_i | outputs), example by example.

    Outputs are the parameters of the observed distributions in unconstrained space, as a vector; those
    that do not depend on the program's parameters (a known noise scale) are left out.

    Attributes:
        program: the model and its data.
    """

    program: Program

    def outputs(self, params: Params, index: Index) -> OutputVector:
        """Compute the outputs of an example, shape `(output,)`."""
        return self._ravel(self._all_outputs(params, index))[0]

    def label(self, key: PRNGKey, outputs: OutputVector, index: Index) -> Label:
        """Draw an observation from p(. | outputs), by observed site."""
        fns = self._distributions_of(outputs, index)
        keys = jax.random.split(key, len(fns))
        named = zip(sorted(fns), keys, strict=True)
        return {name: jnp.asarray(fns[name].sample(k)) for name, k in named}

    def loss_of(
        self, values: Label, outputs: OutputVector, index: Index, power: float = 1.0
    ) -> Float[Array, ""]:
        """Compute -log p(y | outputs) of any observation, times the model's scales to a power."""
        fns, scales = self._distributions_of(outputs, index), self._scales(index)
        terms = {k: scales[k] ** power * fn.log_prob(values[k]) for k, fn in fns.items()}
        return -jnp.stack([jnp.sum(terms[name]) for name in sorted(terms)]).sum()

    def loss(self, outputs: OutputVector, index: Index) -> Float[Array, ""]:
        """Compute -log p(y_i | outputs) of the example's own observation."""
        observed = self.program.observations(self._any_params, index[None])
        return self.loss_of({name: y for name, (_, y, _) in observed.items()}, outputs, index)

    def _scales(self, index: Index) -> dict[str, Any]:
        return self.program.scales(self._any_params, index[None])

    @property
    def _facts(self) -> tuple[Coordinates, tuple[str, ...], Params]:
        return _facts(self.program)

    @property
    def _any_params(self) -> Params:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._facts[2])

    def _all_outputs(self, params: Params, index: Index) -> Outputs:
        return self._facts[0].outputs(lambda: _distributions(self.program, params, index))

    def _ravel(self, outputs: Outputs) -> tuple[OutputVector, Any]:
        return ravel_pytree({name: outputs[name] for name in self._facts[1]})

    def _distributions_of(self, outputs: OutputVector, index: Index) -> Distributions:
        fixed = self._all_outputs(self._any_params, index)
        return self._facts[0].distributions(fixed | self._ravel(fixed)[1](outputs))


def likelihood(program: Program) -> Likelihood:
    """Split the log-likelihood of a program into its outputs and their observations.

    Raises:
        ValueError: if the program cannot visit its examples one by one.
        NotImplementedError: if an example alone has another loss than in a batch.
    """
    program.check_batches(1)
    model = Likelihood(program.evaluated)
    if is_concrete(program):
        remembered(program, "likelihood", lambda: _check_losses(model))
    return model


@per_structure
def _facts(program: Program) -> tuple[Coordinates, tuple[str, ...], Params]:
    """Return the chart of the outputs, the names of those that move with the parameters, and theirs."""
    index, shapes = jnp.zeros((), int), program.shapes
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    chart = coordinates(_distributions(program, params, index))
    moving: set[str] = set()

    def outputs(params: Params) -> Outputs:
        every = chart.outputs(lambda: _distributions(program, params, index))
        return {name: _watched(name, output, moving) for name, output in every.items()}

    jax.jvp(outputs, (params,), (jax.tree.map(jnp.ones_like, params),))
    return chart, tuple(sorted(moving)), shapes


def _watched(name: str, output: Array, moving: set[str]) -> Array:
    """Return an array, and note its name when it is differentiated and its tangent is not zero."""

    @jax.custom_jvp
    def identity(x: Array) -> Array:
        return x

    def rule(primals: tuple, tangents: tuple) -> tuple:
        if not isinstance(tangents[0], jax.custom_derivatives.SymbolicZero):
            moving.add(name)
        return primals[0], tangents[0]

    identity.defjvp(rule, symbolic_zeros=True)
    return identity(output)


def _distributions(program: Program, params: Params, index: Index) -> Distributions:
    return {name: fn for name, (fn, _, _) in program.observations(params, index[None]).items()}


def _check_losses(model: Likelihood) -> None:
    one_by_one, expected = compiled(_both_losses)(model, jax.random.key(0))
    if not np.allclose(one_by_one, expected, rtol=1e-3, atol=1e-4):
        raise NotImplementedError(
            "an example's log-likelihood is not the one of its observed distributions alone (dropout "
            "that differs for an example alone and in a batch: draw it for all of them and index it by "
            "the plate), so that only the Hessian is available"
        )


def _both_losses(model: Likelihood, key: PRNGKey) -> tuple[Array, Array]:
    program, params = model.program, model.program.init(key)
    some = jnp.arange(min(PROBES, program.num_data))
    alone = jax.vmap(lambda i: model.loss(model.outputs(params, i), i))(some)
    return alone, program.losses(params)[some]

"""Parameters that are given: a trained model as the start of training."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from dtda_prob.kernels import supports
from dtda_prob.kernels.kernel import Kernel, Phase, Start, State
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


def given(params: Mapping[str, PyTree]) -> Kernel:
    """Start from these parameters: `then(given(params), sgd(...))` fine-tunes a trained model.

    Sites that are not named keep their initialisation, which is all the randomness that is left to the
    start. It takes no step, and no datum moves it: `unroll` sees data in what comes after alone. That a
    part stays as it is given is the optimizer's business, as in the example.

    Args:
        params: an array, or a tree of arrays, for each named site, on the site's own support (a scale
            is positive), as `Program.constrain` gives them.

    Raises:
        ValueError: in `Training`, where a site is unknown, or a value of another shape or off its
            support.

    >>> import optax
    >>> from dtda_prob.kernels import sgd, then
    >>> frozen = optax.transforms.freeze({"weight0": True, "weight1": False})
    >>> head_only = then(
    ...     given({"weight0": np.eye(3)}), sgd(optax.chain(optax.sgd(0.1), frozen), num_steps=10)
    ... )
    """
    values = dict(params)

    def init(previous: State, program: Program) -> Start:
        return Start(previous.params | _unconstrained(values, program, previous.params))

    def step(
        key: PRNGKey, state: Start, program: Program, weights: Weights
    ) -> tuple[Start, Float[Array, ""]]:
        return state, program.objective(state.params, weights)

    phase = Phase(
        init,
        step,
        num_steps=lambda program: 0,
        num_passes=lambda program: 0.0,
        check=partial(_check, values),
        step_sizes=lambda program: np.zeros(0),
        name="given parameters",
    )
    return Kernel((phase,))


def _unconstrained(values: dict[str, Any], program: Program, like: Params) -> Params:
    """Carry the values to unconstrained space, in the precision of the parameters that they replace."""
    cast = {name: jax.tree.map(_in_precision, like[name], value) for name, value in values.items()}
    return supports.unconstrain(program, cast)


def _in_precision(like: Array, value: Any) -> Array:
    return jnp.asarray(value, like.dtype)


def _check(values: dict[str, Any], program: Program) -> None:
    """Compare names, trees and shapes with the program's, and values with what comes back of them."""
    start = program.init(jax.random.key(0))
    unknown = sorted(set(values) - set(start))
    if unknown:
        raise ValueError(f"given: the program has no sites {unknown}, it has {sorted(start)}")
    ours = program.constrain(start)
    for name, value in values.items():
        shapes, expected = (jax.tree.map(np.shape, tree) for tree in (value, ours[name]))
        if shapes != expected:
            raise ValueError(f"given: site {name!r} has shape {expected}, the value given {shapes}")
    back = jax.jit(lambda: program.constrain(start | _unconstrained(values, program, start)))()
    for name, value in values.items():
        if not all(jax.tree.leaves(jax.tree.map(_same, value, back[name]))):
            raise ValueError(f"given: the value for site {name!r} is not inside the site's support")


def _same(value: Array, back: Array) -> bool:
    return bool(np.allclose(value, back, rtol=1e-3, atol=1e-5))

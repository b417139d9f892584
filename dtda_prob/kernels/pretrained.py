"""Pretrained parameters: a trained model as the start of training."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from dtda_prob.compiling import compiled
from dtda_prob.kernels import supports
from dtda_prob.kernels.kernel import Masks, Phase, Sizes, Start, State, Step
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class pretrained(Phase):
    """Start from these parameters: `sequence(pretrained(params), sgd(...))` fine-tunes a trained model.

    Sites that are not named keep their initialisation, which is all the randomness that is left to the
    start. It takes no step, and no example moves it: `unroll` sees data in what comes after alone. A
    part stays as it is where the optimizer freezes it, as in the example; responses then leave it
    alone too. One compilation serves all parameters of the same shapes.

    Args:
        params: an array, or a tree of arrays, for each named site, on the site's own support (a scale
            is positive), as `Program.constrain` returns them.

    Raises:
        ValueError: in `Training`, where a site is unknown, or a value of another shape or off its
            support.

    >>> import optax
    >>> from dtda_prob.kernels import sequence, sgd
    >>> frozen = optax.transforms.freeze({"weight0": True, "weight1": False})
    >>> head_only = sequence(
    ...     pretrained({"weight0": np.eye(3)}), sgd(optax.chain(optax.sgd(0.1), frozen), num_steps=10)
    ... )
    """

    params: Mapping[str, PyTree] = eqx.field(converter=dict)

    def init(self, previous: State, program: Program) -> Start:
        values = _unconstrained(dict(self.params), program, previous.params)
        return Start(previous.params | values)

    def step(self, key: PRNGKey, state: Start, program: Program, weights: Weights) -> Step:
        return state, program.objective(state.params, weights)

    def count_steps(self, program: Program) -> int:
        return 0

    def step_sizes(self, program: Program) -> Sizes:
        return np.zeros(0)

    def moved(self, program: Program, before: Masks, num_steps: int) -> Masks:
        return before | jax.tree.map(np.zeros_like, {name: before[name] for name in self.params})

    def check_program(self, program: Program) -> None:
        """Compare names, trees and shapes with the program's, and values with their round trip."""
        start = program.shapes
        unknown = sorted(set(self.params) - set(start))
        if unknown:
            raise ValueError(f"pretrained: the program has no sites {unknown}, it has {sorted(start)}")
        expected = jax.eval_shape(program.constrain, start)
        for name, value in self.params.items():
            _check_shapes(name, value, expected[name])
        back = compiled(_round_trip)(dict(self.params), program)
        for name, value in self.params.items():
            if not all(jax.tree.leaves(jax.tree.map(_same, value, back[name]))):
                raise ValueError(
                    f"pretrained: the value for site {name!r} is not inside the site's support"
                )


def _unconstrained(values: dict[str, Any], program: Program, like: Params) -> Params:
    """Map values to unconstrained space, in the precision of the parameters that they replace."""
    cast = {name: jax.tree.map(_in_precision, like[name], value) for name, value in values.items()}
    return supports.unconstrain(program, cast)


def _in_precision(like: Array, value: Any) -> Array:
    return jnp.asarray(value, like.dtype)


def _round_trip(values: dict[str, Any], program: Program) -> Params:
    start = program.init(jax.random.key(0))
    return program.constrain(start | _unconstrained(values, program, start))


def _check_shapes(name: str, value: Any, expected: Any) -> None:
    if jax.tree.structure(value) != jax.tree.structure(expected):
        raise ValueError(
            f"pretrained: the value for site {name!r} is not a tree of arrays like the site's, whose "
            f"leaves are {_paths(expected)}; it has {_paths(value)}. Of a module pass its arrays "
            "alone: eqx.filter(module, eqx.is_array), or nnx.state(module)"
        )
    shapes, own = (jax.tree.map(np.shape, tree) for tree in (value, expected))
    if shapes != own:
        raise ValueError(f"pretrained: site {name!r} has shape {own}, the value passed {shapes}")


def _paths(tree: PyTree) -> list[str]:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]
    return paths[:8] + ["..."] * (len(paths) > 8)


def _same(value: Array, back: Array) -> bool:
    return bool(np.allclose(value, back, rtol=1e-3, atol=1e-5))

"""Mixed precision: gradients in few digits, parameters and their updates in all of them."""

import copy
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dtda_prob.kernels.kernel import Kernel, Phase
from dtda_prob.program import Indices, Program
from dtda_prob.typing import Params, PRNGKey, Weights


def in_precision(kernel: Kernel, dtype: DTypeLike = jnp.bfloat16) -> Kernel:
    """Evaluate the objective and its gradient in this precision; train in the parameters' own.

    Parameters and floating data are cast before the model sees them. The weights of the data, the
    parameters that are updated and the optimizer's state keep their precision, so that small weights
    and small updates count. `unroll` differentiates what is run, in as few digits; finite differences
    with small steps see rounding alone. Float16 loses small gradients, for which nothing is scaled
    here.

    A model that makes arrays of its own should take their precision from its arguments.

    Args:
        kernel: the training algorithm; one that trains on the program's objective.
        dtype: a floating type.

    Raises:
        ValueError: if `dtype` is not a floating type, or the kernel trains on something else than the
            program's objective, as `svi` does.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> kernel = in_precision(sgd(optax.adam(1e-3), num_steps=100), jnp.bfloat16)
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype={dtype} must be a floating type, such as jnp.bfloat16")
    others = [phase.own_objective for phase in kernel.phases if phase.own_objective]
    if others:
        raise ValueError(
            f"in_precision rounds the program's objective, and this kernel trains on {others[0]}; take "
            "sgd, or a sampler that draws from the program"
        )
    return kernel._replace(phases=tuple(_rounded(phase, dtype) for phase in kernel.phases))


def _rounded(phase: Phase, dtype: DTypeLike) -> Phase:
    def step(
        key: PRNGKey, state: Any, program: Program, weights: Weights
    ) -> tuple[Any, Float[Array, ""]]:
        return phase.step(key, state, _cast_program(program, dtype), weights)

    return phase._replace(step=step, name=f"{phase.name} in {jnp.dtype(dtype).name}")


def _cast_program(program: Program, dtype: DTypeLike) -> Program:
    """Give a copy whose data are cast, and whose objective casts its parameters."""
    cast = copy.copy(program)
    cast.args, cast.kwargs = jax.tree.map(partial(_cast, dtype), (program.args, program.kwargs))
    exact_objective = cast.objective

    def objective(
        params: Params, weights: Weights, indices: Indices | None = None, key: PRNGKey | None = None
    ) -> Float[Array, ""]:
        rounded = jax.tree.map(partial(_cast, dtype), params)
        return exact_objective(rounded, weights, indices, key).astype(weights.dtype)

    cast.objective = objective
    return cast


def _cast(dtype: DTypeLike, leaf: Any) -> Any:
    floating = isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(dtype) if floating else leaf

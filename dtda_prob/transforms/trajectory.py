"""Gradients along training: TracIn, gradient dot products and cosines."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dtda_prob.training import Training
from dtda_prob.transforms.influence import change_of_gradient
from dtda_prob.transforms.pulling import of_queries
from dtda_prob.transforms.push_forward import At, Cost, PushForward
from dtda_prob.transforms.response import check_options, check_single, push_forward
from dtda_prob.transforms.segments import check_finite
from dtda_prob.typing import Outcome, Params, PRNGKey, Queries, Weights


def trajectory(
    training: Training,
    *,
    num_checkpoints: int = 5,
    at: At = "centre",
    batch_size: int | None = 64,
) -> PushForward:
    """Build the push-forward that adds up gradient steps at checkpoints, as TracIn does.

    The response is -sum_c t_c (grad m)(theta_c) . (grad loss_k)(theta_c) / n, with theta_c the
    parameters at the end of segment c and t_c its total step size (Pruthi et al., arXiv 2002.08484).
    One checkpoint is the gradient dot product. What a step does to the steps after it is left out.

    Args:
        training: the stochastic kernel, whose steps must be proportional to gradients.
        num_checkpoints: checkpoints per phase of the kernel.
        at: where training is followed; see `unroll`.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: for unknown options, or a kernel whose steps have no size.
    """
    check_options(at)
    check_single(training, "trajectory")
    times = check_finite(training.kernel.segment_sizes(training.program, num_checkpoints))

    def draw(key: PRNGKey, weights: Weights) -> Outcome:
        here = jax.lax.stop_gradient(weights)
        followed = training.kernel.path(key, training.program, here, num_checkpoints)
        path = jax.lax.stop_gradient(followed)
        last = jax.tree.map(lambda leaf: leaf[-1], path.ends)
        base = Outcome(last, *training.observe(last), path.losses, {})

        def step(total: Outcome, checkpoint: tuple[Params, Array]) -> tuple[Outcome, None]:
            params, time = checkpoint
            change = change_of_gradient(training, params, weights)
            params = optax.tree.add_scale(params, -time, change)
            outputs, value = training.observe(params)
            moved = base._replace(params=params, outputs=outputs, value=value)
            return jax.tree.map(lambda t, m: t + m - jax.lax.stop_gradient(m), total, moved), None

        dtype = jnp.result_type(*jax.tree.leaves(last))
        return jax.lax.scan(step, base, (path.ends, jnp.asarray(times, dtype)))[0]

    passes = 2.0 * len(times) * len(training.measure.queries) / training.num_passes()
    return push_forward(
        f"trajectory[{num_checkpoints}]",
        training,
        draw,
        at,
        "measurement",
        batch_size=batch_size,
        cost=Cost(1.0, 1.0 + passes),
        make=partial(trajectory, num_checkpoints=num_checkpoints, batch_size=batch_size),
    )


def cosine(
    training: Training,
    *,
    num_checkpoints: int = 1,
    batch_size: int | None = 64,
) -> PushForward:
    """Compare directions of gradients: minus their cosine, averaged over checkpoints (GradCos).

    A similarity without a scale, so that it ranks data and predicts nothing: it has `pull` and no
    `push`. A gradient that vanishes has cosine 0 with all.

    Args:
        training: the stochastic kernel.
        num_checkpoints: checkpoints per phase of the kernel.
        batch_size: queries, and data, at once; all if None.
    """
    check_single(training, "cosine")
    program = training.program

    def push(key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        raise NotImplementedError(
            "cosine has no scale, so that it cannot carry samples: use direction='pull', or trajectory"
        )

    def pull(
        key: PRNGKey, weights: Weights, queries: Queries | None = None
    ) -> Float[Array, "query *output datum"]:
        ends = training.kernel.path(key, program, weights, num_checkpoints).ends
        found = jax.lax.map(lambda params: _cosines(training, params, queries, batch_size), ends)
        return -found.mean(0)

    passes = 4.0 * num_checkpoints * len(training.measure.queries) / training.num_passes()
    return PushForward(
        name=f"cosine[{num_checkpoints}]",
        training=training,
        push=push,
        pull=pull,
        cost=Cost(float("nan"), 1.0 + passes),
        rebuild=lambda other, at: cosine(other, num_checkpoints=num_checkpoints, batch_size=batch_size),
    )


def _cosines(
    training: Training, params: Params, queries: Queries | None, batch_size: int | None
) -> Float[Array, "query *output datum"]:
    program = training.program

    def value_at(params: Params) -> Float[Array, "query *output"]:
        return of_queries(training, training.observe(params)[1], queries)

    value, pullback = jax.vjp(value_at, params)
    basis = jnp.eye(value.size, dtype=value.dtype).reshape(value.size, *value.shape)
    lengths = program.gradient_norms(params)

    def row(cotangent: Array) -> Float[Array, " datum"]:
        slope = pullback(cotangent)[0]
        along = jax.jvp(program.losses, (params,), (slope,))[1]
        scale = lengths * optax.tree.norm(slope)
        return jnp.where(scale > 0, along / jnp.where(scale > 0, scale, 1.0), 0.0)

    rows = jax.lax.map(row, basis, batch_size=batch_size or value.size)
    return rows.reshape(*value.shape, -1)

"""Gradients along training: TracIn, gradient dot products and cosines."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from dtda_prob.blocks import map_rows
from dtda_prob.kernels.kernel import one_state
from dtda_prob.transforms.push_forward import (
    Cost,
    Response,
    Restricted,
    Space,
    check_single,
    of_queries,
)
from dtda_prob.transforms.response import LinearResponse
from dtda_prob.transforms.segments import count_segments, segment_times, segments_path
from dtda_prob.typing import Outcome, Params, PRNGKey, Queries, Weights


class trajectory(LinearResponse, Restricted):
    """Add up gradient steps at checkpoints, as TracIn does.

    The response is -sum_c t_c (grad m)(theta_c) . (grad loss_k)(theta_c) / n, with theta_c the
    parameters at the end of segment c and t_c its total step size (Pruthi et al., arXiv 2002.08484).
    One checkpoint is the gradient dot product. The effect of a step on later steps is ignored. Where
    steps are not one multiple of the gradient (Adam), t_c is the distance that each parameter moves.

    Attributes:
        training: the stochastic kernel.
        num_checkpoints: checkpoints per phase of the kernel.
        at: the weights of the training that is followed; see `unroll`.
        batch_size: the most queries at once in `pull`, fewer where examples are many; if None those
            that fit into memory.

    Raises:
        ValueError: for unknown options, or a kernel without step sizes.
    """

    num_checkpoints: int = eqx.field(default=5, kw_only=True)
    space: Space = eqx.field(default="measurement", init=False, repr=False)
    batch_size: int | None = eqx.field(default=64, kw_only=True)
    times: Any = eqx.field(default=None, kw_only=True, repr=False)
    """Total step size up to each checkpoint, None if measured; set on construction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_single(self.training, "trajectory")
        self.times = segment_times(self.training, self.num_checkpoints)

    def draw(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Return training's outcome, with the derivative of the gradient steps."""
        training, here = self.training, jax.lax.stop_gradient(weights)
        path = segments_path(training, key, here, self.num_checkpoints, self.times)
        last = jax.tree.map(lambda leaf: leaf[-1], path.ends)

        def observed(params: Params) -> tuple[Params, PyTree, Array]:
            return params, *training.observe(params)

        def moves(change: Params, time: Any) -> Params:
            if self.times is not None:
                return optax.tree.scale(-time, change)
            return jax.tree.map(lambda s, slope: -(s**2) * slope, self.scale(time), change)

        def step(total: PyTree, checkpoint: tuple[Params, Any]) -> tuple[PyTree, None]:
            params, time = checkpoint
            change = self.change_of_gradient(params, weights)
            moved = observed(self.added(params, moves(change, time)))
            return jax.tree.map(lambda t, m: t + m - jax.lax.stop_gradient(m), total, moved), None

        times = path.distances
        if self.times is not None:
            times = jnp.asarray(self.times, jnp.result_type(*jax.tree.leaves(last)))
        total, _ = jax.lax.scan(step, observed(last), (path.ends, times))
        return Outcome(*one_state((*total, path.losses)), {})

    @property
    def cost(self) -> Cost:
        num_checkpoints = count_segments(self.training, self.num_checkpoints)
        num_gradients = num_checkpoints * len(self.training.measure.queries)
        pull = 1.0 + 2.0 * num_gradients / self.training.num_passes()
        return Cost(1.0 + self.extra_cost(), pull)


class cosine(Restricted):
    """Compare directions of gradients: minus their cosine, averaged over checkpoints (GradCos).

    It is a similarity without a scale, which ranks examples but predicts no effect: it has `pull` and
    no `push`. A gradient that vanishes has cosine 0 with every other.

    Attributes:
        training: the stochastic kernel.
        num_checkpoints: checkpoints per phase of the kernel.
        batch_size: queries, and examples, at once; all if None.
    """

    num_checkpoints: int = eqx.field(default=1, kw_only=True)
    batch_size: int | None = eqx.field(default=64, kw_only=True)

    directions = ("pull",)

    def __check_init__(self) -> None:
        check_single(self.training, "cosine")

    def pull(self, key: PRNGKey, weights: Weights, queries: Queries | None = None) -> Response:
        """Return minus the mean cosine of the gradients of each query and each example."""
        training = self.training
        path = training.kernel.path(key, training.program, weights, self.num_checkpoints)
        each = jax.lax.map(lambda params: self._cosines(params, queries), path.ends)
        return -each.mean(0, keepdims=True)

    @property
    def cost(self) -> Cost:
        passes = 4.0 * self.num_checkpoints * len(self.training.measure.queries)
        return Cost(float("nan"), 1.0 + passes / self.training.num_passes())

    def _cosines(
        self, params: Params, queries: Queries | None
    ) -> Float[Array, "query *output example"]:
        program = self.training.program

        def value_at(params: Params) -> Float[Array, "query *output"]:
            return of_queries(self.training.observe(params)[1], queries, 0)

        whole = partial(self.moving.whole, params=params)
        point = self.moving.part(params)
        value, pullback = jax.vjp(lambda part: value_at(whole(part)), point)
        basis = jnp.eye(value.size, dtype=value.dtype).reshape(value.size, *value.shape)
        lengths = program.gradient_norms(params, part=self.moving.part)

        def row(cotangent: Array) -> Float[Array, " example"]:
            slope = pullback(cotangent)[0]
            along = jax.jvp(lambda part: program.losses(whole(part)), (point,), (slope,))[1]
            scale = lengths * optax.tree.norm(slope)
            return jnp.where(scale > 0, along / jnp.where(scale > 0, scale, 1.0), 0.0)

        rows = map_rows(row, basis, self.batch_size or value.size)
        return rows.reshape(*value.shape, -1)

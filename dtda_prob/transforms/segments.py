"""Approximate unrolling in segments that are taken for stationary (SOURCE)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dtda_prob import curvature as curvatures
from dtda_prob.curvature.filters import Decay, Flow
from dtda_prob.training import Training
from dtda_prob.transforms.at_outcome import side_key
from dtda_prob.transforms.influence import change_of_gradient
from dtda_prob.transforms.push_forward import At, Cost, PushForward, Space
from dtda_prob.transforms.response import check_options, check_single, push_forward
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights


def segments(
    training: Training,
    curvature: curvatures.Curvature | None = None,
    *,
    num_segments: int = 3,
    at: At = "centre",
    space: Space = "outputs",
    batch_size: int | None = 64,
) -> PushForward:
    """Build the push-forward that unrolls a few segments, each with one curvature and one gradient.

    In a segment of total step size t and curvature H, a displacement decays by exp(-H t), and the
    change of the gradient adds (1 - exp(-H t)) H^-1 times itself (Bae et al., arXiv 2405.12186). Both
    are taken at the mean parameters of the segment. One segment is an influence function whose
    inverse knows how long training was.

    Args:
        training: the stochastic kernel, whose steps must be proportional to gradients.
        curvature: one that can apply any function of its eigenvalues: dense, gram, kronecker,
            lanczos, nystroem, projection, diagonal; its damping is not used. Kronecker if None.
        num_segments: segments per phase of the kernel.
        at: where training is followed; see `unroll`.
        space: what is moved; see `displace`.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: for unknown options, a curvature that can only be inverted, or a kernel whose
            steps have no size or that keeps several states of a run.
    """
    check_options(at, space)
    check_single(training, "segments")
    chosen = curvatures.kronecker() if curvature is None else curvature
    if chosen.inverse_only:
        raise ValueError(
            f"curvature={chosen} can only be inverted, and segments need exp(-H t); take dense, "
            "gram, kronecker, lanczos, nystroem, projection, block_diagonal or diagonal"
        )
    times = check_finite(training.kernel.segment_sizes(training.program, num_segments))
    chosen.check(training.program)

    def draw(key: PRNGKey, weights: Weights) -> Outcome:
        here = jax.lax.stop_gradient(weights)
        followed = training.kernel.path(key, training.program, here, num_segments)
        path = jax.lax.stop_gradient(followed)

        def through(displacement: Params, segment: tuple[Params, jax.Array]) -> tuple[Params, None]:
            params, time = segment
            spectrum = chosen.at(training.program, side_key(key), params, here)
            kept = spectrum.apply(Decay(time), displacement)
            added = spectrum.apply(Flow(time), change_of_gradient(training, params, weights))
            return optax.tree.sub(kept, added), None

        last = jax.tree.map(lambda leaf: leaf[-1], path.ends)
        still = optax.tree.zeros_like(last)
        dtype = jnp.result_type(*jax.tree.leaves(last))
        moved, _ = jax.lax.scan(through, still, (path.means, jnp.asarray(times, dtype)))
        params = optax.tree.add(last, moved)
        return Outcome(params, *training.observe(params), path.losses, {})

    def cost(num_solves: int) -> float:
        passes = chosen.passes(training.program, 2 * num_solves)
        return len(times) * passes / training.num_passes()

    return push_forward(
        f"segments[{num_segments}, {chosen}]",
        training,
        draw,
        at,
        space,
        batch_size=batch_size,
        cost=Cost(1.0 + cost(1), 1.0 + cost(len(training.measure.queries))),
        make=partial(
            segments,
            curvature=chosen,
            num_segments=num_segments,
            space=space,
            batch_size=batch_size,
        ),
        curvature=chosen,
    )


def check_finite(times: np.ndarray) -> np.ndarray:
    """Refuse segments without an end, and none at all.

    Raises:
        ValueError: if a step size is infinite, as for kernels that end at rest, or no step is taken.
    """
    if not np.isfinite(times).all():
        raise ValueError("the kernel ends at rest, so that its segments have no end: take `influence`")
    if times.size == 0:
        raise ValueError("the kernel takes no step, so that it has no segments: take `influence`")
    return times

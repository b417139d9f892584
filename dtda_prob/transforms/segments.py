"""Approximate unrolling in segments that are treated as stationary (SOURCE)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dtda_prob.compiling import is_tracer
from dtda_prob.curvature import Curvature, kronecker
from dtda_prob.curvature.filters import Decay, Flow
from dtda_prob.kernels.distances import with_distances
from dtda_prob.kernels.kernel import Path, one_state
from dtda_prob.training import Training
from dtda_prob.transforms.influence import solves_cost
from dtda_prob.transforms.push_forward import Cost, Restricted, check_single, side_key
from dtda_prob.transforms.response import LinearResponse
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights


def _as_curvature(curvature: Curvature | None) -> Curvature:
    return kronecker() if curvature is None else curvature


class segments(LinearResponse, Restricted):
    """Unroll a few segments of training, each with one curvature and one gradient.

    In a segment of total step size t and curvature H, a displacement decays by exp(-H t), and the
    change of the gradient adds (1 - exp(-H t)) H^-1 times itself (Bae et al., arXiv 2405.12186). Both
    are evaluated at the mean parameters of the segment. One segment is an influence function whose
    inverse depends on the length of training. Where steps are not one multiple of the gradient (Adam,
    clipping, rates by parameter), t is the distance D that each parameter moves in the segment if its
    gradient is larger by 1: exp(-H D), and its integral.

    Attributes:
        training: the stochastic kernel.
        curvature: a curvature that can apply any function of its eigenvalues: dense, gram, kronecker,
            lanczos, nystroem, projection, diagonal; its damping is not used. Kronecker if None.
        num_segments: segments per phase of the kernel.
        at: the weights of the training that is followed; see `unroll`.
        space: the quantity that moves; see `displace`.
        batch_size: the most queries at once in `pull`, fewer where examples are many; if None those
            that fit into memory.

    Raises:
        ValueError: for unknown options, a curvature that can only be inverted, or a kernel without step
            sizes or with several states of a run.
    """

    curvature: Curvature = eqx.field(default=kronecker(), converter=_as_curvature)
    num_segments: int = eqx.field(default=3, kw_only=True)
    batch_size: int | None = eqx.field(default=64, kw_only=True)
    times: Any = eqx.field(default=None, kw_only=True, repr=False)
    """Total step size of each segment, None if measured; set on construction, before it is traced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_single(self.training, "segments")
        self.times = segment_times(self.training, self.num_segments)

    def __check_init__(self) -> None:
        isotropic = self.curvature.prior == "isotropic" and self.training.program.has_prior
        if self.times is None and isotropic:
            raise ValueError(
                f"curvature={self.curvature} needs a prior whose Hessian is a multiple of the "
                "identity, and with this optimizer each parameter has a unit of its own (Adam, "
                "clipping, or rates by parameter); use dense or kronecker, or influence"
            )
        if self.curvature.inverse_only:
            raise ValueError(
                f"curvature={self.curvature} can only be inverted, and segments need exp(-H t); use "
                "dense, gram, kronecker, lanczos, nystroem, projection, block_diagonal or diagonal"
            )
        self.curvature.check(self.training.program, self.moving)

    def draw(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Return training's outcome, with the derivative of the segments."""
        training, here = self.training, jax.lax.stop_gradient(weights)
        path = segments_path(training, key, here, self.num_segments, self.times)

        def through(displacement: Params, segment: tuple) -> tuple[Params, None]:
            params, time, distances = segment
            scale = None if distances is None else self.scale(distances)
            side = side_key(key)
            spectrum = self.curvature.at(training.program, side, params, here, self.moving, scale)
            kept = spectrum.carry(Decay(time), displacement)
            added = spectrum.apply(Flow(time), self.change_of_gradient(params, weights))
            return optax.tree.sub(kept, added), None

        last = jax.tree.map(lambda leaf: leaf[-1], path.ends)
        unit = jnp.ones(len(jax.tree.leaves(path.ends)[0]))
        times = unit if self.times is None else self.times
        times = jnp.asarray(times, jnp.result_type(*jax.tree.leaves(last)))
        start = optax.tree.zeros_like(self.moving.part(last))
        moved, _ = jax.lax.scan(through, start, (path.means, times, path.distances))
        return training.measured(*one_state((self.added(last, moved), path.losses)), {})

    @property
    def cost(self) -> Cost:
        num_segments = count_segments(self.training, self.num_segments)
        push, pull = (
            num_segments * solves_cost(self.training, self.curvature, 2 * num_solves)
            for num_solves in (1, len(self.training.measure.queries))
        )
        return Cost(1.0 + self.extra_cost() + push, 1.0 + pull)


def segment_times(training: Training, num_segments: int) -> np.ndarray | jax.Array | None:
    """Return the total step size of each segment, None if parameters differ in it.

    Raises:
        ValueError: if one is infinite, as for kernels that end at a stationary point, or the kernel
            takes no step.
    """
    with jax.ensure_compile_time_eval():
        times = training.kernel.segment_sizes(training.program, num_segments)
    if times is not None and not is_tracer(times) and not np.isfinite(times).all():
        raise ValueError("the kernel ends at rest, so that its segments have no end: use `influence`")
    if count_segments(training, num_segments) == 0:
        raise ValueError("the kernel takes no step, so that it has no segments: use `influence`")
    return times


def count_segments(training: Training, num_segments: int) -> int:
    """Return the number of segments of all phases."""
    lengths = [phase.count_steps(training.program) for phase in training.kernel.phases]
    return sum(min(num_segments, length) for length in lengths)


def segments_path(
    training: Training, key: PRNGKey, weights: Weights, num_segments: int, times: Any
) -> Path:
    """Return the path of a training run in segments, with distances where there are no times."""
    kernel = with_distances(training.kernel) if times is None else training.kernel
    return jax.lax.stop_gradient(kernel.path(key, training.program, weights, num_segments))

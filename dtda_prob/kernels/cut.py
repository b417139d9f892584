"""Training that stops early, and is the same up to there."""

import numpy as np
from jaxtyping import Float

from dtda_prob.kernels.kernel import Kernel, Phase
from dtda_prob.program import Program


def cut(kernel: Kernel, share: float) -> Kernel:
    """Stop after a share of the steps, of which the first ones are the very same.

    With the same key the parameters are those that the whole training passes through: phases keep
    their keys, batches their order and schedules their length. At least one step is taken; a phase that
    is not reached takes none. A training that stops early draws from no posterior.

    Args:
        kernel: the training algorithm.
        share: above 0 and at most 1.

    Raises:
        ValueError: if `share` is out of range.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> len(cut(sgd(optax.sgd(0.1), num_steps=10), 0.5).phases)
    1
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be above 0 and at most 1")
    return Kernel(tuple(_shorten(kernel, position, share) for position in range(len(kernel.phases))))


def _shorten(kernel: Kernel, position: int, share: float) -> Phase:
    phase = kernel.phases[position]

    def num_steps(program: Program) -> int:
        lengths = [each.num_steps(program) for each in kernel.phases]
        left = max(1, round(share * sum(lengths))) - sum(lengths[:position])
        return min(max(left, 0), lengths[position])

    def num_passes(program: Program) -> float:
        return phase.num_passes(program) * num_steps(program) / max(1, phase.num_steps(program))

    def step_sizes(program: Program) -> Float[np.ndarray, " step"]:
        return phase.step_sizes(program)[: num_steps(program)]

    return phase._replace(
        num_steps=num_steps,
        num_passes=num_passes,
        step_sizes=step_sizes,
        temperature=phase.temperature if share == 1 else None,
    )

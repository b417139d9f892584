"""One response operator R = d outcome / d weights, and its two directions: push and pull."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dtda_prob.training import Training
from dtda_prob.typing import Draw, Outcome, PRNGKey, Pull, Push, Weights

Space = Literal["outputs", "parameters", "measurement"]
At = Literal["old", "midpoint"] | Weights


class Cost(NamedTuple):
    """What a push-forward costs per draw, in trainings.

    Attributes:
        push: for each pair of old and new weights.
        pull: for the response of all queries to all data.
    """

    push: float
    pull: float


@dataclass(frozen=True, eq=False)
class PushForward:
    """A way to carry samples of the outcome from one dataset to another.

    Attributes:
        name: the transform, and the settings it was made with.
        training: the stochastic kernel whose samples it carries.
        push: `(key, old, new) -> outcome`, the sample at `old` carried to approximate one at `new`.
        pull: `(key, weights) -> response`, d value / d weights, shape `(query, *output, datum)`.
        cost: what both cost, in trainings.
        rebuild: make the same transform of another training.
    """

    name: str
    training: Training
    push: Push
    pull: Pull
    cost: Cost
    rebuild: Callable[[Training], "PushForward"]


def push_along(training: Training, draw: Draw, at: At, space: Space) -> Push:
    """Build `push`: the outcome at `old`, moved by the response at `at` times `new - old`.

    Args:
        training: the stochastic kernel.
        draw: its draw, or one with the same value and another derivative.
        at: where the response is taken.
        space: what is moved; see `displace`.
    """

    def push(key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        point = _expansion_point(at, old, new)
        base, tangent = jax.jvp(lambda weights: draw(key, weights), (point,), (new - old,))
        if not is_old(at):
            base = training.draw(key, old)
        return displace(training, base, tangent, space)

    return push


def pull_back(draw: Draw, at: At, batch_size: int | None) -> Pull:
    """Build `pull`: the response, row by row, in reverse mode.

    Args:
        draw: a draw of the stochastic kernel.
        at: where the response is taken; for "old" and "midpoint" the weights that `pull` is given.
        batch_size: rows (queries) at once; all of them if None.
    """

    def pull(key: PRNGKey, weights: Weights) -> Float[Array, "query *output datum"]:
        point = weights if isinstance(at, str) else at
        value, pullback = jax.vjp(lambda weights: draw(key, weights).value, point)
        basis = jnp.eye(value.size, dtype=value.dtype).reshape(value.size, *value.shape)
        rows = jax.lax.map(lambda row: pullback(row)[0], basis, batch_size=batch_size or value.size)
        return rows.reshape(*value.shape, -1)

    return pull


def displace(training: Training, base: Outcome, tangent: Outcome, space: Space) -> Outcome:
    """Move an outcome along a tangent.

    In space "outputs" the measure's outputs (logits, means) move and the measurement is read off
    them; in "parameters" the parameters move and the measurement is taken of the moved model; in
    "measurement" the measurement itself moves. The parameters move in all three; the trace is that
    of the run the sample came from.
    """
    params = _move(base.params, tangent.params)
    if space == "parameters":
        return Outcome(params, *training.observe(params), base.trace)
    outputs = _move(base.outputs, tangent.outputs)
    if space == "outputs":
        return Outcome(params, outputs, training.measure.readout(outputs), base.trace)
    return Outcome(params, outputs, _move(base.value, tangent.value), base.trace)


def check_options(at: At, space: Space) -> None:
    """Refuse unknown options.

    Raises:
        ValueError: if `at` or `space` is not one of those listed.
    """
    if isinstance(at, str) and at not in ("old", "midpoint"):
        raise ValueError(f"at={at!r} must be 'old', 'midpoint' or an array of weights")
    if space not in ("outputs", "parameters", "measurement"):
        raise ValueError(f"space={space!r} must be 'outputs', 'parameters' or 'measurement'")


def is_old(at: At) -> bool:
    """Tell whether the response is taken at the old weights, where the sample is too."""
    return isinstance(at, str) and at == "old"


def describe(name: str, at: At, space: Space) -> str:
    """Name a transform with its settings."""
    return f"{name}(at={at if isinstance(at, str) else 'weights'}, space={space})"


def _expansion_point(at: At, old: Weights, new: Weights) -> Weights:
    if isinstance(at, str):
        return old if at == "old" else (old + new) / 2
    return jnp.asarray(at)


def _move(tree: PyTree, tangent: PyTree) -> PyTree:
    return jax.tree.map(lambda x, t: x if t.dtype == jax.dtypes.float0 else x + t, tree, tangent)

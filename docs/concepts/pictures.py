"""Draw the pictures of the concepts, of a network of eight units trained on 24 data.

`python docs/concepts/pictures.py` writes them beside itself. The page quotes these numbers:

>>> found = numbers(study())
>>> {name: found[name] for name, quoted in QUOTED.items() if abs(found[name] / quoted - 1) > 0.03}
{}
"""

from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from jax import Array
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import dtda_prob as dtda

At = Literal["old", "midpoint"]
BLUE, ORANGE, GREEN, GREY = "#3949ab", "#d95f02", "#1b7837", "#6b6b6b"
NUM_DRAWS, REMOVED = 128, range(14, 20)
GRID, QUERY, PLACE = np.linspace(-1.0, 1.0, 41), 30, 0.5
QUOTED = {
    "mean": 0.690,
    "sd": 0.065,
    "retrained mean": 0.334,
    "pushed mean": 0.379,
    "pushed mean, from old weights": 0.528,
    "sd of coupled differences": 0.030,
    "sd of independent differences": 0.105,
    "variance ratio": 11.9,
    "largest response": 0.051,
}
STEPS = np.linspace(0.0, 1.0, 11)
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "dtda",
}


class Study(NamedTuple):
    """What is drawn of: data, fitted curves, and predictions at one place, a row a draw."""

    x: np.ndarray
    y: np.ndarray
    curves: np.ndarray
    full: np.ndarray
    retrained: np.ndarray
    others: np.ndarray
    pushed: np.ndarray
    pushed_from_old: np.ndarray
    response: np.ndarray
    along: np.ndarray


def study() -> Study:
    """Train a small network by SGD on the data as they are, and without some."""
    rng = np.random.default_rng(0)
    x = np.linspace(-1.0, 1.0, 24)
    y = np.sin(3 * x) + 0.3 * rng.normal(size=24)
    program = dtda.Program(dtda.zoo.regressor([8], jnp.tanh), x[:, None], y=y)
    schedule = optax.cosine_decay_schedule(0.05, 200)
    kernel = dtda.kernels.sgd(optax.sgd(schedule, momentum=0.9), num_steps=200, batch_size=12)
    training = dtda.Training(program, kernel, dtda.measures.prediction(GRID[:, None]))

    full = program.full_weights()
    without = jnp.asarray(dtda.remove(program, [*REMOVED]).values, full.dtype)
    keys, others = jax.random.split(jax.random.key(0), (2, NUM_DRAWS))
    draw = jax.jit(jax.vmap(lambda key, weights: training.draw(key, weights).value[0], (0, None)))
    pull = jax.jit(jax.vmap(dtda.unroll(training).pull, (0, None, None)))
    curves = draw(keys, full)
    return Study(
        x,
        y,
        curves,
        curves[:, QUERY],
        draw(keys, without)[:, QUERY],
        draw(others, without)[:, QUERY],
        *(_pushed(training, at, keys, full, without) for at in ("midpoint", "old")),
        pull(keys[:32], full, np.array([QUERY]))[:, 0, 0],
        np.stack([draw(keys, (1 - step) * full + step * without)[:1, QUERY] for step in STEPS]),
    )


def _pushed(training: dtda.Training, at: At, keys: Array, full: Array, without: Array) -> Array:
    push = jax.jit(jax.vmap(dtda.unroll(training, at=at).push, (0, None, None)))
    return push(keys, full, without).value[:, 0, QUERY]


def numbers(found: Study) -> dict[str, float]:
    """Return the numbers that the page quotes."""
    shared, apart = found.retrained - found.full, found.others - found.full
    return {
        "mean": found.full.mean(),
        "sd": found.full.std(),
        "retrained mean": found.retrained.mean(),
        "pushed mean": found.pushed.mean(),
        "pushed mean, from old weights": found.pushed_from_old.mean(),
        "sd of coupled differences": shared.std(),
        "sd of independent differences": apart.std(),
        "variance ratio": apart.var() / shared.var(),
        "largest response": found.response.mean(0).max(),
    }


def kernel(found: Study) -> Figure:
    """Show fits of one data set, and the distribution that they give at one place."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), width_ratios=(3, 2))
    left.plot(GRID, found.curves[:24].T, color=BLUE, alpha=0.25, lw=1)
    left.plot(found.x, found.y, "o", color="black", ms=4)
    left.axvline(PLACE, color=GREY, ls=":", lw=1)
    left.set(xlabel="x", ylabel="y", title="one data set, 24 trainings", xticks=[-1, -0.5, 0, 0.5, 1])
    right.hist(found.full, 20, color=BLUE, alpha=0.6)
    right.set(xlabel=f"prediction at x = {PLACE}", ylabel="draws", title=f"{NUM_DRAWS} trainings")
    return figure


def push(found: Study) -> Figure:
    """Show the three distributions: on all data, carried, retrained."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), width_ratios=(3, 2))
    edges = np.linspace(0.0, 1.0, 41)
    several = {"all data": found.full, "pushed": found.pushed, "retrained": found.others}
    for (name, drawn), color in zip(several.items(), (BLUE, ORANGE, GREEN), strict=True):
        left.hist(drawn, edges, color=color, alpha=0.5, label=name)
    left.set(xlabel=f"prediction at x = {PLACE}", ylabel="draws", title="without six data")
    left.legend()
    for start, end in zip(found.full[:16], found.pushed[:16], strict=True):
        right.annotate("", (1, end), (0, start), arrowprops={"arrowstyle": "->", "color": ORANGE})
    right.plot(np.zeros(16), found.full[:16], "o", color=BLUE, ms=4)
    right.plot(np.ones(16), found.retrained[:16], "o", color=GREEN, ms=4)
    right.set(
        xticks=[0, 1], xticklabels=["all data", "pushed (tip),\nretrained (dot)"], xlim=(-0.2, 1.3)
    )
    right.set(ylabel=f"prediction at x = {PLACE}", title="16 draws, one by one")
    return figure


def pull(found: Study) -> Figure:
    """Show a row of the response: what one more of each example does to the prediction."""
    figure, axes = plt.subplots(figsize=(8, 2.8))
    axes.axhline(0, color=GREY, lw=0.8)
    axes.plot(found.x, found.response.T, color=ORANGE, alpha=0.2, lw=0.8)
    axes.plot(found.x, found.response.mean(0), "o-", color=ORANGE, ms=4, label="mean of 32 draws")
    axes.axvline(PLACE, color=GREY, ls=":", lw=1)
    axes.set(xlabel="x of the example", ylabel="d prediction / d weight", title="a row of the response")
    axes.legend()
    return figure


def coupling(found: Study) -> Figure:
    """Show both arms against each other, with the keys shared and not."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), sharex=True, sharey=True)
    for axes, new, name in zip(
        panels, (found.retrained, found.others), ("same keys", "other keys"), strict=True
    ):
        spread = (new - found.full).std()
        axes.plot(found.full, new, "o", color=BLUE, alpha=0.5, ms=4)
        axes.set(xlabel="prediction, all data", title=f"{name}: sd of the difference {spread:.3f}")
    panels[0].set_ylabel("prediction, six data removed")
    return figure


def expansion(found: Study) -> Figure:
    """Show one training as the weight of six data falls, and derivatives taken in two places."""
    figure, axes = plt.subplots(figsize=(8, 3.2))
    axes.plot(STEPS, found.along[:, 0], "o-", color=GREEN, ms=4, label="trained at each weight")
    places = ((found.pushed_from_old, GREY, "old"), (found.pushed, ORANGE, "midpoint"))
    for place, color, name in places:
        start, end = found.full[0], place[0]
        axes.plot([0, 1], [start, end], "--", color=color, label=f"derivative at the {name} weights")
        axes.plot(1, end, "s", color=color, ms=6)
    axes.set(xlabel="weight taken from six data", ylabel=f"prediction at x = {PLACE}", title="one key")
    axes.legend()
    return figure


def main(folder: Path) -> None:
    """Draw them all, and print their numbers."""
    mpl.use("agg")
    found = Study(*map(np.asarray, study()))
    with mpl.rc_context(STYLE):
        for picture in (kernel, push, pull, coupling, expansion):
            picture(found).savefig(folder / f"{picture.__name__}.svg", metadata={"Date": None})
    print({name: round(float(number), 3) for name, number in numbers(found).items()})


if __name__ == "__main__":
    main(Path(__file__).parent)

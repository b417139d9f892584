"""Which method, where real networks train: all methods against retraining, and what `choose` takes.

Run with `uv run python benchmarks/choose.py` (an hour on two cores), or with the names of some of its
parts. It prints its tables and writes their sections of `docs/benchmarks/choose.md`. The truth is
coupled retraining; methods predict with 8 draws under other keys. Direction is the Pearson correlation
of predicted and retrained effects over perturbations, averaged over queries; size is the slope of
retrained on predicted effects: 1 is right, below 1 predictions are too long. "+-" is the crossed
jackknife over perturbations and retrainings, "limit" the direction that many more draws would lead to,
and the ceiling is the root of the truth's reliability. `choose` has its default
budget of 96 trainings, on perturbations and keys of its own; "stated" is the direction that it expects
on perturbations which had no part in the choice, and the row of its choice has the factor that it
fitted. Half of the data are dropped, or some of them removed, as each part says. From diabetes on the
rows of `segments` and of the refinement of EK-FAC are left out, as they cost most, and EK-FAC samples
labels; `choose` is free to take them. Seconds are of the processor and include compilation; for
`choose` they include all that it does. Concrete, the edge of stability and the ten checkpoints are
older: their seconds are elapsed ones.
"""

import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax
import optimizers
import page
import pandas as pd
import xarray as xr
from networks import (
    adamw,
    characters,
    fashion,
    low_rank,
    residual,
    strength,
    transformer_on_images,
)

import dtda_prob as dtda
from dtda_prob import curvature, kernels
from dtda_prob.attribution.choose import NUM_RETRAININGS as OWN_RETRAININGS
from dtda_prob.attribution.methods import candidates, compare, shifts
from dtda_prob.demo import digits_training
from dtda_prob.program import Program
from dtda_prob.studies.source import training_of
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

SEED = 0
NUM_DRAWS, NUM_RETRAININGS, LONG = 8, 12, 4
SINGLE = "Edge of stability"
"""The case whose truth is of single examples."""
FREE = "choose, budget=0"
LONGER = f"{LONG * NUM_DRAWS} draws"
Sets = Callable[[Program, jax.Array], xr.DataArray]
"""Perturbations of a program by a key."""


def all_cases() -> pd.DataFrame:
    """Read off all sections below what the choice comes to.

    "Best" is the best direction of all methods on the truth, which nobody knows, and regret what the
    choice misses of it; "free" is the choice with `budget=0`, without any retraining. "Stated" is the
    direction that the choice expects by its own 4 retrainings, carried to the 12 of the truth, which
    are less noisy, by the Spearman-Brown formula; it covers where it is within two of its errors of the
    measured one. At the edge of stability it is of groups, and says nothing of single examples. Bars:
    regret at most 0.03, at most 0.03 below the ceiling, sizes from 0.7 to 1.4. Where the ceiling is
    missed and the limit is near it, 8 draws are too few, and "32 draws" of the choice come nearer;
    where the limit is below, the method is at fault.
    """
    rows = {
        name: summary(table) for name, table in page.tables("choose").items() if "choose" in table.index
    }
    table = pd.DataFrame.from_dict(rows, "index").rename_axis("case")
    table.loc[SINGLE, ["stated", "covers"]] = None
    known = table["covers"].notna()
    total = {
        "regret": table["regret"].mean(),
        "regret, free": table["regret, free"].mean(),
        "covers": f"{table['covers'][known].eq('yes').mean():.0%}",
    }
    return pd.concat([table, pd.DataFrame(total, index=["mean"]).rename_axis("case")])


def summary(table: pd.DataFrame) -> dict[str, object]:
    direction, chosen = table["direction"], table.loc["choose"]
    best = direction.drop(["choose", FREE, LONGER, "ceiling"], errors="ignore").max()
    stated = chosen["stated"] * less_noise(direction["ceiling"])
    off = abs(chosen["direction"] - stated) / (chosen["stated +-"] * less_noise(direction["ceiling"]))
    return {
        "took": chosen["took"],
        "direction": chosen["direction"],
        "size": chosen["size"],
        "best": best,
        LONGER: direction.get(LONGER, np.nan),
        "limit": chosen.get("limit", np.nan),
        "ceiling": direction["ceiling"],
        "regret": max(best - chosen["direction"], 0.0),
        "regret, free": max(best - direction.get(FREE, np.nan), 0.0),
        "stated": stated,
        "covers": "yes" if off <= 2 else "no",
    }


def less_noise(ceiling: float) -> float:
    """Return what a correlation gains where the truth has more retrainings, by that truth's ceiling."""
    times = NUM_RETRAININGS / OWN_RETRAININGS
    return (times - (times - 1) * ceiling**2) ** 0.5


def digits_halves() -> pd.DataFrame:
    """Perceptron 64-64-10 on 1437 digits, SGD with momentum, cosine rate; 23 random halves dropped."""
    training = digits_training(dtda.zoo.digits(), 40)
    return study(training, halves)


def concrete_halves() -> pd.DataFrame:
    """Perceptron 128-128-128 on 896 rows of Concrete, SGD at one rate; 23 random halves dropped."""
    return study(strength(), halves)


def edge_of_stability() -> pd.DataFrame:
    """Perceptron 784-48-10 on 1,200 images of Fashion-MNIST, SGD at the edge of stability; 30 left out.

    Momentum 0.9, cosine rate from 0.05 on pixels in [0, 1], batches of 50, 300 steps.
    """
    x, y, x_test, y_test = fashion(1200, 40)
    program = dtda.Program(dtda.zoo.classifier([48], 10), x, y=y)
    kernel = kernels.sgd(
        lambda steps: optax.sgd(optax.cosine_decay_schedule(0.05, steps), momentum=0.9),
        num_steps=300,
        batch_size=50,
    )
    training = Training(program, kernel, dtda.measures.loss(x_test, y=y_test))
    singles = list(range(0, 1200, 40))
    return study(training, lambda program, key: dtda.leave_one_out(program, singles))


def diabetes_by_adam() -> pd.DataFrame:
    """Perceptron 10-68-1 on 300 rows of diabetes, Adam at a constant rate; 23 sets of 8 % removed."""
    training = optimizers.diabetes(optax.adam(3e-3))
    return study(training, removed(0.08), light(training))


def transformer_by_adamw() -> pd.DataFrame:
    """Decoder-only transformer of characters, 3,355 parameters; 23 sets of 10 % removed.

    128 sequences of 16 letters and spaces of the language reference that Python ships as
    `pydoc_data.topics` (PSF licence), one block with two heads of width 16, AdamW at the rate 0.01 with
    warm-up, cosine decay and clipping at norm 1, batches of 16, 6 epochs; the loss of 8 others.
    """
    training = characters(128, 8)
    return study(training, removed(0.1), light(training))


def vit_by_adamw() -> pd.DataFrame:
    """Vision transformer on 128 images of Fashion-MNIST, 3,418 parameters; 23 sets of 10 % removed.

    16 patches of 7 by 7 pixels, one block with two heads of width 16, the same AdamW at the rate 0.005,
    batches of 16, 6 epochs; the loss of 8 test images.
    """
    x, y, x_test, y_test = fashion(128, 8)
    images = lambda pixels: pixels.reshape(-1, 28, 28)  # noqa: E731
    program = dtda.Program(transformer_on_images, images(x), y=y)
    kernel = kernels.sgd(adamw(0.005), num_epochs=6, batch_size=16)
    measure = dtda.measures.loss(images(x_test), y=y_test)
    training = Training(program, kernel, measure)
    return study(training, removed(0.1), light(training))


def resnet_with_batch_norm() -> pd.DataFrame:
    """ResNet with batch normalisation and augmentation on Fashion-MNIST; 23 sets of 10 % removed.

    128 images, averaged to 14 by 14 pixels, shifted and mirrored anew at each step. A stem of stride 2
    and a residual block of width 8 in flax's nnx, SGD with momentum 0.9, cosine rate from 0.1, weight
    decay 1e-3, batches of 16, 6 epochs; the loss of 8 test images in evaluation.
    """
    x, y, x_test, y_test = fashion(128, 8)
    images = lambda pixels: pixels.reshape(-1, 14, 2, 14, 2).mean((2, 4))  # noqa: E731
    program = dtda.Program(residual, images(x), y=y, evaluation={"train": False})

    def optimizer(num_steps: int) -> optax.GradientTransformation:
        rate = optax.cosine_decay_schedule(0.1, num_steps)
        return optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(rate, momentum=0.9))

    kernel = kernels.sgd(optimizer, num_epochs=6, batch_size=16)
    measure = dtda.measures.loss(images(x_test), y=y_test)
    training = Training(program, kernel, measure)
    return study(training, removed(0.1), light(training))


def lora() -> pd.DataFrame:
    """Adapters of rank 2 on every matrix of a frozen transformer; 23 sets of 10 % removed.

    The base has learned 1,024 sequences of the language reference; the adapters are trained by the same
    AdamW on 128 sequences of the source of Python's `argparse` (PSF licence), batches of 16, 6 epochs.
    """
    training = low_rank(128, 8)
    return study(training, removed(0.1), light(training))


def ten_checkpoints() -> pd.DataFrame:
    """Take ten finished models of the transformer above; 23 sets of 10 % removed.

    Nothing is trained for a prediction: the ten are draws, and every method costs one pass over them.
    The truth is the mean over 12 other trainings. Methods are Gauss-Newton by Nystroem 50 and EK-FAC at
    four dampings in numbers, as models know no optimizer; `choose` retrains by the kernel.
    """
    training = characters(128, 8)
    keys = jax.random.split(jax.random.key(SEED + 2), 10)
    full = training.program.full_weights()
    params = jax.jit(jax.vmap(lambda key: training.draw(key, full).params))(keys)
    models = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i, 0]), params) for i in range(10)]
    ready = Training(training.program, kernels.pretrained(models), training.measure)
    several = [
        dtda.influence(ready, chosen)
        for damping in (0.1, 0.03, 0.01, 0.003)
        for chosen in (
            curvature.nystroem("gauss_newton", rank=50, damping=damping),
            curvature.kronecker("fisher", damping=damping),
        )
    ]
    return study(training, removed(0.1), several, several, num_draws=10)


def light(training: Training) -> list[PushForward]:
    """Return the methods that suit a training and cost least."""
    steps = [dtda.unroll(training), dtda.unroll(training, matrix="gauss_newton")]
    return [*steps, dtda.influence(training, curvature.kronecker("fisher"))]


def halves(program: Program, key: jax.Array) -> xr.DataArray:
    return dtda.random_subsets(program, key, 23, 0.5, removal="drop")


def removed(share: float) -> Sets:
    return lambda program, key: dtda.random_subsets(program, key, 23, 1 - share)


def study(
    training: Training,
    sets: Sets,
    methods: Sequence[PushForward] | None = None,
    among: Sequence[PushForward] | None = None,
    num_draws: int = NUM_DRAWS,
) -> pd.DataFrame:
    """Return methods against the truth, all if None, and what is chosen among some, or by default."""
    predict, retrain, own, *places = jax.random.split(jax.random.key(SEED + 1), 5)
    perturbations, others = (sets(training.program, key) for key in places)
    start = time.process_time()
    truth = shifts(training, retrain, perturbations, NUM_RETRAININGS)
    seconds, predicted = {"ceiling": time.process_time() - start}, {}
    print("truth", seconds["ceiling"], flush=True)
    start = time.process_time()
    choice = dtda.choose(training, own, others, methods=among, num_draws=num_draws)
    seconds["choose"] = time.process_time() - start
    print(choice, seconds["choose"], flush=True)
    start = time.process_time()
    free = dtda.choose(training, own, others, methods=among, budget=0, num_draws=num_draws)
    seconds[FREE] = time.process_time() - start
    made = candidates(training)[0] if methods is None else {each.name: each for each in methods}
    for taken in (choice, free):
        made.setdefault(taken.table.attrs["chosen"], taken.push_forward)
    if getattr(choice.push_forward, "factor", 1.0) != 1.0:
        made["choose"] = choice.push_forward
    for name, method in made.items():
        start = time.process_time()
        predicted[name] = shifts(method, predict, perturbations, num_draws)
        seconds.setdefault(name, time.process_time() - start)
        print(name, seconds[name], flush=True)
    predicted.setdefault("choose", predicted[choice.table.attrs["chosen"]])
    if training_of(choice.push_forward).kernel.num_runs is None:
        start = time.process_time()
        predicted[LONGER] = shifts(choice.push_forward, predict, perturbations, LONG * num_draws)
        seconds[LONGER] = time.process_time() - start
    predicted[FREE] = predicted[free.table.attrs["chosen"]]
    table = compare(predicted, truth)
    rows = {name: row(table.sel(transform=name)) for name in predicted}
    rows["ceiling"] = {"direction": float(table["ceiling"])}
    stated = choice.table.sel(transform=choice.table.attrs["chosen"])
    rows["choose"] |= {
        "took": choice.push_forward.name,
        "stated": float(stated["expected"]),
        "stated +-": float(stated["direction_error"]),
    }
    rows[FREE] |= {"took": free.table.attrs["chosen"]}
    found = pd.DataFrame.from_dict(rows, "index").rename_axis("method")
    found.insert(5, "seconds", pd.Series(seconds))
    return found


def row(table: xr.Dataset) -> dict[str, object]:
    number = lambda name: float(table[name])  # noqa: E731
    return {
        "direction": number("direction"),
        "+-": number("direction_error"),
        "size": number("size"),
        "+- ": number("size_error"),
        "limit": number("limit"),
    }


PARTS = (
    all_cases,
    digits_halves,
    concrete_halves,
    edge_of_stability,
    diabetes_by_adam,
    transformer_by_adamw,
    vit_by_adamw,
    resnet_with_batch_norm,
    lora,
    ten_checkpoints,
)

if __name__ == "__main__":
    named = [part for part in PARTS[1:] if part.__name__ in sys.argv[1:]]
    chosen = [*(named or PARTS[1:]), all_cases]
    page.write_some("choose", "Which method", __doc__, PARTS, chosen, SEED)

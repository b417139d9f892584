"""Figure 6 of the paper at its own size: a Swin transformer on all 50,000 training images of CIFAR-10.

    uv pip install "jax[cuda13]"
    uv run python notebooks/gpu/06_pruning.py CIFAR_FOLDER RESULTS_FOLDER

`CIFAR_FOLDER` is the binary version of CIFAR-10 (`data_batch_1.bin` to `data_batch_5.bin`,
`test_batch.bin`). Half of the test images rank (the validation loss), the other half judge. Ten seeds;
a tenth of the images goes; the arms are all data, the list of each seed, and the list of the mean over
seeds, retrained with the same ten keys. The damping of EK-FAC is chosen by retrainings with other keys.

Scores and retrainings are kept in `RESULTS_FOLDER` seed by seed, so that a second call goes on where
the first one was stopped. `--plan` prints what a pilot expects and ends; the aim is 12 minutes on one
GPU.

**This size has not been run**: what runs whenever the library changes is a few images on CPU.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import figure6
from swin import Swin

import dtda_prob as dtda
from dtda_prob import evaluate

CHOICE, KEY = jax.random.split(jax.random.key(0))


def main() -> None:
    """Plan, or compute what is not there yet and print the comparison."""
    asked = arguments()
    program, validation, test = setting(asked)
    kernel = figure6.kernel(asked.rate, asked.epochs, asked.batch)
    harm = figure6.harmed(program, kernel, *validation)
    if asked.plan:
        print_plan(harm, asked)
        return
    asked.results.mkdir(parents=True, exist_ok=True)
    arms = evaluate.pruning(
        dtda.Training(program, kernel, figure6.quality(*test)),
        KEY,
        figure6.rules(scores(method_of(harm, validation, asked), asked)),
        share=figure6.SHARE,
        num_retrainings=asked.seeds,
        paired=True,
        where=dtda.Where(asked.results / "retrained.zarr", progress=False),
    )
    print(figure6.levels(arms), figure6.gains(arms).round(4), sep="\n\n")


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--images", type=int, default=50_000, help="for training")
    parser.add_argument("--held", type=int, default=10_000, help="test images: half rank, half judge")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--width", type=int, default=96, help="of the first stage")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 2], help="blocks of each stage")
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--rate", type=float, default=0.002)
    parser.add_argument("--budget", type=int, default=36, help="trainings to choose by, or 0")
    parser.add_argument("--plan", action="store_true")
    return parser.parse_args()


def setting(asked):
    """Return the program, and the images and labels that rank and that judge."""
    split = data.cifar10(asked.cifar, asked.images, asked.held)
    program = dtda.Program(
        Swin(asked.patch, 4, asked.width, tuple(asked.depths)), split.x_train, y=split.y_train
    )
    half = asked.held // 2
    return program, *((split.x_test[part], split.y_test[part]) for part in (np.s_[:half], np.s_[half:]))


def print_plan(harm, asked):
    """Price the scores (a pull for each seed) and the retrainings (three arms for each seed)."""
    tenth = dtda.random_subsets(harm.program, CHOICE, 1, 1 - figure6.SHARE, removal="drop")
    priced = dtda.plan(figure6.by_ekfac(harm)[1], CHOICE, num_draws=asked.seeds, perturbations=tenth)
    table = priced.table["seconds"]
    training = table["retrain"] / (2 * asked.seeds)
    parts = {
        "choice of the damping": training * asked.budget + table["pull"],
        "scores": table["pull"],
        "retrainings": 3 * asked.seeds * training,
    }
    print(priced.table.to_string(float_format="{:.3g}".format))
    for name, seconds in parts.items():
        print(f"{name}: {seconds / 60:.1f} minutes")
    print(f"in all, without compilation: {sum(parts.values()) / 60:.1f} minutes")


def method_of(harm, validation, asked):
    """Return EK-FAC at the damping that was chosen, by this call or by one before."""
    path = asked.results / "damping.txt"
    if not path.exists() and asked.budget:
        some, where = (each[:32] for each in validation), dtda.Where(asked.results / "choice.zarr")
        choice = figure6.chosen(harm.program, harm.kernel, *some, CHOICE, asked.budget, where)
        print(choice)
        path.write_text(str(figure6.place_of(choice)))
    return figure6.by_ekfac(harm)[int(path.read_text()) if path.exists() else 1]


def scores(method, asked):
    """Return the harm of each image by the model of each seed, `(seed, image)`, which are kept."""
    for seed, key in enumerate(method.training.kernel.keys(KEY, np.arange(asked.seeds))):
        path = asked.results / f"harm_{seed}.npy"
        if not path.exists():
            np.save(path, np.asarray(figure6.harm_of(method, key), float))
    return np.stack([np.load(asked.results / f"harm_{seed}.npy") for seed in range(asked.seeds)])


if __name__ == "__main__":
    main()

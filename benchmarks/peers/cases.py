"""The cases of the comparison: data, queries, perturbed datasets, and our training of each."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import xarray as xr

import dtda_prob as dtda
from dtda_prob.perturbations import labelled
from dtda_prob.training import Training

sys.path.append(str(Path(__file__).parents[1]))
import mnist
import networks

SEED = 0
MODELS = 16


@dataclass(frozen=True)
class Case:
    """A case, which torch and we train alike.

    Attributes:
        name: names its folder and its sections of the page.
        about: what the scripts in torch need to know.
        data: examples and queries, `x_train`, `y_train`, `x_query`, `y_query`.
        program: the program of examples.
        kernel: our training.
        measured: our measure of queries.
        sizes: numbers of halves, of small removals and of left-out examples.
    """

    name: str
    about: dict[str, Any]
    data: dict[str, np.ndarray]
    program: dtda.Program
    kernel: Any
    measured: Any
    sizes: tuple[int, int, int]

    @property
    def training(self) -> Training:
        return Training(self.program, self.kernel, self.measured)

    @property
    def share(self) -> int:
        """Return the number of examples that are one per cent."""
        return max(1, round(0.01 * self.program.num_data))

    def rows(self) -> dict[str, np.ndarray]:
        """Return the weights of each perturbed dataset."""
        halves, small, left = (jax.random.key(SEED + i) for i in range(3))
        number, many = self.program.num_data, self.sizes
        subsets = dtda.random_subsets
        chosen = jax.random.choice(left, number, (many[2],), replace=False)
        return {
            "halves": subsets(self.program, halves, many[0], 0.5).values,
            "small": subsets(self.program, small, many[1], number - self.share).values,
            "left": 1 - np.eye(number)[np.sort(np.asarray(chosen))],
        }

    def perturbations(self, name: str) -> xr.DataArray:
        """Return the perturbed datasets of a truth."""
        rows, removal = self.rows()[name], "drop" if self.about["truths"][name][1] else "reweight"
        return labelled(self.program, rows, removal, np.arange(len(rows)))

    def write(self, folder: Path) -> None:
        """Write what the scripts in torch read."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "case.json").write_text(json.dumps(self.about))
        np.savez(folder / "case.npz", **self.data, **self.rows())


def sgd(steps: int) -> optax.GradientTransformation:
    return optax.sgd(optax.cosine_decay_schedule(0.05, steps), momentum=0.9)


def perceptron(
    name: str, split: dtda.zoo.Split, queries: int, epochs: int, batch: int, sizes: tuple, truths: dict
) -> Case:
    x, y = split.x_train, split.y_train
    x_query, y_query = split.x_test[:queries], split.y_test[:queries]
    about = {
        "network": [x.shape[1], 64, 10],
        "optimizer": "sgd",
        "rate": 0.05,
        "epochs": epochs,
        "batch_size": batch,
        "models": MODELS,
        "truths": truths,
    }
    return Case(
        name,
        about,
        {"x_train": x, "y_train": y, "x_query": x_query, "y_query": y_query},
        dtda.Program(dtda.zoo.classifier([64], 10), x, y=y),
        dtda.kernels.sgd(sgd, num_epochs=epochs, batch_size=batch),
        dtda.measures.loss(x_query, y=y_query),
        sizes,
    )


def digits() -> Case:
    truths = {"halves": (12, True), "small": (8, False), "left": (8, False)}
    return perceptron("digits", dtda.zoo.digits(), 40, 20, 64, (40, 40, 40), truths)


def images() -> Case:
    truths = {"halves": (8, True), "small": (6, False), "left": (6, False)}
    return perceptron("images", mnist.load(5000, 20), 20, 5, 100, (30, 24, 24), truths)


def text() -> Case:
    train, queries = networks.sequences(networks.reference(), 200, 20)
    about = {
        "network": "language",
        "optimizer": "adamw",
        "rate": 0.01,
        "epochs": 6,
        "batch_size": 16,
        "models": MODELS,
        "truths": {"halves": (12, True), "small": (8, False), "left": (8, False)},
    }
    return Case(
        "text",
        about,
        {"x_train": train, "x_query": queries},
        dtda.Program(networks.language, train),
        dtda.kernels.sgd(networks.adamw(0.01), num_epochs=6, batch_size=16),
        dtda.measures.loss(queries),
        (40, 40, 40),
    )


CASES: dict[str, Callable[[], Case]] = {"digits": digits, "images": images, "text": text}

"""A logistic regression: influence by pyinfluence and by us, and wrong labels by cleanlab and by us.

Run as `python linear.py FOLDER` after `in_torch/linear.py`.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import page  # noqa: F401 - no compilation is kept on disk
import pandas as pd
from sklearn.datasets import load_breast_cancer

import dtda_prob as dtda

TRAIN, QUERIES, WRONG = 200, 40, 10


def write(folder: Path) -> None:
    """Write 200 patients to learn from, and 40 others: 30 standardised features and a diagnosis.

    "y_wrong" has the diagnoses of ten of the 200 turned round.
    """
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[: TRAIN + QUERIES]
    x = ((x - x.mean(0)) / x.std(0))[order].astype("float32")
    y = y[order].astype("int32")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"x": x[:TRAIN], "y": y[:TRAIN], "x_query": x[TRAIN:], "y_query": y[TRAIN:]}
    wrong = np.isin(np.arange(TRAIN), np.random.default_rng(1).permutation(TRAIN)[:WRONG])
    np.savez(folder / "linear.npz", **parts, y_wrong=np.where(wrong, 1 - parts["y"], parts["y"]))


def logistic(x: jax.Array, y: jax.Array | None = None) -> None:
    """Observe labels, with the prior that is `C=1` in scikit-learn."""
    slopes = numpyro.sample("slopes", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    offset = numpyro.param("offset", 0.0)
    with numpyro.plate("data", len(x)) as i:
        logits = x[i] @ slopes + offset
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=None if y is None else y[i])


def main(folder: Path) -> None:
    data = np.load(folder / "linear.npz")
    program = dtda.Program(logistic, data["x"], y=data["y"])
    measure = dtda.measures.loss(data["x_query"], y=data["y_query"])
    training, found = dtda.Training(program, dtda.kernels.lbfgs(), measure), {}
    method = dtda.influence(training)
    for call in ("first", "warm"):
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one minimum is one model
            scores = dtda.attribute(method, jax.random.key(0), 3, ["mean"])
        found[f"influence {call}"] = time.process_time() - start
    found["influence"] = scores["score"].values[0]
    start = time.process_time()
    found["rank"] = ranks(data["x"], data["y_wrong"])
    found["rank seconds"] = time.process_time() - start
    np.savez(folder / "linear-ours.npz", **found)


def ranks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the place of each patient in the list of `dtda.check`, 0 for the most suspicious."""
    table = pd.DataFrame(x).add_prefix("feature ").assign(kind=np.where(y, "benign", "malignant"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patients.csv"
        table.to_csv(path, index=False)
        found = dtda.check(path, target="kind", progress=False)
    return np.argsort(found.rows["line"].to_numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""pyinfluence on a logistic regression: its influence by default, and its refits without each example.

Run as `python linear.py FOLDER`.
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")


def influences(model, x, y, x_query, y_query):
    from pyinfluence import influence

    return influence(model, x, y, x_query, y_query)


def refits(model, x, y, x_query, y_query):
    from pyinfluence import LOOInfluence

    exact = LOOInfluence(verbose=0).fit(model, x, y)
    return exact.explain(x_query, y_query)


def main(folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    data = dict(np.load(folder / "linear.npz"))
    model = LogisticRegression(tol=1e-8, max_iter=1000).fit(data["x"], data["y"])
    found = {}
    for method in (influences, refits):
        start = time.process_time()
        found[method.__name__] = method(model, *data.values())
        found[f"{method.__name__} seconds"] = time.process_time() - start
    np.savez(folder / "linear-found.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

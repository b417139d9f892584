"""A logistic regression: influence and refits by pyinfluence, wrong labels by cleanlab.

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


def label_quality(model, x, y):
    from cleanlab.classification import CleanLearning
    from sklearn.linear_model import LogisticRegression

    issues = CleanLearning(LogisticRegression()).find_label_issues(x, y)
    return issues["label_quality"].to_numpy()


def main(folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    data = dict(np.load(folder / "linear.npz"))
    both = [data[name] for name in ("x", "y", "x_query", "y_query")]
    model = LogisticRegression(tol=1e-8, max_iter=1000).fit(*both[:2])
    found = {}
    for method, arguments in (
        (influences, both),
        (refits, both),
        (label_quality, (data["x"], data["y_wrong"])),
    ):
        start = time.process_time()
        found[method.__name__] = method(model, *arguments)
        found[f"{method.__name__} seconds"] = time.process_time() - start
    np.savez(folder / "linear-found.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

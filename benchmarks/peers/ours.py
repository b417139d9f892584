"""Our truth, our scores, and the rise of losses without what each row ranks first.

Run as `python ours.py CASE FOLDER PART`, where a part is "truth", "rise", or the name of a method.
"""

import inspect
import resource
import sys
import time
from pathlib import Path

import cases
import jax
import numpy as np
import page  # noqa: F401 - no compilation is kept on disk

import dtda_prob as dtda
from dtda_prob import curvature, evaluate
from dtda_prob.attribution.arms import comparison
from dtda_prob.attribution.methods import shifts
from dtda_prob.studies.run import Where
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

TRUTH, PREDICT, CHOOSE, RISE = (jax.random.key(100 + i) for i in range(4))
DRAWS = 16
RETRAININGS = {"digits": 4, "images": 2, "text": 4}
"""Retrainings of each query without its first examples."""


def chosen(training: Training) -> PushForward:
    found = dtda.choose(training, CHOOSE)
    print(found, flush=True)
    return found.push_forward


def unrolled(training: Training) -> PushForward:
    return dtda.unroll(training)


def ekfac(training: Training) -> PushForward:
    return dtda.influence(training, curvature.kronecker("fisher"))


METHODS = {"choose": chosen, "unroll": unrolled, "EK-FAC": ekfac}


def singles(source: PushForward, key: jax.Array, number: int) -> np.ndarray:
    """Return the effect of each example's removal by draw, `(draw, query, example)`."""
    arms = comparison(source, key, None).arms(number, Where(progress=False))
    return arms.new.astype(float) - arms.old


def score(case: cases.Case, folder: Path, name: str) -> None:
    """Score by one method in this process alone, and note seconds and memory."""
    before = megabytes()
    source = METHODS[name](case.training)
    one = singles(source, jax.random.fold_in(PREDICT, 1), 1)
    first = time.process_time()
    assert np.isfinite(one).all()
    draws = singles(source, PREDICT, DRAWS)
    start = time.process_time()
    singles(source, jax.random.fold_in(PREDICT, 2), DRAWS)
    warm, memory = (time.process_time() - start) / DRAWS, megabytes() - before
    asked = shifts(source, PREDICT, case.perturbations("halves"), DRAWS)
    np.savez(
        folder / f"ours-{name}.npz", draws=draws, halves=asked, first=first, warm=warm,
        megabytes=memory, took=source.name,
    )  # fmt: skip


def lines(parts: tuple) -> int:
    """Count the lines of code, without empty ones, comments and docstrings."""
    text = [line.strip() for part in parts for line in inspect.getsource(part).splitlines()]
    return len([line for line in text if line and line[0] not in "#\"'"])


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def truth(case: cases.Case, folder: Path) -> None:
    for name, (number, _) in case.about["truths"].items():
        path = folder / f"ours-truth-{name}.npz"
        if path.exists():
            continue
        start = time.process_time()
        arms = evaluate.retrainings(
            case.training, TRUTH, case.perturbations(name), num_retrainings=number
        )
        each = arms["perturbed"].transpose("draw", "perturbation", "query").values
        seconds = time.process_time() - start
        np.savez(path, full=arms["full"].values, perturbed=each, seconds=seconds)
        print(name, seconds, flush=True)


def rise(case: cases.Case, folder: Path) -> None:
    """Retrain without the one per cent of the examples that each row ranks first for a query."""
    number, count = case.program.num_data, RETRAININGS[case.name]
    for path in sorted(folder.glob("*-*.npz")):
        to = folder / "rise" / path.name
        found = np.load(path)
        if "draws" not in found or to.exists():
            continue
        joint = [name for name in ("joint_16", "joint_4") if name in found]
        scores = found[joint[0]] if joint else found["draws"].mean(0)
        weights = np.ones((len(scores), number))
        np.put_along_axis(weights, np.argsort(-scores, 1)[:, : case.share], 0.0, 1)
        each = shifts(case.training, RISE, weights, count)
        to.parent.mkdir(exist_ok=True)
        np.savez(to, rise=np.diagonal(each, axis1=1, axis2=2))
        print(path.name, np.diagonal(each.mean(0)).mean(), time.process_time(), flush=True)


if __name__ == "__main__":
    case, folder, part = cases.CASES[sys.argv[1]](), Path(sys.argv[2]), sys.argv[3]
    if part in METHODS:
        score(case, folder, part)
    else:
        {"truth": truth, "rise": rise}[part](case, folder)

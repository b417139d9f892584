"""quanda's metrics of score matrices of any library, ours too. Run as `python metrics.py FOLDER`."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from quanda.metrics.downstream_eval import ClassDetectionMetric
from quanda.metrics.heuristics import TopKCardinalityMetric
from task import Task
from torch.utils.data import TensorDataset


def metrics(task: Task, scores: np.ndarray) -> dict[str, float]:
    model = task.model(task.states(1)[0])
    train = TensorDataset(*task.examples("train"))
    explanations, (_, labels) = torch.as_tensor(scores).float(), task.examples("query")
    same = ClassDetectionMetric(model, train)
    same.update(explanations, test_targets=labels)
    apart = TopKCardinalityMetric(model, train, top_k=1)
    apart.update(explanations)
    return {"same class": same.compute()["score"], "top 1, union": apart.compute()["score"]}


def main(folder: Path) -> None:
    task, found = Task.load(folder), {}
    for path in sorted(folder.glob("*-*.npz")):
        kept = np.load(path)
        if "draws" in kept:
            found[path.stem] = metrics(task, kept["draws"].mean(0))
    (folder / "metrics.json").write_text(
        json.dumps({k: {n: float(v) for n, v in m.items()} for k, m in found.items()})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

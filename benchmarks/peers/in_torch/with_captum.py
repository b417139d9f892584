"""captum's TracIn, as its tutorial uses it: the last layer, or all, at five points of training."""

import tempfile
from pathlib import Path

import torch
from captum.influence import TracInCP, TracInCPFast
from task import Task
from torch import nn
from torch.utils.data import TensorDataset

MOST = 4
"""Models whose points of training are kept."""


def load(model, path):
    rate, state = torch.load(path)
    model.load_state_dict(state)
    return rate


def influence(task: Task, seed, method, **options):
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, (rate, params) in enumerate(torch.load(task.folder / "points.pt")):
            paths.append(str(Path(folder) / f"{i}.pt"))
            torch.save((rate, {name: p[seed] for name, p in params.items()}), paths[-1])
        tracin = method(
            task.network(), train_dataset=TensorDataset(*task.examples("train")), checkpoints=paths,
            checkpoints_load_func=load, batch_size=256, **options,
        )  # fmt: skip
        return tracin.influence(task.examples("query")).numpy()


def last_layer(task, state, seed):
    loss = nn.CrossEntropyLoss(reduction="sum")
    return influence(task, seed, TracInCPFast, final_fc_layer="2", loss_fn=loss)


def all_layers(task, state, seed):
    loss = nn.CrossEntropyLoss(reduction="none")
    return influence(task, seed, TracInCP, loss_fn=loss)


SETTINGS = {
    "TracIn, last layer": (last_layer, (load, influence)),
    "TracIn, all layers": (all_layers, (load, influence)),
}

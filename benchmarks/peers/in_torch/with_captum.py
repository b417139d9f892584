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


class Losses(nn.Module):
    """The loss of each example, or their sum."""

    def __init__(self, task, reduction):
        super().__init__()
        self.task, self.reduction = task, reduction

    def forward(self, outputs, targets):
        each = self.task.losses(outputs, targets)
        return each.sum() if self.reduction == "sum" else each


def last_layer(task, state, seed):
    last = "head" if task.text else "2"
    loss = Losses(task, "sum")
    return influence(task, seed, TracInCPFast, final_fc_layer=last, loss_fn=loss)


def all_layers(task, state, seed):
    return influence(task, seed, TracInCP, loss_fn=Losses(task, "none"))


SETTINGS = {
    "TracIn, last layer": (last_layer, (load, influence, Losses)),
    "TracIn, all layers": (all_layers, (load, influence, Losses)),
}

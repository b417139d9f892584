"""kronfluence, as its README uses it."""

import tempfile

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import ScoreArguments
from kronfluence.task import Task as Description
from torch.utils.data import TensorDataset


class Losses(Description):
    """The loss that is trained on, and measured."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def compute_train_loss(self, batch, model, sample=False):
        inputs, targets = batch
        outputs = model(inputs)
        if sample:
            shares = outputs.detach().softmax(-1).flatten(0, -2)
            targets = torch.multinomial(shares, 1).view(targets.shape)
        return self.task.losses(outputs, targets).sum()

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)


def ekfac(task, state, seed, **options):
    description = Losses(task)
    model = prepare_model(task.model(state), description)
    train, query = (TensorDataset(*task.examples(part)) for part in ("train", "query"))
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer("case", model, description, cpu=True, output_dir=folder)
        analyzer.fit_all_factors("factors", train, per_device_batch_size=256)
        analyzer.compute_pairwise_scores(
            "scores", "factors", query, train, per_device_query_batch_size=64,
            per_device_train_batch_size=256, score_args=ScoreArguments(**options),
        )  # fmt: skip
        return analyzer.load_pairwise_scores("scores")["all_modules"].numpy()


def heuristic(task, state, seed):
    return ekfac(task, state, seed, damping_factor=None)


SETTINGS = {
    "EK-FAC, default": (ekfac, (Losses,)),
    "EK-FAC, heuristic damping": (heuristic, (Losses, ekfac)),
}

"""dattri-llm, as its README uses it: gradients by hooks, while a model is run."""

import tempfile

from dattri_llm import AttributionArguments, AttributionTask, EKFACAttributor, TracInAttributor
from torch.utils.data import Dataset


class Texts(Dataset):
    """Sequences, each with its place, so that no two are taken for one."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        return {"input_ids": self.tokens[i]}


def attribute(task, state, method, **options):
    def loss(model, batch):
        tokens = batch["input_ids"]
        return task.losses(model(tokens), tokens).mean()

    described = AttributionTask(loss_func=loss, model=task.model(state))
    with tempfile.TemporaryDirectory() as folder:
        arguments = AttributionArguments(
            output_dir=folder, use_cpu=True, per_device_train_batch_size=20
        )
        attributor = method(arguments, task=described)
        train, query = (Texts(task.examples(part)[0]) for part in ("train", "query"))
        score = attributor.attribute(train, query, **options)
        return score.agnostic_matrix()[1].T.numpy()


def tracin(task, state, seed):
    return attribute(task, state, TracInAttributor)


def ekfac(task, state, seed):
    return attribute(task, state, EKFACAttributor)


SETTINGS = {
    "gradient products, default": (tracin, (Texts, attribute)),
    "EK-FAC, default": (ekfac, (Texts, attribute)),
}

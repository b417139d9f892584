"""traker, as its quickstart uses it."""

import tempfile

import torch
from task import Task
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset
from trak import TRAKer
from trak.modelout_functions import AbstractModelOutput

JOINT = True
"""Models enter one score together."""


class Margins(AbstractModelOutput):
    """The margins of the characters of a text, added up, as its tutorial defines an output."""

    def __init__(self):
        super().__init__()

    def get_output(self, model, weights, buffers, tokens, targets):
        logits = functional_call(model, (weights, buffers), (tokens[None],))[0]
        right = targets[:, None]
        others = logits.scatter(-1, right, -torch.inf).logsumexp(-1)
        return (logits.gather(-1, right)[:, 0] - others).sum()

    def get_out_to_loss_grad(self, model, weights, buffers, batch):
        tokens, targets = batch
        shares = functional_call(model, (weights, buffers), (tokens,)).softmax(-1)
        return (1 - shares.gather(-1, targets[..., None])[..., 0]).mean(-1, keepdim=True).detach()


def output_of(task: Task):
    return Margins() if task.text else "image_classification"


def trak(task, states, seed, **options):
    model = task.model(states[0])
    train, query = (TensorDataset(*task.examples(part)) for part in ("train", "query"))
    with tempfile.TemporaryDirectory() as folder:
        traker = TRAKer(
            model=model, task=output_of(task), train_set_size=len(train), save_dir=folder, device="cpu",
            use_half_precision=False, logging_level=40, **options,
        )  # fmt: skip
        for i, state in enumerate(states):
            traker.load_checkpoint(state, model_id=i)
            for batch in DataLoader(train, batch_size=256):
                traker.featurize(batch=batch, num_samples=len(batch[0]))
        traker.finalize_features()
        for i, state in enumerate(states):
            traker.start_scoring_checkpoint(
                exp_name="query", checkpoint=state, model_id=i, num_targets=len(query)
            )
            for batch in DataLoader(query, batch_size=256):
                traker.score(batch=batch, num_samples=len(batch[0]))
        return torch.as_tensor(traker.finalize_scores(exp_name="query").copy()).T.numpy()


def smaller(task, states, seed):
    return trak(task, states, seed, proj_dim=512)


def regularized(task, states, seed):
    return trak(task, states, seed, lambda_reg=100.0)


SETTINGS = {
    "TRAK, default": (trak, ()),
    "TRAK, dimension 512": (smaller, (trak,)),
    "TRAK, lambda 100": (regularized, (trak,)),
}

"""traker, as its quickstart uses it."""

import tempfile

import torch
from torch.utils.data import DataLoader, TensorDataset
from trak import TRAKer

JOINT = True
"""Models enter one score together."""


def trak(task, states, seed, **options):
    model = task.model(states[0])
    train, query = (TensorDataset(*task.examples(part)) for part in ("train", "query"))
    with tempfile.TemporaryDirectory() as folder:
        traker = TRAKer(
            model=model, task="image_classification", train_set_size=len(train), save_dir=folder,
            device="cpu", use_half_precision=False, logging_level=40, **options,
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

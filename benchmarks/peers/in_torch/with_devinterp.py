"""devinterp's Bayesian influence function, as its README uses it: covariances of losses."""

from datasets import Dataset, disable_progress_bars
from devinterp.slt.bif import bif
from torch.nn import functional

disable_progress_bars()


def covariance(task, state, seed, **options):
    """Return covariances of the losses of sequences, whose first character does not count."""
    tokens = {part: task.examples(part)[0] for part in ("train", "query")}
    data = {
        part: Dataset.from_dict({"input_ids": each.tolist()}).with_format("torch")
        for part, each in tokens.items()
    }

    def loss(model, inputs):
        each = functional.cross_entropy(model(inputs).flatten(0, 1), inputs.flatten(), reduction="none")
        return each.view(inputs.shape)[:, 1:]

    size = len(tokens["query"])
    found = bif(
        task.model(state),
        data["train"],
        {part: (each, len(each) // size) for part, each in data.items()},
        lr=1e-3,
        n_beta=30,
        num_chains=4,
        num_draws=200,
        batch_size=size,
        correlation_method="sequence",
        compute_covariance=True,
        loss_fn=loss,
        device="cpu",
        init_seed=seed,
        **options,
    )
    places = {tuple(row): i for i, row in enumerate(found["input_ids"].values.tolist())}
    query, train = ([places[tuple(row)] for row in tokens[p].tolist()] for p in ("query", "train"))
    return found["influences"].values[query][:, train]


SETTINGS = {"covariance of losses": (covariance, ())}

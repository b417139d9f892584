"""bergson's collector of gradients, on a model that it can take for one of transformers."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from bergson import CollectorComputer, IndexConfig, InMemoryCollector
from datasets import Dataset
from task import LETTERS
from transformers import PretrainedConfig, PreTrainedModel


class Adapter(PreTrainedModel):
    """The language model behind the interface of transformers: a text begins with a sign of its own."""

    config_class = PretrainedConfig

    def __init__(self, network):
        super().__init__(PretrainedConfig(vocab_size=LETTERS))
        self.network = network

    def forward(self, input_ids, **ignored):
        logits = self.network(input_ids[:, 1:])
        return SimpleNamespace(logits=torch.cat([logits, 0 * logits[:, :1]], 1))


def gradients(model, tokens):
    """Return the gradient of each text's loss with respect to linear layers, `(text, parameter)`."""
    begun = torch.nn.functional.pad(tokens, (1, 0), value=LETTERS).tolist()
    data = Dataset.from_dict(
        {"input_ids": begun, "labels": begun, "length": [len(row) for row in begun]}
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.with_suffix(".part").mkdir()
        config = IndexConfig(run_path=str(run), token_batch_size=512)
        collector = InMemoryCollector(model, data=data, cfg=config)
        computer = CollectorComputer(model, data, collector=collector, cfg=config)
        computer.run_with_collector_hooks()
    return torch.cat([each.flatten(1).float() for each in collector.gradients.values()], 1)


def products(task, state, seed):
    model = Adapter(task.model(state))
    query, train = (gradients(model, task.examples(part)[0]) for part in ("query", "train"))
    return (query @ train.T).numpy()


def cosines(task, state, seed):
    model = Adapter(task.model(state))
    query, train = (gradients(model, task.examples(part)[0]) for part in ("query", "train"))
    unit = torch.nn.functional.normalize
    return (unit(query) @ unit(train).T).numpy()


SETTINGS = {
    "gradient products": (products, (Adapter, gradients)),
    "gradient cosines": (cosines, (Adapter, gradients)),
}

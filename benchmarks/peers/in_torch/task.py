"""A case of the comparison in torch: data, network, loss, and models that have been trained."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, LENGTH, LETTERS = 16, 2, 16, 27


class Attention(nn.Module):
    """Causal attention of two heads, without biases."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)
        )
        self.register_buffer("mask", torch.ones(LENGTH, LENGTH).tril().bool(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        split = lambda y: y.unflatten(-1, (HEADS, -1)).transpose(-3, -2)  # noqa: E731
        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        weights = logits.masked_fill(~self.mask, -torch.inf).softmax(-1)
        return self.out((weights @ v).transpose(-3, -2).flatten(-2))


class Language(nn.Module):
    """The language model of `benchmarks/networks.py`: a block of width 16 that predicts characters."""

    def __init__(self):
        super().__init__()
        self.letters, self.places = nn.Embedding(LETTERS + 1, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.attention, self.first, self.second = Attention(), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, LETTERS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.features(tokens))

    def features(self, tokens: Tensor) -> Tensor:
        before = functional.pad(tokens[..., :-1], (1, 0), value=LETTERS)
        x = self.letters(before) + self.places.weight
        x = x + self.attention(self.first(x))
        hidden = functional.gelu(self.up(self.second(x)), approximate="tanh")
        return self.norm(x + self.down(hidden))


class Perceptron(nn.Sequential):
    """One layer of tanh units; weights as `dtda.zoo.classifier` draws them."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
        for layer in (self[0], self[2]):
            nn.init.trunc_normal_(layer.weight, 0.0, 1.0, -2.0, 2.0)
            with torch.no_grad():
                layer.weight *= layer.in_features**-0.5 / 0.87962566103423978
            nn.init.zeros_(layer.bias)

    def features(self, x: Tensor) -> Tensor:
        return self[1](self[0](x))


@dataclass
class Task:
    """A case: how it is trained, its examples, its queries, and which examples are removed together."""

    folder: Path
    about: dict
    arrays: dict[str, np.ndarray]

    @classmethod
    def load(cls, folder: Path) -> "Task":
        about = json.loads((folder / "case.json").read_text())
        return cls(folder, about, dict(np.load(folder / "case.npz")))

    @property
    def text(self) -> bool:
        return self.about["network"] == "language"

    def network(self) -> nn.Module:
        return Language() if self.text else Perceptron(*self.about["network"])

    def examples(self, part: str) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of "train" or of "query"."""
        x = torch.as_tensor(self.arrays[f"x_{part}"])
        if self.text:
            return x.long(), x.long()
        return x.float(), torch.as_tensor(self.arrays[f"y_{part}"]).long()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each example, summed over the characters of a text."""
        each = functional.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), reduction="none"
        ).view(targets.shape)
        return each.sum(-1) if self.text else each

    def states(self, number: int | None = None) -> list[dict[str, Tensor]]:
        """Return the trained models."""
        return torch.load(self.folder / "models.pt")[:number]

    def model(self, state: dict[str, Tensor]) -> nn.Module:
        network = self.network()
        network.load_state_dict(state)
        return network.eval()

"""Scores of any size, read by what is shown of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from dtda_prob.report.parts import Part
from dtda_prob.report.pictures import Looks
from dtda_prob.report.words import RATE, Sign, sign_of

FIELDS = (
    "score",
    "error",
    "lower",
    "upper",
    "null",
    "p_value",
    "q_value",
    "rank",
    "rank_lower",
    "rank_upper",
    "top_probability",
)
BLOCK = 2**22
"""Numbers that are read at once."""


class Scores(NamedTuple):
    """Scores in a study, and what there is to know to write of them.

    Attributes:
        name: of the scores.
        dataset: what `dtda.attribute` gives, read when it is asked for.
        measure: what was measured.
        dim: what was changed: "datum" or "perturbation".
        top: how many are shown, at either end where there is a sign.
        data: what there is to look at of the data.
    """

    name: str
    dataset: xr.Dataset
    measure: str
    dim: str
    top: int
    data: Looks

    @property
    def things(self) -> str:
        """Name what was changed, in the plural."""
        return "data" if self.dim == "datum" else "perturbations"

    @property
    def change(self) -> str:
        """Say what is done to the data."""
        return "removing the datum" if self.dim == "datum" else "the change"

    def sign_of(self, divergence: str) -> Sign | None:
        """Give what the sign of a divergence says, if it has one."""
        return sign_of(divergence, self.measure, vector="output" in self.dataset["sd"].dims)

    @property
    def divergences(self) -> list[str]:
        """Name the divergences."""
        return [str(name) for name in self.dataset["divergence"].values.tolist()]

    @property
    def labels(self) -> np.ndarray:
        """Give the labels of what was changed."""
        return self.dataset[self.dim].values


def scores_of(part: Part, top: int, data: Looks) -> Scores | None:
    """Prepare to read scores; None where none is there yet."""
    dataset = part.dataset
    if "score" not in dataset or not dataset["score"].size:
        return None
    dim = str(dataset["score"].dims[-1])
    return Scores(part.name, dataset, str(dataset.attrs["measure"]), dim, top, data)


def read_queries(scores: Scores, queries: Sequence[int]) -> xr.Dataset:
    """Read all that is shown of some queries."""
    chosen = scores.dataset[[name for name in FIELDS if name in scores.dataset]]
    return chosen.isel(query=list(queries)).load()


def over_queries(scores: Scores, blocks: int) -> dict[str, np.ndarray]:
    """Average scores over all queries, a block of them at a time.

    Args:
        scores: which.
        blocks: queries that stand together on disk.

    Returns:
        By name, `(divergence, datum)`: the mean `score`, the most that its `error` can be, and in how
        many queries it is `told` from none.
    """
    dataset, number = scores.dataset, scores.dataset.sizes["query"]
    shape = len(scores.divergences), scores.labels.size
    step = max(1, BLOCK // (shape[0] * shape[1]))
    step = max(step - step % blocks, min(step, blocks))
    total = {name: np.zeros(shape) for name in ("score", "error", "told")}
    for start in range(0, number, step):
        block = dataset[["score", "error", "q_value"]].isel(query=slice(start, start + step)).load()
        total["score"] += block["score"].values.sum(1)
        total["error"] += block["error"].values.sum(1)
        total["told"] += (block["q_value"].values <= RATE).sum(1)
    return total | {name: total[name] / number for name in ("score", "error")}


def ends(score: np.ndarray, rank: np.ndarray, top: int, signed: bool) -> np.ndarray:
    """Choose the largest, and where there is a sign the smallest, in the order of their ranks."""
    known = np.flatnonzero(np.isfinite(score))
    order = known[np.argsort(-score[known], kind="stable")]
    if signed:
        positive, negative = order[:top], order[::-1][:top]
        order = np.unique(
            np.concatenate([positive[score[positive] > 0], negative[score[negative] < 0]])
        )
    else:
        order = order[:top]
    return order[np.argsort(rank[order], kind="stable")]

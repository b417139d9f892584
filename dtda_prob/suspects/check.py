"""Which rows of a table look wrong: a ranked list, with reasons."""

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dtda_prob.suspects.cells import contradictions, surprises
from dtda_prob.suspects.features import centre_and_spread, matrix
from dtda_prob.suspects.influence import influence
from dtda_prob.suspects.left_out import Judgement, judge
from dtda_prob.suspects.reasons import reason
from dtda_prob.suspects.scales import best, scales
from dtda_prob.tables import Roles, Table, Task, read_table, roles

LEAST_ROWS = 10
MOST_REASONS = 1000
"""Rows of which is said why they look wrong."""
FOUND = ["line", "score", "loss", "error", "influence", "actual", "predicted", "spread", "why"]


class Checked(NamedTuple):
    """The rows of a table, the most suspicious first.

    Attributes:
        rows: by rank: `line` in the file (the header is line 1), `score` (nats by which the row
            surprises: its target, by the share of its features that are known, and its most surprising
            cell), `loss` (the negative log density of its target under models that were trained without
            the row) and its standard `error` over draws, `influence` (how far the predictions of a
            linear fit for all rows move without it, root mean square, in standard deviations of the
            target, or as probabilities), `actual` and `predicted` target, the `spread` of the
            prediction (its standard deviation, or the probability of the predicted class), and `why`,
            of the first thousand.
        roles: the table, and what was predicted from what.
        num_models: models that were trained.
    """

    rows: pd.DataFrame
    roles: Roles
    num_models: int

    @property
    def table(self) -> pd.DataFrame:
        """Return what was found beside the cells of each row, as they stand in the file."""
        cells = self.roles.table.cells.loc[self.rows["line"]].set_axis(self.rows.index)
        clash = {name: f"{name} (cell)" for name in cells if name in self.rows}
        return self.rows.join(cells.rename(columns=clash))

    def to_csv(self, path: str | PathLike) -> Path:
        """Write every row once, the most suspicious first."""
        self.table.to_csv(path, float_format="%.6g")
        return Path(path)


def check(
    table: str | PathLike | Table,
    *,
    target: str | None = None,
    task: Task | None = None,
    seed: int = 0,
    num_draws: int = 8,
    progress: bool = True,
) -> Checked:
    """Rank the rows of a table by how wrong they look.

    Models of the target are trained without a part of the rows, for each part in turn and with several
    seeds, and judge the rows that they have not seen. Cells that surprise by themselves count as well:
    numbers far from all others in their column, and text among numbers. See the page on clean labels
    for how well this works.

    Args:
        table: a file of separated values, or what `read_table` read.
        target: the column to predict; guessed if None.
        task: "regression" or "classification"; by what the target holds if None.
        seed: of all randomness.
        num_draws: models for each part of the rows, an even number.
        progress: whether to show a bar on terminals.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it cannot be understood, or the target cannot be predicted.
    """
    read = table if isinstance(table, Table) else read_table(table)
    chosen = roles(read, target, task)
    if len(chosen.lines) < LEAST_ROWS:
        raise ValueError(
            f"{read.path}: {chosen.target.name!r} is known in {len(chosen.lines)} rows; {LEAST_ROWS} "
            "or more are needed to train on some and judge others"
        )
    x = matrix(chosen)
    found = _judged(chosen, x, seed, num_draws, progress)
    return Checked(_ranked(chosen, found, influence(x, _outputs(chosen))), chosen, found.num_models)


def _outputs(chosen: Roles) -> np.ndarray:
    """Return what a linear fit predicts: the target in standard deviations, or a 0 or 1 by class."""
    if chosen.task == "classification":
        return pd.get_dummies(chosen.target_text, dtype=float).to_numpy()
    values = chosen.target.values[chosen.lines].to_numpy(float)
    centre, spread = centre_and_spread(values)
    return (values[:, None] - centre) / spread


def _judged(chosen: Roles, x: np.ndarray, seed: int, num_draws: int, progress: bool) -> Judgement:
    """Judge the rows whose target is known; of numbers, on the scale that predicts them best."""
    options = seed, num_draws, progress
    if chosen.task == "classification":
        places = {name: place for place, name in enumerate(chosen.classes)}
        y = chosen.target_text.map(places).to_numpy(np.int32)
        return judge(x, y, len(places), *options)
    values = chosen.target.values[chosen.lines].to_numpy(float)
    return best(
        [
            scale.original(judge(x, scale.model(values), None, *options), values)
            for scale in scales(values)
        ]
    )


def _ranked(chosen: Roles, found: Judgement, moves: np.ndarray) -> pd.DataFrame:
    """Return a row for each line of the table, the most suspicious first."""
    is_class = chosen.task == "classification"
    actual = chosen.target_text if is_class else chosen.target.values[chosen.lines]
    predicted = found.predicted
    judged = pd.DataFrame(
        {
            "loss": found.loss,
            "error": found.error,
            "influence": moves,
            "actual": actual,
            "predicted": np.array(chosen.classes)[predicted.astype(int)] if is_class else predicted,
            "spread": found.spread,
        },
        index=chosen.lines,
    )
    cells = surprises(chosen.table, chosen.target.name)
    rows = judged.reindex(chosen.table.cells.index)
    typical = float(judged["loss"].median())
    own = (rows["loss"] - typical).clip(lower=0).fillna(0.0) * _known(chosen)
    rows["score"] = own + cells.max(axis=1).fillna(0.0) if len(cells.columns) else own
    rows["typical"] = typical
    order = np.lexsort([-rows["loss"].fillna(-np.inf), -rows["score"]])
    rows = rows.iloc[order].reset_index(names="line")
    others = contradictions(chosen)
    whys = [
        reason(chosen, row, cells.loc[row["line"]], others.get(row["line"]))
        for _, row in rows.iloc[:MOST_REASONS].iterrows()
    ]
    rows["why"] = whys + [""] * (len(rows) - len(whys))
    return rows[FOUND].set_axis(pd.RangeIndex(1, len(rows) + 1, name="rank"))


def _known(chosen: Roles) -> pd.Series:
    """Return the share of the features of each row that are known, by which alone it is judged."""
    return chosen.table.frame[[column.name for column in chosen.features]].notna().mean(axis=1)

"""Which column is predicted from which others, for which rows."""

from typing import Literal, NamedTuple

import pandas as pd

from dtda_prob.correlations import spearman
from dtda_prob.numerals import count
from dtda_prob.tables.columns import USED, Column
from dtda_prob.tables.table import Table
from dtda_prob.tables.text import excerpt

Task = Literal["regression", "classification"]
USUAL = ("target", "label", "class", "y", "outcome", "response")
"""Names of columns that are predicted, in lower case."""
LEAST_ROWS = 4
MOST_CLASSES = 50
ALIKE = 0.999
"""Rank correlation from which on a column is taken to be computed from the target, or it from that."""


class Roles(NamedTuple):
    """The parts that the columns of a table play.

    Attributes:
        table: what was read.
        target: the column that is predicted.
        task: "regression" or "classification".
        why: how target and task were chosen, where they were not given.
        label: the column that names the rows, if any.
        features: columns that a model predicts from.
        lines: rows whose target is known, by line.
    """

    table: Table
    target: Column
    task: Task
    why: str
    label: Column | None
    features: list[Column]
    lines: pd.Index

    @property
    def classes(self) -> list[str]:
        """Return the classes of a classification, in the order of their names."""
        return sorted(self.target_text.unique())

    @property
    def target_text(self) -> pd.Series:
        """Return the target as words, of the rows where it is known: whole numbers without a point."""
        values = self.target.values[self.lines]
        return values.map(lambda x: x if isinstance(x, str) else f"{x:.15g}")

    def _alike(self, column: Column) -> str:
        """Return a note if a column of numbers orders the rows as the target does, or the other way.

        One is then computed from the other, and a model has nothing else to learn.
        """
        if self.task != "regression" or column.kind != "number":
            return ""
        known = self.table.frame.loc[self.lines, column.name].notna()
        pair = [one.values[self.lines][known].astype(float) for one in (column, self.target)]
        is_alike = min(map(pd.Series.nunique, pair)) > 2 and abs(spearman(*pair)) > ALIKE
        return "; orders the rows as the target does: is one computed from the other?" * bool(is_alike)

    def described(self) -> list[tuple[str, str]]:
        """Return what each column was taken for, and how the file was read, as pairs of words."""
        columns = self.table.columns
        lines = [("file", "; ".join([f"{count(len(self.table.cells), 'row')}", *self.table.notes]))]
        lines.append((self.target.name, f"TARGET of a {self.task}{self.why}: {self.target}"))
        for name, column in columns.items():
            if self.label is not None and name == self.label.name:
                lines.append((name, "names of the rows"))
            elif name != self.target.name:
                lines.append((name, f"{column}{self._alike(column)}"))
        if lost := len(self.table.cells) - len(self.lines):
            lines.append(("omitted", f"{count(lost, 'row')} without a target"))
        return lines


def roles(
    table: Table, target: str | None = None, task: Task | None = None, label: str | None = None
) -> Roles:
    """Choose what is predicted, how, from what and for which rows; what is not given is guessed.

    Args:
        table: what was read.
        target: the column to predict; one of a usual name, or else the last that can be predicted.
        task: "regression" or "classification"; by what the target holds if None.
        label: the column that names the rows.

    Raises:
        ValueError: if a column is unknown, the target cannot be predicted in this way, there is no
            column to predict it from, or there are too few rows.
    """
    chosen, guessed = (_guessed(table), True) if target is None else (table.column(target), False)
    named = None if label is None else table.column(label)
    kind = _task(table, chosen) if task is None else task
    values = chosen.values.dropna()
    _check(table, chosen, kind, values)
    others = [one for one in table.columns.values() if one.name not in (chosen.name, label)]
    features = [one for one in others if one.kind in USED]
    if not features:
        raise ValueError(
            f"{table.path}: there is no column to predict {chosen.name!r} from: each other column is a "
            "label, an identifier, empty, the same in all rows, or text that differs in most rows"
        )
    return Roles(table, chosen, kind, _why(guessed, task is None), named, features, values.index)


def _guessed(table: Table) -> Column:
    """Return the column of a usual name, or else the last that can be predicted."""
    able = [one for one in table.columns.values() if one.kind in ("number", "category")]
    if not able:
        raise ValueError(f"{table.path} has no column that can be predicted: a number or a category")
    usual = [one for one in able if one.name.lower() in USUAL]
    return (usual or able)[-1]


def _why(target: bool, task: bool) -> str:
    options = [word for word, guessed in (("--target", target), ("--task", task)) if guessed]
    verb = "choose" if len(options) > 1 else "chooses"
    return f" (guessed; {' and '.join(options)} {verb})" if options else ""


def _task(table: Table, target: Column) -> Task:
    """Return a classification for words, and for two whole numbers."""
    if target.kind != "number":
        return "classification"
    levels = target.levels.index
    return "classification" if len(levels) == 2 and (levels == levels.round()).all() else "regression"


def _check(table: Table, target: Column, task: Task, values: pd.Series) -> None:
    where = f"{table.path}: {target.name!r}"
    if target.kind == "constant":
        raise ValueError(f"{where} has one value in all rows: there is nothing to predict")
    if target.kind in ("empty", "date"):
        raise ValueError(f"{where} is {target}; name another column with --target")
    if len(values) < LEAST_ROWS:
        raise ValueError(
            f"{where} is known in {count(len(values), 'row')}; {LEAST_ROWS} or more are needed"
        )
    if task == "regression":
        _check_numbers(table, target, where)
    elif values.nunique() > min(MOST_CLASSES, len(values) / 2):
        some = ", ".join(excerpt(str(value)) for value in values.unique()[:3])
        raise ValueError(
            f"{where} has {values.nunique()} values in {len(values)} rows ({some}, ...): there may be "
            f"at most {MOST_CLASSES} classes, of two rows on average"
        )


def _check_numbers(table: Table, target: Column, where: str) -> None:
    numbers = pd.to_numeric(target.values, errors="coerce")
    words = target.values[numbers.isna() & target.values.notna()]
    if len(words):
        raise ValueError(
            f"{where} is no number in {count(len(words), 'row')}, such as "
            f"{excerpt(str(words.iloc[0]))} in line {words.index[0]}; --task classification "
            "predicts words"
        )

"""What a datum is known by in a table: its label, its picture, its target, its features."""

from dtda_prob.report.influences import Scores
from dtda_prob.report.tables import Cell, Column
from dtda_prob.report.words import Sign, brief


def direction(sign: Sign, score: float, told: bool) -> Cell:
    """Say which way the change goes, if that is known."""
    word = sign.positive if score > 0 else sign.negative
    return Cell(word) if told else Cell("unclear", tone="quiet")


def identity(scores: Scores) -> list[Column]:
    """Head what a datum is known by."""
    if scores.dim != "datum":
        return [Column("Perturbation", kind="text")]
    targets = [Column("Target", kind="text")] if scores.data.targets is not None else []
    return [Column("Datum", kind="text"), *targets]


def features(scores: Scores) -> list[Column]:
    """Head the features of a datum."""
    if scores.dim != "datum":
        return []
    data = scores.data
    named = enumerate(data.columns)
    return [Column(name, kind="number" if data.is_number(i) else "text") for i, name in named]


def featured(scores: Scores, label: str) -> list[Cell]:
    """Give the features of a datum."""
    if scores.dim != "datum":
        return []
    return [_feature(value) for value in scores.data.row(label)]


def _feature(value: float | str) -> Cell:
    return Cell(value) if isinstance(value, str) else Cell(brief(value, 4), value)


def identify(scores: Scores, label: str) -> list[Cell]:
    """Say what a datum is known by; the labels of perturbations are no data's, though they look so."""
    if scores.dim != "datum":
        return [Cell(label)]
    look = scores.data
    targets = [Cell(look.target(label))] if look.targets is not None else []
    return [Cell(label, picture=look.picture(label)), *targets]

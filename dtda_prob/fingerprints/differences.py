"""What differs between two fingerprints, in words, and not what follows from that."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from dtda_prob.fingerprints.digests import is_digest

Fingerprint = dict[str, Any]
Say = Callable[[Fingerprint, Fingerprint], list[str]]
"""From what is stored and what is here to sentences, none where both are the same."""

LONGEST, MOST = 80, 5
"""Characters of a value that are quoted, and differences of a kind that are listed one by one."""


class Rule(NamedTuple):
    """How a part of fingerprints is compared.

    Attributes:
        name: of the rule.
        say: what is said where the part differs.
        after: rules whose differences this one would follow from: it is silent where they are not.
        traced: whether it compares what JAX traced, which other versions may trace otherwise.
    """

    name: str
    say: Say
    after: tuple[str, ...] = ()
    traced: bool = False


def differences(stored: Fingerprint, here: Fingerprint) -> list[str]:
    """Name what differs between two fingerprints.

    Args:
        stored: what `of_program` and `of_source` gave, in one dict; and `versions`, under that name, to
            be told where these may be why. What neither has is not compared.
        here: the same of what there is now.

    Returns:
        A sentence for each difference, none where all is the same. What follows from a difference that
        is named is left out. Other versions alone are no difference; see `other_versions`.
    """
    found: dict[str, list[str]] = {}
    versions = "; ".join(other_versions(stored, here))
    for rule in RULES:
        if not any(found.get(name) for name in rule.after):
            said = rule.say(stored, here)
            doubt = f"; or it is traced otherwise, as {versions}" if rule.traced and versions else ""
            found[rule.name] = [sentence + doubt for sentence in said]
    return [sentence for sentences in found.values() for sentence in sentences]


def other_versions(stored: Fingerprint, here: Fingerprint) -> list[str]:
    """Name the versions that differ, such as "jax is 0.12.1, stored 0.12.0"."""
    return _entries("versions", "", stored, here)


def _whole(part: str, sentence: str, stored: Fingerprint, here: Fingerprint) -> list[str]:
    """Compare a part that is one text."""
    old, new = stored.get(part), here.get(part)
    return [] if old == new else [sentence.format(old=_quote(old), new=_quote(new))]


def _entries(part: str, subject: str, stored: Fingerprint, here: Fingerprint) -> list[str]:
    """Compare a part that has entries by name."""
    return _compare(subject, _part(part, stored), _part(part, here))


def _values(stored: Fingerprint, here: Fingerprint) -> list[str]:
    """Compare the values of arguments that are of one kind, which is said of arrays."""
    old_kinds, kinds = _part("data", stored), _part("data", here)
    alike = {name for name in kinds if old_kinds.get(name) == kinds[name]}

    def named(values: dict[str, Any]) -> dict[str, Any]:
        chosen = {name: value for name, value in values.items() if name in alike}
        return {
            f"{name} ({_quote(kinds[name])})" if is_digest(value) else name: value
            for name, value in chosen.items()
        }

    return _compare("data: argument ", named(_part("values", stored)), named(_part("values", here)))


def _compare(subject: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = [*new, *(name for name in old if name not in new)]
    said = [
        f"{subject}{_quote(name)} {_how(name, old, new)}"
        for name in names
        if name not in old or name not in new or old[name] != new[name]
    ]
    more = len(said) - MOST
    return said if more <= 0 else [*said[:MOST], f"{subject.split(':')[0]}: {more} more like these"]


def _how(name: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    if name not in old:
        return "is new"
    if name not in new:
        return "is stored, and not here"
    if is_digest(new[name]):
        return "holds other values"
    return f"is {_quote(new[name])}, stored {_quote(old[name])}"


def _part(name: str, fingerprint: Fingerprint) -> dict[str, Any]:
    """Give a part by its entries; a store from elsewhere may hold anything."""
    part = fingerprint.get(name)
    return part if isinstance(part, dict) else {}


def _quote(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


ARGUMENTS = ("kinds", "values")
MODEL = (*ARGUMENTS, "model", "plate", "settings", "rows", "beside", "sites", "shapes")
PROGRAM = (*MODEL, "objective", "init")
TRAINING = (*PROGRAM, "kernel", "training")
MEASURE = ("measure", "queries", "observe")

RULES = (
    Rule("model", partial(_whole, "model", "program: the model is {new}, stored {old}")),
    Rule("plate", partial(_whole, "plate", "program: the plate is {new!r}, stored {old!r}")),
    Rule("settings", partial(_whole, "settings", "program: what varies is [{new}], stored [{old}]")),
    Rule("kinds", partial(_entries, "data", "data: argument ")),
    Rule("values", _values),
    Rule(
        "labels",
        partial(_whole, "labels", "data: the labels of the data differ"),
        ("kinds", "settings"),
    ),
    Rule("rows", partial(_entries, "rows", "program: "), ("kinds",)),
    Rule(
        "beside",
        partial(_whole, "beside", "program: other rows stand beside the data (relabel, add)"),
        ("kinds", "settings", "rows"),
    ),
    Rule("sites", partial(_entries, "sites", "program: site ")),
    Rule("shapes", partial(_entries, "shapes", "program: the shape of site "), ("kinds", "sites")),
    Rule(
        "objective",
        partial(
            _whole,
            "objective",
            "program: the objective differs (same sites: a prior, a likelihood or a constant changed)",
        ),
        MODEL,
        traced=True,
    ),
    Rule(
        "init",
        partial(
            _whole, "init", "program: the initialisation differs (init_strategy, or a first value)"
        ),
        (*MODEL, "objective"),
        traced=True,
    ),
    Rule("kernel", partial(_entries, "kernel", "kernel: "), ("kinds", "rows")),
    Rule(
        "training",
        partial(
            _whole,
            "training",
            "kernel: the training algorithm differs (same number of steps: learning rate, batch size "
            "or optimiser)",
        ),
        (*PROGRAM, "kernel"),
        traced=True,
    ),
    Rule("measure", partial(_entries, "measure", "measure: ")),
    Rule(
        "queries", partial(_whole, "queries", "measure: the labels of the queries differ"), ("measure",)
    ),
    Rule(
        "observe",
        partial(
            _whole,
            "observe",
            "measure: what is measured differs (same queries: their inputs, their observations or the "
            "function)",
        ),
        (*PROGRAM, "measure"),
        traced=True,
    ),
    Rule("transform", partial(_whole, "transform", "transform: {new}, stored {old}")),
    Rule("at", partial(_whole, "at", "transform: it is expanded at other weights"), ("transform",)),
    Rule(
        "push",
        partial(
            _whole, "push", "transform: it moves draws otherwise (same name: another of its settings)"
        ),
        (*TRAINING, *MEASURE, "transform", "at"),
        traced=True,
    ),
)

"""Differences between two identities, a sentence for each, without what follows from another one."""

from typing import Any

from dtda_prob.storage.errors import printable
from dtda_prob.studies.digests import is_digest

Identity = dict[str, Any]
LONGEST, MOST = 80, 5
"""Characters of a value that are quoted, and differences of a part that are listed one by one."""

MODEL = ("data", "values", "model", "plate", "settings", "rows", "beside", "sites", "shapes")
PROGRAM = (*MODEL, "objective", "init")
TRAINING = (*PROGRAM, "kernel", "training")
MEASURE = ("measure", "queries", "observe")

SENTENCES = {
    "precision": "numbers: floats are {new}, stored {old} (jax_enable_x64)",
    "random": "random numbers: the stream is {new}, stored {old}: the same keys are other draws",
    "model": "program: the model is {new}, stored {old}",
    "plate": "program: the examples lie in {new}, stored in {old}",
    "settings": "program: what varies is [{new}], stored [{old}]",
    "data": "data: argument ",
    "values": "data: argument ",
    "labels": "data: the labels of the examples differ",
    "rows": "program: ",
    "beside": "program: other rows are beside the data (relabel, add)",
    "sites": "program: site ",
    "shapes": "program: the shape of site ",
    "objective": (
        "program: the objective differs (same sites: a prior, a likelihood or a constant changed)"
    ),
    "init": "program: the initialisation differs (init_strategy, or a first value)",
    "kernel": "kernel: ",
    "training": (
        "kernel: the training algorithm differs (same number of steps: learning rate, batch size or "
        "optimizer)"
    ),
    "measure": "measure: ",
    "queries": "measure: the labels of the queries differ",
    "observe": (
        "measure: what is measured differs (same queries: their inputs, their observations or the "
        "function)"
    ),
    "transform": "transform: {new}, stored {old}",
    "at": "transform: it is expanded at other weights",
    "push": "transform: it moves draws otherwise (same name: another of its settings)",
    "kind": "kind is {new}, stored {old}",
    "old": "old: the push starts at other weights",
    "perturbations": "perturbations are others than those stored (keep these under another name)",
    "names": "the names of the perturbations are others than those stored",
    "divergences": "divergences are [{new}], stored [{old}]",
    "trials": "divergences: one is another function, or has other settings, than the one of its name",
}
"""By part: what is said where it differs, or what its entries are, where it has several."""
CAUSES = {
    "labels": ("data", "settings"),
    "rows": ("data",),
    "beside": ("data", "settings", "rows"),
    "shapes": ("data", "sites"),
    "objective": MODEL,
    "init": (*MODEL, "objective"),
    "kernel": ("data", "rows"),
    "training": (*PROGRAM, "kernel"),
    "queries": ("measure",),
    "observe": (*PROGRAM, "measure"),
    "at": ("transform",),
    "push": (*TRAINING, *MEASURE, "transform", "at"),
    "names": ("perturbations",),
    "trials": ("divergences",),
}
"""By part: the parts whose difference would explain its own, which is then not said."""
EVERYTHING = ("precision", "random", "kind")
"""Parts that explain any other."""
TRACED = ("objective", "init", "training", "observe", "push")
"""What JAX traced, and other versions may trace otherwise."""


def differences(stored: Identity, here: Identity) -> list[str]:
    """Return a sentence for each difference between two identities; versions are left out.

    Args:
        stored: parts that JSON held, from a store of anyone.
        here: the same of what there is now. What neither has is not compared.
    """
    told: dict[str, list[str]] = {}
    versions = "; ".join(other_versions(stored, here))
    extra = [part for part in here if part not in SENTENCES and part != "versions"]
    for part in [*EVERYTHING, *SENTENCES, *extra]:
        causes = (*CAUSES.get(part, ()), *EVERYTHING)
        if part not in told and not any(told.get(cause) for cause in causes):
            said = _of_part(part, stored, here)
            doubt = f"; or it is traced otherwise, as {versions}" if part in TRACED and versions else ""
            told[part] = [sentence + doubt for sentence in said]
    return [sentence for said in told.values() for sentence in said]


def other_versions(stored: Identity, here: Identity) -> list[str]:
    """Return the versions and settings that differ, such as "jax is 0.12.1, stored 0.12.0"."""
    return _entries("", _part("versions", stored), _part("versions", here))


def _of_part(part: str, stored: Identity, here: Identity) -> list[str]:
    old, new = stored.get(part), here.get(part)
    if old == new:
        return []
    if part == "values":
        return _values(stored, here)
    sentence = SENTENCES.get(part, f"{part} is {{new}}, stored {{old}}")
    if sentence.endswith(" "):
        return _entries(sentence, _part(part, stored), _part(part, here))
    return [sentence.format(old=_quote(old), new=_quote(new))]


def _values(stored: Identity, here: Identity) -> list[str]:
    """Compare the values of arguments that are of one kind, which is said of arrays."""
    old_kinds, kinds = _part("data", stored), _part("data", here)
    alike = [name for name in kinds if old_kinds.get(name) == kinds[name]]

    def named(values: dict[str, Any]) -> dict[str, Any]:
        chosen = {name: values[name] for name in alike if name in values}
        return {
            f"{name} ({_quote(kinds[name])})" if is_digest(value) else name: value
            for name, value in chosen.items()
        }

    return _entries(SENTENCES["values"], named(_part("values", stored)), named(_part("values", here)))


def _entries(subject: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
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


def _part(name: str, identity: Identity) -> dict[str, Any]:
    """Return a part by its entries; a store from elsewhere may hold anything."""
    part = identity.get(name)
    return part if isinstance(part, dict) else {}


def _quote(value: Any) -> str:
    text = printable(", ".join(map(str, value)) if isinstance(value, list) else value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."

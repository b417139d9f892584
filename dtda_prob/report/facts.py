"""What was asked, and what it took: facts of a study in words."""

from typing import Any, NamedTuple

import numpy as np

from dtda_prob.report.parts import Part, Study
from dtda_prob.report.tables import Cell, Column, Table
from dtda_prob.report.words import brief, count, duration, plain_name, share, size
from dtda_prob.storage import growing


class Fact(NamedTuple):
    """A name and what it is."""

    name: str
    text: str


def asked(study: Study) -> list[Fact]:
    """Say what the study is of: the program, its data, how it is trained and what is measured."""
    about, described = study.about, _described(study)
    found = [
        Fact("Study", study.path.name),
        Fact("Last written", f"{study.written:%Y-%m-%d %H:%M} UTC"),
    ]
    if "model" in about:
        found += [
            Fact("Program", f"{plain_name(about['model'])}, data in the plate {about['plate']!r}"),
            Fact("Data", _data(about)),
            Fact("Sites", "; ".join(_site(name, about) for name in about["sites"])),
        ]
    found += [Fact("Training", text) for text in _unlike(map(_kernel, described))]
    if described:
        found.append(Fact("Drawn by", "; ".join(_unlike(one["transform"] for one in described))))
    found += [Fact("Measure", text) for text in _unlike(map(_measure, described))]
    found += [Fact("Weight 0 means", _removal(text)) for text in _unlike(map(_removal_of, described))]
    if "versions" in about:
        versions = ", ".join(f"{name} {text}" for name, text in about["versions"].items())
        found.append(Fact("Versions, when begun", versions))
    return found


def parts(study: Study) -> Table:
    """Give a row for each part: what it is, how large, how far, and what it took."""
    columns = [
        Column("Name", kind="text", order="ascending"),
        Column("Kind", kind="text"),
        Column("By", kind="text"),
        Column("Key", kind="text", note="of its draws, as the words of a JAX key"),
        Column("Draws"),
        Column("Perturbations"),
        Column("Queries"),
        Column("Finished", note="share of its shards"),
        Column("Diverging", "draws", note="that diverged, did not converge or are not finite"),
        Column("Time", note="over all its shards, which may have run side by side"),
        Column("Size", note="on disk"),
    ]
    rows = [_row(study, part) for part in study.parts]
    return Table("Everything that the study holds", columns, rows, len(rows) > 8)


def warnings(study: Study) -> list[str]:
    """Say what is unfinished, and what diverged."""
    found = []
    for name, row in study.table.iterrows():
        if row["finished"] < 1:
            found.append(
                f"“{name}” is not finished: {share(row['finished'])} of its shards are there. The call "
                "that began it goes on with it."
            )
        if row["diverging"]:
            found.append(
                f"{count(int(row['diverging']), 'draw')} of “{name}” diverged, did not converge or "
                f"{'is' if row['diverging'] == 1 else 'are'} not finite."
            )
    return found


def seconds(study: Study, part: Part) -> float:
    """Give the time that the shards of a part took; NaN where none is recorded."""
    if "blocks" not in part.about:
        return float("nan")
    return float(growing(study.path, part.name).facts("milliseconds").sum()) / 1000


def _row(study: Study, part: Part) -> list[Cell]:
    row, took = study.table.loc[part.name], seconds(study, part)
    numbers = [_count(row[name]) for name in ("draws", "perturbations", "queries")]
    lost = int(row["diverging"])
    key = " ".join(str(word) for word in part.about.get("key") or [])
    return [
        Cell(part.name),
        Cell(part.kind),
        Cell(str(row["transform"])),
        Cell(key),
        *numbers,
        Cell(
            f"{row['finished']:.0%}", float(row["finished"]), tone="" if row["finished"] == 1 else "bad"
        ),
        Cell(f"{lost:,}", lost, tone="bad" if lost else ""),
        Cell("–" if np.isnan(took) else duration(took), took),
        Cell(size(int(row["bytes"])), int(row["bytes"])),
    ]


def _count(number: Any) -> Cell:
    return Cell(f"{int(number):,}", int(number)) if number else Cell("–", -1)


def _described(study: Study) -> list[dict[str, Any]]:
    return [part.about for part in study.parts if "kernel" in part.about]


def _unlike(texts: Any) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _data(about: dict[str, Any]) -> str:
    rows = about["rows"]
    arrays = ", ".join(f"{name} ({kind})" for name, kind in about["data"].items())
    return f"{count(rows['num_data'], 'datum', 'data')}: {arrays}"


def _site(name: str, about: dict[str, Any]) -> str:
    return f"{name}, {about['sites'][name]} of shape {about['shapes'][name]}"


def _kernel(about: dict[str, Any]) -> str:
    kernel = about["kernel"]
    steps = " + ".join(f"{n:,}" for n in kernel["num_steps"])
    warm = [brief(t) for t in kernel["temperature"] if t is not None]
    states = f", {kernel['num_states']:,} states kept of a run" if kernel["num_states"] > 1 else ""
    heat = f", at temperature {' then '.join(warm)}" if warm else ""
    return f"{count(kernel['num_phases'], 'phase')} of {steps} steps{heat}{states}"


def _measure(about: dict[str, Any]) -> str:
    measure = about["measure"]
    number = count(measure["num_queries"], "query", "queries")
    return f"{measure['name'].replace('_', ' ')} of {number}"


def _removal_of(about: dict[str, Any]) -> str:
    return str(about.get("removal") or "")


def _removal(text: str) -> str:
    if text == "drop":
        return "drop: the rows are gone, epochs are kept, so that there are fewer steps"
    return f"{text}: the datum keeps its place in batches and epochs, and counts for nothing there"

"""A study in sentences and facts: what was found, what was computed, and what it cost."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from dtda_prob.numerals import NONE, brief, count, duration, share, size
from dtda_prob.report.panels import Panels
from dtda_prob.report.quality import Agreement, Verdict
from dtda_prob.report.study import Part, Study
from dtda_prob.report.tables import MOST_ROWS, Column, Table, marked

REMOVAL = {
    "drop": "drop: the rows are gone and the number of epochs is kept, so that there are fewer steps",
    "reweight": "reweight: the example keeps its place in batches and epochs, and counts for nothing",
}


def title(shown: Panels) -> str:
    """Return the question that the study answers."""
    file, target = (shown.about.get(name) for name in ("file", "target"))
    if file and target:
        return f"Which rows of {file} move the predicted {target}?"
    measures = list(dict.fromkeys(f"the {panel.measure.split(',')[0]}" for panel in shown.panels))
    return f"Which examples move {' and '.join(measures) or 'the model'}?"


def fitted(study: Study, shown: Panels) -> str:
    """Return what was fitted to what, how often, and what is measured; empty if nothing was."""
    models = [_num_models(study, part) for part in study.of_kind("sample set")]
    if not models or "rows" not in study.about:
        return ""
    file, target, model = (shown.about.get(name) for name in ("file", "target", "model"))
    named = f"A {model}" if model else f"The model “{plain_name(study.about['model'])}”"
    data = count(study.about["rows"].get("num_data", "?"), "row" if file else "example")
    of_file = f" of {file}" if file else ""
    return (
        f"{named}{f' of “{target}”' if target else ''} was fitted {count(sum(models), 'time')} to "
        f"{data}{of_file}, unchanged or with some reweighted. {_asked_of(shown)}"
    )


def _asked_of(shown: Panels) -> str:
    """Return what a query is on this page."""
    measures = " and the ".join(dict.fromkeys(panel.measure for panel in shown.panels))
    asked = "rows that were held out, the queries" if shown.about.get("file") else "the queries"
    return f"What is measured is the {measures} for {asked}." if measures else ""


def _num_models(study: Study, part: Part) -> int:
    """Return the number of trainings of a sample set; a chain of several states is one."""
    row, kernel = study.table.loc[part.name], part.about.get("kernel", {})
    if row["transform"] != "training":
        return 0
    return int(row["draws"] * max(1, row["perturbations"]) // kernel.get("num_states", 1))


def checked(verdicts: list[Verdict], agreements: list[Agreement]) -> Iterator[str]:
    """Yield what was checked: diagnostics, and comparisons with retraining."""
    for verdict in verdicts:
        some = "all" if verdict.passed == verdict.total else f"{verdict.passed} of"
        yield f"{some} {count(verdict.total, 'check')} of “{verdict.name}” passed"
    if not verdicts:
        yield "no diagnostics yet"
    for agreement in agreements:
        columns = agreement.summary.given
        correlations = columns["Spearman correlation"].shown or [""]
        yield (
            f"predicted and retrained {columns['Divergence'].values[0]} effects of “{agreement.name}” "
            f"have a Spearman correlation of {correlations[0]}"
        )
    if not agreements:
        yield "predictions are not compared with retraining yet"


def warnings(study: Study) -> Iterator[str]:
    """Yield what is unfinished, and what diverged."""
    for name, row in study.table[:MOST_ROWS].iterrows():
        if row["finished"] < 1:
            yield (
                f"“{name}” is not finished: {share(row['finished'])} of its blocks are done. The call "
                "that began it resumes it."
            )
        if row["diverging"]:
            yield (
                f"{count(int(row['diverging']), 'draw')} of “{name}” diverged, did not converge or "
                f"{'is' if row['diverging'] == 1 else 'are'} not finite."
            )


def asked(study: Study) -> list[tuple[str, str]]:
    """Return what was asked, by name: the program, its data, its training and what is measured."""
    about, drawn = study.about, [part.about for part in study.parts if "kernel" in part.about]
    facts = [
        ("Study", study.path.name),
        ("Last written", f"{study.written:%Y-%m-%d %H:%M} UTC"),
    ]
    if "model" in about:
        number = count(about.get("rows", {}).get("num_data", "?"), "example")
        arrays = ", ".join(f"{name} ({kind})" for name, kind in about.get("data", {}).items())
        shapes = about.get("shapes", {})
        sites = [
            f"{name}, {kind} {shapes.get(name, '')}" for name, kind in about.get("sites", {}).items()
        ]
        facts += [
            ("Program", f"{plain_name(about['model'])}, data in the plate {about.get('plate')!r}"),
            ("Data", f"{number}: {arrays}"),
            ("Sites", "; ".join(sites)),
        ]
    facts += [("Training", text) for text in _distinct(map(_kernel, drawn))]
    facts += [("Drawn by", text) for text in _distinct(one.get("transform") for one in drawn)]
    facts += [("Measure", text) for text in _distinct(map(_measure, drawn))]
    removals = _distinct(one.get("removal") for one in drawn)
    facts += [("Weight 0 means", REMOVAL.get(text, text)) for text in removals]
    if "versions" in about:
        versions = ", ".join(f"{name} {text}" for name, text in about["versions"].items())
        facts.append(("Versions, when begun", versions))
    return facts


def _distinct(texts: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))[:MOST_ROWS]


def _kernel(about: dict[str, Any]) -> str:
    kernel = about["kernel"]
    steps = " + ".join(map(str, kernel.get("num_steps", [])))
    warm = [brief(t) for t in kernel.get("temperature", []) if t is not None]
    states = kernel.get("num_states", 1)
    kept = f", {states} states kept per chain" if states != 1 else ""
    heat = f", at temperature {', '.join(warm)}" if warm else ""
    return f"{count(kernel.get('num_phases', 1), 'phase')} of {steps} steps{heat}{kept}"


def _measure(about: dict[str, Any]) -> str:
    measure = about.get("measure", {})
    number = count(measure.get("num_queries", "?"), "query", "queries")
    return f"{str(measure.get('name', '')).replace('_', ' ')} of {number}"


def holds(study: Study) -> Table:
    """Return a row for each part: what it is, how large, and what it took."""
    table = study.table.loc[[part.name for part in study.parts]]
    keys = [" ".join(map(str, part.about.get("key", []))) for part in study.parts]
    columns = {
        "Name": Column([part.name for part in study.parts]),
        "Kind": Column([part.kind for part in study.parts]),
        "By": Column(list(map(str, table["transform"]))),
        "Key": Column(keys, note="the JAX key of its draws"),
        **{name: _numbers(table[name.lower()]) for name in ("Draws", "Perturbations", "Queries")},
        "Finished": _finished(table["finished"].to_numpy(float)),
        "Diverging": _diverging(table["diverging"].tolist()),
        "Time": _told(table["seconds"], duration, "over all blocks, which may have run in parallel"),
        "Size": _told(table["bytes"], size, "on disk"),
    }
    return Table("Everything in the study", columns)


def _numbers(numbers: Iterable[int]) -> Column:
    return Column(list(numbers), [f"{n:,}" if n else NONE for n in numbers])


def _finished(shares: np.ndarray) -> Column:
    shown = [f"{x:.0%}" if x == 1 else marked(False, f"{x:.0%}") for x in shares]
    return Column(shares, shown, "share of its blocks")


def _diverging(numbers: list[int]) -> Column:
    shown = [marked(False, f"{n:,}") if n else "0" for n in numbers]
    return Column(numbers, shown, "draws that diverged, did not converge or are not finite")


def _told(values: Iterable[float], tell: Callable[[float], str], note: str) -> Column:
    return Column(list(values), list(map(tell, values)), note)


def plain_name(qualified: str) -> str:
    """Return the name of a function without the functions that made it."""
    return qualified.replace(".<locals>", "")

"""What a page shows of each query: distributions, and the examples that move them."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from dtda_prob.numerals import clip, count, isolated
from dtda_prob.report.figures import Figure, Style, densities, styles_of
from dtda_prob.report.influences import (
    Scores,
    by_query,
    first_rows,
    leading,
    most_moved,
    over_all,
    over_queries,
    ranked,
    scores_of,
)
from dtda_prob.report.looks import Looks, looks
from dtda_prob.report.samples import SampleSet, compared, is_drawn, num_outputs, read, reference_of
from dtda_prob.report.study import Group, Part, Study, groups_of, unit_of
from dtda_prob.report.tables import LONGEST, Table

MOST_SETS = 8
"""Sample sets that are drawn over each other."""
NO_EXAMPLES = (
    "The examples themselves: the study keeps none (dtda.report.examples gathers them, dtda.save keeps "
    "them)."
)


class Choice(NamedTuple):
    """Which queries to show (None: the first `num_queries`), and how many rows at either end."""

    queries: Sequence[str] | None
    num_queries: int
    top: int

    def of(self, labels: Sequence[str]) -> list[int]:
        """Return the positions of the labels to show."""
        if self.queries is None:
            return list(range(min(self.num_queries, len(labels))))
        return [labels.index(label) for label in self.queries if label in labels]


class Ranking(NamedTuple):
    """The most influential examples by one divergence: name, explanation and table."""

    name: str
    explained: str
    table: Table


class Panel(NamedTuple):
    """One query: what is measured of it, its distributions as figure and table, and its rankings."""

    anchor: str
    label: str
    measure: str
    picture: str | None
    target: str
    figure: Figure | None
    samples: Table | None
    rankings: list[Ranking]


class Leading(NamedTuple):
    """What moves the queries of a measure most: in words, in a table, as a list to download, drawn."""

    said: str
    table: Table
    download: str
    figure: Figure | None
    caption: str


class Panels(NamedTuple):
    """Queries shown, rankings over all, how sample sets are drawn, what leads, and what is left out.

    `about` holds the names of the file, the target and the model, of those that are known.
    """

    panels: list[Panel]
    rankings: list[Ranking]
    sets: list[Style]
    leading: list[Leading]
    left_out: list[str]
    about: Mapping[str, str]


def panels_of(study: Study, choice: Choice) -> Panels:
    """Gather what is shown query by query."""
    tree = next((part.tree for part in study.of_kind("examples")), None)
    data, queries = looks(tree, "data", "example"), looks(tree, "queries", "query")
    gathered = Panels([], [], [], [], _left_out_of(tree), data.about)
    for group in groups_of(study):
        if choice.of(group.queries):
            _add(gathered, group, data, queries, choice)
    return gathered


def _add(gathered: Panels, group: Group, data: Looks, queries: Looks, choice: Choice) -> None:
    """Add the queries of a group."""
    shown, drawn = choice.of(group.queries), [part for part in group.samples if is_drawn(part)]
    gathered.left_out.extend(_left_out(group, len(shown), drawn))
    sets, component = _sets(drawn[:MOST_SETS], shown)
    styles = styles_of([one.name for one in sets])
    gathered.sets.extend(style for style in styles if style not in gathered.sets)
    opened = [scores_of(part, choice.top, data) for part in group.scores]
    scores = [one for one in opened if one is not None]
    labels, what = [group.queries[i] for i in shown], group.measure.replace("_", " ") + component
    unit, names = unit_of(group.measure), ", ".join(one.name for one in sets)
    tables, several = [by_query(one, shown, labels) for one in scores], len(scores) > 1
    for i, label in enumerate(labels):
        draws = {style: one.finite(i) for style, one in zip(styles, sets, strict=True)}
        described = f"Densities of the {what} of query {label} in {names}; see the table below."
        caption = f"{what} of query {label}, by sample set"
        ranked = zip(scores, tables, strict=True)
        gathered.panels.append(
            Panel(
                anchor=f"query-{len(gathered.panels)}",
                label=clip(label, LONGEST),
                measure=what,
                picture=queries.picture(label),
                target=queries.target(label),
                figure=densities(draws, what, unit, described, _truth(group, queries, label)),
                samples=compared(sets, group.measure, i, caption) if sets else None,
                rankings=[each for one, by in ranked for each in _rankings(one, by[i], several)],
            )
        )
    for one in scores:
        means = over_queries(one)
        gathered.rankings.extend(_rankings(one, over_all(one, means), several))
        gathered.leading.append(_leading(one, means[0], gathered.panels[-len(labels) :], labels))


def _leading(scores: Scores, mean: xr.Dataset, panels: list[Panel], labels: list[str]) -> Leading:
    """Return what moves all queries most, with the figure of the query that it moves most."""
    csv = ranked(scores, mean).to_csv(float_format="%.6g")
    download = f"data:text/csv;base64,{base64.b64encode(csv.encode()).decode()}"
    panel = panels[labels.index(most_moved(scores, mean, labels))]
    about = scores.data.about
    thing = "row" if about.get("file") else "query"
    truth = panel.figure is not None and panel.figure.truth is not None
    dotted = f"; dotted: its actual {about.get('target', 'value')}" if truth else ""
    caption = f"The {panel.measure} for {thing} {isolated(panel.label)}, over fits of the model{dotted}"
    return Leading(leading(scores, mean), first_rows(scores, mean), download, panel.figure, caption)


def _truth(group: Group, queries: Looks, label: str) -> float:
    """Return the value that a query measures in truth, if it is a prediction of a number."""
    return queries.number(label) if group.measure == "prediction" else math.nan


def _rankings(scores: Scores, tables: Sequence[Table], several: bool) -> Iterator[Ranking]:
    for divergence, table in zip(scores.divergences, tables, strict=True):
        name = f"{divergence} ({scores.name})" if several else divergence
        yield Ranking(clip(name, LONGEST), scores.explained(divergence), table)


def _sets(drawn: list[Part], shown: list[int]) -> tuple[list[SampleSet], str]:
    """Read sample sets; of vectors, the component that is largest on average in the reference."""
    if not drawn or num_outputs(drawn[0]) == 1:
        return [read(part, shown, 0) for part in drawn], ""
    number = num_outputs(drawn[0])
    each = [[read(part, shown, i) for part in drawn] for i in range(number)]
    largest = int(np.argmax([np.nanmean(reference_of(sets).values) for sets in each]))
    return each[largest], f", component {largest} of {number}"


def _left_out_of(tree: xr.DataTree | None) -> list[str]:
    if tree is None:
        return [NO_EXAMPLES]
    texts = {name: str(node.attrs.get("left_out", "")) for name, node in tree.children.items()}
    return [f"Of the {name}: {text}." for name, text in texts.items() if text]


def _left_out(group: Group, num_shown: int, drawn: list[Part]) -> Iterator[str]:
    """Yield what is not shown of a group."""
    number = len(group.queries)
    if num_shown < number:
        left = count(number - num_shown, "query", "queries")
        what = group.measure.replace("_", " ")
        yield f"{left} of the {number:,} of the {what}; they count in the averages over all queries."
    if several := [part.name for part in group.samples if not is_drawn(part)]:
        yield f"The distributions in {', '.join(several)}: with many perturbations, or no draws yet."
    if names := [part.name for part in drawn[MOST_SETS:]]:
        yield f"The distributions in {', '.join(names)}: at most {MOST_SETS} sample sets are drawn."

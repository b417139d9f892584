"""What a page shows of each query: distributions, and the data that move them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from dtda_prob.report import figures
from dtda_prob.report.influence_tables import of_all, of_query
from dtda_prob.report.influences import Scores, over_queries, read_queries, scores_of
from dtda_prob.report.parts import Part, Study
from dtda_prob.report.pictures import Looks, looks
from dtda_prob.report.samples import (
    MOST_SETS,
    Asked,
    SampleSet,
    asked_of,
    compared,
    is_drawn,
    num_outputs,
    read,
    reference_of,
)
from dtda_prob.report.tables import Table
from dtda_prob.report.words import count, explained, unit_of


class Choice(NamedTuple):
    """How much is shown.

    Attributes:
        queries: labels of the queries to show; the first ones if None.
        num_queries: how many of the first.
        top: data of each query, at either end where there is a sign.
    """

    queries: Sequence[str] | None
    num_queries: int
    top: int


class Ranking(NamedTuple):
    """The most influential data by one divergence in some scores.

    Attributes:
        name: what it is called where several can be chosen.
        explained: what the divergence measures, and how its sign is read.
        table: the data.
    """

    name: str
    explained: str
    table: Table


class Panel(NamedTuple):
    """One query.

    Attributes:
        anchor: its name in the page.
        label: its label.
        measure: what is measured of it.
        picture: its thumbnail.
        target: what is observed of it.
        figure: the distributions, as the page draws them.
        described: the figure in words.
        samples: the distributions in numbers.
        rankings: the most influential data.
    """

    anchor: str
    label: str
    measure: str
    picture: str | None
    target: str
    figure: figures.Item | None
    described: str
    samples: Table | None
    rankings: list[Ranking]


class Panels(NamedTuple):
    """All queries that are shown, and what is not.

    Attributes:
        panels: one for each.
        rankings: over all queries.
        sets: names of the sample sets that are drawn, with colour and dashes.
        scores: what the rankings are read from.
        left_out: sentences.
    """

    panels: list[Panel]
    rankings: list[Ranking]
    sets: list[tuple[str, str, str]]
    scores: list[Scores]
    left_out: list[str]


class _Group(NamedTuple):
    """What asks the same queries the same thing."""

    asked: Asked
    samples: list[Part]
    scores: list[Part]


def panels_of(study: Study, choice: Choice) -> Panels:
    """Gather what is shown query by query."""
    tree = next((part.tree for part in study.of_kind("examples")), None)
    data, queries = looks(tree, "data", "datum"), looks(tree, "queries", "query")
    found, groups = Panels([], [], [], [], _left_out_of(tree)), _groups(study)
    _check_queries(choice, groups)
    for group in groups:
        if _chosen(group.asked, choice):
            _add(found, group, data, queries, choice)
    return found


def _check_queries(choice: Choice, groups: list[_Group]) -> None:
    known = {label for group in groups for label in group.asked.queries}
    unknown = [label for label in choice.queries or () if label not in known]
    if unknown:
        raise ValueError(f"queries={unknown} are none of the study's")


def _add(found: Panels, group: _Group, data: Looks, queries: Looks, choice: Choice) -> None:
    """Add the queries that a group asks."""
    shown = _chosen(group.asked, choice)
    drawn = [part for part in group.samples if is_drawn(part)]
    found.left_out.extend(_told(group, shown, drawn))
    sets, component = _sets(drawn[:MOST_SETS], shown)
    known = {name for name, _, _ in found.sets}
    named = [(one.name, *figures.style_of(i)) for i, one in enumerate(sets)]
    found.sets.extend(each for each in named if each[0] not in known)
    prepared = [(part, scores_of(part, choice.top, data)) for part in group.scores]
    scores = [(part, one) for part, one in prepared if one is not None]
    found.scores.extend(one for _, one in scores)
    rankings = _rankings([one for _, one in scores], shown, group.asked)
    for position, place in enumerate(shown):
        label, anchor = group.asked.queries[place], f"query-{len(found.panels)}"
        what = group.asked.measure.replace("_", " ") + component
        panel = _panel(anchor, label, what, sets, position, group.asked.measure)
        found.panels.append(
            panel._replace(
                picture=queries.picture(label),
                target=queries.target(label),
                rankings=rankings[position],
            )
        )
    for part, one in scores:
        blocks = (part.about.get("blocks") or {}).get("query", 1)
        found.rankings.extend(_over_all(one, len(scores) > 1, blocks))


def _panel(
    anchor: str, label: str, what: str, sets: list[SampleSet], position: int, measure: str
) -> Panel:
    """Describe how the measurement of a query is distributed in each sample set."""
    title = f"{what} of query {label}, by sample set"
    return Panel(
        anchor,
        label,
        what,
        picture=None,
        target="",
        figure=_figure(sets, position, what, measure),
        described=(
            f"Densities of the {what} of query {label} in {', '.join(one.name for one in sets)}; "
            "the table below has them in numbers."
        ),
        samples=compared(sets, measure, position, title) if sets else None,
        rankings=[],
    )


def _rankings(scores: list[Scores], shown: list[int], asked: Asked) -> list[list[Ranking]]:
    """Give, for each query that is shown, the most influential data by each divergence."""
    fields = [(one, read_queries(one, shown)) for one in scores]
    return [
        [
            _ranking(one, divergence, len(scores) > 1, table)
            for one, read_of in fields
            for divergence in one.divergences
            for table in [of_query(one, read_of, divergence, i, f"query {asked.queries[place]}")]
        ]
        for i, place in enumerate(shown)
    ]


def _over_all(one: Scores, several: bool, blocks: int) -> list[Ranking]:
    means = over_queries(one, blocks)
    return [
        _ranking(one, divergence, several, of_all(one, means, divergence))
        for divergence in one.divergences
    ]


def _ranking(one: Scores, divergence: str, several: bool, table: Table) -> Ranking:
    name = f"{divergence} ({one.name})" if several else divergence
    return Ranking(name, explained(divergence, one.measure, one.change, one.sign_of(divergence)), table)


def _figure(sets: list[SampleSet], position: int, what: str, measure: str) -> figures.Item | None:
    if not sets:
        return None
    unit = unit_of(measure)
    columns = {one.name: one.values[:, position] for one in sets}
    finite = {name: values[np.isfinite(values)] for name, values in columns.items()}
    return figures.densities(finite, f"{what} ({unit})" if unit else what)


def _groups(study: Study) -> list[_Group]:
    """Put together what asks the same queries the same thing, in the order of the study."""
    groups: dict[Asked, _Group] = {}
    for part in [*study.of_kind("sample set"), *study.of_kind("scores")]:
        asked = asked_of(part)
        if asked is not None:
            group = groups.setdefault(asked, _Group(asked, [], []))
            (group.samples if part.kind == "sample set" else group.scores).append(part)
    return list(groups.values())


def _chosen(asked: Asked, choice: Choice) -> list[int]:
    """Give the positions of the queries to show."""
    if choice.queries is None:
        return list(range(min(choice.num_queries, len(asked.queries))))
    places = {label: i for i, label in enumerate(asked.queries)}
    return [places[label] for label in choice.queries if label in places]


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
        return [
            "The data themselves: the study keeps no examples (dtda.report.examples gathers them, "
            "dtda.save keeps them)."
        ]
    texts = {name: str(node.attrs.get("left_out", "")) for name, node in tree.children.items()}
    return [f"Of the {name}: {text}." for name, text in texts.items() if text]


def _told(group: _Group, shown: list[int], drawn: list[Part]) -> list[str]:
    """Say what is not shown of a group."""
    found, number = [], len(group.asked.queries)
    what = group.asked.measure.replace("_", " ")
    if len(shown) < number:
        found.append(
            f"{count(number - len(shown), 'query', 'queries')} of the {number:,} that the {what} is "
            "taken of; they count in what is said over all queries."
        )
    several = [part.name for part in group.samples if not is_drawn(part)]
    if several:
        found.append(
            f"The distributions in {', '.join(several)}, which hold many perturbations or no draws yet."
        )
    if len(drawn) > MOST_SETS:
        names = ", ".join(part.name for part in drawn[MOST_SETS:])
        found.append(f"The distributions in {names}: {MOST_SETS} sample sets are drawn at most.")
    return found

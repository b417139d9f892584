"""Measures of the predictive distributions at given inputs: bound, transported and read."""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpyro.distributions.distribution import Distribution

from dtda_prob.compiling import compiled
from dtda_prob.measures import readouts
from dtda_prob.measures.measure import Measure, Value
from dtda_prob.measures.readouts import Per
from dtda_prob.module import call
from dtda_prob.program import Program
from dtda_prob.program.abstraction import per_structure, remembered
from dtda_prob.program.coordinates import Coordinates, coordinates
from dtda_prob.program.data import Named, bound, settle, unbound
from dtda_prob.program.labels import check_labels
from dtda_prob.program.structure import abstract, check_axes, check_lengths, check_observations
from dtda_prob.typing import Params

Facts = tuple[Coordinates, dict[str, int], tuple[int, ...], int]


class Predictive(Measure):
    """A measure of the predictive distributions at given inputs.

    Args:
        *args: the model's arguments, bound to the queries.
        queries: one label per query; by default their positions.
        site: the observed site that is meant, where the program has several and one is needed.
        per: "token", where each element of a query's observations is a query of its own (a token of a
            sequence, by `.to_event` or a plate); or spans `(start, stop)` of them, over which values
            are summed.
        **kwargs: the model's keyword arguments, observations included.

    Attributes:
        data: the arguments.
        labels: the labels of the queries that were given.
        site: the name of an observed site.
        per: what is a query.
        values: once bound, the observations of each site.
    """

    data: tuple[tuple, dict[str, Any]]
    labels: Named | None = eqx.field(static=True)
    site: str | None = eqx.field(static=True)
    per: Per = eqx.field(static=True)
    values: dict[str, Any]

    def __init__(
        self,
        *args: Any,
        queries: Sequence[Hashable] | np.ndarray | None = None,
        site: str | None = None,
        per: Per = None,
        **kwargs: Any,
    ):
        self.data, self.values, self.site, self.per = (args, kwargs), {}, site, readouts.as_per(per)
        self.labels = None if queries is None else Named(queries)
        self.program, self.names = None, Named(np.zeros(0))

    def __repr__(self) -> str:
        args, kwargs = self.asked
        chosen = {"site": self.site, "per": self.per}
        named = {name: value for name, value in chosen.items() if value is not None}
        return call(self.name, *args, **kwargs, **named)

    def __call__(self, program: Program) -> Self:
        check_axes((program.args, program.kwargs), bound(self.data), program.num_data)
        data, facts = settle(self._inspect(program), bound(self.data))
        chart, dims, shape, count = facts
        measure = self._with(program=program, data=data, values=dict.fromkeys(dims))
        measure = measure._with(values=compiled(_observations)(measure))
        remembered(measure, "chart", lambda: (chart, dims))
        labels = self.labels and self.labels.names
        if self.per is not None:
            labels = check_labels(labels, count, "queries", "query")
            parts = readouts.parts(self.per, shape[0] // count)
            labels = [f"{label}[{part}]" for label in labels for part in parts]
        return self._labelled(measure, labels, shape)

    @property
    def asked(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return unbound(self.data)

    @abstractmethod
    def read(self, sites: dict[str, tuple[Distribution, Any, int]]) -> Value:
        """Compute the value from the distribution, observation and plate's dimension of each site."""

    def outputs(self, params: Params) -> PyTree:
        return _chart(self)[0].outputs(lambda: _distributions(self, params))

    def readout(self, outputs: PyTree) -> Value:
        chart, dims = _chart(self)
        fns = chart.distributions(outputs)
        return self.read({site: (fns[site], self.values[site], dims[site]) for site in fns})

    def _inspect(self, program: Program) -> Callable:
        """Return a function that checks queries and finds chart, plate dimensions and value's shape."""

        def inspect(data: Any) -> Facts:
            asked = (program, data, type(self), self.site, self.per)
            return remembered(asked, "queries", lambda: compute(data))

        def compute(data: Any) -> Facts:
            facts: list[Any] = []

            def densities(data: Any) -> dict:
                args, kwargs = data
                sites = program.predictive_sites(_zeros(program), args, kwargs)
                result = check_observations(sites, program.observed, program.layout)
                described = {k: program.layout.describe(sites[k]) for k in program.observed}
                chart = coordinates({name: fn for name, (fn, _, _) in described.items()})
                dims = {name: dim for name, (_, _, dim) in described.items()}
                facts[:] = chart, dims, self.read(described).shape, program.layout.count(sites)
                return result

            jaxpr = abstract(densities, data)
            check_lengths(jaxpr, data, program.layout, facts[3])
            return facts[0], facts[1], facts[2], facts[3]

        return inspect


def _chart(measure: Predictive) -> tuple[Coordinates, dict[str, int]]:
    """Return the chart of the predictive distributions, and the plate's dimension in each."""
    return remembered(measure, "chart", lambda: _traced_chart(measure))


@per_structure
def _traced_chart(measure: Predictive) -> tuple[Coordinates, dict[str, int]]:
    program = measure.bound
    sites = program.predictive_sites(_zeros(program), *measure.asked)
    fns = {name: sites[name]["fn"] for name in program.observed}
    return coordinates(fns), {name: program.layout.dim(sites[name]) for name in fns}


def _distributions(measure: Predictive, params: Params) -> dict[str, Distribution]:
    described = measure.bound.predictive(params, *measure.asked[0], **measure.asked[1])
    return {name: fn for name, (fn, _, _) in described.items()}


def _observations(measure: Predictive) -> dict[str, Any]:
    args, kwargs = measure.asked
    described = measure.bound.predictive(_zeros(measure.bound), *args, **kwargs)
    return {name: y for name, (_, y, _) in described.items()}


def _zeros(program: Program) -> Params:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), program.shapes)

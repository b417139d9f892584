"""What is asked of a trained model: outputs that are transported, and the readout taken of them.

A measure's outputs are the parameters of the predictive distribution at each query, in unconstrained
space: logits for a categorical, mean and log scale for a normal. Push-forwards transport these, and the
readout (loss, margin, probability, ...) is taken of the transported outputs.
"""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree
from numpyro.distributions.distribution import Distribution

from dtda_prob import readouts
from dtda_prob.compiling import compiled
from dtda_prob.module import Module, call
from dtda_prob.program import Program
from dtda_prob.program.abstraction import per_structure, remembered
from dtda_prob.program.coordinates import Coordinates, coordinates
from dtda_prob.program.data import Named, bound, settle, unbound
from dtda_prob.program.labels import check_labels
from dtda_prob.program.plates import describe, plate_dim
from dtda_prob.program.structure import abstract, check_axes, check_lengths, check_observations
from dtda_prob.typing import Params

Value = Float[Array, "query *output"]
Facts = tuple[Coordinates, dict[str, int], tuple[int, ...]]


def named(names: Any) -> Named:
    """Return names that are not compared."""
    return names if isinstance(names, Named) else Named(np.asarray(names))


class Measure(Module):
    """What is asked of a model, of a program once it is bound to one.

    Attributes:
        program: the program that it is bound to; None where it is still to be bound.
        names: the labels of the queries.
    """

    program: Program | None = eqx.field(default=None, kw_only=True, repr=False)
    names: Named = eqx.field(
        default=Named(np.zeros(0)), kw_only=True, static=True, repr=False, converter=named
    )

    def __call__(self, program: Program) -> Self:
        """Return the measure bound to a program.

        Raises:
            ValueError: if the queries do not suit the program.
        """
        measure = self._with(program=program)
        value = jax.eval_shape(lambda params: measure.readout(measure.outputs(params)), program.shapes)
        return self._labelled(measure, None, value.shape)

    @abstractmethod
    def outputs(self, params: Params) -> PyTree:
        """Compute what is transported, a pytree of arrays."""

    @abstractmethod
    def readout(self, outputs: PyTree) -> Value:
        """Compute the measured value, shape `(query,)` or `(query, output)`."""

    @property
    def name(self) -> str:
        """The name of the values in a sample set."""
        return type(self).__name__

    @property
    def queries(self) -> np.ndarray:
        """One label per query."""
        return self.names.names

    @property
    def asked(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments that the queries are made of, for showing; None if there is nothing to show."""
        return None

    @property
    def bound(self) -> Program:
        """The program that the measure is bound to."""
        if self.program is None:
            raise ValueError(f"measure {self.name!r} is bound to no program; call it with one")
        return self.program

    def _labelled(self, measure: Self, queries: Any, shape: tuple[int, ...]) -> Self:
        """Name the queries of a bound measure whose values have this shape."""
        if len(shape) not in (1, 2):
            raise ValueError(
                f"measure {self.name!r} has values of shape {shape}, not (query,) or (query, output)"
            )
        return measure._with(names=Named(check_labels(queries, shape[0], "queries", "query")))

    def _with(self, **fields: Any) -> Self:
        copy = object.__new__(type(self))
        for name in type(self).__dataclass_fields__:
            object.__setattr__(copy, name, fields.get(name, getattr(self, name)))
        return copy


class Predictive(Measure):
    """A measure of the predictive distributions at given inputs.

    Args:
        *args: the model's arguments, bound to the queries.
        queries: one label per query; by default their positions.
        site: the observed site that is meant, where the program has several and one is needed.
        **kwargs: the model's keyword arguments, observations included.

    Attributes:
        data: the arguments.
        labels: the labels of the queries that were given.
        site: the name of an observed site.
        values: once bound, the observations of each site.
    """

    data: tuple[tuple, dict[str, Any]]
    labels: Named | None = eqx.field(static=True)
    site: str | None = eqx.field(static=True)
    values: dict[str, Any]

    def __init__(
        self,
        *args: Any,
        queries: Sequence[Hashable] | np.ndarray | None = None,
        site: str | None = None,
        **kwargs: Any,
    ):
        self.data, self.values, self.site = (args, kwargs), {}, site
        self.labels = None if queries is None else Named(queries)
        self.program, self.names = None, Named(np.zeros(0))

    def __repr__(self) -> str:
        args, kwargs = self.asked
        named = {} if self.site is None else {"site": self.site}
        return call(self.name, *args, **kwargs, **named)

    def __call__(self, program: Program) -> Self:
        check_axes((program.args, program.kwargs), bound(self.data), program.num_data)
        data, facts = settle(self._inspect(program), bound(self.data))
        chart, dims, shape = facts
        measure = self._with(program=program, data=data, values=dict.fromkeys(dims))
        measure = measure._with(values=compiled(_observations)(measure))
        remembered(measure, "chart", lambda: (chart, dims))
        return self._labelled(measure, self.labels and self.labels.names, shape)

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
            asked = (program, data, type(self), self.site)
            return remembered(asked, "queries", lambda: compute(data))

        def compute(data: Any) -> Facts:
            facts: list[Any] = []

            def densities(data: Any) -> dict:
                args, kwargs = data
                sites = program.predictive_sites(_zeros(program), args, kwargs)
                result = check_observations(sites, program.observed, program.plate)
                described = {name: describe(sites[name], program.plate) for name in program.observed}
                chart = coordinates({name: fn for name, (fn, _, _) in described.items()})
                dims = {name: dim for name, (_, _, dim) in described.items()}
                facts[:] = chart, dims, self.read(described).shape, sites[program.plate]["args"][0]
                return result

            jaxpr = abstract(densities, data)
            check_lengths(jaxpr, data, facts[3], program.plate)
            return facts[0], facts[1], facts[2]

        return inspect


class loss(Predictive):
    """Measure -log p(y | theta) of each query, in nats, summed over observed sites.

    Args:
        *args: the model's arguments, bound to the queries.
        queries: one label per query; by default their positions.
        **kwargs: the model's keyword arguments, observations included.

    >>> loss(jnp.ones((2, 3)), y=jnp.zeros(2))
    loss(f32[2,3], y=f32[2])
    """

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        return -_log_likelihood(sites)


class log_likelihood(Predictive):
    """Measure log p(y | theta) of each query, in nats, summed over observed sites; see `loss`."""

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        return _log_likelihood(sites)


class prediction(Predictive):
    """Measure the predictive mean: probabilities for a categorical; see `loss` for arguments.

    `site` names the observed site where the program has several.
    """

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        fn, _, dim = readouts.only(self.site, sites)
        return readouts.keep(readouts.mean(fn), fn, dim)


class squared_error(Predictive):
    """Measure (y - predictive mean)^2 of numbers, summed over dimensions; see `prediction`.

    What the program masks counts as 0, as it does in `loss`.
    """

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        fn, y, dim = readouts.only(self.site, sites)
        return readouts.sum_rest(readouts.squared_error(fn, _given(y)), fn, dim)


class margin(Predictive):
    """Measure log p(y) - log(1 - p(y)), the log-odds of the observed class; see `prediction`."""

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        fn, y, dim = readouts.only(self.site, sites)
        return readouts.keep(readouts.log_odds(fn, _given(y)), fn, dim)


class accuracy(Predictive):
    """Measure 1 where the likeliest class is the observed one, else 0; see `prediction`.

    It is a step function, so its own derivative is zero: transport the outputs or the parameters.
    """

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        fn, y, dim = readouts.only(self.site, sites)
        return readouts.keep(readouts.is_correct(fn, _given(y)), fn, dim)


class averaged(Measure):
    """Measure the mean over the queries of another measure: one query, "mean", for the price of one.

    >>> averaged(loss(jnp.ones((2, 3)), y=jnp.zeros(2)))
    averaged(measure=loss(f32[2,3], y=f32[2]))
    """

    measure: Measure

    def __call__(self, program: Program) -> Self:
        return self._with(measure=self.measure(program), program=program, names=named(["mean"]))

    @property
    def name(self) -> str:
        return f"mean_{self.measure.name}"

    def outputs(self, params: Params) -> PyTree:
        return self.measure.outputs(params)

    def readout(self, outputs: PyTree) -> Value:
        return self.measure.readout(outputs).mean(0, keepdims=True)


class parameters(Measure):
    """Measure every parameter on the support of its site; one query per scalar parameter."""

    def __call__(self, program: Program) -> Self:
        names = _scalar_names(jax.eval_shape(program.constrain, program.shapes))
        return self._with(program=program, names=Named(names))

    def outputs(self, params: Params) -> PyTree:
        return params

    def readout(self, outputs: PyTree) -> Value:
        return ravel_pytree(self.bound.constrain(outputs))[0]


class function(Measure):
    """Measure any function of the parameters.

    Attributes:
        fun: from parameters, a dict from site name to value on its support, to an array of shape
            `(query,)` or `(query, output)`.
        name: what the values are called; the function's own name if None.
        queries: one label per query; by default their positions.

    Raises:
        ValueError: when bound, if `fun` returns an array of another rank.
    """

    fun: Callable[[Params], Value]
    called: str | None
    labels: Named | None = eqx.field(static=True)

    def __init__(self, fun: Callable[[Params], Value], *, name: str | None = None, queries: Any = None):
        self.fun, self.called = fun, name
        self.labels = None if queries is None else Named(queries)
        self.program, self.names = None, Named(np.zeros(0))

    def __repr__(self) -> str:
        return call("function", self.fun, **({} if self.called is None else {"name": self.called}))

    def __call__(self, program: Program) -> Self:
        measure = self._with(program=program)
        shape = jax.eval_shape(measure.outputs, program.shapes).shape
        return self._labelled(measure, self.labels and self.labels.names, shape)

    @property
    def name(self) -> str:
        return self.called or getattr(self.fun, "__name__", "function")

    def outputs(self, params: Params) -> PyTree:
        return jnp.asarray(self.fun(self.bound.constrain(params)))

    def readout(self, outputs: PyTree) -> Value:
        return outputs


def _log_likelihood(sites: dict) -> Value:
    parts = [
        readouts.sum_rest(jnp.asarray(fn.log_prob(_given(y))), fn, dim) for fn, y, dim in sites.values()
    ]
    return jnp.sum(jnp.stack(parts), axis=0)


def _given(y: Any) -> Array:
    if y is None:
        raise ValueError("the queries hold no observations; pass them too, as in `loss(x, y)`")
    return y


def _chart(measure: Predictive) -> tuple[Coordinates, dict[str, int]]:
    """Return the chart of the predictive distributions, and the plate's dimension in each."""
    return remembered(measure, "chart", lambda: _traced_chart(measure))


@per_structure
def _traced_chart(measure: Predictive) -> tuple[Coordinates, dict[str, int]]:
    program = measure.bound
    sites = program.predictive_sites(_zeros(program), *measure.asked)
    fns = {name: sites[name]["fn"] for name in program.observed}
    return coordinates(fns), {name: plate_dim(sites[name], program.plate) for name in fns}


def _distributions(measure: Predictive, params: Params) -> dict[str, Distribution]:
    described = measure.bound.predictive(params, *measure.asked[0], **measure.asked[1])
    return {name: fn for name, (fn, _, _) in described.items()}


def _observations(measure: Predictive) -> dict[str, Any]:
    args, kwargs = measure.asked
    described = measure.bound.predictive(_zeros(measure.bound), *args, **kwargs)
    return {name: y for name, (_, y, _) in described.items()}


def _zeros(program: Program) -> Params:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), program.shapes)


def _scalar_names(shapes: Params) -> np.ndarray:
    """Return a name for every scalar of a tree, as in `slope` or `net.w[0,2]`."""
    names = []
    for path, leaf in jax.tree.leaves_with_path(shapes):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        scalars = np.ndindex(leaf.shape)
        names += [f"{name}[{','.join(map(str, i))}]" if i else name for i in scalars]
    return np.array(names)

"""Measures of the parameters, and of functions of them."""

from collections.abc import Callable
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from dtda_prob.measures.measure import Measure, Value
from dtda_prob.module import call
from dtda_prob.program import Program
from dtda_prob.program.data import Named
from dtda_prob.typing import Params


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
    """Measure any function of the parameters and of deterministic sites.

    >>> import jax.numpy as jnp
    >>> function(lambda sites: sites["slope"] / sites["scale"], name="ratio").name
    'ratio'

    Attributes:
        fun: from a dict from site name to value on its support, deterministic sites included, to an
            array of shape `(query,)` or `(query, output)`, or a scalar, which is one query.
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
        try:
            shape = jax.eval_shape(measure.value, program.shapes).shape
        except Exception as error:
            sites = [*jax.eval_shape(program.sites, program.shapes)]
            error.add_note(f"measures.function: fun fails on a dictionary of the sites {sites}")
            raise
        names = self.labels.names if self.labels else (None if shape else [self.name])
        return self._labelled(measure, names, shape or (1,))

    @property
    def name(self) -> str:
        return self.called or getattr(self.fun, "__name__", "function")

    def value(self, params: Params) -> Array:
        """Compute the function at parameters in unconstrained space."""
        return jnp.asarray(self.fun(self.bound.sites(params)))

    def outputs(self, params: Params) -> PyTree:
        return jnp.atleast_1d(self.value(params))

    def readout(self, outputs: PyTree) -> Value:
        return outputs


def _scalar_names(shapes: Params) -> np.ndarray:
    """Return a name for every scalar of a tree, as in `slope` or `net.w[0,2]`."""
    names = []
    for path, leaf in jax.tree.leaves_with_path(shapes):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        scalars = np.ndindex(leaf.shape)
        names += [f"{name}[{','.join(map(str, i))}]" if i else name for i in scalars]
    return np.array(names)

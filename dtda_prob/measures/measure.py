"""What a measure is: outputs that are transported, and the readout taken of them."""

from abc import abstractmethod
from typing import Any, Self

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from dtda_prob.module import Module
from dtda_prob.program import Program
from dtda_prob.program.data import Named
from dtda_prob.program.labels import check_labels
from dtda_prob.typing import Params

Value = Float[Array, "query *output"]


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

"""Some queries of a measure."""

from typing import Self

import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from dtda_prob.measures.measure import Measure, Value, named
from dtda_prob.program import Program
from dtda_prob.typing import Params


class some(Measure):
    """Measure some queries of another measure, by position.

    >>> from dtda_prob.measures import loss
    >>> some(loss(jnp.ones((5, 3)), y=jnp.zeros(5)), jnp.array([0, 4]))
    some(measure=loss(f32[5,3], y=f32[5]), positions=i32[2])
    """

    measure: Measure
    positions: Int[Array, " query"]

    def __call__(self, program: Program) -> Self:
        measure = self.measure if self.measure.program is not None else self.measure(program)
        names = named(measure.queries[self.positions])
        return self._with(measure=measure, program=program, names=names)

    @property
    def name(self) -> str:
        return self.measure.name

    def outputs(self, params: Params) -> PyTree:
        return self.measure.outputs(params)

    def readout(self, outputs: PyTree) -> Value:
        return jnp.take(self.measure.readout(outputs), self.positions, axis=0)

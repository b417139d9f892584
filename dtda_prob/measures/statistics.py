"""Statistics over the queries of a measure: means, worst groups, AUROC, and differences of measures."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from dtda_prob.measures.measure import Measure, Value, named
from dtda_prob.program import Program
from dtda_prob.typing import Params


class Statistic(Measure):
    """A function of the values of all queries of another measure; subclasses define `of`.

    Attributes:
        measure: the other measure, whose outputs are transported.
    """

    measure: Measure

    @abstractmethod
    def of(self, value: Value) -> Float[Array, "*output"]:
        """Compute the statistic of the measured values, `(query, *output)`."""

    @property
    def title(self) -> str:
        """The label of the one query."""
        return type(self).__name__

    def __call__(self, program: Program) -> Self:
        names = named([self.title])
        bound = self._with(measure=self.measure(program), program=program, names=names)
        jax.eval_shape(lambda params: bound.readout(bound.outputs(params)), program.shapes)
        return bound

    @property
    def name(self) -> str:
        return f"{self.title}_{self.measure.name}"

    def outputs(self, params: Params) -> PyTree:
        return self.measure.outputs(params)

    def readout(self, outputs: PyTree) -> Value:
        return self.of(self.measure.readout(outputs))[None]


class averaged(Statistic):
    """Measure the mean over the queries of another measure: one query, for the price of one.

    >>> import jax.numpy as jnp
    >>> from dtda_prob.measures import loss
    >>> averaged(loss(jnp.ones((2, 3)), y=jnp.zeros(2)))
    averaged(measure=loss(f32[2,3], y=f32[2]))
    """

    @property
    def title(self) -> str:
        return "mean"

    def of(self, value: Value) -> Float[Array, "*output"]:
        return value.mean(0)


class worst_group(Statistic):
    """Measure the mean of the group of queries whose mean is the largest, or the lowest.

    Its derivative belongs to the group that is the worst at the outcome.

    Attributes:
        measure: the measure; `loss`, say, whose largest group mean is the worst.
        groups: the group of each query, any labels.
        lowest: whether low values are bad, as with `accuracy` and `margin`.

    Raises:
        ValueError: when bound, for another number of groups than of queries.
    """

    groups: tuple = eqx.field(static=True, converter=lambda groups: tuple(np.asarray(groups).tolist()))
    lowest: bool = eqx.field(default=False, kw_only=True)

    def of(self, value: Value) -> Float[Array, "*output"]:
        _check_length("groups", self.groups, value)
        _, place = np.unique(np.asarray(self.groups), return_inverse=True)
        share = np.eye(place.max() + 1)[place]
        means = jnp.asarray((share / share.sum(0)).T, value.dtype) @ value
        return means.min(0) if self.lowest else means.max(0)


class auroc(Statistic):
    """Measure the area under the ROC curve of a score over all queries.

    The value is exact: the share of pairs of a positive and a negative query that the score orders
    rightly, ties counting half. It is a step function, so a smooth one stands in for its derivative:
    each pair counts by the sigmoid of its difference over `width` standard deviations of the score.

    Attributes:
        measure: the score, one number for each query, larger for positives: `prediction` of a
            Bernoulli, say, or `function`.
        positive: whether each query is positive.
        width: of the sigmoid, in standard deviations of the score over all queries.

    Raises:
        ValueError: when bound, for another number of labels than of queries, or if one class is empty.
    """

    positive: tuple[bool, ...] = eqx.field(
        static=True, converter=lambda labels: tuple(np.asarray(labels).astype(bool).tolist())
    )
    width: float = eqx.field(default=0.25, kw_only=True)

    def of(self, value: Value) -> Float[Array, ""]:
        _check_length("positive", self.positive, value)
        if value.ndim > 1 or len(set(self.positive)) < 2:
            raise ValueError(
                f"auroc: needs one number for each query, got {value.shape}, and queries of both "
                f"classes, got {sum(self.positive)} positive of {len(self.positive)}"
            )
        pairs = np.nonzero(np.logical_and.outer(self.positive, np.logical_not(self.positive)))
        differences = value[pairs[0]] - value[pairs[1]]
        exact = jnp.mean(jnp.where(differences == 0, 0.5, differences > 0))
        scale = jax.lax.stop_gradient(self.width * value.std())
        smooth = jax.nn.sigmoid(differences / jnp.maximum(scale, jnp.finfo(value.dtype).tiny)).mean()
        return jax.lax.stop_gradient(exact - smooth) + smooth


class contrast(Measure):
    """Measure the difference of two measures, query by query: `one` less `other`.

    The outputs of both are transported.

    >>> import jax.numpy as jnp
    >>> from dtda_prob.measures import loss
    >>> x, chosen, rejected = jnp.ones((2, 3)), jnp.zeros(2), jnp.ones(2)
    >>> preference = contrast(loss(x, y=rejected), loss(x, y=chosen))

    Raises:
        ValueError: when bound, if their values differ in shape.
    """

    one: Measure
    other: Measure

    def __call__(self, program: Program) -> Self:
        one, other = self.one(program), self.other(program)
        shapes = [
            jax.eval_shape(lambda params, m=m: m.readout(m.outputs(params)), program.shapes).shape
            for m in (one, other)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(f"contrast: the values have shapes {shapes[0]} and {shapes[1]}; pair them")
        return self._with(one=one, other=other, program=program, names=one.names)

    @property
    def name(self) -> str:
        return f"contrast_{self.one.name}"

    def outputs(self, params: Params) -> PyTree:
        return self.one.outputs(params), self.other.outputs(params)

    def readout(self, outputs: PyTree) -> Value:
        return self.one.readout(outputs[0]) - self.other.readout(outputs[1])


def _check_length(name: str, labels: Sequence[Any], value: Value) -> None:
    if len(labels) != len(value):
        raise ValueError(f"{name}: one for each query is needed, {len(value)}; got {len(labels)}")

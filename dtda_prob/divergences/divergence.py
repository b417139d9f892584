"""Divergence: a statistic of two sample sets, and the contribution of each draw to it.

Arrays have draws first, `(draw, ...)`; all other axes are treated alike and broadcast between the arms.
Where outcomes are vectors, the last axis holds the coordinates of one outcome. Draw i of both arms
shares its key where the arms are coupled. Everything runs on the host, in NumPy.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from dtda_prob.divergences.meaning import Meaning
from dtda_prob.divergences.resampling import leave_out
from dtda_prob.module import Module

Draws = Float[np.ndarray, "draw ..."]
Value = Float[np.ndarray, "..."]


class Divergence(Module):
    """A discrepancy between two distributions, estimated from draws of both.

    A concrete divergence is a lower-case subclass whose fields are its settings. It defines
    `statistic`, and `contributions` unless the jackknife is to find them. The methods `scalar` and
    `vector` return the divergence to use for each kind of outcome; by default a divergence is one of
    scalars alone.

    Attributes:
        signed: whether it has a direction and is zero when nothing moves. It is then D' less D: a
            positive value says that the change raises `quantity`.
        quantity: what a signed divergence measures the increase of, with places for `{measure}` and
            `{name}`.
        verbs: what the change does where the value is positive, and where it is negative.
        squared: whether the statistic behaves as the square of something normal, so that its error
            grows with its value.
        unit: unit of the value, with a place for the `{unit}` of the measure.
    """

    signed: ClassVar[bool] = False
    quantity: ClassVar[str] = "the {name} of the {measure}"
    verbs: ClassVar[tuple[str, str]] = ("raises", "lowers")
    squared: ClassVar[bool] = False
    unit: ClassVar[str] = "{unit}"

    @abc.abstractmethod
    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        """Reduce the draws to the statistic, on the scale on which its errors are about normal."""

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        """Return the first-order contribution of each draw of each arm, with mean zero over draws.

        By default from the jackknife. Where both arms have as many draws, draw i is left out of both,
        which is right whether or not they share keys, and the old arm holds the sum.
        """
        if len(old) == len(new):
            both = leave_out(lambda kept: self.statistic(old[kept], new[kept], coupled), len(old))
            return both, np.zeros_like(both)
        return (
            leave_out(lambda kept: self.statistic(old[kept], new, coupled), len(old)),
            leave_out(lambda kept: self.statistic(old, new[kept], coupled), len(new)),
        )

    @property
    def has_contributions(self) -> bool:
        """Whether it computes contributions of its own, arm by arm, rather than by the jackknife."""
        return type(self).contributions is not Divergence.contributions

    def bias_bound(self, old: Draws, new: Draws, coupled: bool) -> Value | float:
        """Bound the bias that cannot be corrected; it is added to the error in quadrature."""
        return 0.0

    def report(self, value: Value) -> Value:
        """Return what is reported for a value of the statistic: an increasing function of it."""
        return value

    def scalar(self) -> "Divergence":
        """Return the divergence to use where outcomes are scalars."""
        return self

    def vector(self) -> "Divergence":
        """Return the divergence to use where outcomes are vectors."""
        raise self.undefined("vectors", "scalars")

    @property
    def name(self) -> str:
        """The name in results."""
        return type(self).__name__

    def of(self, vector: bool) -> "Divergence":
        """Return the divergence to use for vectors, or for scalars.

        Raises:
            ValueError: if it is not defined for them.
        """
        return self.vector() if vector else self.scalar()

    def undefined(self, kind: str, other: str) -> ValueError:
        """Return the error for outcomes of a kind that the divergence is not defined for."""
        return ValueError(
            f"divergence {self.name!r} is not defined for {kind}, which the measure returns for each "
            f"query: measure {other}, or choose another divergence"
        )

    def meaning(self, measure: str, unit: str = "") -> Meaning:
        """Describe how to read the divergence of a measure, given the measure's unit."""
        known = self.unit.format(unit=unit) if unit or "{unit}" not in self.unit else ""
        if not self.signed:
            return Meaning("", "", "", known)
        quantity = self.quantity.format(name=self.name, measure=measure.replace("_", " "))
        return Meaning(quantity, *self.verbs, known)


class VectorDivergence(Divergence):
    """A divergence of vectors, which takes scalars as vectors with one coordinate."""

    def scalar(self) -> Divergence:
        """Return the same divergence, of vectors with one coordinate."""
        return _one_coordinate(self)

    def vector(self) -> Divergence:
        """Return the divergence itself."""
        return self


class _one_coordinate(Divergence):
    """A divergence of vectors, applied to scalars."""

    divergence: Divergence

    @property
    def name(self) -> str:
        return self.divergence.name

    @property
    def signed(self) -> bool:  # ty: ignore[incompatible-property-override]
        return self.divergence.signed

    @property
    def squared(self) -> bool:  # ty: ignore[incompatible-property-override]
        return self.divergence.squared

    @property
    def has_contributions(self) -> bool:
        return self.divergence.has_contributions

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return self.divergence.statistic(old[..., None], new[..., None], coupled)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return self.divergence.contributions(old[..., None], new[..., None], coupled)

    def bias_bound(self, old: Draws, new: Draws, coupled: bool) -> Value | float:
        return self.divergence.bias_bound(old[..., None], new[..., None], coupled)

    def report(self, value: Value) -> Value:
        return self.divergence.report(value)

    def meaning(self, measure: str, unit: str = "") -> Meaning:
        return self.divergence.meaning(measure, unit)


class Increase(Divergence):
    """The increase of a functional of one distribution, from D to D'."""

    signed = True

    @abc.abstractmethod
    def of_arm(self, draws: Draws) -> Value:
        """Estimate the functional from the draws of one arm."""

    @abc.abstractmethod
    def terms(self, draws: Draws) -> Draws:
        """Return the contribution of each draw to that estimate."""

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        """Subtract the old functional from the new one."""
        return self.of_arm(new) - self.of_arm(old)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        """Return the contributions to both functionals, old ones negative."""
        return -self.terms(old), self.terms(new)


class SumOfMeans(Divergence):
    """A statistic that is the mean of terms of the old draws plus the mean of terms of the new ones.

    Terms are contributions where whatever else the draws decide (an event, a density ratio) is decided
    so well that a small change of it has no first-order effect.
    """

    @abc.abstractmethod
    def terms(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        """Return the term of each draw of each arm."""

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        """Add the means of both arms."""
        by_old, by_new = self.terms(old, new, coupled)
        return by_old.mean(0) + by_new.mean(0)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        """Centre the terms."""
        by_old, by_new = self.terms(old, new, coupled)
        return centred(by_old), centred(by_new)


class of_function(Divergence):
    """A function `(old, new) -> value` as a divergence, taken to have no direction.

    Args:
        function: reduces the leading axis alone, of scalars or of vectors.
    """

    function: Callable[[Draws, Draws], Any]
    unit: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The name of the function."""
        return getattr(self.function, "__name__", "divergence")

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        """Call the function."""
        return np.asarray(self.function(old, new))

    def vector(self) -> Divergence:
        """Return the divergence itself."""
        return self


def centred(terms: Draws) -> Draws:
    """Subtract the mean over draws."""
    return terms - terms.mean(0)


def signed_root(value: Value) -> Value:
    """Return the square root of the absolute value, with the sign of the value."""
    return np.sign(value) * np.sqrt(np.abs(value))

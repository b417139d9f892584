"""The contract of a curvature: functions of a symmetric matrix on parameter space, times vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dtda_prob.curvature.filters import Damped, Damping, Filter, PseudoInverse, Relative
from dtda_prob.curvature.matrices import Matrix
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class Spectrum(NamedTuple):
    """A curvature at given parameters and weights.

    Attributes:
        apply: `(filter, vector) -> f(H) vector`, linear in the vector, differentiable with respect
            to it in both modes; trees like the parameters.
        mean: the mean eigenvalue of H, or an estimate.
    """

    apply: Callable[[Filter, Params], Params]
    mean: Float[Array, ""]


Decompose = Callable[[PRNGKey, Params, Weights], Spectrum]
"""Give the spectrum at parameters and weights; the key is for labels and sketches."""


@dataclass(frozen=True, eq=False)
class Curvature:
    """A matrix, the way it is decomposed, and how it is damped.

    Attributes:
        name: all three.
        matrix: the matrix; None where there is none.
        damping: a number (0 is the pseudo-inverse), `relative(factor)`, or "auto": one over the total
            step size of training, so that directions which training had no time to settle are not
            taken for settled.
        bind: `(program) -> decompose`; raises ValueError where the method does not suit the program.
        passes: `(program, num_solves) -> float`, its cost in gradients over all data.
        rtol: relative cutoff of the pseudo-inverse; P times the machine epsilon if None.
        inverse_only: whether it can apply inverses alone, and no other function of eigenvalues.
    """

    name: str
    matrix: Matrix | None
    damping: Damping
    bind: Callable[[Program], Decompose]
    passes: Callable[[Program, int], float]
    rtol: float | None = None
    inverse_only: bool = False

    def inverse_filter(self, time: Callable[[], float]) -> Callable[[Spectrum, Params], Filter]:
        """Give the filter that inverts, as a function of the spectrum and the parameters.

        Args:
            time: gives the total step size of training, for "auto".

        Raises:
            ValueError: if "auto" finds no end of training time and the method needs damping.
        """
        if isinstance(self.damping, Relative):
            factor = self.damping.factor
            return lambda spectrum, params: Damped(factor * spectrum.mean)
        damping = self.damping_of(time)
        if damping > 0:
            return lambda spectrum, params: Damped(damping)
        if self.inverse_only:
            raise ValueError(
                f"{self.name}: training runs to the end of time, so that damping='auto' is none, and "
                "this curvature needs some; give a number"
            )
        return lambda spectrum, params: PseudoInverse(self.cutoff(params))

    def damping_of(self, time: Callable[[], float]) -> float:
        """Give the damping as a number.

        Raises:
            ValueError: if it is relative to the mean eigenvalue, which only a spectrum knows, or "auto"
                where training takes no step.
        """
        if isinstance(self.damping, Relative):
            raise ValueError(f"{self.name}: its damping is relative to the mean eigenvalue")
        if self.damping != "auto":
            return self.damping
        total = time()
        if total == 0:
            raise ValueError(
                f"{self.name}: damping='auto' is one over the total step size of training, and the "
                "kernel takes no step; give damping as a number"
            )
        return 1 / total

    def cutoff(self, params: Params) -> float:
        """Give the share of the largest eigenvalue up to which the pseudo-inverse takes one for 0."""
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return num_params(params) * float(jnp.finfo(dtype).eps) if self.rtol is None else self.rtol


def num_params(params: Params) -> int:
    """Count scalar parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def params_of(program: Program) -> Params:
    """Give shapes and types of a program's parameters."""
    return jax.eval_shape(program.init, jax.random.key(0))

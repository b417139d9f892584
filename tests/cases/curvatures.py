"""Every curvature, damped alike, with the traits by which laws select it.

A new curvature is added here, and is then tested by the laws of `test_curvature` on a network of
NUM_PARAMS parameters whose Gauss-Newton matrix has rank RANK.
"""

from dataclasses import replace
from typing import NamedTuple

from dtda_prob import curvature
from dtda_prob.curvature import Curvature

NUM_PARAMS, RANK = 31, 24
DAMPING = 0.1


class Case(NamedTuple):
    """A curvature of the Gauss-Newton matrix.

    Attributes:
        curvature: the curvature.
        exact: its inverse equals the inverse of the whole matrix.
        functions: any function of eigenvalues, undamped inverses too, equals that of the whole matrix.
        iterates: it solves by iterations, whose derivative is a rule of their own.
        alike: it takes the matrix (whole, by rows or by products) as another case does.
        rtol: relative cutoff of its pseudo-inverse in these laws.
    """

    curvature: Curvature
    exact: bool = True
    functions: bool = False
    iterates: bool = False
    alike: bool = False
    rtol: float | None = None

    @property
    def undamped(self) -> Curvature:
        """Return the curvature that takes the pseudo-inverse."""
        return replace(self.curvature, damping=0.0, rtol=self.rtol)


def _products(**settings) -> Curvature:
    return curvature.conjugate_gradient("gauss_newton", damping=DAMPING, tolerance=1e-12, **settings)


def _kronecker(**settings) -> Curvature:
    return curvature.kronecker("gauss_newton", damping=DAMPING, **settings)


CASES = {
    "dense by Cholesky": Case(
        curvature.dense("gauss_newton", damping=DAMPING, factorization="cholesky")
    ),
    "gram": Case(curvature.gram(damping=DAMPING), functions=True),
    "gram by Cholesky": Case(curvature.gram(damping=DAMPING, factorization="cholesky"), alike=True),
    "conjugate gradients": Case(_products(), iterates=True),
    "preconditioned": Case(
        _products(preconditioner=curvature.kronecker("gauss_newton")), iterates=True, alike=True
    ),
    "chebyshev": Case(curvature.chebyshev(damping=DAMPING, num_steps=200), iterates=True, alike=True),
    "chebyshev, 2 steps": Case(curvature.chebyshev(damping=DAMPING, num_steps=2), exact=False),
    "neumann": Case(curvature.neumann(damping=DAMPING, num_steps=1000), iterates=True, alike=True),
    "lanczos": Case(curvature.lanczos(rank=RANK + 1, damping=DAMPING), functions=True, alike=True),
    "nystroem": Case(
        curvature.nystroem(rank=RANK, damping=DAMPING), functions=True, alike=True, rtol=1e-9
    ),
    "kronecker": Case(_kronecker(), exact=False),
    "uncorrected kronecker": Case(_kronecker(corrected=False), exact=False),
    "block_diagonal": Case(curvature.block_diagonal(damping=DAMPING), exact=False),
    "diagonal": Case(curvature.diagonal(damping=DAMPING), exact=False),
    "projection": Case(curvature.projection(dimension=RANK, damping=DAMPING), exact=False),
    "identity": Case(curvature.identity(damping=DAMPING), exact=False),
}

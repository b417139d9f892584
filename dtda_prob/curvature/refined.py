"""A simple curvature, made nearly exact by a few products with the matrix."""

from functools import partial

import equinox as eqx
import jax
import optax

from dtda_prob.curvature.curvature import Curvature, Spectrum
from dtda_prob.curvature.filters import Damping, Filter, as_damping
from dtda_prob.curvature.kronecker import kronecker
from dtda_prob.curvature.krylov import (
    POWER_STEPS,
    Preconditioned,
    Product,
    Products,
    largest_eigenvalue,
)
from dtda_prob.curvature.quadratic import Quadratic
from dtda_prob.program import Program
from dtda_prob.typing import Params

SPREAD = 10.0
"""Ratio of the eigenvalues between which the residual is made smallest."""


class chebyshev(Preconditioned):
    """Solve (H + damping I) x = v by a few steps of Chebyshev's iteration, from EK-FAC.

    Each step adds a multiple of M (v - (H + damping I) x) and a multiple of the last step to x, with M
    the inverse of a simpler curvature, equally damped. The multiples make the residual smallest on the
    upper tenth of the spectrum of M (H + damping I), whose largest eigenvalue is found by power
    iteration; below it the residual shrinks more slowly. Conjugate gradients that stop after so few
    steps are about as near to the solution, but not linear in v: here a push is the transpose of a
    pull, whatever the number of steps. Costs the simpler curvature, 20 products with H, and
    `num_steps` products for each solve; memory P more.

    Attributes:
        matrix: any that is positive, such as "gauss_newton".
        damping: see `Curvature`; above 0.
        preconditioner: any other curvature; the closer, the fewer steps are needed.
        num_steps: products with H per solve, at least 1 (a ValueError otherwise).
    """

    damping: Damping = eqx.field(default="auto", converter=as_damping, kw_only=True)
    preconditioner: Curvature | None = eqx.field(default=kronecker("gauss_newton"), kw_only=True)
    num_steps: int = eqx.field(default=3, kw_only=True)

    def __check_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps} must be at least 1")

    def decompose(self, h: Quadratic) -> Spectrum:
        near = self.near(h)
        assert near is not None
        return Refined(h, near, self.num_steps)

    def passes(self, program: Program, num_solves: int) -> float:
        products = POWER_STEPS + self.num_steps * num_solves
        return super().passes(program, num_solves) + 2.0 * products


class Refined(Products):
    """Damped inverses by a polynomial in H and the inverse of a nearby matrix."""

    near: Spectrum
    num_steps: int

    def apply(self, function: Filter, vector: Params) -> Params:
        product = partial(self.damped, function)
        near = partial(self.near.apply, function)
        largest = 1.1 * largest_eigenvalue(self.h, lambda v: near(product(v)))
        centre, radius = largest * (1 + 1 / SPREAD) / 2, largest * (1 - 1 / SPREAD) / 2

        def solve(product: Product, vector: Params) -> Params:
            def body(_: int, state: tuple) -> tuple:
                solution, change, ratio = state
                residual = optax.tree.sub(vector, product(solution))
                new = 1 / (2 * centre / radius - ratio)
                change = optax.tree.scale(new * ratio, change)
                change = optax.tree.add_scale(change, 2 * new / radius, near(residual))
                return optax.tree.add(solution, change), change, new

            first = optax.tree.scale(1 / centre, near(vector))
            return jax.lax.fori_loop(0, self.num_steps, body, (first, first, radius / centre))[0]

        return jax.lax.custom_linear_solve(product, vector, solve, symmetric=True)

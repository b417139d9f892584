"""Which matrix H is: Hessian, Gauss-Newton, Fisher or empirical Fisher.

All but the Hessian are H = (1/n) sum_i w_i J_i' R_i R_i' J_i + prior, with J_i the Jacobian of the
outputs of example i and R_i R_i' a matrix on output space. R_i' outputs_i, with R_i held fixed, are the
features of example i: H is the Gram matrix of their Jacobian, and no method needs anything else.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dtda_prob.blocks import map_blocks
from dtda_prob.compiling import compiled
from dtda_prob.module import Module
from dtda_prob.program import Program
from dtda_prob.program.abstraction import is_concrete, remembered
from dtda_prob.program.likelihood import Index, Label, Likelihood, OutputVector, likelihood
from dtda_prob.typing import Params, PRNGKey

Features = Callable[[Params, Index], Float[Array, " feature"]]
BATCH_SIZE = 256
"""Examples whose outputs are held at once."""
CHECKED = 16
"""Examples whose losses are checked for convexity."""


class Matrix(Module):
    """A curvature matrix."""

    factored: ClassVar[bool] = True
    """Whether it has a square root."""
    num_labels: int = eqx.field(default=0, init=False, repr=False)
    """Labels per example that are drawn from the program."""

    @abstractmethod
    def root(self, model: Likelihood, labels: Label, outputs: OutputVector, index: Index) -> Array:
        """Return R_i, shape `(output, feature)`."""

    def check(self, program: Program) -> None:
        """Check that the program has this matrix; raise ValueError otherwise."""


class hessian(Matrix):
    """The Hessian of the objective, which may be indefinite."""

    factored = False

    def root(self, model: Likelihood, labels: Label, outputs: OutputVector, index: Index) -> Array:
        raise NotImplementedError("the Hessian has no square root")


class gauss_newton(Matrix):
    """The generalised Gauss-Newton matrix (Schraudolph, 2002): R R' is the Hessian in the outputs.

    The loss must be convex in the outputs, as it is for categorical labels and for normals of known
    scale; use `fisher` otherwise.
    """

    def root(self, model: Likelihood, labels: Label, outputs: OutputVector, index: Index) -> Array:
        values, vectors = jnp.linalg.eigh(jax.hessian(model.loss)(outputs, index))
        return vectors * jnp.sqrt(jnp.maximum(values, 0.0))

    def check(self, program: Program) -> None:
        if is_concrete(program) and not remembered(program, "convex", lambda: _is_convex(program)):
            raise ValueError(
                "matrix='gauss_newton' needs a loss that is convex in the outputs, and this program's "
                "is not (a learned scale?); use matrix='fisher'"
            )


class fisher(Matrix):
    """The Fisher matrix, with labels drawn from the program at its parameters.

    Attributes:
        num_labels: labels per example, at least 1 (a ValueError otherwise); the expectation is the
            same for any number.
    """

    num_labels: int = 1

    def __check_init__(self) -> None:
        if self.num_labels < 1:
            raise ValueError(f"num_labels={self.num_labels} must be at least 1")

    def check(self, program: Program) -> None:
        if program.structure.losses:
            raise ValueError(
                f"matrix='fisher': nothing can be drawn from the dtda.Loss of sites "
                f"{[*program.structure.losses]}; use 'gauss_newton' or 'empirical_fisher'"
            )

    def root(self, model: Likelihood, labels: Label, outputs: OutputVector, index: Index) -> Array:
        # The square of the slope has the scale of the loss once, not twice.
        slope = jax.grad(partial(model.loss_of, power=0.5), 1)
        slopes = jax.vmap(lambda label: slope(label, outputs, index))(labels)
        return slopes.T / self.num_labels**0.5


class empirical_fisher(Matrix):
    """The second moment of the gradients of the observed data."""

    def root(self, model: Likelihood, labels: Label, outputs: OutputVector, index: Index) -> Array:
        return jax.grad(model.loss)(outputs, index)[:, None]


MatrixLike = Matrix | Literal["hessian", "gauss_newton", "fisher", "empirical_fisher"]
_BY_NAME = {each.__name__: each for each in (hessian, gauss_newton, fisher, empirical_fisher)}


def resolve(matrix: MatrixLike | None, *, factored: bool = False) -> Matrix:
    """Return the matrix with this name, or the matrix itself.

    Raises:
        ValueError: if the name is unknown, or it is the Hessian where a sum of squares is needed.
    """
    chosen = _BY_NAME[matrix]() if isinstance(matrix, str) and matrix in _BY_NAME else matrix
    if not isinstance(chosen, Matrix):
        raise ValueError(f"matrix={matrix!r} must be one of {sorted(_BY_NAME)}, or a Matrix")
    if factored and not chosen.factored:
        raise ValueError(
            "matrix='hessian' is not a sum of squares over examples, which this curvature needs; "
            "use 'gauss_newton' or 'fisher'"
        )
    return chosen


def check_features(matrix: Matrix, program: Program) -> None:
    """Check that examples have outputs, and that the matrix exists for them.

    Raises:
        ValueError: if the likelihood of an example is a `numpyro.factor`, or if `Matrix.check` raises.
    """
    factors = [*program.structure.factors]
    if factors and not isinstance(matrix, empirical_fisher):
        raise ValueError(
            f"sites {factors} are numpyro.factor: a loss without outputs, so it has no "
            f"{matrix} matrix; observe the data with numpyro.sample(..., obs=y), through "
            "dtda.Loss where the loss is not a distribution, or use matrix='hessian' (curvature.dense "
            "or conjugate_gradient)"
        )
    likelihood(program)
    matrix.check(program)


def features_at(matrix: Matrix, program: Program, key: PRNGKey, params: Params) -> Features:
    """Return features with this matrix as the Gram matrix of their Jacobian; labels are drawn once."""
    model = likelihood(program)
    labels = _draw_labels(program, model, matrix.num_labels, key, params)

    def features(theta: Params, index: Index) -> Float[Array, " feature"]:
        here = jax.lax.stop_gradient(model.outputs(params, index))
        own = jax.tree.map(lambda leaf: leaf[index], labels)
        root = jax.lax.stop_gradient(matrix.root(model, own, here, index))
        return root.T @ model.outputs(theta, index)

    return features


def num_features(matrix: MatrixLike | None, program: Program) -> int:
    """Return the number of features of an example, the most that it can add to the rank."""
    chosen = resolve(matrix)

    def features(key: PRNGKey) -> Float[Array, " feature"]:
        params = program.init(key)
        return features_at(chosen, program, key, params)(params, jnp.zeros((), int))

    return jax.eval_shape(features, jax.random.key(0)).size


def _draw_labels(
    program: Program, model: Likelihood, num_labels: int, key: PRNGKey, params: Params
) -> Label:
    """Draw labels `(example, label)` from the program, shared by all passes over the data."""
    if num_labels == 0:
        return {}

    def draw(index: Index) -> Label:
        keys = jax.random.split(jax.random.fold_in(key, index), num_labels)
        outputs = model.outputs(params, index)
        return jax.vmap(lambda key: model.label(key, outputs, index))(keys)

    return jax.lax.stop_gradient(map_blocks(draw, program.num_data, BATCH_SIZE))


def _is_convex(program: Program) -> bool:
    """Return whether the losses of the first examples are convex in their outputs."""
    values = np.asarray(compiled(_spectra)(likelihood(program), jax.random.key(0)))
    return not values.size or values.min() >= -1e-4 * np.abs(values).max()


def _spectra(model: Likelihood, key: PRNGKey) -> Float[Array, "example output"]:
    """Compute the eigenvalues of the losses' Hessians in the outputs, at the first examples."""
    params, some = model.program.init(key), jnp.arange(min(CHECKED, model.program.num_data))

    def spectrum(index: Index) -> Float[Array, " output"]:
        return jnp.linalg.eigvalsh(jax.hessian(model.loss)(model.outputs(params, index), index))

    return jax.vmap(spectrum)(some)

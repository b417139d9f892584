"""Which matrix: Hessian, Gauss-Newton, Fisher or empirical Fisher.

All but the Hessian are H = (1/n) sum_i w_i J_i' R_i R_i' J_i + prior, with J_i the Jacobian of the
outputs of datum i and R_i R_i' a matrix on output space. R_i' outputs_i, with R_i held fixed, is called
the features of datum i: H is the Gram matrix of their Jacobian, and no method needs anything else.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from dtda_prob.blocks import map_blocks
from dtda_prob.likelihood import Index, Label, Likelihood, OutputVector, likelihood
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

Features = Callable[[Params, Index], Float[Array, " feature"]]
Root = Callable[[Likelihood, Label, OutputVector, Index], Float[Array, "output feature"]]
BATCH_SIZE = 256
"""Data whose outputs are held at once."""
SIGNS = 3
"""Random signs by which it is decided whether a prior's Hessian is diagonal."""


class Matrix(NamedTuple):
    """A curvature matrix.

    Attributes:
        name: its name.
        root: `(likelihood, labels, outputs, index) -> R_i`; None for the Hessian, which has none.
        num_labels: labels that are drawn for each datum before anything else, once, and are held.
    """

    name: str
    root: Root | None
    num_labels: int = 0


def hessian() -> Matrix:
    """Take the Hessian of the objective, which may be indefinite."""
    return Matrix("hessian", None)


def gauss_newton() -> Matrix:
    """Take the generalised Gauss-Newton matrix (Schraudolph, 2002): R R' the Hessian in the outputs.

    It needs a loss that is convex in the outputs, as for classes and for normals of known scale;
    elsewhere take `fisher`.
    """

    def root(found: Likelihood, labels: Label, outputs: OutputVector, index: Index) -> Array:
        values, vectors = jnp.linalg.eigh(jax.hessian(found.loss)(outputs, index))
        return vectors * jnp.sqrt(jnp.maximum(values, 0.0))

    return Matrix("gauss_newton", root)


def fisher(num_labels: int = 1) -> Matrix:
    """Take the Fisher matrix, with labels drawn from the program at its parameters.

    Args:
        num_labels: labels per datum; its expectation is the same for any number.

    Raises:
        ValueError: if `num_labels` is not positive.
    """
    if num_labels < 1:
        raise ValueError(f"num_labels={num_labels} must be at least 1")

    def root(found: Likelihood, labels: Label, outputs: OutputVector, index: Index) -> Array:
        slope = jax.grad(found.loss_of, 1)
        slopes = jax.vmap(lambda label: slope(label, outputs, index))(labels)
        return slopes.T / num_labels**0.5

    return Matrix(f"fisher(num_labels={num_labels})", root, num_labels)


def empirical_fisher() -> Matrix:
    """Take the second moment of the gradients of the observed data."""

    def root(found: Likelihood, labels: Label, outputs: OutputVector, index: Index) -> Array:
        return jax.grad(found.loss)(outputs, index)[:, None]

    return Matrix("empirical_fisher", root)


MatrixLike = Matrix | Literal["hessian", "gauss_newton", "fisher", "empirical_fisher"]
_BY_NAME = {
    "hessian": hessian,
    "gauss_newton": gauss_newton,
    "fisher": fisher,
    "empirical_fisher": empirical_fisher,
}


def resolve(matrix: MatrixLike, *, factored: bool = False) -> Matrix:
    """Give the matrix of that name.

    Raises:
        ValueError: if there is none, or it is the Hessian where a sum of squares is needed.
    """
    if isinstance(matrix, str) and matrix not in _BY_NAME:
        raise ValueError(f"matrix={matrix!r} must be one of {sorted(_BY_NAME)}, or a Matrix")
    chosen = _BY_NAME[matrix]() if isinstance(matrix, str) else matrix
    if factored and chosen.root is None:
        raise ValueError(
            "matrix='hessian' is no sum over data of squares, which this curvature needs; "
            "take 'gauss_newton' or 'fisher'"
        )
    return chosen


def bind_features(matrix: Matrix, program: Program) -> Callable[[PRNGKey, Params], Features]:
    """Give `(key, params) -> features`, a function whose Jacobian at `params` makes the matrix.

    Raises:
        ValueError: if the matrix is "gauss_newton" and the loss is not convex in the outputs.
    """
    found, make_root = likelihood(program), matrix.root
    assert make_root is not None
    if matrix.name == "gauss_newton" and "convex" not in program.derived:
        program.derived["convex"] = _check_convex(program, found)

    def bind(key: PRNGKey, params: Params) -> Features:
        labels = _draw_labels(program, found, matrix.num_labels, key, params)

        def features(theta: Params, index: Index) -> Float[Array, " feature"]:
            here = jax.lax.stop_gradient(found.outputs(params, index))
            own = jax.tree.map(lambda leaf: leaf[index], labels)
            root = jax.lax.stop_gradient(make_root(found, own, here, index))
            return root.T @ found.outputs(theta, index)

        return features

    return bind


def _draw_labels(
    program: Program, found: Likelihood, num_labels: int, key: PRNGKey, params: Params
) -> Label:
    """Draw labels `(datum, label)` from the program, which all passes over the data then share."""
    if num_labels == 0:
        return {}

    def draw(index: Index) -> Label:
        keys = jax.random.split(jax.random.fold_in(key, index), num_labels)
        outputs = found.outputs(params, index)
        return jax.vmap(lambda key: found.label(key, outputs, index))(keys)

    return jax.lax.stop_gradient(map_blocks(draw, program.num_data, BATCH_SIZE))


def num_features(matrix: Matrix, program: Program) -> int:
    """Count the features of a datum, the rank that it can add."""
    bind = bind_features(matrix, program)

    def features(key: PRNGKey) -> Float[Array, " feature"]:
        params = program.init(key)
        return bind(key, params)(params, jnp.zeros((), int))

    return jax.eval_shape(features, jax.random.key(0)).size


def prior_product(program: Program, params: Params) -> Callable[[Params], Params]:
    """Give products with the Hessian of -log prior / n."""
    if not program.has_prior:
        return optax.tree.zeros_like
    nothing = jnp.zeros(program.num_data, jnp.result_type(*jax.tree.leaves(params)))
    return _product(lambda theta: program.objective(theta, nothing), params)


def prior_diagonal(program: Program, params: Params) -> Params:
    """Give the diagonal of the prior's Hessian, which must be diagonal; see `check_prior`."""
    return prior_product(program, params)(jax.tree.map(jnp.ones_like, params))


def prior_scale(program: Program, params: Params) -> Float[Array, ""]:
    """Give the multiple of the identity that the prior's Hessian is; see `check_prior`."""
    diagonal = jax.tree.leaves(prior_diagonal(program, params))
    return sum(jnp.sum(leaf) for leaf in diagonal) / sum(leaf.size for leaf in diagonal)


def check_prior(program: Program, method: str, *, isotropic: bool) -> None:
    """Refuse priors that a method cannot take in.

    Raises:
        ValueError: if the Hessian of the log prior is not diagonal, or not a multiple of the identity
            where `isotropic`.
    """
    if not program.has_prior:
        return
    params = program.init(jax.random.key(0))
    product = prior_product(program, params)
    diagonal = product(jax.tree.map(jnp.ones_like, params))
    if isotropic:
        mean = float(jax.jit(prior_scale, static_argnums=0)(program, params))
        diagonal = jax.tree.map(lambda x: jnp.full_like(x, mean), diagonal)
    for key in jax.random.split(jax.random.key(0), SIGNS):
        signs = optax.tree.random_like(key, params, jax.random.rademacher)
        found = product(signs)
        for got, sign, scale in zip(*map(jax.tree.leaves, (found, signs, diagonal)), strict=True):
            if not np.allclose(got, sign * scale, rtol=1e-3, atol=1e-8):
                kind = "a multiple of the identity" if isotropic else "diagonal"
                raise ValueError(
                    f"curvature.{method} needs a prior whose Hessian is {kind}, and this program's is "
                    "not; take dense or conjugate_gradient"
                )


def objective_product(program: Program, params: Params, weights: Weights) -> Callable[[Params], Params]:
    """Give products with the Hessian of the whole objective."""
    return _product(lambda theta: program.objective(theta, weights), params)


def _product(fun: Callable[[Params], Float[Array, ""]], params: Params) -> Callable[[Params], Params]:
    """Give products with a Hessian, which are traced once, however many there are."""
    return jax.jit(lambda vector: jax.jvp(jax.grad(fun), (params,), (vector,))[1])


def _check_convex(program: Program, found: Likelihood) -> bool:
    """Look at the first data.

    Raises:
        ValueError: if the loss of one is not convex in its outputs.
    """
    params, some = program.init(jax.random.key(0)), jnp.arange(min(16, program.num_data))

    def spectra(params: Params) -> Float[Array, "datum output"]:
        def one(index: Index) -> Float[Array, " output"]:
            return jnp.linalg.eigvalsh(jax.hessian(found.loss)(found.outputs(params, index), index))

        return jax.vmap(one)(some)

    values = np.asarray(jax.jit(spectra)(params))
    if values.size and values.min() < -1e-4 * np.abs(values).max():
        raise ValueError(
            "matrix='gauss_newton' needs a loss that is convex in the outputs, and this program's is "
            "not (a learned scale?); take matrix='fisher'"
        )
    return True

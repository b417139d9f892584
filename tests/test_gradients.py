"""Factors of gradients against whole gradients, for every way in which a parameter enters a model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.compiling import compiled
from dtda_prob.curvature import factors, quadratic
from dtda_prob.curvature.gradients import gradients
from dtda_prob.curvature.matrices import gauss_newton
from dtda_prob.curvature.moving import moving_of

NUM_DATA, KEY = 6, jax.random.key(0)


class Case(NamedTuple):
    """A parameter.

    Attributes:
        shape: of the parameter.
        matrices: the shape of its matrices.
        positions: how often an example uses it; 0 if it is not followed.
        moves: which of its entries move.
    """

    shape: tuple[int, ...]
    matrices: tuple[int, int, int]
    positions: int
    moves: bool | np.ndarray = True


CASES = {
    "embedding": Case((9, 6), (1, 9, 6), 2),
    "query": Case((6, 2, 3), (1, 6, 6), 2),
    "value": Case((6, 2, 3), (1, 6, 6), 2),
    "output": Case((2, 3, 6), (1, 6, 6), 2),
    "of each head": Case((2, 3, 4), (2, 3, 4), 2),
    "kernel": Case((2, 2, 3, 4), (1, 12, 4), 1),
    "small kernel": Case((2, 2, 1, 3), (1, 4, 3), 0),
    "layers": Case((3, 4, 4), (3, 4, 4), 1),
    "shared by layers": Case((4, 4), (1, 4, 4), 3),
    "tied": Case((7, 4), (1, 4, 7), 2),
    "transposed": Case((5, 4), (1, 4, 5), 1),
    "in part": Case((4, 4), (1, 4, 4), 0, np.arange(16).reshape(4, 4) % 3 > 0),
    "elementwise": Case((4, 4), (1, 4, 4), 0),
    "behind a custom derivative": Case((4, 4), (1, 4, 4), 0),
    "bias": Case((4,), (1, 4, 1), 0),
    "fixed": Case((4, 3), (1, 4, 3), 0, False),
}


def everything(images, tokens, y):
    """Use parameters in every way at once: attention, convolution, loops, tied and shared weights."""

    def own(name):
        scale = CASES[name].shape[0] ** -0.5
        return numpyro.param(name, lambda key: scale * jax.random.normal(key, CASES[name].shape))

    def convolve(x, name):
        return jax.lax.conv_general_dilated(
            x, own(name), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def layer(h, w):
        return jnp.tanh(h @ w + own_bias) @ shared, None

    with numpyro.plate("data", len(y)) as i, numpyro.handlers.scale(scale=1.0 + y[i]):
        h = own("embedding")[tokens[i]]
        query, value = (jnp.einsum("btd,dhk->bthk", h, own(n)) for n in ("query", "value"))
        weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", query, query))
        h = jnp.einsum("bhts,bshk,hkd->btd", weights, value, own("output"))
        h = jnp.einsum("bthk,hkd->bthd", h.reshape(-1, 2, 2, 3), own("of each head")).mean((1, 2))
        own_bias, shared = own("bias"), own("shared by layers")
        h = h + convolve(jnp.tanh(convolve(images[i], "small kernel")), "kernel").mean((1, 2))
        h, _ = jax.lax.scan(jax.checkpoint(layer), h, own("layers"))
        h = jnp.tanh(h @ own("tied").T) @ own("tied")
        transposed = own("transposed")
        h = jax.vmap(lambda h: transposed @ h)(h)
        h = h[:, :4] @ own("in part") @ jnp.exp(own("elementwise"))
        h = h @ jax.nn.relu(own("behind a custom derivative"))
        numpyro.sample("y", dist.Categorical(logits=h @ own("fixed")), obs=y[i])


@pytest.fixture(scope="module")
def found():
    """The side and entry moments of each parameter, from factors and from rows, in double precision."""
    rng, patch = np.random.default_rng(0), pytest.MonkeyPatch()
    with jax.enable_x64(True), patch.context() as context:
        context.setattr(factors, "LARGEST_SIDE", 8)
        context.setattr(quadratic, "BLOCK", 2000)
        images, tokens = rng.normal(size=(NUM_DATA, 4, 4, 1)), rng.integers(0, 9, (NUM_DATA, 2))
        program = dtda.Program(everything, images, tokens, rng.integers(0, 3, NUM_DATA))
        moving = moving_of({name: case.moves for name, case in CASES.items()})
        curvature.kronecker("gauss_newton").check(program, moving)
        names, every = sorted(name for name in CASES if name != "fixed"), {}

        @compiled
        def both(program, params, weights):
            h = quadratic.Quadratic(program, gauss_newton(), KEY, params, weights, moving)
            of = gradients(h)
            used = [sum(u.positions for u in of.uses if u.leaf == k) for k in range(len(names))]
            every.update(zip(names, zip(of.layouts, used, strict=True), strict=False))
            sides = of.sum(lambda parts: [part.sides() for part in parts])
            bases = [tuple(map(_basis, pair)) for pair in sides]
            moments = of.sum(lambda parts: [p.moments(*b) for p, b in zip(parts, bases, strict=True)])
            rows = jax.tree.leaves(h.rows(jnp.arange(NUM_DATA)))
            expected = [
                _expected(layout, *pair) for layout, *pair in zip(of.layouts, rows, bases, strict=True)
            ]
            return dict(zip(names, zip(sides, moments, expected, strict=True), strict=False))

        weights = jnp.ones(NUM_DATA).at[2].set(0.3).at[4].set(0.0)
        numbers = jax.tree.map(np.asarray, both(program, program.init(KEY), weights))
        return {name: (*every[name], *numbers[name]) for name in names}


def _basis(side):
    return jnp.linalg.eigh(side)[1] if side.ndim == 3 else jnp.ones((len(side), 0, 0))


def _expected(layout, rows, bases):
    """Sides and moments from whole gradients."""
    g = jax.vmap(layout.matrices)(rows.reshape(-1, *rows.shape[2:]))
    sides = jnp.einsum("nsrc,nsqc->srq", g, g), jnp.einsum("nsrc,nsrd->scd", g, g)
    left, right = bases
    sides = [
        side if basis.size else jnp.diagonal(side, axis1=1, axis2=2)
        for side, basis in zip(sides, bases, strict=True)
    ]
    g = jnp.einsum("srk,nsrc->nskc", left, g) if left.size else g
    g = jnp.einsum("sck,nsrc->nsrk", right, g) if right.size else g
    return sides, (g**2).sum(0), layout.parameter(layout.matrices(rows[0, 0])) - rows[0, 0]


@pytest.mark.parametrize("name", [name for name in CASES if name != "fixed"])
def test_factors_of_gradients_have_the_moments_of_whole_gradients(name, found):
    case = CASES[name]
    layout, positions, sides, moments, (expected, expected_moments, back) = found[name]
    assert layout.matrices(np.zeros(case.shape)).shape == case.matrices
    assert positions == case.positions
    for one, other in zip(sides, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12 * np.abs(other).max())
    np.testing.assert_allclose(
        moments, expected_moments, rtol=1e-9, atol=1e-12 * expected_moments.max()
    )
    assert not np.any(back)

"""Factors of gradients against whole gradients, for every way in which a parameter enters a model."""

import dataclasses
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
from dtda_prob.curvature.gradients import Gradients, gradients
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
        bias: what is the last row of its matrices.
    """

    shape: tuple[int, ...]
    matrices: tuple[int, int, int]
    positions: int
    moves: bool | np.ndarray = True
    bias: str | None = None


CASES = {
    "embedding": Case((9, 6), (1, 9, 6), 2),
    "query": Case((6, 2, 3), (1, 7, 6), 2, bias="of query"),
    "of query": Case((2, 3), (1, 2, 3), 0),
    "value": Case((6, 2, 3), (1, 6, 6), 2),
    "output": Case((2, 3, 6), (1, 6, 6), 2),
    "of each head": Case((2, 3, 4), (2, 4, 4), 2, bias="of heads"),
    "of heads": Case((2, 4), (1, 2, 4), 0),
    "kernel": Case((2, 2, 3, 4), (1, 13, 4), 1, bias="of kernel"),
    "of kernel": Case((4,), (1, 4, 1), 0),
    "small kernel": Case((2, 2, 1, 3), (1, 5, 3), 0, bias="of small kernel"),
    "of small kernel": Case((3,), (1, 3, 1), 0),
    "layers": Case((3, 4, 4), (3, 5, 4), 1, bias="of layers"),
    "of layers": Case((3, 4), (1, 3, 4), 0),
    "shared by layers": Case((4, 4), (1, 5, 4), 3, bias="shared bias"),
    "tied": Case((7, 4), (1, 4, 7), 2),
    "transposed": Case((5, 4), (1, 4, 5), 1),
    "in part": Case((4, 4), (1, 4, 4), 0, np.arange(16).reshape(4, 4) % 3 > 0),
    "elementwise": Case((4, 4), (1, 4, 4), 0),
    "behind a custom derivative": Case((4, 4), (1, 4, 4), 0),
    "shared bias": Case((4,), (1, 4, 1), 0),
    "beside its result": Case((4, 4), (1, 4, 4), 1),
    "bias beside": Case((4,), (1, 4, 1), 0),
    "fixed": Case((4, 3), (1, 4, 3), 0, False),
}
BIASES = {case.bias for case in CASES.values()} - {None}
NAMES = [name for name in CASES if name not in {"fixed", *BIASES}]


def everything(images, tokens, y):
    """Use parameters in every way at once: attention, convolution, loops, tied and shared weights."""

    def own(name):
        scale = CASES[name].shape[0] ** -0.5
        return numpyro.param(name, lambda key: scale * jax.random.normal(key, CASES[name].shape))

    def convolve(x, name):
        h = jax.lax.conv_general_dilated(
            x, own(name), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return h + own(f"of {name}")

    def layer(h, given):
        w, b = given
        return jnp.tanh(jnp.tanh(h @ w + b) @ shared + shared_bias), None

    with numpyro.plate("data", len(y)) as i, numpyro.handlers.scale(scale=1.0 + y[i]):
        h = own("embedding")[tokens[i]]
        query, value = (jnp.einsum("btd,dhk->bthk", h, own(n)) for n in ("query", "value"))
        query = query + own("of query")
        weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", query, query))
        h = jnp.einsum("bhts,bshk,hkd->btd", weights, value, own("output"))
        h = jnp.einsum("bthk,hkd->bthd", h.reshape(-1, 2, 2, 3), own("of each head"))
        h = (h + own("of heads")).mean((1, 2))
        shared, shared_bias = own("shared by layers"), own("shared bias")
        h = h + convolve(jnp.tanh(convolve(images[i], "small kernel")), "kernel").mean((1, 2))
        h, _ = jax.lax.scan(jax.checkpoint(layer), h, (own("layers"), own("of layers")))
        result = h @ own("beside its result")
        h = jnp.tanh(result + own("bias beside")) + result
        h = jnp.tanh(h @ own("tied").T) @ own("tied")
        transposed = own("transposed")
        h = jax.vmap(lambda h: transposed @ h)(h)
        h = h[:, :4] @ own("in part") @ jnp.exp(own("elementwise"))
        h = h @ jax.nn.relu(own("behind a custom derivative"))
        numpyro.sample("y", dist.Categorical(logits=h @ own("fixed")), obs=y[i])


@pytest.fixture(scope="module")
def found():
    """The moments of sides and entries of each parameter, from factors and from rows, in any units."""
    rng, patch = np.random.default_rng(0), pytest.MonkeyPatch()
    with jax.enable_x64(True), patch.context() as context:
        context.setattr(factors, "LARGEST_SIDE", 8)
        context.setattr(quadratic, "BLOCK", 2000)
        images, tokens = rng.normal(size=(NUM_DATA, 4, 4, 1)), rng.integers(0, 9, (NUM_DATA, 2))
        program = dtda.Program(everything, images, tokens, rng.integers(0, 3, NUM_DATA))
        moving = moving_of({name: case.moves for name, case in CASES.items()})
        curvature.kronecker("gauss_newton").check(program, moving)
        names, layouts = sorted(name for name in CASES if name != "fixed"), {}

        @compiled
        def both(program, params, weights):
            h = quadratic.Quadratic(program, gauss_newton(), KEY, params, weights, moving)
            of = gradients(dataclasses.replace(h, scale=_scale(h)))
            for layout in of.layouts:
                used = sum(use.positions for use in of.uses if use.leaf == layout.own.leaf)
                layouts[names[layout.own.leaf]] = layout, used
            sides = of.sum(lambda parts: [part.sides() for part in parts])
            bases = [tuple(map(_basis, pair)) for pair in sides]
            moments = of.sum(lambda parts: [p.moments(*b) for p, b in zip(parts, bases, strict=True)])
            rows = jax.tree.leaves(of.h.rows(jnp.arange(NUM_DATA)))
            rows = [row.reshape(-1, *row.shape[2:]) for row in rows]
            pairs = zip(of.layouts, bases, strict=True)
            return sides, moments, [_expected(layout, rows, basis) for layout, basis in pairs]

        weights = jnp.ones(NUM_DATA).at[2].set(0.3).at[4].set(0.0)
        numbers = jax.tree.map(np.asarray, both(program, jax.jit(program.init)(KEY), weights))
        each = zip(layouts.items(), *numbers, strict=True)
        return names, {name: (*layout, *numbers) for (name, layout), *numbers in each}


def _scale(h):
    """Units: an outer product for parameters that are kept as factors, any others elsewhere."""
    of, scale, rng = gradients(h), {}, np.random.default_rng(1)
    exact = {use.leaf for use in of.uses if not use.looks_up}
    for layout in of.layouts:
        shape = jax.eval_shape(layout.matrices, jax.tree.leaves(h.point)).shape
        units = rng.uniform(0.5, 2.0, shape)
        outer = units[:, :, :1] * units[:, :1]
        scale |= layout.parameters(jnp.asarray(outer if layout.own.leaf in exact else units))
    return jax.tree.structure(h.point).unflatten([scale[k] for k in range(len(scale))])


def _basis(side):
    return jnp.linalg.eigh(side)[1] if side.ndim == 3 else jnp.ones((len(side), 0, 0))


def _expected(layout, rows, bases):
    """Sides and moments from whole gradients, and what laying them out and back adds to them."""
    g = jax.vmap(layout.matrices)(rows)
    sides = jnp.einsum("nsrc,nsqc->srq", g, g), jnp.einsum("nsrc,nsrd->scd", g, g)
    back = jax.vmap(layout.parameters)(g)
    left, right = bases
    sides = [
        side if basis.size else jnp.diagonal(side, axis1=1, axis2=2)
        for side, basis in zip(sides, bases, strict=True)
    ]
    g = jnp.einsum("srk,nsrc->nskc", left, g) if left.size else g
    g = jnp.einsum("sck,nsrc->nsrk", right, g) if right.size else g
    return sides, (g**2).sum(0), {leaf: value - rows[leaf] for leaf, value in back.items()}


@pytest.mark.parametrize("name", NAMES)
def test_factors_of_gradients_have_the_moments_of_whole_gradients(name, found):
    case, (names, each) = CASES[name], found
    layout, positions, sides, moments, (expected, expected_moments, back) = each[name]
    assert moments.shape == case.matrices
    assert positions == case.positions
    assert case.bias == (None if layout.bias is None else names[layout.bias.leaf])
    for one, other in zip(sides, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12 * np.abs(other).max())
    np.testing.assert_allclose(
        moments, expected_moments, rtol=1e-9, atol=1e-12 * expected_moments.max()
    )
    assert not any(np.any(rest) for rest in back.values())


def layered(x, y):
    """Two layers of one shape, and a stack of two more."""
    shapes = {"first": (3, 3), "second": (3, 3), "stack": (2, 3, 3), "wide": (3, 4), "out": (4, 2)}

    def start(shape):
        return lambda key: jax.random.normal(key, shape)

    own = {name: jnp.asarray(numpyro.param(name, start(shape))) for name, shape in shapes.items()}
    with numpyro.plate("data", len(x)) as i:
        h = jnp.tanh(jnp.tanh(x[i] @ own["first"]) @ own["second"])
        h, _ = jax.lax.scan(lambda h, layer: (jnp.tanh(h @ layer), None), h, own["stack"])
        logits = jnp.tanh(h @ own["wide"]) @ own["out"]
        numpyro.sample("y", dist.Categorical(logits=logits), obs=y[i])


def test_layers_of_one_shape_are_each_as_alone(x64, monkeypatch):
    rng = np.random.default_rng(0)
    program = dtda.Program(layered, rng.normal(size=(NUM_DATA, 3)), rng.integers(0, 2, NUM_DATA))
    moving = moving_of(jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), program.shapes))
    params, weights = program.init(KEY), program.full_weights()
    h = quadratic.Quadratic(program, gauss_newton(), KEY, params, weights, moving)
    vector = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

    def solve(vector):
        spectrum = curvature.kronecker("gauss_newton").decompose(h)
        return spectrum.apply(lambda values, largest: 1 / (values + 0.01 * largest), vector)

    together = jax.jit(solve)(vector)
    assert sorted(map(len, gradients(h).alike())) == [1, 1, 3]
    monkeypatch.setattr(Gradients, "alike", lambda self: [[k] for k in range(len(self.layouts))])
    alone = jax.jit(lambda vector: solve(vector))(vector)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), together, alone)

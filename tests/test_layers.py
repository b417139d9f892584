"""Layers with state and noise: running statistics are carried, and responses go through them."""

from contextlib import nullcontext
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases.networks import MOMENTUM, NETWORKS, X, Y

import dtda_prob as dtda
from dtda_prob import curvature, kernels

KEY, ONES = jax.random.key(0), jnp.ones(len(X))
DESCENT = kernels.sgd(optax.sgd(0.3, momentum=0.9), num_steps=5, batch_size=6)
close = np.testing.assert_allclose
networks = pytest.mark.parametrize("name", NETWORKS)


@cache
def program(name: str) -> dtda.Program:
    return dtda.Program(NETWORKS[name].model, X, y=Y, evaluation={"train": False})


@cache
def training(name: str) -> dtda.Training:
    return dtda.Training(program(name), DESCENT, dtda.measures.loss(X, y=Y))


@cache
def drawn(name: str):
    return jax.jit(training(name).draw)


def last(tree):
    return jax.tree.map(lambda leaf: leaf[-1], tree)


def moments(name, params):
    return jnp.stack(NETWORKS[name].moments(params))


@networks
def test_running_statistics_are_the_moments_of_the_batches(name):
    """One step on all data: the inputs of the norm are linear in the data, whatever the dropout."""
    own = program(name)
    step = kernels.sgd(optax.sgd(0.0), num_steps=1)
    start = jax.jit(own.init)(KEY)
    end = jax.jit(lambda: step.run(KEY, own, ONES, start).params)()
    weight, bias = inner(start["net$params"])
    inputs = X @ weight + bias
    expected = jnp.stack([inputs.mean(0), inputs.var(0)])
    rate = 1.0 if name == "equinox, moving" else 1 - MOMENTUM
    before, after = moments(name, start), moments(name, last(end))
    close(after, (1 - rate) * before + rate * expected, rtol=1e-4, atol=1e-6)


def inner(net):
    if hasattr(net, "inner"):
        return net.inner.weight.T, net.inner.bias
    layer = net["inner"] if "inner" in net else net["Dense_0"]
    return layer["kernel"], layer["bias"]


def test_the_response_goes_through_running_statistics():
    """Finite differences of what is measured and of the statistics themselves."""
    name = "nnx"  # statistics of all libraries are carried alike
    draw, step = drawn(name), 0.05 * jnp.asarray(np.random.default_rng(0).normal(size=len(X)), "f4")
    above, below, now = (draw(KEY, ONES + sign * step) for sign in (1, -1, 0))
    pushed = jax.jit(dtda.unroll(training(name), at="old").push)(KEY, ONES, ONES + step)
    change = (moments(name, above.params) - moments(name, below.params)) / 2
    assert jnp.abs(change).max() > 1e-3
    close(moments(name, pushed.params) - moments(name, now.params), change, rtol=0.02, atol=2e-5)
    logits = [each.outputs["y.logits"] for each in (pushed, now, above, below)]
    close(logits[0] - logits[1], (logits[2] - logits[3]) / 2, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("name", ["nnx", "linen", "equinox"])
def test_evaluation_takes_each_example_alone_at_running_statistics(name):
    own, outcome = program(name), drawn(name)(KEY, ONES)
    params = last(outcome.params)
    losses, pair, noisy = jax.jit(in_all_modes, static_argnums=0)(own, params)
    close(losses, outcome.value[0], rtol=1e-4)
    close(pair, losses[3] / 2, rtol=1e-4)
    assert len(set(noisy.tolist())) == 2


def in_all_modes(own, params):
    pair = own.evaluated.objective(params, jnp.zeros(len(X)).at[3].set(1.0), jnp.array([3, 5]))
    noisy = [own.objective(params, ONES, None, jax.random.key(k)) for k in (0, 1)]
    return own.losses(params), pair, jnp.stack(noisy)


def test_curvature_leaves_running_statistics_where_they_are():
    newtonian = curvature.dense("gauss_newton", damping=0.1, factorization="cholesky")
    push = dtda.influence(training("nnx"), newtonian, at="old", space="parameters").push
    moved = last(jax.jit(push)(KEY, ONES, ONES.at[0].set(0.0)).params)
    params = last(drawn("nnx")(KEY, ONES).params)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, moved["net$state"], params["net$state"]))
    assert not jnp.array_equal(
        moved["net$params"]["inner"]["kernel"], params["net$params"]["inner"]["kernel"]
    )


def test_trained_networks_are_passed_with_their_statistics():
    given = last(drawn("nnx")(KEY, ONES).params)
    task = dtda.Training(program("nnx"), kernels.pretrained(given), dtda.measures.loss(X, y=Y))
    close(jax.jit(task.draw)(KEY, ONES).value, drawn("nnx")(KEY, ONES).value, rtol=1e-5)


def test_what_does_not_carry_statistics_is_refused():
    with pytest.raises(ValueError, match=r"sgld does not carry the state of layers, \['net\$state'\]"):
        dtda.Training(program("nnx"), kernels.sgld(1e-4, num_steps=3))
    with pytest.raises(ValueError, match=r"no arguments \['trian'\]; it has \['train', 'x', 'y'\]"):
        dtda.Program(NETWORKS["nnx"].model, X, y=Y, evaluation={"trian": False})
    with pytest.warns(UserWarning, match="evaluation={'train': False}"):
        dtda.Program(NETWORKS["nnx"].model, X, y=Y)


# Adapters of low rank on a base that stays as it is.

UP = 0.1 * np.ones((1, 2), np.float32)
BASE = np.random.default_rng(6).normal(size=(3, 2)).astype(np.float32)


def adapted(x, base, y):
    down = numpyro.param("down", lambda key: jax.random.normal(key, (3, 1)))
    up = numpyro.param("up", jnp.asarray(UP))
    with numpyro.plate("data", len(x)) as i:
        logits = jnp.tanh(x[i]) @ (base + down @ up)
        numpyro.sample("y", dist.Categorical(logits=logits), obs=None if y is None else y[i])


def on_constant(x, base, y=None):
    adapted(x, base, y)


def on_parameters(x, y=None):
    adapted(x, numpyro.param("base", jnp.zeros((3, 2))), y)


def test_a_frozen_base_is_a_constant():
    """In the factors of the curvature too, and in their damping by what the optimizer does."""
    labels = {"down": "train", "up": "train", "base": "freeze"}
    adam = optax.adamw(0.05)
    masked = optax.multi_transform({"train": adam, "freeze": optax.set_to_zero()}, labels)
    constant, frozen = dtda.Program(on_constant, X, BASE, y=Y), dtda.Program(on_parameters, X, y=Y)
    measures = dtda.measures.loss(X[:3], BASE, y=Y[:3]), dtda.measures.loss(X[:3], y=Y[:3])
    found = [
        responses(constant, {"up": UP}, adam, measures[0]),
        responses(frozen, {"base": BASE}, masked, measures[1]),
    ]
    for one, other in zip(*found, strict=True):
        assert jnp.abs(one).max() > 1e-3
        close(one, other, rtol=2e-3, atol=1e-5)


def responses(program, start, optimizer, measure):
    """Return losses of queries and their responses, from the same keys of both phases."""
    descent = kernels.sgd(optimizer, num_steps=6, batch_size=6)
    task = dtda.Training(program, kernels.sequence(kernels.pretrained(start), descent), measure)
    pull = dtda.influence(task, curvature.kronecker()).pull
    return jax.jit(lambda: (task.draw(KEY, ONES).value, pull(KEY, ONES)))()


def in_digits(dtype):
    """A linear model whose products are computed in a precision."""

    def model(x, y=None):
        slopes = numpyro.param("slopes", jnp.zeros((x.shape[1], 2)))
        with numpyro.plate("data", len(x)) as i:
            logits = jnp.dot(x[i].astype(dtype), slopes.astype(dtype)).astype(slopes.dtype)
            numpyro.sample("y", dist.Categorical(logits=logits), obs=y[i])

    return model


@pytest.mark.parametrize("warns", [True, False])
@pytest.mark.parametrize("where", ["layers", "kernel"])
def test_unroll_warns_where_adam_divides_by_rounding(where, warns):
    rng, dtype = np.random.default_rng(0), jnp.bfloat16 if where == "layers" else jnp.float32
    x, y = rng.normal(size=(8, 3)).astype(np.float32), rng.integers(0, 2, 8)
    kernel = kernels.sgd(optax.adam(0.1) if warns else optax.sgd(0.1), num_steps=2)
    kernel = kernel if where == "layers" else kernels.in_precision(kernel)
    made = dtda.Training(dtda.Program(in_digits(dtype), x, y=y), kernel, dtda.measures.loss(x, y=y))
    assert made.program.structure.rounds == (where == "layers")
    told = pytest.warns(RuntimeWarning, match="dtype=jnp.float32") if warns else nullcontext()
    with told:
        dtda.unroll(made)

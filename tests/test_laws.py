"""Laws that hold for every kernel and every transform."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases.kernels import CASES
from cases.transforms import CASES as TRANSFORMS
from cases.transforms import SPACES
from tables import (
    SOME,
    direction,
    draw,
    network,
    ones,
    pull,
    push,
    queries,
    regression,
    regression_data,
    train,
    train_network,
)

import dtda_prob as dtda
from dtda_prob import checkpoints
from dtda_prob.checkpoints import scan_in_blocks

KEY = jax.random.key(0)
PARAMETERS = dtda.measures.parameters()
close = np.testing.assert_allclose

rows = pytest.mark.parametrize("kernel", [name for name, case in CASES.items() if case.rows])
LINEAR = {name: case.make for name, case in TRANSFORMS.items() if case.any_kernel}
linear = pytest.mark.parametrize("transform", LINEAR)
DIFFERENTIATED = ["sgd by epoch", "adam on all data", "exact"]
"""Kernels with a derivative of their own; it does not depend on how batches are chosen."""


@rows
def test_the_same_key_gives_the_same_outcome_and_another_key_another(kernel, x64):
    first, second, other = (draw(train(kernel), ones(), key) for key in (KEY, KEY, jax.random.key(1)))
    assert first.value.dtype == jnp.float64
    assert (first.value == second.value).all()
    assert not jnp.allclose(first.value, other.value)


@rows
def test_dropped_rows_are_rows_that_were_never_there(kernel, x64):
    """The rows that are left are visited in another order, so only full-batch kernels match."""
    weights = ones().at[jnp.array([2, 7])].set(0.0)
    kept = np.flatnonzero(weights)
    x, y = regression_data()
    alone = dtda.Program(dtda.zoo.linear_regression, x[kept], y=y[kept], noise=0.5, prior=2.0)
    dropped, small = train(kernel).drop(2), train(kernel, alone)
    if kernel in ("adam on all data", "exact"):
        close(draw(dropped, weights).value, draw(small, ones(10)).value, rtol=1e-8)
        return
    steps = [
        jax.eval_shape(t.draw, KEY, w).losses.shape for t, w in ((dropped, weights), (small, ones(10)))
    ]
    assert steps[0] == ((1, 5) if kernel == "sgd by independent batches" else steps[1])


@rows
def test_dropped_rows_have_no_influence(kernel, x64):
    weights = ones().at[jnp.array([2, 7])].set(0.0)
    x, y = regression_data()
    y[[2, 7]] = 100.0
    other = dtda.Program(dtda.zoo.linear_regression, x, y=y, noise=0.5, prior=2.0)
    values = [draw(train(kernel, program).drop(2), weights).value for program in (None, other)]
    close(*values, rtol=1e-8)


@rows
def test_weight_zero_has_no_influence(kernel, x64):
    weights = ones().at[3].set(0.0)
    x, y = regression_data()
    y[3] = 100.0
    other = dtda.Program(dtda.zoo.linear_regression, x, y=y, noise=0.5, prior=2.0)
    values = [draw(train(kernel, program), weights).value for program in (None, other)]
    close(*values, rtol=1e-8)


@pytest.mark.parametrize("kernel", DIFFERENTIATED)
def test_unrolled_response_is_the_finite_difference(kernel, x64):
    training, step = train(kernel), 1e-4 * direction()
    above, below = (draw(training, ones() + s * step).value for s in (1, -1))
    response = pull(dtda.unroll(training, at="old"), ones(), SOME)
    close(2 * response @ step, (above - below)[SOME], rtol=1e-5, atol=1e-12)


def check_push(training, push_forward, response, step=1e-5):
    """Pushing from w to w is drawing at w, and the response is the derivative of pushing."""
    weights = ones().at[1].set(0.5)
    pushed, drawn = push(push_forward, weights, weights), draw(training, weights)
    close(pushed.value, drawn.value, rtol=1e-10)
    jax.tree.map(lambda a, b: close(a, b, rtol=1e-10), pushed.params, drawn.params)
    along = step * direction()
    above, below = (push(push_forward, ones(), ones() + s * along).value for s in (1, -1))
    close(2 * response @ along, (above - below)[SOME], rtol=1e-4, atol=1e-11)


@cache
def small_network(precision) -> dtda.Training:
    """A network that visits all data at each step: how batches are chosen is tested on regression."""
    kernel = dtda.kernels.sgd(optax.sgd(0.05, momentum=0.9), num_steps=9)
    return dtda.Training(network(), kernel, train_network().measure)


@pytest.mark.parametrize("transform", [name for name, case in TRANSFORMS.items() if not case.alike])
def test_push_keeps_what_stays_and_pull_is_its_derivative(transform, x64):
    """What is pulled is some queries, in another order; other tests pull all."""
    case = TRANSFORMS[transform]
    training = small_network(jnp.result_type(float)) if case.curved else train("adam on all data")
    made = case.make(training, **({"at": "old"} if case.linear else {}))
    check_push(training, made, pull(made, ones(), SOME))


def test_the_laws_hold_in_every_space_and_spaces_differ_where_the_readout_is_not_linear(x64):
    training, far = small_network(jnp.result_type(float)), ones().at[jnp.arange(4)].set(0.0)
    made = [dtda.unroll(training, space=space, at="old") for space in SPACES]
    response = pull(made[0], ones(), SOME)
    for each in made:
        check_push(training, each, response, step=1e-6)
    values = [push(each, ones(), far).value for each in made]
    assert all(jnp.abs(values[i] - values[j]).max() > 1e-4 for i, j in ((0, 1), (0, 2), (1, 2)))


@linear
def test_pull_in_batches_of_some_queries_is_pull(transform, x64):
    """Three queries, two at a time."""
    make, training = LINEAR[transform], train("exact mode")
    whole, some = pull(make(training), ones()), pull(make(training, batch_size=2), ones(), SOME)
    close(some, whole[SOME], rtol=1e-10)


def test_retraining_pushes_to_the_draw_at_the_new_weights_and_pulls_the_effect_of_a_whole_step(x64):
    """No more than draws is known of a kernel here, so that one serves."""
    training, old, new = train("exact"), ones().at[5].set(0.0), ones().at[0].set(0.0)
    assert (push(dtda.retrain(training), ones(), new).value == draw(training, new).value).all()
    response = pull(dtda.retrain(training, batch_size=5), old, SOME)
    value = draw(training, old).value
    close(response[:, 2], (value - draw(training, old.at[2].set(0.0)).value)[SOME], atol=1e-10)
    close(response[:, 5], (draw(training, old.at[5].set(1.0)).value - value)[SOME], atol=1e-10)


def test_the_expansion_point_is_the_midpoint_or_the_one_that_is_given(x64):
    """All linear transforms take it alike; for one perturbation the centre is its midpoint."""
    training, new, half = train("exact mode"), ones().at[4].set(0.0), jnp.full(12, 0.5)
    made = dtda.unroll(training)
    expected = draw(training, ones()).value + pull(made, (ones() + new) / 2) @ (new - ones())
    for at in ("midpoint", "centre"):
        moved = push(dtda.unroll(training, at=at, space="measurement"), ones(), new).value
        close(moved, expected, rtol=1e-9)
    close(pull(dtda.unroll(training, at=half), ones()), pull(made, half), rtol=1e-10)


def test_where_rows_are_dropped_the_average_is_over_the_points_that_hold_the_example(x64):
    training = train("sgd by epoch").drop(4)
    points = jnp.ones((3, 12)).at[jnp.arange(3)[:, None], jnp.arange(12).reshape(3, 4)].set(0.0)
    averaged = dtda.unroll(training, at=points, space="measurement")
    each = jnp.stack([pull(dtda.unroll(training), point) for point in points])
    response = pull(averaged, ones())
    close(response, each.sum(0) / 2, rtol=1e-9)
    old, new = training.program.full_weights(), points[0]
    moved = push(averaged, old, new).value - draw(training, old).value
    close(moved, response @ (new - old), rtol=1e-8)


def test_the_centre_of_several_perturbations_is_their_mean():
    training = train("sgd by epoch")
    centred = dtda.unroll(training).matched(4, jnp.full(12, 2 / 3))
    assert centred.training.program.num_rows == 8
    close(centred.at, 2 / 3)
    assert dtda.unroll(training, at="old").matched(0, ones()).at == "old"


def test_batches_estimate_the_objective_whatever_the_weights(x64):
    """Where rows are dropped, a batch stands for the rows that it was chosen from."""
    program = regression().drop(4)
    params, objective = program.init(KEY), jax.jit(program.objective)
    for weights in (program.full_weights(), ones().at[jnp.arange(4)].set(0.0)):
        each = [objective(params, weights, i[None]) for i in np.flatnonzero(weights)]
        close(np.mean(each), objective(params, weights), rtol=1e-10)


def test_the_size_of_steps_counts_momentum_schedules_and_weight_decay():
    momentum = train(
        dtda.kernels.sgd(optax.sgd(0.1, momentum=0.9), num_steps=300), network(), PARAMETERS
    )
    close(momentum.total_step_size(), 0.1 * (10 * 300 - 90), rtol=1e-3)
    cosine = optax.cosine_decay_schedule(0.2, 100)
    scheduled = dtda.kernels.sequence(
        dtda.kernels.sgd(optax.sgd(cosine), num_steps=100),
        dtda.kernels.sgd(optax.sgd(0.1), num_steps=10),
    )
    close(train(scheduled, network(), PARAMETERS).total_step_size(), 0.1 * 101 + 1.0, rtol=1e-2)
    decay = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    settled = train(dtda.kernels.sgd(decay, num_steps=500), network(), PARAMETERS).total_step_size()
    close(settled, 1 / 0.5, rtol=1e-3)
    assert train("exact").total_step_size() == np.inf


def test_a_path_ends_where_training_ends_and_has_means(x64):
    training = train("phases")
    path = training.kernel.path(KEY, training.program, ones(), 3)
    outcome = draw(training, ones())
    close(path.ends["slopes"][-1], outcome.params["slopes"], rtol=1e-12)
    close(path.losses, outcome.losses, rtol=1e-12)
    assert path.means["slopes"].shape == (6, 3)
    sizes = training.kernel.segment_sizes(training.program, 3)
    close(sizes, [0.1, 0.1, 0.1, 0.01, 0.01, 0.01], rtol=1e-3)


@pytest.mark.parametrize("share", [checkpoints.SHARE, 0.0])
@pytest.mark.parametrize("length", [1, 13, 16])
def test_blocks_of_steps_have_the_gradient_of_the_plain_loop(length, share, x64, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", share)

    def body(state, count):
        state = jnp.sin(1.1 * state + count)
        return state, state

    blocks, plain = (
        jax.jit(jax.value_and_grad(lambda x, scan=scan: scan(x)[0] + scan(x)[1].sum()))(0.3)
        for scan in (
            lambda x: scan_in_blocks(body, x, length),
            lambda x: jax.lax.scan(body, x, jnp.arange(length)),
        )
    )
    close(blocks, plain, rtol=1e-12)


def test_reverse_mode_keeps_the_square_root_of_the_steps():
    """Stored states, read off the compiled program, grow tenfold less than the steps do."""

    def memory(num_steps: int) -> int:
        kernel = dtda.kernels.sgd(optax.sgd(0.01), num_steps=num_steps)
        training = train(kernel, network(), dtda.measures.loss(jnp.ones((2, 3)), y=jnp.zeros(2, int)))
        pull = jax.jit(dtda.unroll(training).pull)
        return pull.lower(KEY, ones()).compile().memory_analysis().temp_size_in_bytes

    assert memory(10_000) < 20 * memory(100)


def test_blocks_balance_states_with_what_steps_keep(monkeypatch):
    """A step that keeps 2,000 times its state is in a block of its own, not in one of ten."""

    def body(state, count):
        return state + jnp.sin(jnp.outer(state, jnp.arange(2000.0))).mean(1), state.sum()

    def memory() -> int:
        last = jax.jit(jax.grad(lambda state: scan_in_blocks(body, state, 100)[0].sum()))
        return last.lower(jnp.ones(10)).compile().memory_analysis().temp_size_in_bytes

    balanced = memory()
    monkeypatch.setattr(checkpoints, "plan", lambda *sizes: (10, False))
    assert memory() > 3 * balanced


def test_a_loop_computes_its_body_as_often_as_it_scans():
    loop = lambda x: jax.lax.scan(lambda x, _: (jnp.sin(x), None), x, None, 5)[0]  # noqa: E731
    _, computed = checkpoints.traced(loop, jnp.ones(8))
    assert computed == 5 * 8 * 4


def test_transforms_can_be_mapped_and_differentiated(x64):
    push_forward = dtda.influence(train("exact mode"))
    keys = jax.random.split(KEY, 3)
    mapped = jax.eval_shape(jax.vmap(push_forward.push, (0, None, None)), keys, ones(), ones())
    assert mapped.value.shape == (3, 1, 4)
    slope = jax.grad(lambda new: push(push_forward, ones(), new).value.sum())(ones())
    close(slope, pull(push_forward, ones()).sum(0), rtol=1e-8)


def test_labels_do_not_change_numbers():
    names = [f"row {i}" for i in range(12)]
    plain, named = (train("exact", regression(labels=labels)) for labels in (None, names))
    assert (plain.draw(KEY, ones()).value == named.draw(KEY, ones()).value).all()


def partly_frozen(x, y):
    frozen, free = numpyro.param("frozen", jnp.full(3, 0.5)), numpyro.param("free", jnp.zeros(3))
    with numpyro.plate("data", len(x)) as i:
        mean = x[i] @ (frozen + free) + x[i] ** 2 @ frozen * free[0]
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y[i])


FROZEN = {
    "dense": dtda.influence,
    "kronecker": lambda t: dtda.influence(t, dtda.curvature.kronecker("gauss_newton", damping=1e-9)),
    "newton": lambda t: dtda.newton(t, dtda.curvature.gram(damping=1e-9)),
    "segments": lambda t: dtda.segments(t, dtda.curvature.dense("gauss_newton")),
}


@pytest.mark.parametrize("transform", FROZEN)
def test_parameters_that_the_optimizer_never_moves_take_no_part(transform, x64):
    """At a query of the frozen part alone nothing responds; elsewhere the response is training's."""
    optimizer = optax.chain(optax.sgd(0.2), optax.transforms.freeze({"frozen": True, "free": False}))
    program = dtda.Program(partly_frozen, *regression_data())
    values = dtda.measures.function(lambda params: jnp.array([params["frozen"][0], params["free"][0]]))
    kernel = dtda.kernels.sgd(optimizer, num_steps=400)
    training = dtda.Training(program, kernel, values)
    response = pull(FROZEN[transform](training), ones())
    assert (response[0] == 0).all()
    close(response[1], pull(dtda.unroll(training), ones())[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("transform", [dtda.trajectory, dtda.cosine, dtda.covariance])
def test_gradients_and_walks_leave_frozen_parameters_alone(transform, x64):
    optimizer = optax.chain(optax.sgd(0.2), optax.transforms.freeze({"frozen": True, "free": False}))
    program = dtda.Program(partly_frozen, *regression_data())
    values = dtda.measures.function(lambda params: jnp.array([params["frozen"][0], params["free"][0]]))
    training = dtda.Training(program, dtda.kernels.sgd(optimizer, num_steps=3), values)
    options = {"step_size": 1e-3, "num_samples": 4} if transform is dtda.covariance else {}
    response = pull(transform(training, **options), ones())
    assert (response[0] == 0).all()
    assert (response[1] != 0).any()


def test_while_little_moves_a_trajectory_is_training(x64):
    training = train(dtda.kernels.sgd(optax.sgd(1e-5), num_steps=4), measure=PARAMETERS)
    made = dtda.trajectory(training, num_checkpoints=2), dtda.unroll(training)
    close(*(pull(each, ones()) for each in made), rtol=1e-3)


def test_where_nothing_moves_nothing_is_asked_for():
    kernel = dtda.kernels.sgd(optax.set_to_zero(), num_steps=2)
    with pytest.raises(ValueError, match="moves no parameter"):
        dtda.influence(train(kernel))


def test_costs_count_trainings():
    training = train("sgd by epoch")
    assert dtda.retrain(training).cost.push == 1
    assert dtda.unroll(training, at="old").cost.push == 2
    assert dtda.unroll(training).cost.push == 3
    assert dtda.influence(training).cost.push > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dtda.unroll(train("exact"), at="middle"), "at='middle'"),
        (lambda: dtda.unroll(train("exact"), space="logits"), "space='logits'"),
        (lambda: dtda.influence(train("exact"), space="logits"), "space='logits'"),
        (lambda: dtda.unroll(train("exact"), at=jnp.ones((2, 2, 12))), "several"),
        (lambda: dtda.segments(train("exact")), "ends at rest"),
        (lambda: dtda.trajectory(train("exact")), "ends at rest"),
        (
            lambda: dtda.segments(train("sgd by epoch"), dtda.curvature.neumann(damping=1.0)),
            "only be inverted",
        ),
        (lambda: dtda.newton(train("exact"), num_steps=0), "num_steps=0"),
        (lambda: dtda.covariance(train("exact"), step_size=0.0), "step_size"),
        (lambda: dtda.importance(train("sgd by epoch"), KEY), "posterior"),
        (lambda: dtda.importance(train("exact"), KEY, num_draws=20), "num_draws=20"),
        (lambda: dtda.kernels.exact(temperature=-1.0), "temperature=-1"),
        (lambda: dtda.kernels.sgd(optax.sgd(0.1)), "one of num_steps and num_epochs"),
        (lambda: dtda.kernels.sgd(optax.sgd(0.1), num_steps=0), "at least 1"),
        (lambda: dtda.kernels.sgd(optax.sgd(0.1), num_steps=1, num_epochs=1), "one of"),
        (lambda: dtda.kernels.sgd(optax.sgd(0.1), num_steps=1, replace=True), "batch_size"),
        (
            lambda: train(dtda.kernels.sgd(optax.sgd(0.1), num_steps=1, batch_size=13)),
            "batch_size=13",
        ),
        (lambda: dtda.Training(network(), dtda.kernels.exact(), queries()), "quadratic"),
        (lambda: regression().drop(12), "num_removed=12"),
    ],
)
def test_bad_settings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()

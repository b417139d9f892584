"""Every curvature against the whole matrix, on programs small enough to have one."""

import dataclasses
import itertools
import pickle
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases.curvatures import CASES, DAMPING, NUM_PARAMS
from jax.flatten_util import ravel_pytree
from tables import NUM_DATA, network, regression

import dtda_prob as dtda
from dtda_prob import curvature as curvatures
from dtda_prob.compiling import compiled
from dtda_prob.curvature import filters, quadratic
from dtda_prob.curvature.matrices import hessian, resolve
from dtda_prob.program.likelihood import likelihood

close = np.testing.assert_allclose
KEY = jax.random.key(1)
WEIGHTS = np.ones(NUM_DATA)
WEIGHTS[2] = 0.3
EXACT = {name: case.curvature for name, case in CASES.items() if case.exact}
ALL = {name: case.curvature for name, case in CASES.items()}
FUNCTIONS = [name for name, case in CASES.items() if case.functions]


def at(program: dtda.Program):
    params = program.init(jax.random.key(3))
    vector = optax.tree.random_like(jax.random.key(5), params, jax.random.normal)
    return params, vector


def inverse(curvature, program, params, weights, time, vector):
    found = curvature.at(program, KEY, params, weights)
    return found.apply(curvature.inverse(found, params, lambda: time), vector)


_inverse = compiled(inverse)


def solve(curvature, program, vector=None, weights=WEIGHTS, time=10.0, inverse=_inverse):
    params, default = at(program)
    curvature.check(program)
    vector = default if vector is None else vector
    return ravel_pytree(inverse(curvature, program, params, jnp.asarray(weights), time, vector))[0]


def rows(program, matrix="gauss_newton", weights=WEIGHTS):
    """B as a matrix, H = B'B."""
    params, _ = at(program)
    every = jnp.arange(program.num_data)

    def rows_at(params):
        h = quadratic.Quadratic(program, resolve(matrix), KEY, params, jnp.asarray(weights))
        return h.rows(every)

    found = jax.jit(rows_at)(params)
    merged = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
    return merged, np.asarray(quadratic.flat(merged))


@cache
def truth(damping=DAMPING, program=None):
    """The dense inverse, in double precision: for tests that run in it."""
    return solve(curvatures.dense("gauss_newton", damping=damping), program or network())


@pytest.mark.parametrize("name", ALL)
def test_the_inverse_is_symmetric_and_where_exact_that_of_the_dense_matrix(name, x64):
    params, vector = at(network())
    other = optax.tree.random_like(jax.random.key(6), params, jax.random.normal)
    one, two = solve(ALL[name], network()), solve(ALL[name], network(), other)
    close(ravel_pytree(other)[0] @ one, two @ ravel_pytree(vector)[0], rtol=1e-9)
    if name in EXACT:
        close(one, truth(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.iterates])
def test_solves_by_iterations_have_a_transpose(name):
    """As `pull` takes them; others are linear in a vector as they stand."""
    curvature, program = ALL[name], regression()
    params, vector = at(program)
    curvature.check(program)

    def pulled(params, vector):
        found = curvature.at(program, KEY, params, jnp.asarray(WEIGHTS, jnp.float32))
        function = curvature.inverse(found, params, lambda: 10.0)
        return jax.vjp(lambda v: found.apply(function, v), vector)[1](vector)[0]

    assert jax.tree.map(jnp.shape, jax.eval_shape(pulled, params, vector)) == {"slopes": (3,)}


@pytest.mark.parametrize("name", [name for name in EXACT if not CASES[name].alike])
def test_in_units_by_parameter_it_is_damped_by_their_squares(name, x64):
    """(H + S^-2)^-1 where gradients are scaled, and exp(-H S^2) where displacements are."""
    program, curvature = network(), dataclasses.replace(EXACT[name], damping=1.0)
    params, vector = at(program)
    curvature.check(program)
    scale = jax.tree.map(jnp.exp, optax.tree.random_like(jax.random.key(8), params, jax.random.normal))
    scale["bias0"] = scale["bias0"].at[0].set(0.0)
    _, b = rows(program)
    s, v = np.asarray(ravel_pytree(scale)[0]), np.asarray(ravel_pytree(vector)[0])
    whole = s[:, None] * (b.T @ b) * s

    @jax.jit
    def both(params, scale, vector):
        found = curvature.at(program, KEY, params, jnp.asarray(WEIGHTS), scale=scale)
        carried = [] if curvature.inverse_only else [found.carry(filters.Decay(1.0), vector)]
        return [ravel_pytree(each)[0] for each in (found.apply(filters.Damped(1.0), vector), *carried)]

    solved, *carried = both(params, scale, vector)
    close(solved, s * np.linalg.solve(whole + np.eye(NUM_PARAMS), s * v), rtol=1e-7, atol=1e-7)
    values, vectors = np.linalg.eigh(whole)
    unscaled = np.divide(v, s, where=s > 0, out=np.zeros_like(v))
    moves = s * (vectors @ (np.exp(-values) * (vectors.T @ unscaled)))
    for each in carried:
        close(each, moves, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_damping_it_is_the_pseudo_inverse(name, x64):
    expected = truth(0.0)
    assert np.linalg.norm(solve(CASES[name].undamped, network()) - expected) < 1e-4 * np.linalg.norm(
        expected
    )


def test_the_dense_gauss_newton_matrix_is_made_of_jacobians_and_loss_hessians(x64):
    program = network()
    params, vector = at(program)
    found = likelihood(program)

    def parts(params, i):
        jacobian = quadratic.flat(jax.jacobian(found.outputs)(params, i))
        return jacobian, jax.hessian(found.loss)(found.outputs(params, i), i)

    every = jnp.arange(NUM_DATA)
    outer, inner = map(np.asarray, jax.jit(jax.vmap(parts, (None, 0)))(params, every))
    total = np.einsum("n,nip,nij,njq->pq", WEIGHTS, outer, inner, outer) / NUM_DATA
    expected = np.linalg.solve(total + DAMPING * np.eye(NUM_PARAMS), ravel_pytree(vector)[0])
    close(truth(), expected, rtol=1e-8)


def test_the_hessian_is_that_of_the_objective(x64):
    program = network()
    params, vector = at(program)
    theta, unravel = ravel_pytree(params)
    hessian_at = jax.hessian(lambda theta: program.objective(unravel(theta), jnp.asarray(WEIGHTS)))
    whole = jax.jit(hessian_at)(theta)
    expected = np.linalg.solve(whole + np.eye(NUM_PARAMS), ravel_pytree(vector)[0])
    close(solve(curvatures.dense(damping=1.0), program), expected, rtol=1e-8)
    by_products = curvatures.conjugate_gradient(damping=1.0, tolerance=1e-12)
    close(solve(by_products, program), expected, rtol=1e-8, atol=1e-9)


def test_for_canonical_likelihoods_the_fisher_matrix_tends_to_gauss_newton(x64):
    found = solve(curvatures.dense(curvatures.fisher(1000), damping=DAMPING), network())
    assert np.linalg.norm(found - truth()) < 0.03 * np.linalg.norm(truth())


def test_the_empirical_fisher_matrix_is_the_second_moment_of_gradients(x64):
    program = network()
    params, vector = at(program)
    gradients = np.asarray(quadratic.flat(jax.jit(program.gradients)(params)))
    whole = gradients.T @ (WEIGHTS[:, None] * gradients) / NUM_DATA + DAMPING * np.eye(NUM_PARAMS)
    expected = np.linalg.solve(whole, ravel_pytree(vector)[0])
    close(solve(curvatures.gram("empirical_fisher", damping=DAMPING), program), expected, rtol=1e-8)


def test_diagonal_and_blocks_are_those_of_the_whole_matrix(x64):
    program = network()
    params, vector = at(program)
    _, b = rows(program)
    whole, v = b.T @ b + DAMPING * np.eye(NUM_PARAMS), np.asarray(ravel_pytree(vector)[0])
    close(solve(ALL["diagonal"], program), v / np.diag(whole), rtol=1e-9)
    bounds = np.cumsum([0] + [leaf.size for leaf in jax.tree.leaves(params)])
    expected = np.concatenate(
        [np.linalg.solve(whole[i:j, i:j], v[i:j]) for i, j in itertools.pairwise(bounds)]
    )
    close(solve(ALL["block_diagonal"], program), expected, rtol=1e-8)


SPREAD = {"kernel": np.exp(np.sin(np.arange(12.0))).reshape(4, 3), "bias": np.array([0.5, 1.0, 2.0])}


def layer(x, y):
    """A layer with a bias, and with a prior that differs by parameter."""
    kernel, bias = (
        numpyro.sample(name, dist.Normal(0.0, spread).to_event(spread.ndim))
        for name, spread in SPREAD.items()
    )
    with numpyro.plate("data", len(x)) as i:
        logits = jax.vmap(lambda row: row @ kernel + bias)(x[i])
        numpyro.sample("y", dist.Categorical(logits=logits), obs=y[i])


def test_kronecker_is_the_exact_diagonal_in_the_basis_of_both_sides_with_the_bias_as_a_row(x64):
    rng = np.random.default_rng(0)
    program = dtda.Program(layer, rng.normal(size=(NUM_DATA, 4)), rng.integers(0, 3, NUM_DATA))
    _, vector = at(program)

    def joint(tree):
        return np.concatenate([tree["kernel"], np.asarray(tree["bias"])[..., None, :]], -2)

    found = joint(ravel_pytree(vector)[1](solve(ALL["kronecker"], program)))
    g, v = joint(rows(program)[0]), joint(vector)
    left = np.linalg.eigh(np.einsum("nij,nkj->ik", g, g))[1]
    right = np.linalg.eigh(np.einsum("nij,nik->jk", g, g))[1]
    values = (np.einsum("ia,nij,jb->nab", left, g, right) ** 2).sum(0)
    values += (left**2).T @ joint(SPREAD) ** -2 @ right**2 / NUM_DATA
    expected = left @ ((left.T @ v @ right) / (values + DAMPING)) @ right.T
    close(found, expected, rtol=1e-8)


def test_kronecker_is_exact_for_one_linear_layer_with_a_kronecker_curvature(x64):
    """Gaussian observations of a linear map: H = (x'x / n) (x) I, in any shape of the parameter."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 3))

    def linear(x, y):
        kernel = numpyro.param("kernel", lambda key: jax.random.normal(key, (2, 2, 3)))
        with numpyro.plate("data", len(x)) as i:
            mean = jnp.einsum("nab,abc->nc", x[i].reshape(-1, 2, 2), kernel)
            numpyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y[i])

    program, weights = dtda.Program(linear, x, y), np.ones(20)
    for corrected in (True, False):
        curvature = curvatures.kronecker("gauss_newton", damping=0.0, corrected=corrected)
        exact = solve(curvatures.dense("gauss_newton"), program, weights=weights)
        close(solve(curvature, program, weights=weights), exact, rtol=1e-8)


FILTERS = (filters.Flow(3.0), filters.Decay(3.0), filters.Damped(0.2))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_eigenvalues_are_those_of_the_dense_matrix(name, x64):
    program = network()
    close(applied(EXACT[name], program), dense_functions(), rtol=1e-7, atol=1e-7)


@cache
def dense_functions():
    return applied(curvatures.dense("gauss_newton"), network())


def applied(curvature, program):
    """All functions, of one compiled decomposition."""
    params, vector = at(program)
    curvature.check(program)

    @jax.jit
    def apply(params, vector):
        found = curvature.at(program, KEY, params, jnp.asarray(WEIGHTS))
        return [ravel_pytree(found.apply(function, vector))[0] for function in FILTERS]

    return np.stack(apply(params, vector))


def test_filters_are_the_functions_they_are_named_for(x64):
    values = jnp.array([1e-9, 0.1, 2.0])
    close(filters.Flow(3.0)(values, 2.0), (1 - np.exp(-3.0 * values)) / values, rtol=1e-6)
    close(filters.Decay(3.0)(values, 2.0), np.exp(-3.0 * values))
    close(filters.Damped(0.5)(values, 2.0), 1 / (values + 0.5))
    close(filters.PseudoInverse(1e-3)(values, 2.0), [0.0, 10.0, 0.5])
    close(filters.Flow(3.0)(jnp.zeros(()), 2.0), 3.0)


def test_damping_may_be_relative_to_the_mean_eigenvalue_or_one_over_the_time_of_training(x64):
    program = network()
    _, b = rows(program)
    mean = (b**2).sum() / NUM_PARAMS
    by_number = truth(2 * mean)
    close(solve(curvatures.gram(damping=curvatures.relative(2.0)), program), by_number, rtol=1e-8)
    close(solve(curvatures.gram(damping="auto"), program, time=4.0), truth(0.25), rtol=1e-8)
    products = EXACT["conjugate gradients"]
    estimated = jax.jit(lambda params: products.at(program, KEY, params, jnp.asarray(WEIGHTS)).mean)(
        at(program)[0]
    )
    close(estimated, mean, rtol=0.3)


@pytest.mark.parametrize("method", ["gram", "kronecker"])
def test_nothing_depends_on_blocks_or_on_the_order_of_data(method, x64, monkeypatch):
    curvature = ALL[method]
    whole = solve(curvature, network())
    monkeypatch.setattr(quadratic, "BLOCK", 300)
    monkeypatch.setattr(quadratic, "BATCH_SIZE", 5)
    anew = compiled(lambda *args: inverse(*args))
    close(solve(curvature, network(), inverse=anew), whole, rtol=1e-8, atol=1e-10)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(NUM_DATA, 3)), rng.integers(0, 3, NUM_DATA)
    order = np.random.default_rng(7).permutation(NUM_DATA)
    shuffled = dtda.Program(dtda.zoo.classifier([4], 3), x[order], y=y[order])
    found = solve(curvature, shuffled, weights=WEIGHTS[order], inverse=anew)
    close(found, whole, rtol=1e-7, atol=1e-9)


def test_a_prior_adds_its_own_hessian(x64):
    program = regression()
    expected = truth(0.0, program)
    whole, v = rows(program)[1], ravel_pytree(at(program)[1])[0]
    close(expected, np.linalg.solve(whole.T @ whole + np.eye(3) / (4 * NUM_DATA), v), rtol=1e-8)
    for curvature in (
        curvatures.gram(damping=0.0),
        curvatures.nystroem(rank=3, damping=0.0),
        curvatures.projection(dimension=3, damping=0.0),
        curvatures.block_diagonal(damping=0.0),
        curvatures.kronecker("gauss_newton", damping=0.0),
        curvatures.conjugate_gradient(damping=1e-14, tolerance=1e-13),
    ):
        close(solve(curvature, program), expected, rtol=1e-8)


def test_with_fewer_data_than_parameters_a_prior_fills_the_null_space(x64):
    program, weights = regression(2), np.ones(2)
    exact = solve(curvatures.dense("gauss_newton"), program, weights=weights)
    close(solve(curvatures.gram(damping=0.0), program, weights=weights), exact, rtol=1e-8)


def scaled(x, y):
    """A learned scale: the loss is not convex in mean and log scale together."""
    slope = numpyro.param("slope", jnp.zeros(()))
    spread = numpyro.param("spread", jnp.ones(()), constraint=dist.constraints.positive)
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(slope * x[i], spread), obs=y[i])


def test_a_learned_scale_has_a_fisher_matrix(x64):
    program = dtda.Program(scaled, jnp.arange(4.0), jnp.array([0.0, 5.0, -5.0, 1.0]))
    with pytest.raises(ValueError, match="convex"):
        curvatures.gram().check(program)
    params, _ = at(program)
    all_ones = jax.tree.map(jnp.ones_like, params)
    found = solve(curvatures.dense(curvatures.fisher(2000)), program, all_ones, np.ones(4))
    inverse = ravel_pytree(params)[1](found)
    close(inverse["slope"], 1 / 3.5, rtol=0.1)  # mean of x^2 over variance 1
    close(inverse["spread"], 1 / 2, rtol=0.1)  # of the log scale, 2 an example


def hierarchical(x, y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, scale))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(slope * x[i], 1.0), obs=y[i])


IMPORTANCE = np.array([0.5, 2.0, 3.0])


def by_class(x, y, importance):
    """Classes of unequal importance, by a scale of each example."""
    slopes = numpyro.sample("slopes", dist.Normal().expand([2, 3]).to_event(2))
    with (
        numpyro.plate("data", len(x)) as i,
        numpyro.handlers.scale(scale=importance[y[i]]),
    ):
        numpyro.sample("y", dist.Categorical(logits=x[i] @ slopes), obs=y[i])


OF_EXAMPLES = {
    "fisher": curvatures.dense(curvatures.fisher(3)),
    "kronecker": curvatures.kronecker("gauss_newton"),
}


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_weights_of_classes_are_weights_of_examples(x64, name):
    """In every curvature a scale inside the model multiplies what belongs to an example, once."""
    x, y = np.random.default_rng(5).normal(size=(8, 2)), np.arange(8) % 3
    weighted, plain = (dtda.Program(by_class, x, y, each) for each in (IMPORTANCE, np.ones(3)))
    found = solve(OF_EXAMPLES[name], weighted, weights=np.ones(8))
    close(found, solve(OF_EXAMPLES[name], plain, weights=IMPORTANCE[y]), rtol=1e-6)


def wide(x, y):
    """A parameter more than a whole matrix may have."""
    means = numpyro.param("means", lambda key: jnp.zeros(2**16 + 1))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(means[0] * x[i], 1.0), obs=y[i])


def bind(curvature, model=None):
    program = network() if model is None else dtda.Program(model, jnp.arange(4.0), jnp.ones(4))
    curvature.check(program)
    return True


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: curvatures.dense("gauss"), ValueError, "matrix='gauss'"),
        (lambda: curvatures.gram("hessian"), ValueError, "sum of squares over examples"),
        (lambda: curvatures.kronecker(hessian()), ValueError, "sum of squares over examples"),
        (lambda: curvatures.dense(factorization="qr"), ValueError, "factorization='qr'"),
        (lambda: curvatures.dense(factorization="cholesky"), ValueError, "damping=0"),
        (lambda: curvatures.conjugate_gradient(damping=0.0), ValueError, "damping=0"),
        (lambda: curvatures.neumann(damping=0.0), ValueError, "damping=0"),
        (lambda: curvatures.identity(damping=0.0), ValueError, "damping=0"),
        (lambda: curvatures.gram(damping=-1.0), ValueError, "damping=-1"),
        (lambda: curvatures.diagonal(damping="some"), ValueError, "damping=some"),
        (lambda: curvatures.relative(0.0), ValueError, "factor=0"),
        (lambda: curvatures.fisher(0), ValueError, "num_labels=0"),
        (lambda: bind(curvatures.nystroem(rank=32)), ValueError, "rank=32 .* rank-deficient"),
        (lambda: bind(curvatures.projection(dimension=99)), ValueError, "dimension=99"),
        (lambda: bind(curvatures.lanczos(rank=32)), ValueError, "rank=32"),
        (lambda: bind(curvatures.dense(), wide), ValueError, r"65537 parameters, 17 GB; .*chebyshev"),
        (lambda: bind(curvatures.gram(), hierarchical), ValueError, "multiple of the identity"),
        (lambda: bind(curvatures.kronecker(), hierarchical), ValueError, "diagonal"),
        (
            lambda: curvatures.identity(damping="auto").check_time(lambda: np.inf),
            ValueError,
            "runs to convergence",
        ),
    ],
)
def test_what_cannot_be_inverted_is_refused_with_a_reason(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_likelihood_of_a_factor_has_no_matrix_of_its_outputs():
    """Its only output would be the loss, whose Hessian is 0."""
    for matrix in ("gauss_newton", "fisher"):
        with pytest.raises(ValueError, match=r"sites \['y'\] are numpyro.factor.*matrix='hessian'"):
            bind(curvatures.gram(matrix), by_factor)
    assert bind(curvatures.dense(), by_factor)
    assert bind(curvatures.gram("empirical_fisher"), by_factor)


def by_factor(x, y):
    slope = numpyro.param("slope", jnp.zeros(()))
    with numpyro.plate("data", len(x)) as i:
        numpyro.factor("y", -((y[i] - slope * x[i]) ** 2))


@pytest.mark.parametrize("name", ALL)
def test_curvatures_are_plain_data_that_print_as_their_code(name):
    curvature = ALL[name]
    assert eval(repr(curvature), vars(curvatures)) == curvature
    assert hash(curvature) == hash(pickle.loads(pickle.dumps(curvature)))
    assert dataclasses.replace(curvature, damping=0.3) != curvature
    assert dataclasses.replace(curvature, damping=0.3).damping == 0.3


def test_one_compilation_serves_every_damping_but_none(x64):
    program, traced = network(), []

    @compiled
    def counted(curvature, *args):
        traced.append(curvature)
        return inverse(curvature, *args)

    first, second, auto = (
        solve(curvatures.gram(damping=damping), program, inverse=counted)
        for damping in (0.2, DAMPING, "auto")
    )
    assert len(traced) == 2
    assert not np.allclose(first, second)
    close(second, truth(), rtol=1e-8)
    close(auto, second, rtol=1e-10)


def test_products_are_traced_once_however_many_a_solver_takes(x64, monkeypatch):
    program, traced = network(), []
    objective = type(program).objective
    counted = lambda *args: traced.append(1) or objective(*args)  # noqa: E731
    monkeypatch.setattr(type(program), "objective", counted)
    params, vector = at(program)
    curvature = curvatures.conjugate_gradient(damping=1.0)

    def solves(vector, num_solves):
        found = curvature.at(program, KEY, params, jnp.asarray(WEIGHTS))
        function = curvature.inverse(found, params, lambda: 10.0)
        for _ in range(num_solves):
            vector = found.apply(function, vector)
        return vector

    jax.eval_shape(partial(solves, num_solves=4), vector)
    assert len(traced) == 1


def test_any_prior_is_taken_in_by_the_whole_matrix():
    assert bind(curvatures.dense("gauss_newton", damping=1.0), hierarchical)


def test_the_prior_can_be_applied_again_after_a_scan_over_columns():
    """What a matrix keeps must not belong to the trace of the loop that first asked for it."""
    program = regression()
    curvatures.dense("gauss_newton").check(program)
    weights = program.full_weights()

    @jax.jit
    def twice(params):
        h = quadratic.Quadratic(program, resolve("gauss_newton"), KEY, params, weights)
        whole = quadratic.columns(h.prior_product, params, at_once=1)
        return whole, h.prior_product(jax.tree.map(jnp.ones_like, params))

    whole, summed = twice(program.init(KEY))
    np.testing.assert_allclose(whole.sum(1), ravel_pytree(summed)[0], rtol=1e-6)

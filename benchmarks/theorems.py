"""Check the two theorems of Mlodozeniec et al. (arXiv 2506.12965) where both sides can be computed.

Run with `uv run python benchmarks/theorems.py` (twenty minutes on two cores), or with the names of
some of its parts. It prints its tables and writes them to `docs/benchmarks/theorems.md`. Everything is
in double precision.

**Unrolled responses tend to influence by the pseudo-inverse, as SGD with decaying steps converges.**
Checked for generalised linear models, whose features do not span the space of slopes, and for a
network with one hidden layer, by length of training. Runs that are short for their step size do
not agree; nor does the network without a prior within the longest run here.

**In the low-temperature limit of temperature times KL(pushed || new), a displacement that equals
influence on the minima leaves no more than one that does not equal it there.** Checked on one model
with a ring of minima. The limit depends on values on the ring alone. For displacements that go
elsewhere across the ring it is of second order in the change of weight, for influence of fourth order.
It is of fourth order too for displacements that differ from influence along the ring alone, and one of
these, the step towards the origin, leaves 7 % less than influence: read to the letter, for every
displacement that does not equal influence, the statement does not hold here. At any temperature some
displacement is better than influence, which leaves a divergence that does not fall with the
temperature, but becomes negligible relative to the divergence without a displacement. The benchmark
checks no more than this: neither the theorem's conditions nor other models.
"""

import sys
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import scipy.optimize
from page import write_some

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.transforms import PushForward

SEED = 0
KEYS = 8
NUM_DATA, NUM_FEATURES, RANK = 40, 12, 6
WIDTH, PRIOR, QUERIES, DRAWS, BATCH = 8, 0.5, 8, 2, 128
TEMPERATURES = (1.0, 0.1, 0.01, 0.001, 0.0001)


def flat_regression(x, y, family: Callable) -> None:
    """Run a regression without a prior, so that slopes that no example sees keep their start."""
    slopes = numpyro.param("slopes", lambda key: jax.random.normal(key, (x.shape[1],)))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", family(x[i] @ slopes), obs=y[i])


FAMILIES = {
    "linear": lambda means: dist.Normal(means, 1.0),
    "logistic": lambda logits: dist.Bernoulli(logits=logits),
}


def regression(family: str) -> dtda.Program:
    """Make 40 data of 12 features that span 6 dimensions."""
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(NUM_DATA, RANK)) @ rng.normal(size=(RANK, NUM_FEATURES)) / RANK**0.5
    y = x[:, 0] + rng.normal(size=NUM_DATA)
    y = (y > 0).astype(float) if family == "logistic" else y
    return dtda.Program(
        partial(flat_regression, family=FAMILIES[family]), jnp.asarray(x), jnp.asarray(y)
    )


def decaying(rate: float, num_steps: int) -> optax.GradientTransformation:
    """Decay as t^-0.75: steps add up to infinity, and their squares do not."""
    return optax.sgd(lambda count: rate / (1 + count / 50) ** 0.75)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def generalised_linear_models() -> pd.DataFrame:
    """Compute the relative distance of the unrolled response from pseudo-inverse influence.

    Linear and logistic regression of 40 data on 12 features of rank 6, without a prior, from random
    starts; steps decay as t^-0.75 from 0.2; the response is the derivative of all 12 slopes with
    respect to all 40 weights. "at the outcome": influence where each run ends, mean over 8 runs with
    its standard error; "of the mean": the mean response of the runs against influence at the
    minimum, which `kernels.lbfgs` finds. "damped": distance of influence with damping 0.1 from the
    pseudo-inverse.
    """
    rows = []
    for family in FAMILIES:
        for batch in (None, 8):
            for num_steps in (1000, 10_000, 100_000):
                rows.append({"family": family, "batch": batch or "all", "steps": num_steps})
                rows[-1] |= glm_row(regression(family), batch, num_steps)
                print(rows[-1], flush=True)
    return pd.DataFrame(rows).set_index(["family", "batch", "steps"])


def glm_row(program: dtda.Program, batch: int | None, num_steps: int) -> dict[str, float]:
    slopes = dtda.measures.parameters()
    kernel = dtda.kernels.sgd(partial(decaying, 0.2), num_steps=num_steps, batch_size=batch)
    training = dtda.Training(program, kernel, slopes)
    rest = dtda.Training(program, dtda.kernels.lbfgs(), slopes)
    keys, weights = jax.random.split(jax.random.key(SEED), KEYS), jnp.ones(NUM_DATA)
    made = {
        "unrolled": dtda.unroll(training),
        "influence": dtda.influence(training),
        "damped": dtda.influence(training, curvature.dense(damping=0.1)),
    }
    found = pulls(made, keys, weights)
    unrolled, influence, damped = (found[name] for name in ("unrolled", "influence", "damped"))
    minimum = pulls({"": dtda.influence(rest)}, keys[:1], weights)[""][0]
    apart = [distance(a, b) for a, b in zip(unrolled, influence, strict=True)]
    return {
        "at the outcome": float(np.mean(apart)),
        "error": float(np.std(apart, ddof=1) / KEYS**0.5),
        "of the mean": distance(unrolled.mean(0), minimum),
        "damped": distance(damped[0], influence[0]),
    }


def pulls(made: dict[str, PushForward], keys, weights) -> dict[str, np.ndarray]:
    """Pull by several transforms in one program, which trains once for all of them."""

    def each(key):
        return {name: transform.pull(key, weights)[0] for name, transform in made.items()}

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(each))(keys))


def network(x, y=None) -> None:
    """Run a network with one hidden layer and a prior, so that curvature is positive everywhere."""

    def drawn(name: str, *shape: int):
        return numpyro.sample(name, dist.Normal(0.0, PRIOR).expand(shape).to_event(len(shape)))

    inner, bias, outer = drawn("inner", WIDTH, x.shape[1]), drawn("bias", WIDTH), drawn("outer", WIDTH)
    shift = drawn("shift", 1)
    with numpyro.plate("data", len(x)) as i:
        means = jnp.tanh(x[i] @ inner.T + bias) @ outer + shift
        numpyro.sample("y", dist.Normal(means, 1.0), obs=None if y is None else y[i])


def concrete() -> pd.DataFrame:
    """Correlate unrolled responses with influence for a network on UCI Concrete, by length of training.

    896 data, 8 hidden tanh units (81 parameters), Normal(0, 0.5) priors on all of them as weight
    decay of 4 / 896, SGD with momentum 0.9 and a cosine schedule from the step size to 0, on all
    data or batches of 128. Pearson correlations over training examples are averaged over 8 test
    predictions and 2 runs. "exact": pseudo-inverse of the Hessian; "auto": damped by one over the
    total step size; "GN auto": the same with the Gauss-Newton matrix. "ratio": norm of exact
    influence over the norm of the unrolled response. "null": share of the prediction's gradient
    where the Hessian's eigenvalues are at most 1e-3 of the largest. "negative": share of eigenvalues
    below 0. "gradient": norm of the gradient at the end.
    """
    rows = []
    for batch, rate in ((BATCH, 0.05), (BATCH, 0.1), (BATCH, 0.2), (None, 0.2)):
        for num_steps in (4000, 16_000, 64_000):
            rows.append({"batch": batch or "all", "step size": rate, "steps": num_steps})
            rows[-1] |= concrete_row(network, batch, rate, num_steps)
            print(rows[-1], flush=True)
    return pd.DataFrame(rows).set_index(["batch", "step size", "steps"])


def concrete_without_a_prior() -> pd.DataFrame:
    """Omit the prior, on all data at step size 0.2: the same network, else as above.

    The Hessian still has a negative eigenvalue at the end of the longest run, so training has not
    reached a minimum, and the correlation stays below 0.9.
    """
    rows = []
    for num_steps in (4000, 16_000, 64_000):
        plain = dtda.zoo.regressor([WIDTH], activation=jnp.tanh)
        rows.append({"batch": "all", "steps": num_steps} | concrete_row(plain, None, 0.2, num_steps))
        print(rows[-1], flush=True)
    return pd.DataFrame(rows).set_index(["batch", "steps"])


def concrete_row(model: Callable, batch: int | None, rate: float, num_steps: int) -> dict[str, float]:
    data = dtda.zoo.concrete(SEED)
    program = dtda.Program(model, jnp.asarray(data.x_train, float), y=jnp.asarray(data.y_train, float))
    kernel = dtda.kernels.sgd(
        lambda steps: optax.sgd(optax.cosine_decay_schedule(rate, steps), momentum=0.9),
        num_steps=num_steps,
        batch_size=batch,
    )
    queries = dtda.measures.prediction(jnp.asarray(data.x_test[:QUERIES], float))
    training = dtda.Training(program, kernel, queries)
    key, weights = jax.random.key(SEED), program.full_weights()
    keys = jax.random.split(key, DRAWS)
    curvatures = {
        "exact": curvature.dense(),
        "auto": curvature.dense(damping="auto"),
        "GN auto": curvature.dense("gauss_newton", damping="auto"),
    }
    made = {name: dtda.influence(training, each) for name, each in curvatures.items()}
    found = pulls(made | {"unrolled": dtda.unroll(training)}, keys, weights)
    unrolled = found.pop("unrolled")
    ended = jax.jit(jax.vmap(lambda key: at_the_end(training, key)))(keys)
    flat = dtda.diagnostics.null_space(training, curvature.dense(), key, num_draws=DRAWS, rtol=1e-3)
    return {
        **{name: correlation(unrolled, each) for name, each in found.items()},
        "ratio": float(np.linalg.norm(found["exact"]) / np.linalg.norm(unrolled)),
        "null": float(flat["share"].mean()),
        "negative": float(ended[1].mean()),
        "gradient": float(ended[0].mean()),
    }


def at_the_end(training: dtda.Training, key) -> tuple[jax.Array, jax.Array]:
    """Return the norm of the gradient, and the share of negative eigenvalues of the Hessian."""
    program, weights = training.program, training.program.full_weights()
    end = jax.tree.map(lambda leaf: leaf[-1], training.draw(key, weights).params)
    theta, unravel = jax.flatten_util.ravel_pytree(end)

    def objective(theta):
        return program.objective(unravel(theta), weights)

    values = jnp.linalg.eigvalsh(jax.hessian(objective)(theta))
    return jnp.linalg.norm(jax.grad(objective)(theta)), (values < 0).mean()


def correlation(found: np.ndarray, expected: np.ndarray) -> float:
    """Average Pearson correlations over data."""
    flat = [each.reshape(-1, each.shape[-1]) for each in (found, expected)]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*flat, strict=True)]))


def square(place):
    return place[0] ** 2 + 4 * place[1] ** 2


def ring(y) -> None:
    """Run a model with an ellipse of minima, a^2 + 4 b^2 = mean of y."""
    place = numpyro.param("place", lambda key: jax.random.normal(key, (2,)))
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(square(place), 1.0), obs=y[i])


class Case:
    """A ring of minima, and an example that weighs less: what displacements are tried on."""

    def __init__(self, step: float):
        y, self.step = 0.5 * np.random.default_rng(SEED).normal(size=20), step
        self.program = dtda.Program(ring, jnp.asarray(1 + y - y.mean()))
        self.old = jnp.ones(20)
        self.new = self.old.at[int(np.argmax(y))].add(-step)

    def potential(self, theta, weights):
        return self.program.num_rows * self.program.objective({"place": theta}, weights)

    def change(self, theta):
        """Return the change of the gradient of n L."""
        slope = jax.grad(self.potential)
        return slope(theta, self.new) - slope(theta, self.old)

    def influence(self, theta):
        """Take the pseudo-inverse of the Gauss-Newton matrix, of rank one: straight across the ring."""
        slope = jax.grad(square)(theta)
        curved = self.old.sum() * (slope @ slope) ** 2
        return -slope * (slope @ self.change(theta)) / curved

    def damped(self, damping: float, theta):
        """Invert the Hessian of n L, which is singular on the ring and regular beside it."""
        hessian = jax.hessian(self.potential)(theta, self.old) + damping * jnp.eye(2)
        return -jnp.linalg.solve(hessian, self.change(theta))


def turn(theta):
    """Point along the ellipses on which the objective is constant."""
    return jnp.array([-2 * theta[1], theta[0] / 2])


def displacements(case: Case) -> dict[str, Callable]:
    along = jnp.array([0.8, 0.6])
    return {
        "none": jnp.zeros_like,
        "influence": case.influence,
        "0.5 influence": lambda theta: 0.5 * case.influence(theta),
        "1.5 influence": lambda theta: 1.5 * case.influence(theta),
        "2 influence": lambda theta: 2 * case.influence(theta),
        "whole inverse Hessian": partial(case.damped, 0.0),
        "damped by a tenth of the curvature": partial(case.damped, 16.0),
        "a gradient step": lambda theta: -case.change(theta) / 160,
        "influence, and as far along the ring": lambda theta: (
            case.influence(theta) + case.step * 0.05 * turn(theta)
        ),
        "a constant shift": lambda theta: (
            along * jnp.linalg.norm(case.influence(jnp.array([1.0, 0.0])))
        ),
    }


def divergence(case: Case, displacement: Callable, temperature: float) -> jax.Array:
    """Integrate KL(pushed || new) by quadrature in elliptic coordinates about the ring.

    With F the map, it is E_old[log p_old - log p_new(F) - log det DF], which is the divergence of the
    pushed density where F is one to one.
    """
    theta, log_area = grid(case, temperature)

    def log_density(theta, weights):
        return -case.potential(theta, weights) / temperature

    def moved(theta):
        return theta + displacement(theta)

    old, new = (jax.vmap(lambda t, w=w: log_density(t, w))(theta) for w in (case.old, case.new))
    there = jax.vmap(lambda t: log_density(moved(t), case.new))(theta)
    sign, stretch = jax.vmap(lambda t: jnp.linalg.slogdet(jax.jacfwd(moved)(t)))(theta)
    log_old = old - jax.nn.logsumexp(old + log_area)
    log_there = there - jax.nn.logsumexp(new + log_area)
    share = jnp.exp(log_old + log_area)
    found, folded = jnp.sum(share * (log_old - log_there - stretch)), jnp.sum(share * (sign <= 0))
    return jnp.where((folded > 1e-6) | (found < -1e-8), jnp.nan, found)


def grid(case: Case, temperature: float, size: int = 200, angles: int = 48):
    """Cover six standard deviations of a^2 + 4 b^2, in equal areas but for its ends."""
    spread = 6 * (temperature / case.program.num_rows) ** 0.5
    squares = np.linspace(max(1 - spread, 1e-3), 1 + spread, size)
    angle = 2 * np.pi * (np.arange(angles) + 0.5) / angles
    radius, angle = jnp.meshgrid(jnp.sqrt(jnp.asarray(squares)), jnp.asarray(angle), indexing="ij")
    theta = jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle) / 2], -1).reshape(-1, 2)
    area = (squares[1] - squares[0]) * 2 * np.pi / angles / 4
    return theta, jnp.full(len(theta), np.log(area))


def divergences(step: float) -> pd.DataFrame:
    case = Case(step)
    rows = []
    for name, displacement in displacements(case).items():
        found = [float(divergence(case, displacement, each)) for each in TEMPERATURES]
        rows.append({"displacement": name} | dict(zip(map(str, TEMPERATURES), found, strict=True)))
    return pd.DataFrame(rows).set_index("displacement")


def low_temperature_limit() -> pd.DataFrame:
    """Compute what temperature times KL(pushed || new) tends to, over the squared change of weight.

    At low temperature the old draws lie on the ring, uniformly in the angle of elliptic coordinates,
    so that this is the mean of n L of the new weights where they are carried, less its minimum: both
    in closed form, for 400 places. The change is of the weight of the largest observation. "other off
    the ring" is influence times a function that is 1 on the ring; "towards the origin" goes as far
    across the ring as influence. The whole inverse Hessian is singular on the ring, and tends to the
    step towards the origin.
    """
    table = {str(step): limits(Case(step)) for step in (0.1, 0.03, 0.01, 0.003)}
    return pd.DataFrame(table).rename_axis("displacement")


def limits(case: Case) -> dict[str, float]:
    fields = displacements(case)
    fields |= {
        "other off the ring": lambda theta: (3 * square(theta) - 2) * case.influence(theta),
        "towards the origin": lambda theta: (
            jax.grad(square)(theta) @ case.influence(theta) * theta / (2 * square(theta))
        ),
    }
    del fields["whole inverse Hessian"]
    angle = 2 * jnp.pi * (jnp.arange(400) + 0.5) / 400
    ring = jnp.stack([jnp.cos(angle), jnp.sin(angle) / 2], -1)
    best = case.new @ case.program.data.args[0] / case.new.sum()
    far = {
        name: jax.vmap(lambda theta, field=field: square(theta + field(theta)))(ring) - best
        for name, field in fields.items()
    }
    return {name: float(case.new.sum() / 2 * (f**2).mean() / case.step**2) for name, f in far.items()}


def ring_of_minima() -> pd.DataFrame:
    """Compute KL(pushed || new) relative to no displacement, by temperature.

    20 data y ~ Normal(a^2 + 4 b^2, 1), without a prior: every point of an ellipse is a minimum. The
    old density is exp(-n L / temperature); the new one has the largest observation at weight 0.98.
    Pushed densities follow from a change of variables, and divergences from quadrature over the
    plane, so there is no Monte Carlo error. "Influence" is theta - H^+ (change of the gradient),
    where H is the Gauss-Newton matrix, which equals the Hessian on the ring; "whole inverse Hessian"
    inverts the Hessian at each point, whose second eigenvalue is 0 on the ring only. Empty: the map
    folds the plane, so a single change of variables does not give its density.
    """
    found = divergences(0.02)
    return found / found.loc["none"]


def ring_of_minima_in_nats() -> pd.DataFrame:
    """Compute temperature times KL(pushed || new) over the squared change of weight, at two changes.

    This has a limit as the temperature falls: half the mean squared distance, in units of the
    curvature, that remains between the displaced minima and the new ones.
    """
    parts = {}
    for step in (0.1, 0.02):
        parts[str(step)] = divergences(step) * np.array(TEMPERATURES) / step**2
    return pd.concat(parts, names=["change of weight"])


def best_of_a_family() -> pd.DataFrame:
    """Minimise KL(pushed || new) over seven coefficients, and compare influence with the minimum.

    The family: combinations of influence, the whole inverse Hessian, a gradient step, a rotation along
    the ring, the two constant shifts and scaling of the plane. "least" is the divergence of the best
    displacement (by BFGS from influence, with the largest observation at weight 0.98; values below 1e-8
    are rounding), "excess" is the divergence of influence minus the least, relative to the
    divergence without a displacement.
    """
    case = Case(0.02)
    fields = [
        case.influence,
        partial(case.damped, 0.0),
        lambda theta: -case.change(theta) / 160,
        lambda theta: 0.001 * turn(theta),
        lambda theta: jnp.array([0.001, 0.0]),
        lambda theta: jnp.array([0.0, 0.001]),
        lambda theta: 0.001 * theta,
    ]
    rows = [best_row(case, fields, temperature) for temperature in TEMPERATURES[1:]]
    return pd.DataFrame(rows).set_index("temperature")


def best_row(case: Case, fields: list[Callable], temperature: float) -> dict[str, float]:
    def objective(coefficients):
        def displacement(theta):
            return coefficients @ jnp.stack([field(theta) for field in fields])

        return divergence(case, displacement, temperature)

    start = np.eye(len(fields))[0]
    evaluate = jax.jit(jax.value_and_grad(objective))
    none, influence = (float(evaluate(each)[0]) for each in (0 * start, start))

    def scaled(coefficients):
        value, slope = evaluate(coefficients)
        return float(value / none), np.asarray(slope / none)

    found = scipy.optimize.minimize(scaled, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    return {
        "temperature": temperature,
        "none": none,
        "influence": influence,
        "least": float(found.fun * none),
        "excess": influence / none - float(found.fun),
    }


PARTS = (
    generalised_linear_models,
    concrete,
    concrete_without_a_prior,
    low_temperature_limit,
    ring_of_minima,
    ring_of_minima_in_nats,
    best_of_a_family,
)

if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    named = [part for part in PARTS if part.__name__ in sys.argv[1:]]
    write_some("theorems", "The theorems", __doc__, PARTS, named or PARTS, SEED)

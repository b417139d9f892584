"""Small programs of every kind, with their log likelihoods by hand, and programs that are refused."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from scipy import stats
from scipy.special import logsumexp

import dtda_prob as dtda

NUM = 6
RNG = np.random.default_rng(3)
X, Y = (RNG.normal(size=NUM).astype(np.float32) for _ in range(2))
TABLE = RNG.normal(size=(NUM, 3)).astype(np.float32)
CUBE = RNG.normal(size=(NUM, 2, 3)).astype(np.float32)
GROUP = np.array([0, 1, 0, 2, 1, 0])
TIMES = np.abs(Y) + 0.1
COUNTS = np.array([0, 3, 1, 0, 0, 2])
CLASSES = np.array([0, 1, 2, 2, 1, 0])
SEEN = np.array([True, True, False, True, False, True])
HOLES = np.where(SEEN, Y, np.nan).astype(np.float32)
RATES = jnp.array([0.5, 3.0])
MEANS = jnp.array([-1.0, 0.5, 2.0])
normal, poisson = stats.norm.logpdf, stats.poisson.logpmf


class Case(NamedTuple):
    """A program.

    Attributes:
        model: with its data along the first axis of `args`.
        args: the data.
        log_likelihood: of each example by hand, from parameters on their supports.
        changed: the same data but for what is observed of example 1.
        data: where the examples lie, if not where they are found.
        local: latent sites that belong to an example.
        by_numpyro: whether NumPyro gives the density of the model as it stands.
        gradients: whether gradients of examples are checked: once for each layout of examples.
        alone: whether an example's density does not depend on what is observed of others.
    """

    model: Callable
    args: tuple
    log_likelihood: Callable[[dict], Any]
    changed: tuple
    data: Any = None
    local: tuple[str, ...] = ()
    by_numpyro: bool = True
    gradients: bool = False
    alone: bool = True


def other(y: Any, value: Any = 1) -> np.ndarray:
    """Observe something else of example 1."""
    return np.concatenate([y[:1], np.full_like(y[1:2], value), y[2:]])


# Several plates.


def inside_a_plate(table):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("column", 3, dim=-2), numpyro.plate("data", len(table), dim=-1) as i:
        numpyro.sample("y", dist.Normal(level), obs=table[i].T)


def around_a_plate(table):
    with numpyro.plate("column", 3, dim=-1):
        levels = numpyro.sample("levels", dist.Normal())
    with numpyro.plate("data", len(table), dim=-2) as i, numpyro.plate("column", 3, dim=-1):
        numpyro.sample("y", dist.Normal(levels), obs=table[i])


def between_plates(cube):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("block", 2, dim=-3), numpyro.plate("data", len(cube), dim=-2) as i:
        numpyro.sample(
            "y", dist.Normal(level).expand([1, 3]).to_event(1), obs=cube[i].swapaxes(0, 1)[..., None, :]
        )


def by_group(y, group):
    centre = numpyro.sample("centre", dist.Normal())
    with numpyro.plate("group", 3):
        level = numpyro.sample("level", dist.Normal(centre))
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(level[group[i]]), obs=y[i])


def two_kinds(x, y):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("x rows", len(x)) as i:
        numpyro.sample("x", dist.Normal(level), obs=x[i])
    with numpyro.plate("y rows", len(y)) as i:
        numpyro.sample("y", dist.Normal(level, 2.0), obs=y[i])


def without_a_plate(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    scale = numpyro.sample("scale", dist.LogNormal())
    numpyro.sample("y", dist.Normal(slope * x, scale), obs=y)


def normal_vector(x, y):
    scale = numpyro.sample("scale", dist.LogNormal())
    cov = scale * jnp.exp(-((x[:, None] - x) ** 2)) + 0.5 * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(0.0, cov), obs=y)


def series(y):
    slope = numpyro.sample("slope", dist.Normal())

    def step(before, now):
        now = numpyro.sample("y", dist.Normal(slope * before), obs=now)
        return now, None

    scan(step, 0.5, y)


def subsampled(y, size=3):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(y), subsample_size=size) as i:
        numpyro.sample("y", dist.Normal(level), obs=y[i])


# Latent sites of an example.


def schools(y):
    centre = numpyro.sample("centre", dist.Normal(0.0, 2.0))
    with numpyro.plate("data", len(y)) as i:
        level = numpyro.sample("level", dist.Normal(centre, 0.7))
        numpyro.sample("y", dist.Normal(level, 0.5), obs=y[i])


def groups_as_data(table):
    spread = numpyro.sample("spread", dist.HalfNormal())
    with numpyro.plate("group", len(table), dim=-2) as g:
        level = numpyro.sample("level", dist.Normal(0.0, spread))
        with numpyro.plate("row", 3, dim=-1):
            tilt = numpyro.sample("tilt", dist.LogNormal(0.0, 0.5))
            numpyro.sample("y", dist.Normal(level * tilt), obs=table[g])


def simplexes(counts):
    tilt = numpyro.sample("tilt", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("data", len(counts)) as i:
        probs = numpyro.sample("probs", dist.Dirichlet(jnp.ones(3)))
        probs = jax.nn.softmax(jnp.log(probs) + tilt)
        numpyro.sample("y", dist.Categorical(probs=probs), obs=counts[i])


def local_param(y):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        shift = numpyro.param("shift", jnp.linspace(0.0, 1.0, len(y)), event_dim=0)
        numpyro.sample("y", dist.Normal(level + shift), obs=y[i])


# Masked, censored and missing.


def by_handler(y, seen):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(y)) as i, handlers.mask(mask=seen[i]):
        numpyro.sample("y", dist.Normal(level), obs=y[i])


def by_distribution(y, seen):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(level).mask(seen[i]), obs=y[i])


def censored(y, at_end):
    scale = numpyro.sample("scale", dist.LogNormal())
    with numpyro.plate("data", len(y)) as i:
        times = dist.RightCensoredDistribution(dist.Exponential(1 / scale), censored=at_end[i])
        numpyro.sample("y", times, obs=y[i])


def weighted_by_factor(y):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        tilt = numpyro.sample("tilt", dist.LogNormal())
        numpyro.factor("y", -tilt * (y[i] - level) ** 2)


def missing_inputs(x, y, seen):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        guess = numpyro.sample("guess", dist.Normal())
        full = jnp.where(seen[i], x[i], guess)
        numpyro.sample("y", dist.Normal(slope * full), obs=y[i])


def observed_in_part(y, seen):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(level), obs=y[i], obs_mask=seen[i])


# Time series, where an observation that is not there is masked.


def state_space(y):
    noise = numpyro.sample("noise", dist.Normal().expand([len(y)]).to_event(1))
    states = jax.lax.scan(lambda state, step: (0.8 * state + step,) * 2, 0.0, noise)[1]
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(states[i], 0.5), obs=y[i])


def scanned(y):
    def step(state, _):
        state = numpyro.sample("state", dist.Normal(0.8 * state))
        return state, state

    states = scan(step, jnp.array(0.0), None, length=len(y))[1]
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(states[i], 0.5), obs=y[i])


def gaussian_process(x, y):
    cov = jnp.exp(-((x[:, None] - x) ** 2)) + 1e-3 * jnp.eye(len(x))
    noise = numpyro.sample("noise", dist.Normal().expand([len(x)]).to_event(1))
    values = jnp.linalg.cholesky(cov) @ noise
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Exponential(jnp.exp(values[i])), obs=y[i])


# Discrete latent sites of an example.


def mixture(y):
    shift = numpyro.sample("shift", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        part = numpyro.sample("part", dist.Categorical(probs=jnp.array([0.2, 0.5, 0.3])))
        numpyro.sample("y", dist.Normal(MEANS[part] + shift), obs=y[i])


def zero_inflated(y):
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    rate = numpyro.sample("rate", dist.LogNormal())
    with numpyro.plate("data", len(y)) as i:
        zero = numpyro.sample("zero", dist.Bernoulli(share))
        numpyro.sample("y", dist.Poisson(jnp.where(zero == 1, 1e-6, rate)), obs=y[i])


def mislabelled(x, y=None):
    slopes = numpyro.sample("slopes", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("data", len(x)) as i:
        wrong = numpyro.sample("wrong", dist.Bernoulli(0.1))
        logits = jnp.where(wrong[:, None] == 1, 0.0, x[i][:, None] * slopes)
        numpyro.sample("y", dist.Categorical(logits=logits), obs=None if y is None else y[i])


def two_discrete(y, times):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        side = numpyro.sample("side", dist.Bernoulli(0.3))
        busy = numpyro.sample("busy", dist.Bernoulli(0.2 + 0.5 * side))
        numpyro.sample("y", dist.Normal(level + side), obs=y[i])
        numpyro.sample("time", dist.Exponential(RATES[busy]), obs=times[i])


def outliers(y):
    centre = numpyro.sample("centre", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        level = numpyro.sample("level", dist.Normal(centre, 0.7))
        outlying = numpyro.sample("outlying", dist.Bernoulli(0.2))
        numpyro.sample("y", dist.Normal(level, jnp.where(outlying, 5.0, 0.5)), obs=y[i])


def annotated(table):
    """Discrete sites at two levels: of an example, and of its single observations."""
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(table), dim=-2):
        part = numpyro.sample("part", dist.Bernoulli(0.4))
        with numpyro.plate("column", 3), handlers.scale(scale=0.5):
            side = numpyro.sample("side", dist.Bernoulli(0.2 + 0.5 * part))
            numpyro.sample("y", dist.Normal(level * side + part), obs=table)


def chain_of_states(sequences):
    """The hidden Markov model as NumPyro writes it, with the plate inside the scan."""
    stay = numpyro.sample("stay", dist.Beta(2.0, 2.0))

    def step(state, y):
        with numpyro.plate("data", len(sequences)):
            state = numpyro.sample("state", dist.Bernoulli(jnp.where(state == 1, stay, 1 - stay)))
            numpyro.sample("y", dist.Normal(state), obs=y)
        return state, None

    scan(step, jnp.zeros(len(sequences), int), sequences.T)


def hidden_chain(sequences):
    """A hidden Markov model, one sequence an example, by a forward pass."""
    stay = numpyro.sample("stay", dist.Beta(2.0, 2.0))
    table = jnp.log(jnp.array([[stay, 1 - stay], [1 - stay, stay]]))

    def step(alpha, y):
        mixed = jax.nn.logsumexp(alpha[..., None] + table, axis=-2)
        return mixed + dist.Normal(jnp.arange(2.0)).log_prob(y[..., None]), None

    with numpyro.plate("data", len(sequences)) as i:
        start = jnp.log(0.5) * jnp.ones((len(i), 2))
        ends = jax.lax.scan(step, start, sequences[i].T)[0]
        numpyro.factor("y", jax.nn.logsumexp(ends, axis=-1))


def chain_hand(p):
    table = np.array([[p["stay"], 1 - p["stay"]], [1 - p["stay"], p["stay"]]])
    alpha = np.full((NUM, 2), 0.5)
    for y in TABLE.T:
        alpha = (alpha @ table) * np.exp(normal(y[:, None], [0.0, 1.0]))
    return np.log(alpha.sum(1))


def states_hand(p):
    """As `chain_hand`, but from state 0."""
    table = np.array([[p["stay"], 1 - p["stay"]], [1 - p["stay"], p["stay"]]])
    alpha = np.eye(2)[np.zeros(NUM, int)]
    for y in TABLE.T:
        alpha = (alpha @ table) * np.exp(normal(y[:, None], [0.0, 1.0]))
    return np.log(alpha.sum(1))


def annotated_hand(p):
    """Scales are powers inside the sums, as in NumPyro."""

    def given(part):
        sides = [
            0.5 * (np.log(share) + normal(TABLE, p["level"] * side + part))
            for side, share in ((0, 0.8 - 0.5 * part), (1, 0.2 + 0.5 * part))
        ]
        return np.logaddexp(*sides).sum(1)

    return np.logaddexp(np.log(0.6) + given(0), np.log(0.4) + given(1))


def two_hand(p):
    weights = {
        (s, b): np.log([0.7, 0.3][s]) + np.log([0.8 - 0.5 * s, 0.2 + 0.5 * s][b])
        for s in (0, 1)
        for b in (0, 1)
    }
    parts = [
        weight + normal(Y, p["level"] + s) + np.log(RATES[b]) - RATES[b] * TIMES
        for (s, b), weight in weights.items()
    ]
    return logsumexp(parts, 0)


def mislabelled_hand(p):
    logits = np.asarray(X[:, None] * p["slopes"])
    right = np.exp(logits - logsumexp(logits, 1, keepdims=True))[np.arange(NUM), CLASSES]
    return np.log(0.1 / 3 + 0.9 * right)


def zero_hand(p):
    parts = [
        np.log(p["share"]) + poisson(COUNTS, 1e-6),
        np.log1p(-p["share"]) + poisson(COUNTS, p["rate"]),
    ]
    return logsumexp(parts, 0)


def simplex_hand(p):
    odds = np.asarray(p["probs"] * np.exp(p["tilt"]))
    return np.log(odds[np.arange(NUM), CLASSES] / odds.sum(1))


def vector_hand(p):
    """Each given the others, from joint normals of all and of all but one."""
    cov = p["scale"] * np.exp(-((X[:, None] - X) ** 2)) + 0.5 * np.eye(NUM)

    def density(rows):
        return stats.multivariate_normal.logpdf(Y[rows], cov=cov[np.ix_(rows, rows)])

    whole = np.arange(NUM)
    return np.array([density(whole) - density(np.delete(whole, k)) for k in whole])


def filtered(noise):
    states, state = [], 0.0
    for step in np.asarray(noise):
        state = 0.8 * state + step
        states.append(state)
    return np.array(states)


def process_hand(p):
    root = np.linalg.cholesky(np.exp(-((X[:, None] - X) ** 2)) + 1e-3 * np.eye(NUM))
    logs = root @ np.asarray(p["noise"])
    return logs - TIMES * np.exp(logs)


AT_END = np.array([0, 1, 0, 0, 1, 0])
PROGRAMS: dict[str, Case] = {
    "inside a plate": Case(
        inside_a_plate, (TABLE,), lambda p: normal(TABLE, p["level"]).sum(1), (other(TABLE),)
    ),
    "around a plate": Case(
        around_a_plate,
        (TABLE,),
        lambda p: normal(TABLE, p["levels"]).sum(1),
        (other(TABLE),),
        gradients=True,
    ),
    "between plates": Case(
        between_plates, (CUBE,), lambda p: normal(CUBE, p["level"]).sum((1, 2)), (other(CUBE),)
    ),
    "by group": Case(
        by_group, (Y, GROUP), lambda p: normal(Y, p["level"][GROUP]), (other(Y), GROUP), gradients=True
    ),
    "one of two plates": Case(
        two_kinds, (X, Y), lambda p: normal(Y, p["level"], 2.0), (X, other(Y)), data="y rows"
    ),
    "the other of two plates": Case(
        two_kinds, (X, Y), lambda p: normal(X, p["level"]), (other(X), Y), data="x rows"
    ),
    "plates of one unit": Case(
        two_kinds,
        (X, Y),
        lambda p: normal(X, p["level"]) + normal(Y, p["level"], 2.0),
        (other(X), other(Y)),
        data=("x rows", "y rows"),
    ),
    "one plate after the other": Case(
        two_kinds,
        (X[:4], Y[:2]),
        lambda p: np.concatenate([normal(X[:4], p["level"]), normal(Y[:2], p["level"], 2.0)]),
        (other(X[:4]), Y[:2]),
        data=("x rows", "y rows"),
    ),
    "without a plate": Case(
        without_a_plate,
        (X, Y),
        lambda p: normal(Y, p["slope"] * X, p["scale"]),
        (X, other(Y)),
        gradients=True,
    ),
    "normal vector": Case(normal_vector, (X, Y), vector_hand, (X, other(Y)), alone=False),
    "series": Case(
        series,
        (Y,),
        lambda p: normal(Y, p["slope"] * np.append(0.5, Y[:-1])),
        (other(Y),),
        alone=False,
    ),
    "subsampled by the model": Case(
        subsampled, (Y,), lambda p: normal(Y, p["level"]), (other(Y),), by_numpyro=False
    ),
    "eight schools": Case(
        schools,
        (Y,),
        lambda p: normal(Y, p["level"], 0.5),
        (other(Y),),
        local=("level",),
        gradients=True,
    ),
    "groups as data": Case(
        groups_as_data,
        (TABLE,),
        lambda p: normal(TABLE, p["level"] * p["tilt"]).sum(1),
        (other(TABLE),),
        data="group",
        local=("level", "tilt"),
    ),
    "simplexes": Case(
        simplexes,
        (CLASSES,),
        simplex_hand,
        (other(CLASSES, 2),),
        local=("probs",),
    ),
    "parameter of an example": Case(
        local_param, (Y,), lambda p: normal(Y, p["level"] + p["shift"]), (other(Y),)
    ),
    "masked by handler": Case(
        by_handler,
        (HOLES, SEEN),
        lambda p: np.where(SEEN, normal(Y, p["level"]), 0.0),
        (other(HOLES), SEEN),
    ),
    "masked distribution": Case(
        by_distribution,
        (HOLES, SEEN),
        lambda p: np.where(SEEN, normal(Y, p["level"]), 0.0),
        (other(HOLES), SEEN),
    ),
    "censored": Case(
        censored,
        (TIMES, AT_END),
        lambda p: -TIMES / p["scale"] - np.where(AT_END, 0.0, np.log(p["scale"])),
        (other(TIMES), AT_END),
    ),
    "factor": Case(
        weighted_by_factor,
        (Y,),
        lambda p: -p["tilt"] * (Y - p["level"]) ** 2,
        (other(Y),),
        local=("tilt",),
    ),
    "missing inputs": Case(
        missing_inputs,
        (np.where(SEEN, X, np.nan), Y, SEEN),
        lambda p: normal(Y, p["slope"] * np.where(SEEN, X, p["guess"])),
        (np.where(SEEN, X, np.nan), other(Y), SEEN),
        local=("guess",),
    ),
    "observed in part": Case(
        observed_in_part,
        (HOLES, SEEN),
        lambda p: np.where(SEEN, normal(Y, p["level"]), 0.0),
        (other(HOLES), SEEN),
        local=("y_unobserved",),
    ),
    "state space": Case(state_space, (Y,), lambda p: normal(Y, filtered(p["noise"]), 0.5), (other(Y),)),
    "scanned": Case(scanned, (Y,), lambda p: normal(Y, p["state"], 0.5), (other(Y),), gradients=True),
    "Gaussian process": Case(gaussian_process, (X, TIMES), process_hand, (X, other(TIMES))),
    "hidden chain": Case(hidden_chain, (TABLE,), chain_hand, (other(TABLE),)),
    "chain of states": Case(chain_of_states, (TABLE,), states_hand, (other(TABLE),), by_numpyro=False),
    "annotated": Case(annotated, (TABLE,), annotated_hand, (other(TABLE),), by_numpyro=False),
    "mixture": Case(
        mixture,
        (Y,),
        lambda p: logsumexp(
            normal(Y[:, None], MEANS + p["shift"]), b=np.array([0.2, 0.5, 0.3]), axis=1
        ),
        (other(Y),),
        by_numpyro=False,
    ),
    "zero inflation": Case(zero_inflated, (COUNTS,), zero_hand, (other(COUNTS),), by_numpyro=False),
    "mislabelled": Case(
        mislabelled, (X, CLASSES), mislabelled_hand, (X, other(CLASSES, 2)), by_numpyro=False
    ),
    "two discrete sites": Case(
        two_discrete, (Y, TIMES), two_hand, (other(Y), other(TIMES)), by_numpyro=False
    ),
    "discrete and local": Case(
        outliers,
        (Y,),
        lambda p: np.logaddexp(
            np.log(0.8) + normal(Y, p["level"], 0.5), np.log(0.2) + normal(Y, p["level"], 5.0)
        ),
        (other(Y),),
        local=("level",),
        by_numpyro=False,
        gradients=True,
    ),
}


@cache
def bind(name: str) -> dtda.Program:
    """Bind a program of the table."""
    return dtda.Program(PROGRAMS[name].model, *PROGRAMS[name].args, data=PROGRAMS[name].data)


# What is refused.


def infinite(y):
    with numpyro.plate("data", len(y)) as i:
        count = numpyro.sample("count", dist.Poisson(2.0))
        numpyro.sample("y", dist.Normal(count), obs=y[i])


def of_two_kinds(y):
    side = numpyro.sample("side", dist.Bernoulli(0.5))
    with numpyro.plate("data", len(y)) as i:
        part = numpyro.sample("part", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(side + part), obs=y[i])


def of_neighbours(y):
    with numpyro.plate("data", len(y)) as i:
        part = numpyro.sample("part", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(part + jnp.roll(part, 1)), obs=y[i])


def of_a_latent(y):
    with numpyro.plate("data", len(y)) as i:
        part = numpyro.sample("part", dist.Bernoulli(0.5))
        level = numpyro.sample("level", dist.Normal(part))
        numpyro.sample("y", dist.Normal(level), obs=y[i])


def outside(y):
    with numpyro.plate("data", len(y)) as i:
        part = numpyro.sample("part", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(part), obs=y[i])
    numpyro.factor("total", -((part.sum() - 3.0) ** 2))


REFUSED: dict[str, tuple[Callable, tuple, str, str]] = {
    "infinitely many values": (infinite, (Y,), "data", "'count' is discrete and takes infinitely many"),
    "shared and local": (of_two_kinds, (Y,), "data", "some are shared by examples where others"),
    "neighbours": (
        of_neighbours,
        (Y,),
        "data",
        "site 'y' depends on the discrete .* of several examples",
    ),
    "prior of a latent": (of_a_latent, (Y,), "data", "site 'level' depends"),
    "outside the plate": (outside, (Y,), "data", "site 'total' depends"),
}
"""Models, their data, where their examples lie, and what is said of them."""

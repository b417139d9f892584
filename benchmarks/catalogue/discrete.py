"""Discrete latent sites."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from catalogue.entry import BINARY, COUNTS, NUM, RNG, TABLE, X, Y, case, normal

LABELS = RNG.integers(0, 3, (NUM, 4))
CAUGHT = RNG.integers(0, 2, (NUM, 5))


def enumerated():
    """Return NumPyro's marker of a site that is summed out."""
    return {"enumerate": "parallel"}


@case("NumPyro: Gaussian mixture", Y)
def mixture(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        locs = numpyro.sample("locs", dist.Normal(0, 3))
    with numpyro.plate("data", len(y)):
        which = numpyro.sample("assignment", dist.Categorical(weights), infer=enumerated())
        numpyro.sample("obs", dist.Normal(locs[which], 1.0), obs=y)


@case("NumPyro: a mixture as a distribution", Y)
def mixture_distribution(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    locs = numpyro.sample("locs", dist.Normal(jnp.array([-1.0, 1.0]), 1.0).to_event(1))
    parts = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(locs, 1.0))
    numpyro.sample("obs", parts, obs=y)


@case("NumPyro: a latent class of two outcomes (toy mixture)", Y, COUNTS)
def two_views(y, counts):
    share = numpyro.sample("share", dist.Beta(1, 1))
    rate = numpyro.sample("rate", dist.LogNormal(0, 1))
    with numpyro.plate("N", len(y)):
        kind = numpyro.sample("kind", dist.Bernoulli(share), infer=enumerated())
        numpyro.sample("y", dist.Normal(2.0 * kind), obs=y)
        numpyro.sample("counts", dist.Poisson(rate * (1 + kind)), obs=counts)


@case("NumPyro: discrete imputation with a factor", X, Y)
def discrete_imputation(x, y):
    share, slope = numpyro.sample("share", dist.Beta(1, 1)), numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(y)):
        hidden = numpyro.sample("hidden", dist.Bernoulli(share), infer=enumerated())
        numpyro.factor("penalty", jnp.where(hidden == 1, -0.3, 0.0) * x**2)
        numpyro.sample("y", dist.Normal(slope * x + hidden), obs=y)


@case("PyMC: outliers marginalised", X, Y)
def outliers(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)):
        bad = numpyro.sample("bad", dist.Bernoulli(0.1), infer=enumerated())
        numpyro.sample("y", dist.Normal(slope * x, jnp.where(bad == 1, 5.0, 0.5)), obs=y)


@case("NumPyro: annotation, multinomial", LABELS, data="item")
def annotation_multinomial(labels):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("class", 3):
        zeta = numpyro.sample("zeta", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("item", len(labels), dim=-2):
        c = numpyro.sample("c", dist.Categorical(pi), infer=enumerated())
        with numpyro.plate("position", labels.shape[1]):
            numpyro.sample("y", dist.Categorical(zeta[c]), obs=labels)


@case("NumPyro: annotation, Dawid and Skene", LABELS, data="item")
def dawid_skene(labels):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("annotator", 4, dim=-2), numpyro.plate("class", 3):
        beta = numpyro.sample("beta", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("item", len(labels), dim=-2):
        c = numpyro.sample("c", dist.Categorical(pi), infer=enumerated())
        with numpyro.plate("position", labels.shape[1]):
            numpyro.sample("y", dist.Categorical(beta[jnp.arange(4), c]), obs=labels)


@case("NumPyro: annotation, MACE", LABELS, data="item")
def mace(labels):
    with numpyro.plate("annotator", 4):
        spam = numpyro.sample("epsilon", dist.Dirichlet(jnp.full(3, 10.0)))
        honest = numpyro.sample("theta", dist.Beta(0.5, 0.5))
    with numpyro.plate("item", len(labels), dim=-2):
        c = numpyro.sample("c", dist.DiscreteUniform(0, 2), infer=enumerated())
        with numpyro.plate("position", labels.shape[1]):
            s = numpyro.sample("s", dist.Bernoulli(1 - honest), infer=enumerated())
            probs = jnp.where(s[..., None] == 0, jax.nn.one_hot(c, 3), spam)
            numpyro.sample("y", dist.Categorical(probs), obs=labels)


@case("NumPyro: annotation, hierarchical", LABELS, data="item")
def annotators_with_a_mean(labels):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("class", 3):
        mean = numpyro.sample("mean", dist.Normal().expand([3]).to_event(1))
        with numpyro.plate("annotator", 4, dim=-2):
            beta = numpyro.sample("beta", dist.Normal(mean, 1.0).to_event(1))
    with numpyro.plate("item", len(labels), dim=-2):
        c = numpyro.sample("c", dist.Categorical(pi), infer=enumerated())
        with numpyro.plate("position", labels.shape[1]):
            numpyro.sample("y", dist.Categorical(logits=beta[jnp.arange(4), c]), obs=labels)


@case("NumPyro: annotation, item difficulty", LABELS, data="item")
def item_difficulty(labels):
    with numpyro.plate("class", 3):
        eta = numpyro.sample("eta", dist.Normal().expand([2]).to_event(1))
        chi = numpyro.sample("chi", dist.LogNormal().expand([2]).to_event(1))
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("item", len(labels), dim=-2):
        c = numpyro.sample("c", dist.Categorical(pi), infer=enumerated())
        with handlers.reparam(config={}):
            theta = numpyro.sample("theta", dist.Normal().expand([2]).to_event(1))
        logits = jnp.pad(eta[c] + chi[c] * theta, [(0, 0)] * (jnp.ndim(c)) + [(0, 1)])
        with numpyro.plate("position", labels.shape[1]):
            numpyro.sample("y", dist.Categorical(logits=logits), obs=labels)


def animals(caught, persist):
    phi = numpyro.sample("phi", dist.Uniform(0, 1))
    rho = numpyro.sample("rho", dist.Uniform(0, 1))

    def step(carry, seen):
        alive, known = carry
        with numpyro.plate("animals", len(caught)), handlers.mask(mask=known):
            alive = numpyro.sample("z", dist.Bernoulli(persist(phi, alive)), infer=enumerated())
            numpyro.sample("y", dist.Bernoulli(rho * alive), obs=seen)
        return (alive, known | seen.astype(bool)), None

    start = jnp.ones(len(caught), int), caught[:, 0].astype(bool)
    scan(step, start, jnp.asarray(caught[:, 1:]).T)


@case("NumPyro: capture and recapture", CAUGHT)
def capture_recapture(caught):
    animals(caught, lambda phi, alive: phi * alive)


@case("NumPyro: capture and recapture, immigration", CAUGHT)
def capture_immigration(caught):
    animals(caught, lambda phi, alive: phi * alive + 0.1 * (1 - alive))


@case("NumPyro: hidden Markov model of sequences", TABLE)
def hidden_markov(sequences):
    with numpyro.plate("state", 2):
        move = numpyro.sample("move", dist.Dirichlet(jnp.ones(2)))
        loc = numpyro.sample("loc", dist.Normal(0, 2))

    def step(state, y):
        with numpyro.plate("sequences", len(sequences)):
            state = numpyro.sample("x", dist.Categorical(move[state]), infer=enumerated())
            numpyro.sample("y", dist.Normal(loc[state]), obs=y)
        return state, None

    scan(step, jnp.zeros(len(sequences), int), jnp.asarray(sequences).T)


@case("PyMC: a switch point that all share", COUNTS, delete=None)
def switch_point(counts):
    early, late = (numpyro.sample(name, dist.Exponential()) for name in ("early", "late"))
    year = numpyro.sample("year", dist.DiscreteUniform(0, 7), infer=enumerated())
    with numpyro.plate("data", len(counts)):
        rate = jnp.where(year > jnp.arange(len(counts)), early, late)
        numpyro.sample("counts", dist.Poisson(rate), obs=counts)


@case("NumPyro: a hidden state by a forward pass", normal(NUM, 4))
def forward_pass(sequences):
    stay = numpyro.sample("stay", dist.Beta(2, 2))
    table = jnp.log(jnp.array([[stay, 1 - stay], [1 - stay, stay]]))

    def step(alpha, y):
        mixed = jax.nn.logsumexp(alpha[..., None] + table, axis=-2)
        return mixed + dist.Normal(jnp.arange(2.0)).log_prob(y[..., None]), None

    start = jnp.log(0.5) * jnp.ones((len(sequences), 2))
    ends = jax.lax.scan(step, start, jnp.asarray(sequences).T)[0]
    numpyro.factor("y", jax.nn.logsumexp(ends, axis=-1))


@case("Stan: false positives of a test", BINARY, X)
def diagnosis(positive, age):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(age)):
        ill = numpyro.sample("ill", dist.Bernoulli(logits=slope * age), infer=enumerated())
        numpyro.sample("positive", dist.Bernoulli(0.1 + 0.8 * ill), obs=positive)

"""Regressions and their likelihoods."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers

from catalogue.entry import BINARY, COUNTS, GROUP, NUM, POSITIVE, TABLE, X, Y, case


@case("NumPyro: Bayesian regression; ArviZ: refitting", X, Y)
def line_without_a_plate(x, y=None):
    slope, level = (numpyro.sample(name, dist.Normal()) for name in ("slope", "level"))
    noise = numpyro.sample("noise", dist.Exponential(1.0))
    numpyro.sample("y", dist.Normal(level + slope * x, noise), obs=y)


@case("NumPyro: two predictors by name", X, TABLE[:, 0], Y)
def two_predictors(marriage, age, divorce=None):
    level = numpyro.sample("a", dist.Normal(0.0, 0.2))
    slopes = [numpyro.sample(name, dist.Normal(0.0, 0.5)) for name in ("bM", "bA")]
    mean = numpyro.deterministic("mu", level + slopes[0] * marriage + slopes[1] * age)
    numpyro.sample("obs", dist.Normal(mean, numpyro.sample("sigma", dist.Exponential())), obs=divorce)


@case("PyMC: data in a dictionary", {"x": X, "y": Y})
def dictionary(data):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("rows", len(data["x"])) as i:
        numpyro.sample("y", dist.Normal(slope * data["x"][i]), obs=data["y"][i])


@case("NumPyro: logistic regression by batches (covtype)", TABLE, BINARY)
def logistic(x, y):
    slopes = numpyro.sample("coefs", dist.Normal().expand([x.shape[1]]).to_event(1))
    with numpyro.plate("N", len(x), subsample_size=5) as i:
        numpyro.sample("obs", dist.Bernoulli(logits=x[i] @ slopes), obs=y[i])


@case("posteriordb: robust regression", X, Y)
def robust(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    degrees = numpyro.sample("nu", dist.Gamma(2.0, 0.1))
    numpyro.sample("y", dist.StudentT(degrees, slope * x, 1.0), obs=y)


@case("posteriordb: counts with an offset", X, COUNTS)
def poisson(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    numpyro.sample("y", dist.Poisson(jnp.exp(0.5 + slope * x)), obs=y)


@case("PyMC: overdispersed counts", X, COUNTS)
def negative_binomial(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    spread = numpyro.sample("alpha", dist.Exponential(0.5))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(slope * x), spread), obs=y)


@case("NumPyro: zero-inflated counts", X, COUNTS)
def zero_inflated_poisson(x, y):
    gate, slope = (numpyro.sample(name, dist.Normal()) for name in ("gate", "slope"))
    with numpyro.plate("obs", len(x)):
        rate = jnp.exp(slope * x)
        numpyro.sample("y", dist.ZeroInflatedPoisson(1 / (1 + jnp.exp(-gate)), rate), obs=y)


@case("NumPyro: ordinal regression", X, GROUP)
def ordinal(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    free, ordered = dist.Normal().expand([2]).to_event(1), dist.transforms.OrderedTransform()
    cuts = numpyro.sample("cuts", dist.TransformedDistribution(free, ordered))
    numpyro.sample("y", dist.OrderedLogistic(slope * x, cuts), obs=y)


@case("NumPyro: ordinal regression, improper prior", X, GROUP)
def ordinal_improper(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    cuts = numpyro.sample("cuts", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.OrderedLogistic(slope * x, cuts), obs=y)


@case("PyMC: several classes", TABLE, GROUP)
def multinomial_logit(x, y):
    slopes = numpyro.sample("slopes", dist.Normal().expand([3, 3]).to_event(2))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Categorical(logits=x[i] @ slopes), obs=y[i])


@case("NumPyro: horseshoe", TABLE, Y)
def horseshoe(x, y):
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    local = numpyro.sample("lambdas", dist.HalfCauchy(jnp.ones(x.shape[1])))
    raw = numpyro.sample("unscaled", dist.Normal(jnp.zeros(x.shape[1]), 1.0))
    slopes = numpyro.deterministic("betas", tau * local * raw)
    precision = numpyro.sample("prec", dist.Gamma(3.0, 1.0))
    numpyro.sample("Y", dist.Normal(x @ slopes, 1 / jnp.sqrt(precision)), obs=y)


@case("PyMC: beta regression of shares", X, 1 / (1 + np.exp(-Y)))
def shares(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.BetaProportion(1 / (1 + jnp.exp(-slope * x)), 5.0), obs=y)


@case("PyMC: gamma regression", X, POSITIVE)
def waiting_costs(x, y):
    slope, shape = numpyro.sample("slope", dist.Normal()), numpyro.sample("shape", dist.Exponential())
    numpyro.sample("y", dist.Gamma(shape, shape / jnp.exp(slope * x)), obs=y)


@case("PyMC: regression of several outcomes", TABLE[:, :2], TABLE[:, 1:])
def seemingly_unrelated(x, y):
    slopes = numpyro.sample("slopes", dist.Normal().expand([2, 2]).to_event(2))
    root = numpyro.sample("corr", dist.LKJCholesky(2, 2.0))
    numpyro.sample("y", dist.MultivariateNormal(x @ slopes, scale_tril=root), obs=y)


@case("NumPyro: UCB admissions", GROUP, BINARY, COUNTS + 5, np.minimum(COUNTS, 5))
def admissions(department, male, applications, admitted=None):
    mean = numpyro.sample("v_mu", dist.Normal(0, jnp.array([4.0, 1.0])).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(jnp.ones(2)).to_event(1))
    corr = numpyro.sample("L_Rho", dist.LKJCholesky(2, concentration=2))
    root = sigma[..., None] * corr
    v = numpyro.sample("v", dist.MultivariateNormal(mean, scale_tril=root).expand([3]).to_event(1))
    logits = v[department, 0] + v[department, 1] * male
    numpyro.sample("admit", dist.Binomial(applications, logits=logits), obs=admitted)


@case("posteriordb: class weights by scale", X, BINARY)
def weighted_classes(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)), handlers.scale(scale=jnp.where(y == 1, 2.0, 0.5)):
        numpyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)


@case("NumPyro: heteroscedastic regression", X, Y)
def two_lines(x, y):
    slope, spread = (numpyro.sample(name, dist.Normal()) for name in ("slope", "spread"))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(slope * x, jnp.exp(spread * x)), obs=y)


@case("forum: a vector of factors", X, Y)
def loss_by_factor(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    numpyro.factor("loss", -jnp.abs(y - slope * x))


@case("forum: one factor of all", X, Y, refused="one number")
def one_factor(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    numpyro.factor("loss", -jnp.abs(y - slope * x).sum())


@case("forum: an event of rows", X, Y)
def rows_as_event(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    numpyro.sample("y", dist.Normal(slope * x).to_event(1), obs=y)


@case("PyMC: one mean", Y)
def one_mean(y):
    numpyro.sample("y", dist.Normal(numpyro.sample("mean", dist.Normal()), 1.0), obs=y)


@case("NumPyro: Bradley-Terry", np.arange(NUM) % 4, (np.arange(NUM) + 1) % 4, BINARY, data="game")
def games(first, second, won):
    with numpyro.plate("player", 4):
        skill = numpyro.sample("skill", dist.Normal())
    with numpyro.plate("game", len(won)):
        numpyro.sample("won", dist.Bernoulli(logits=skill[first] - skill[second]), obs=won)


@case("NumPyro: proportion test", BINARY, COUNTS)
def proportions(treated, visits):
    level, effect = (numpyro.sample(name, dist.Normal()) for name in ("level", "effect"))
    with numpyro.plate("data", len(visits)):
        numpyro.sample("y", dist.Binomial(20, logits=level + effect * treated), obs=visits)

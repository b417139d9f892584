"""Groups, latent sites of examples, missing values."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

from catalogue.entry import BINARY, COUNTS, GROUP, NUM, TABLE, X, Y, case

SEEN = np.arange(NUM) % 4 != 1
HOLES = np.where(SEEN, Y, np.nan).astype(np.float32)


@case("NumPyro: baseball, pooled", COUNTS + 20, COUNTS)
def pooled(at_bats, hits):
    share = numpyro.sample("phi", dist.Uniform(0, 1))
    with numpyro.plate("num_players", len(at_bats)):
        numpyro.sample("obs", dist.Binomial(at_bats, probs=share), obs=hits)


@case("NumPyro: baseball, not pooled", COUNTS + 20, COUNTS)
def not_pooled(at_bats, hits):
    with numpyro.plate("num_players", len(at_bats)):
        share = numpyro.sample("phi", dist.Uniform(0, 1))
        numpyro.sample("obs", dist.Binomial(at_bats, probs=share), obs=hits)


@case("NumPyro: baseball, partially pooled", COUNTS + 20, COUNTS)
def partially_pooled(at_bats, hits):
    mean, size = numpyro.sample("m", dist.Uniform(0, 1)), numpyro.sample("kappa", dist.Pareto(1, 1.5))
    with numpyro.plate("num_players", len(at_bats)):
        share = numpyro.sample("phi", dist.Beta(mean * size, (1 - mean) * size))
        numpyro.sample("obs", dist.Binomial(at_bats, probs=share), obs=hits)


@case("NumPyro: eight schools", Y[:8], np.abs(X[:8]) + 1)
def eight_schools(effects, errors):
    mean, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", len(effects)):
        theta = numpyro.sample("theta", dist.Normal(mean, tau))
        numpyro.sample("obs", dist.Normal(theta, errors), obs=effects)


@case("NumPyro: eight schools, TransformReparam", Y[:8], np.abs(X[:8]) + 1)
def eight_schools_reparametrised(effects, errors):
    mean, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", len(effects)), handlers.reparam(config={"theta": TransformReparam()}):
        affine = dist.transforms.AffineTransform(mean, tau)
        theta = numpyro.sample("theta", dist.TransformedDistribution(dist.Normal(), affine))
        numpyro.sample("obs", dist.Normal(theta, errors), obs=effects)


@case("posteriordb: radon, varying levels", GROUP, X, Y)
def radon(county, floor, level):
    mean, spread = numpyro.sample("mu", dist.Normal()), numpyro.sample("sd", dist.HalfNormal())
    with numpyro.plate("county", int(np.max(county)) + 1):
        own = numpyro.sample("own", dist.Normal(mean, spread))
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("house", len(level)):
        numpyro.sample("y", dist.Normal(own[county] + slope * floor, 1.0), obs=level)


@case("NumPyro: hierarchical regression (OSIC)", GROUP, X, Y)
def lungs(patient, week, capacity):
    a, b = numpyro.sample("μ_α", dist.Normal()), numpyro.sample("μ_β", dist.Normal())
    number = len(np.unique(patient))
    with numpyro.plate("plate_i", number), handlers.reparam(config={"α": LocScaleReparam(0)}):
        level, slope = numpyro.sample("α", dist.Normal(a)), numpyro.sample("β", dist.Normal(b))
    with numpyro.plate("rows", len(capacity)):
        numpyro.sample("obs", dist.Normal(level[patient] + slope[patient] * week), obs=capacity)


@case("NumPyro: mortality by area and age", GROUP, np.arange(NUM) % 2, COUNTS)
def mortality(area, age, deaths):
    with numpyro.plate("area", 3, dim=-3):
        by_area = numpyro.sample("s", dist.Normal())
    with numpyro.plate("age", 2, dim=-2):
        by_age = numpyro.sample("a", dist.Normal())
    with numpyro.plate("N", len(deaths)):
        rate = by_area[area, 0, 0] + by_age[age, 0]
        numpyro.sample("deaths", dist.Binomial(30, logits=rate), obs=deaths)


@case("PyMC: items and people (1PL)", GROUP, np.arange(NUM) % 4, BINARY)
def items(person, item, right):
    with numpyro.plate("person", 3):
        skill = numpyro.sample("skill", dist.Normal())
    with numpyro.plate("item", 4):
        hard = numpyro.sample("hard", dist.Normal())
    with numpyro.plate("answer", len(right)):
        numpyro.sample("right", dist.Bernoulli(logits=skill[person] - hard[item]), obs=right)


@case("NumPyro: imputation of inputs", HOLES, SEEN, BINARY)
def imputed_inputs(age, seen, survived):
    mean, effect = numpyro.sample("mean", dist.Normal()), numpyro.sample("effect", dist.Normal())
    with numpyro.plate("passenger", len(survived)):
        guess = numpyro.sample("guess", dist.Normal(mean).mask(~seen))
        numpyro.sample("age", dist.Normal(mean).mask(seen), obs=jnp.where(seen, age, 0.0))
        full = jnp.where(seen, age, guess)
        numpyro.sample("survived", dist.Bernoulli(logits=effect * full), obs=survived)


@case("PyMC: missing outcomes", X, HOLES, SEEN)
def missing_outcomes(x, y, seen):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(slope * x), obs=y, obs_mask=seen)


@case("NumPyro: CUPED, one unit in two plates", X, Y, TABLE[:, 0], data=["first", "second"])
def before_and_after(x, before, after):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("first", len(x)):
        numpyro.sample("before", dist.Normal(slope * x), obs=before)
    with numpyro.plate("second", len(x)):
        numpyro.sample("after", dist.Normal(slope * x + 0.5), obs=after)


@case("PyMC: two outcomes without a plate", X, Y, BINARY, data=["y", "z"])
def two_outcomes(x, y, z):
    slope = numpyro.sample("slope", dist.Normal())
    numpyro.sample("y", dist.Normal(slope * x), obs=y)
    numpyro.sample("z", dist.Bernoulli(logits=slope * x), obs=z)


@case("Stan: rats, growth of each animal", TABLE, data="rat")
def rats(weights):
    mean, slope = numpyro.sample("mean", dist.Normal()), numpyro.sample("slope", dist.Normal())
    with numpyro.plate("rat", len(weights), dim=-2):
        level = numpyro.sample("level", dist.Normal(mean))
        with numpyro.plate("week", 3):
            numpyro.sample("y", dist.Normal(level + slope * jnp.arange(3.0)), obs=weights)


@case("Stan: factor analysis", TABLE)
def factors(table):
    loadings = numpyro.sample("loadings", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("data", len(table)):
        score = numpyro.sample("score", dist.Normal())
        numpyro.sample("y", dist.Normal(score[:, None] * loadings, 0.5).to_event(1), obs=table)


@case("forum: one plate of groups, rows elsewhere", GROUP, Y, data="group", refused="dtda.groups")
def rows_of_groups(group, y):
    with numpyro.plate("group", 3):
        level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(level[group]), obs=y)

"""Time series: states, autoregressions, forecasts."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from catalogue.entry import COUNTS, NUM, POSITIVE, TABLE, Y, case


@case("NumPyro: stochastic volatility", Y, delete=None)
def stochastic_volatility(returns):
    step = numpyro.sample("sigma", dist.Exponential(50.0))
    walk = numpyro.sample("s", dist.GaussianRandomWalk(step, len(returns)))
    degrees = numpyro.sample("nu", dist.Exponential(0.1))
    numpyro.sample("r", dist.StudentT(degrees, 0.0, jnp.exp(walk)), obs=returns)


@case("NumPyro: AR(2) by scan and condition", Y, delete=None)
def second_order(y):
    a, b = (numpyro.sample(name, dist.Normal()) for name in ("a", "b"))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))

    def step(carry, _):
        first, second = carry
        now = numpyro.sample("y", dist.Normal(a * first + b * second, sigma))
        return (now, first), None

    with handlers.condition(data={"y": y[2:]}):
        scan(step, (y[1], y[0]), None, length=len(y) - 2)


@case("NumPyro: AR(2) by lagged indices", Y, delete=None)
def lagged(y):
    a, b = (numpyro.sample(name, dist.Normal()) for name in ("a", "b"))
    with numpyro.plate("time", len(y) - 2) as i:
        numpyro.sample("y", dist.Normal(a * y[i + 1] + b * y[i]), obs=y[i + 2])


@case("NumPyro: VAR(2) by scan", TABLE, delete=None)
def vector_autoregression(y):
    moves = numpyro.sample("moves", dist.Normal(0, 0.3).expand([3, 3]).to_event(2))
    root = numpyro.sample("L", dist.LKJCholesky(3, 2.0))

    def step(before, _):
        now = numpyro.sample("y", dist.MultivariateNormal(moves @ before, scale_tril=root))
        return now, None

    with handlers.condition(data={"y": y[1:]}):
        scan(step, y[0], None, length=len(y) - 1)


@case("NumPyro: Holt and Winters", POSITIVE, delete=None)
def exponential_smoothing(y):
    alpha, beta = (numpyro.sample(name, dist.Beta(1, 1)) for name in ("level_smooth", "trend_smooth"))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    y = jnp.asarray(y, float)
    with numpyro.plate("n_seasons", 3):
        seasons = numpyro.sample("seasons", dist.Normal(0, 0.5))

    def step(carry, t):
        level, trend, season = carry
        mean = level + trend + season[0]
        now = numpyro.sample("y", dist.Normal(mean, noise))
        new = alpha * (now - season[0]) + (1 - alpha) * (level + trend)
        trend = beta * (new - level) + (1 - beta) * trend
        return (new, trend, jnp.roll(season, -1)), mean

    with handlers.condition(data={"y": y}):
        scan(step, (y[0], 0.0, seasons), jnp.arange(len(y)))


@case("NumPyro: seasonal forecast (hierarchical forecasting)", TABLE, data="time", delete=None)
def forecasts(y):
    drift = numpyro.sample("drift", dist.Normal().expand([3]).to_event(1))

    def step(level, _):
        with numpyro.plate("origin", 3, dim=-1):
            level = numpyro.sample("level", dist.Normal(level + drift))
        return level, level

    levels = scan(step, jnp.zeros(3), None, length=len(y))[1]
    with numpyro.plate("time", len(y), dim=-2), numpyro.plate("stations", 3, dim=-1):
        numpyro.sample("obs", dist.Normal(levels, 1.0), obs=y)


@case("PyMC: local level", Y, delete=None)
def local_level(y):
    step = numpyro.sample("step", dist.HalfNormal(1.0))
    noise = numpyro.sample("noise", dist.Normal().expand([len(y)]).to_event(1))
    numpyro.sample("y", dist.Normal(jnp.cumsum(step * noise), 0.5), obs=y)


@case("NumPyro: Lotka-Volterra", abs(TABLE[:, :2]) + 0.5, delete=None)
def predator_and_prey(y):
    rates = numpyro.sample("theta", dist.LogNormal(-1.0, 0.3).expand([4]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))

    def step(state, _):
        hare, lynx = state
        grow = hare * (rates[0] - rates[1] * lynx), lynx * (rates[2] * hare - rates[3])
        state = jnp.maximum(state + 0.1 * jnp.stack(grow), 1e-3)
        return state, state

    states = jax.lax.scan(step, jnp.ones(2), None, length=len(y))[1]
    numpyro.sample("y", dist.LogNormal(jnp.log(states), sigma), obs=y)


@case("Stan: coal mine disasters by a trend", COUNTS, delete=None)
def trend_of_counts(counts):
    slope = numpyro.sample("slope", dist.Normal(0, 0.1))
    numpyro.sample("y", dist.Poisson(jnp.exp(slope * jnp.arange(NUM))), obs=counts)


@case("posteriordb: GARCH(1, 1)", Y, delete=None)
def garch(y):
    a, b = (numpyro.sample(name, dist.Beta(1, 2)) for name in ("alpha", "beta"))

    def step(carry, now):
        variance = 0.2 + a * carry[0] ** 2 + b * carry[1]
        numpyro.sample("y", dist.Normal(0.0, jnp.sqrt(variance)), obs=now)
        return (now, variance), None

    y = jnp.asarray(y, float)
    scan(step, (jnp.zeros(()), jnp.ones(())), y)

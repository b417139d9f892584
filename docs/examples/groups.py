"""Which counties does a regression depend on? Whole groups are removed, and some refitted."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import dtda_prob as dtda

houses = dtda.zoo.radon()


def regression(floor, uranium, y=None):
    level = numpyro.sample("level", dist.Normal(0, 5))
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 5.0).to_event())
    with numpyro.plate("data", len(floor)) as i:
        mean = level + slopes[0] * floor[i] + slopes[1] * uranium[i]
        numpyro.sample("y", dist.Normal(mean, 0.8), obs=None if y is None else y[i])


program = dtda.Program(regression, houses.floor, houses.uranium, y=houses.log_radon)
training = dtda.Training(program, dtda.kernels.exact(), dtda.measures.parameters())
counties = dtda.groups(program, houses.county)

scores = dtda.attribute(
    dtda.influence(training, at="old"), jax.random.key(0), 64, ["mean"], counties, direction="pull"
)
print(dtda.scores.strongest(scores, 3).round(4).to_string())

names = scores.sel(divergence="mean").isel(query=0).sortby("rank")["perturbation"].values[:8]
some = counties.sel(perturbation=names)
truth = dtda.attribute(training, jax.random.key(1), 64, ["mean"], some)
pairs = [each["score"].sel(divergence="mean", perturbation=names).values for each in (scores, truth)]
print(f"predicted against refitted, eight counties: r = {np.corrcoef(*map(np.ravel, pairs))[0, 1]:.3f}")

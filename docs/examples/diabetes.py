"""Which patients does a regression depend on? It is fitted exactly, so retraining checks the scores."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from sklearn.datasets import load_diabetes

import dtda_prob as dtda

x, y = load_diabetes(return_X_y=True)
x, y = x / x.std(0), (y - y.mean()) / y.std()


def regression(x, y=None):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event())
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(x[i] @ slopes, 0.7), obs=None if y is None else y[i])


program = dtda.Program(regression, x[40:], y=y[40:], labels=[f"patient {i}" for i in range(40, len(x))])
training = dtda.Training(program, dtda.kernels.exact(), dtda.measures.prediction(x[:3]))
print(training)

scores = dtda.attribute(dtda.influence(training), jax.random.key(0), 32, ["mean", "variance"])
print(dtda.scores.strongest(scores.sel(query=[0]), 4).round(4).to_string())

# Every one of the ten highest ranks, trained again without the patient.
first = scores.sel(divergence="mean", query=0).sortby("rank").isel(example=slice(10))
truth = dtda.attribute(
    training, jax.random.key(1), 32, ["mean"], dtda.leave_one_out(program, first["example"].values)
)
retrained = truth["score"].sel(divergence="mean", query=0)
error = float(truth["error"].sel(divergence="mean", query=0).max())
print(f"predicted against retrained: r = {np.corrcoef(first['score'], retrained)[0, 1]:.3f}")
print(f"largest difference {np.abs(first['score'].values - retrained.values).max():.1e} +- {error:.0e}")

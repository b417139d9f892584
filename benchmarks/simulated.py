"""Does each kernel draw from posteriors: ranks of true parameters on simulated data.

Run with `uv run python benchmarks/simulated.py` (some minutes on two cores). It prints its table and
writes it to `docs/benchmarks/simulated.md`.
"""

import jax
import numpy as np
import numpyro.distributions as dist
import optax
import pandas as pd
from numpyro import sample
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from page import write

import dtda_prob as dtda
from dtda_prob import kernels

SEED, NUM_SIMULATIONS = 0, 200
DYNAMICS = {"num_steps": 8000}
KERNELS = {
    "exact": kernels.exact(),
    "laplace": kernels.laplace(),
    "nuts": kernels.nuts(num_warmup=200, num_samples=50, thinning=4),
    "hmc": kernels.hmc(num_warmup=200, num_samples=50, thinning=4, num_integration_steps=8),
    "sgld": kernels.keep(kernels.sgld(2e-3, **DYNAMICS), 50, thinning=150),
    "sgld, preconditioned": kernels.keep(
        kernels.sgld(1e-3, rms_decay=0.99, **DYNAMICS), 50, thinning=150
    ),
    "sghmc": kernels.keep(kernels.sghmc(4e-3, num_steps=300, num_integration_steps=50), 50, thinning=5),
    "sgnht": kernels.keep(kernels.sgnht(4e-3, num_steps=12_000), 50, thinning=200),
    "svi, a full normal": kernels.svi(AutoMultivariateNormal, optax.adam(0.03), num_steps=1000),
    "svi, independent normals": kernels.svi(AutoNormal, optax.adam(0.03), num_steps=1000),
}
"""Kernels that draw from a posterior, with draws about independent."""


def simulated() -> pd.DataFrame:
    """Rank true parameters among draws on data that were simulated from them, kernel by kernel.

    A linear regression and a logistic one, of 24 examples and three correlated features; 200 datasets
    from the prior of each, and 50 draws for each dataset (simulation-based calibration; Talts et al.,
    arXiv 1804.06788). "p-value" is the smallest of the three parameters, times three, of a test that
    ranks are uniform; "bias" the mean of the share of draws below the true value, less a half, where
    it is largest, with the p-value of a test that it is zero, times three (for `svi` the test of Yao et
    al., arXiv 1802.02538); "spread" the standard deviation of that share, relative to uniform numbers:
    above 1, on average over parameters, where draws are too narrow. All kernels see the same datasets
    of a model, and share the luck of these.
    """
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(24, 3)) @ np.linalg.cholesky(0.4 * np.eye(3) + 0.6).T
    rows = []
    for model in (linear, binary):
        program = dtda.Program(model, x, y=(np.arange(24) % 2).astype(np.float32))
        for name, kernel in KERNELS.items():
            if model is linear or name != "exact":
                rows.append({"model": model.__name__, "kernel": name} | ranked(program, kernel))
                print(rows[-1], flush=True)
    return pd.DataFrame(rows).set_index(["model", "kernel"])


def ranked(program: dtda.Program, kernel: kernels.Kernel) -> dict:
    training = dtda.Training(program, kernel)
    found = dtda.diagnostics.simulated(training, jax.random.key(SEED), NUM_SIMULATIONS)
    largest = int(np.abs(found["bias"]).argmax())
    return {
        "p-value": min(1.0, 3 * float(found["p_value"].min())),
        "bias": float(found["bias"][largest]),
        "its p-value": min(1.0, 3 * float(found["bias_p_value"].min())),
        "spread": float((found["pit"].std("simulation") * 12**0.5).mean()),
    }


def linear(x, y):
    slopes = sample("slopes", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    sample("y", dist.Normal(x @ slopes, 1.0), obs=y)


def binary(x, y):
    slopes = sample("slopes", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    sample("y", dist.Bernoulli(logits=x @ slopes), obs=y)


if __name__ == "__main__":
    write("simulated", "Simulated data", __doc__, [simulated], SEED)

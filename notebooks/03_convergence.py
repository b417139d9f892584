# %% [markdown]
# # Unrolled differentiation converges to influence functions
#
# As training goes on, the unrolled response of a network tends to influence by the pseudo-inverse
# Hessian; for linear regression it gets there to rounding, for logistic regression ever closer.
#
# This is the first theorem of the paper (arXiv 2506.12965) and its experiment on UCI Concrete
# (I-Cheng Yeh, 1998, CC BY 4.0; part of the library). For a network we measure the Pearson
# correlation, over training examples, between the two responses of a prediction, averaged over
# queries, with its standard error over runs; and the share of the prediction's gradient that lies in
# the span of the Hessian. For linear and logistic regression with redundant features we measure the
# distance between the two responses. Everything is in double precision.

# %%
from functools import partial

import claims
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import scipy.stats

import dtda_prob as dtda
from dtda_prob import curvature

jax.config.update("jax_enable_x64", True)

CLAIM = (
    "As training goes on, the unrolled response of a network tends to influence by the pseudo-inverse "
    "Hessian; for linear regression it gets there to rounding, for logistic regression ever closer."
)
size = claims.sized(
    check={"runs": 2, "queries": 1, "rates": (0.2,), "lengths": (10,), "descents": (20,), "cases": 1},
    default={
        "runs": 3,
        "queries": 4,
        "rates": (0.05, 0.2),
        "lengths": (500, 2000, 8000),
        "descents": (100, 1000, 10_000),
        "cases": 3,
    },
    full={
        "runs": 4,
        "queries": 6,
        "rates": (0.05, 0.1, 0.2),
        "lengths": (500, 2000, 8000, 16_000),
        "descents": (100, 1000, 10_000, 30_000),
        "cases": 3,
    },
)
keys = jax.random.split(jax.random.key(0), size.runs)
concrete = dtda.zoo.concrete()

# %% [markdown]
# ## Responses of several transforms
#
# A response is the derivative of a measurement with respect to the weight of each example. `pull`
# computes it for all queries and examples at once. All transforms here start from the same trainings.


# %%
def pulls(transforms):
    """The responses of some transforms, (run, query, example), in one compiled call."""
    weights = next(iter(transforms.values())).training.program.full_weights()

    def each(key):
        return {name: transform.pull(key, weights)[0] for name, transform in transforms.items()}

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(each))(keys))


# %% [markdown]
# ## Generalised linear models: to rounding
#
# Forty mixes of concrete with four of their features, one sum and one difference of these: six slopes
# in four dimensions. There is no prior, so no example depends on two directions of the slopes, and the
# Hessian is singular. Step sizes decay as t^-0.75, so that their sum diverges and the sum of their
# squares converges. The measurement is the vector of all slopes.


# %%
FAMILIES = {
    "linear": lambda means: dist.Normal(means, 1.0),
    "logistic": lambda logits: dist.Bernoulli(logits=logits),
}


def redundant(x, y, family):
    slopes = numpyro.param("slopes", lambda key: jax.random.normal(key, (x.shape[1],)))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", family(x[i] @ slopes), obs=y[i])


def generalised(family):
    x, y = concrete.x_train[:40, [0, 3, 4, 7]].astype(float), concrete.y_train[:40].astype(float)
    x = np.column_stack([x, x[:, 0] + x[:, 1], x[:, 2] - x[:, 3]])
    y = (y > 0).astype(float) if family == "logistic" else y
    return dtda.Program(partial(redundant, family=FAMILIES[family]), x, y)


def relative_distance(family, batch, steps):
    """The distance of the two responses over the length of influence, for each run."""
    decaying = optax.sgd(lambda count: 0.2 / (1 + count / 50) ** 0.75)
    kernel = dtda.kernels.sgd(decaying, num_steps=steps, batch_size=batch)
    training = dtda.Training(generalised(family), kernel, dtda.measures.parameters())
    how = curvature.dense("gauss_newton", rtol=1e-9)  # what is flat is so to rounding
    found = pulls({"unrolled": dtda.unroll(training), "influence": dtda.influence(training, how)})
    apart = np.linalg.norm(found["unrolled"] - found["influence"], axis=(1, 2))
    return apart / np.linalg.norm(found["influence"], axis=(1, 2))


cases = {
    "linear, all data": ("linear", None),
    "linear, batches of 8": ("linear", 8),
    "logistic, all data": ("logistic", None),
}
distances = {
    name: np.array([relative_distance(*case, steps) for steps in size.descents])
    for name, case in [*cases.items()][: size.cases]
}

# %% [markdown]
# Distances fall with the number of steps; for a linear model on all data they reach rounding. Batches
# add noise that falls with the step size. Error bars are standard errors over runs.

# %%
figure, axes = plt.subplots(figsize=(6, 3.6), dpi=80)
for (name, found), style in zip(distances.items(), ("-o", "--s", ":^"), strict=False):
    error = found.std(1, ddof=1) / size.runs**0.5
    axes.errorbar(size.descents, found.mean(1), error, fmt=style, capsize=3, label=name)
axes.set(xscale="log", yscale="log", xlabel="steps", ylabel="relative distance of responses")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## A network on Concrete
#
# Four tanh units on 8 features, 896 mixes, and Normal(0, 0.5) priors, which act as weight decay:
# without them the Hessian still has a negative eigenvalue after any training that is affordable here,
# and influence is not the limit. SGD with momentum 0.9 on batches of 128; the step size falls to 0
# along a cosine within the length of each training. Three responses: unrolled, influence by the
# pseudo-inverse Hessian, and influence damped by one over the total step size of training ("auto").


# %%
def network(x, y=None, width=4):
    def drawn(name, *shape):
        return numpyro.sample(name, dist.Normal(0.0, 0.5).expand(shape).to_event(len(shape)))

    inner, bias = drawn("inner", width, x.shape[1]), drawn("bias", width)
    outer, shift = drawn("outer", width), drawn("shift", 1)
    with numpyro.plate("data", len(x)) as i:
        means = jnp.tanh(x[i] @ inner.T + bias) @ outer + shift
        numpyro.sample("y", dist.Normal(means, 1.0), obs=None if y is None else y[i])


program = dtda.Program(network, concrete.x_train.astype(float), y=concrete.y_train.astype(float))
predictions = dtda.measures.prediction(concrete.x_test[: size.queries].astype(float))


def trained(rate, steps):
    def falling(steps):
        return optax.sgd(optax.cosine_decay_schedule(rate, steps), momentum=0.9)

    kernel = dtda.kernels.sgd(falling, num_steps=steps, batch_size=128)
    return dtda.Training(program, kernel, predictions)


def correlations(found, expected):
    """Pearson over data, averaged over queries: one number a run."""
    pairs = [zip(*run, strict=True) for run in zip(found, expected, strict=True)]
    return np.array([np.mean([np.corrcoef(*pair)[0, 1] for pair in run]) for run in pairs])


def compared(rate, steps):
    """For each run: both correlations, and the share of the prediction's gradient in the span."""
    training = trained(rate, steps)
    found = pulls(
        {
            "unrolled": dtda.unroll(training),
            "exact": dtda.influence(training),
            "auto": dtda.influence(training, curvature.dense(damping="auto")),
        }
    )
    flat = dtda.diagnostics.null_space(
        training, curvature.dense(), jax.random.key(0), num_draws=size.runs, rtol=1e-3
    )
    agreements = {name: correlations(found["unrolled"], found[name]) for name in ("exact", "auto")}
    return agreements | {"span": 1 - flat["share"].mean("query").values}


results = {(rate, steps): compared(rate, steps) for rate in size.rates for steps in size.lengths}

# %% [markdown]
# Left: correlation of the unrolled response with influence (solid) and with damped influence
# (dotted), against the length of training. Long trainings with large steps agree; trainings that are
# short for their step size vary from run to run. Right: the share of the prediction's gradient on
# eigenvectors of the Hessian whose eigenvalues are above a thousandth of the largest in absolute
# value. It is close to one throughout, so it does not explain the disagreement here. Error bars are
# standard errors over runs.


# %%
def over_lengths(rate, name):
    return np.array([results[rate, steps][name] for steps in size.lengths])


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), dpi=80)
for rate, marker in zip(size.rates, "os^", strict=False):
    for axes, name, style in ((left, "exact", "-"), (left, "auto", ":"), (right, "span", "-")):
        values = over_lengths(rate, name)
        error = values.std(1, ddof=1) / size.runs**0.5
        color = {0.05: "0.6", 0.1: "tab:orange", 0.2: "black"}[rate]
        label = f"step size {rate}" + ", damped" * (name == "auto")
        axes.errorbar(
            size.lengths, values.mean(1), error, fmt=style + marker, color=color, capsize=3, label=label
        )
left.set(xscale="log", xlabel="steps of training", ylabel="correlation with the unrolled response")
right.set(xscale="log", xlabel="steps of training", ylabel="share of gradient in the span")
left.legend(frameon=False, fontsize=8)
figure.tight_layout()
plt.show()

# %% [markdown]
# Another claim, which is not the paper's: if training is short the two responses disagree, and damped
# influence matches unrolling better. The table has both correlations, and the gain by damping with its
# standard error.

# %%
rows = {}
for place, found in results.items():
    gain = found["auto"] - found["exact"]
    rows[place] = {name: values.mean() for name, values in found.items()}
    rows[place] |= {"gain": gain.mean(), "error": gain.std(ddof=1) / size.runs**0.5}
table = pd.DataFrame(rows).T.rename_axis(["step size", "steps"])
table.style.format("{:.3f}")

# %% [markdown]
# ## Verdict
#
# Figure 3 of the paper makes three claims: correlations are very high late in training (90 %), they
# are higher for smaller step sizes, and the share of the gradient in the span of the Hessian is close
# to 1 (there of norms, here of squared norms, which is farther from 1). At full size they are met:
# after 16,000 steps the correlations are 0.9999, 0.9994 and 0.9994 for step sizes 0.05, 0.1 and 0.2,
# of which only the first differs. At the default size the largest step size has reached 0.999 and the
# smallest has not converged, so that the order is the other way round. Step sizes fall to 0, as the
# theorem asks.
#
# Intervals are Student's over runs, 95 %.
#
# What fails at the default size: after 8000 steps of size 0.05 two of three runs are
# near a minimum, and there the correlations are 0.9997 and 0.9987. The third has a negative
# eigenvalue of the Hessian and a gradient seven times as long; its correlation is 0.21. So the two
# agree not after a number of steps but once training has converged to a minimum, and the mean over
# runs need not rise from one length to the next.


# %%
def interval(values):
    error = values.std(ddof=1) / len(values) ** 0.5
    reach = scipy.stats.t.ppf(0.975, len(values) - 1) * error
    return values.mean(), (values.mean() - reach, values.mean() + reach)


first, last, largest = size.lengths[0], size.lengths[-1], size.rates[-1]
longest = {rate: interval(results[rate, last]["exact"]) for rate in size.rates}
shortest = interval(results[largest, first]["exact"])
grown = [results[rate, last]["exact"] - results[rate, first]["exact"] for rate in size.rates]
gains = [results[rate, first]["auto"] - results[rate, first]["exact"] for rate in size.rates]
span = interval(results[largest, last]["span"])
falls = [np.log10(found[-1] / found[0]) for found in distances.values()]
glm = {
    f"{name}: distance after {size.descents[-1]} steps": (
        found[-1].mean(),
        found[-1].std(ddof=1) / size.runs**0.5,
    )
    for name, found in distances.items()
}
claims.verdict(
    CLAIM,
    paper="on UCI Concrete correlations are very high late in training (90 %), and higher for smaller "
    "step sizes; the share of the measurement's gradient in the span of the Hessian is close to 1 "
    "(figure 3)",
    findings={
        **{f"correlation after {last} steps of size {rate}": longest[rate] for rate in size.rates},
        f"correlation after {first} steps of size {largest}": shortest,
        f"gain by damping after {first} steps, mean of step sizes": interval(np.mean(gains, 0)),
        f"share in the span after {last} steps of size {largest}": span,
        **glm,
    },
    tests={
        f"network, {last} steps of size {largest}: correlation above 0.95": longest[largest][1][0]
        > 0.95,
        f"network: higher after {last} than after {first} steps, at each step size": all(
            interval(each)[1][0] > 0 for each in grown
        ),
        "network: more than 0.99 of the gradient is in the span": span[1][0] > 0.99,
        "linear regression on all data: distance below 1e-10": distances["linear, all data"][-1].max()
        < 1e-10,
        "all regressions: the distance falls": all(interval(each)[1][1] < 0 for each in falls),
    },
)

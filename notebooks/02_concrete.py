# %% [markdown]
# # Removing a subset of UCI Concrete: before, pushed, retrained
#
# When a subset of the data goes, retrained predictions are nearer to the pushed ones than to the
# original ones, in their mean and in Wasserstein distance, query by query.
#
# This is figure 2 of the paper (arXiv 2506.12965): a network is trained on UCI Concrete with and
# without a fixed part of the rows, over many seeds, and samples of the first distribution are pushed
# to the second by unrolled differentiation, without retraining. We measure the predicted strength of
# 103 test mixes, and ask of each whether its retrained sample is nearer to the pushed or to the
# original one, by the difference of means and by the Wasserstein distance W₂. Influence functions
# with a damped Gauss-Newton matrix are compared as well, which is an extension: the figure has
# unrolled differentiation alone. The truth is retraining with other seeds. Data: I-Cheng Yeh (1998),
# UCI Machine Learning Repository, CC BY 4.0; 896 rows to train, strength in standard deviations
# (about 17 MPa).

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
import xarray as xr
from claims import shown, sized, verdict
from scipy.stats import gaussian_kde

import dtda_prob as dtda

CLAIM = (
    "When a subset of the data goes, retrained predictions are nearer to the pushed ones than to the "
    "original ones, in their mean and in Wasserstein distance, query by query."
)
size = sized(
    check={
        "widths": [8],
        "epochs": 1,
        "draws": 8,
        "subsets": 2,
        "queries": 4,
        "rates": ["constant"],
    },
    default={
        "widths": [32, 32],
        "epochs": 20,
        "draws": 32,
        "subsets": 2,
        "queries": 103,
        "rates": ["constant", "falling to 0"],
    },
    full={
        "widths": [128, 128, 128],
        "epochs": 20,
        "draws": 16,
        "subsets": 4,
        "queries": 103,
        "rates": ["constant", "falling to 0"],
    },
)

# %% [markdown]
# A perceptron with GELU units, SGD with momentum 0.9, weight decay 1e-5, batches of 32, 20 epochs.
# With a *constant* rate (0.01) training ends far from convergence: the seed changes a test error by
# more than half its mean, which is known to be a hard case. So we also train with a rate that *falls
# to 0* (a cosine from 0.02, with as many steps of the same mean size).

# %%
split = dtda.zoo.concrete()
program = dtda.Program(dtda.zoo.regressor(size.widths, noise=0.5**0.5), split.x_train, y=split.y_train)
measure = dtda.measures.prediction(split.x_test[: size.queries])
rates = {
    "constant": lambda num_steps: optax.constant_schedule(0.01),
    "falling to 0": lambda num_steps: optax.cosine_decay_schedule(0.02, num_steps),
}


def training_with(rate):
    def optimizer(num_steps):
        sgd = optax.sgd(rates[rate](num_steps), momentum=0.9)
        return optax.chain(optax.add_decayed_weights(1e-5), sgd)

    kernel = dtda.kernels.sgd(optimizer, num_epochs=size.epochs, batch_size=32)
    return dtda.Training(program, kernel, measure)


# %% [markdown]
# The removed subsets are random thirds of the rows, and one coherent tenth: the mixes that had
# hardened longest (the largest ages).

# %%
tenth = len(split.x_train) // 10
subset_key, push_key, retrain_key = jax.random.split(jax.random.key(0), 3)
random_thirds = dtda.random_subsets(program, subset_key, size.subsets, keep=2 / 3)
oldest = np.argsort(-split.x_train[:, 7], kind="stable")[:tenth]
removals = xr.concat(
    [random_thirds.astype(float), dtda.groups(program, {size.subsets: oldest})],
    "perturbation",
    combine_attrs="override",
)
parts = {"random thirds": slice(0, size.subsets), "oldest tenth": slice(size.subsets, None)}

# %% [markdown]
# Samples before, pushed (from the same draws) and retrained (with other keys). Both push-forwards
# have their default settings: unrolled differentiation is exact, the Gauss-Newton matrix is damped by
# one over the total step size of training, and the response is taken at the centre of the perturbed
# datasets. A prediction is an output of the network, so carrying it by `push` (a derivative for each
# subset) or by `pull` (one response for all of them) is the same; we use the cheaper one. All
# predictions are compared with retraining below, so that `check` need not do it for a few.

# %%
methods = {
    "unrolled": (dtda.unroll, "push"),
    "influence": (lambda training: dtda.influence(training, dtda.curvature.gram()), "pull"),
}


def samples(rate):
    training, evaluate = training_with(rate), dtda.evaluate
    found = {
        method: evaluate.predictions(
            transform(training), push_key, size.draws, removals, direction=direction, check=False
        )
        for method, (transform, direction) in methods.items()
    }
    found["retrained"] = evaluate.retrainings(
        training, retrain_key, removals, num_retrainings=size.draws
    )
    return found


arms = {rate: samples(rate) for rate in size.rates}


def before(rate, name="unrolled"):
    """Return predictions on all data, (draw, query, 1), with the keys of a sample."""
    return arms[rate][name]["full"].values[..., None]


def after(rate, name, what):
    """Return predictions on the remaining data, (draw, query, subset)."""
    values = arms[rate][name]["perturbed"].transpose("draw", "query", "perturbation").values
    return values[..., parts[what]]


# %% [markdown]
# Three test mixes, when the oldest tenth is removed. They are the mixes whose mean moves most
# according to influence functions, so no retraining was used to choose them. In each panel the
# pushed densities should lie on the retrained one, and away from the density before.

# %%
rate, what = size.rates[0], "oldest tenth"
moved = np.abs((after(rate, "influence", what) - before(rate)).mean(0)[:, 0])
most = np.argsort(-moved)[:3].tolist()
lines = {"unrolled": "k:", "influence": "k--", "retrained": "k-"}
figure, panels = plt.subplots(1, 3, figsize=(10, 3), dpi=80)
for panel, query in zip(panels, most, strict=True):
    drawn = {name: after(rate, name, what)[:, query, 0] for name in lines}
    everything = np.concatenate([before(rate)[:, query, 0], *drawn.values()])
    grid = np.linspace(everything.min() - 0.1, everything.max() + 0.1, 200)
    panel.fill_between(
        grid, gaussian_kde(before(rate)[:, query, 0])(grid), color="0.85", label="before"
    )
    for name, line in lines.items():
        panel.plot(grid, gaussian_kde(drawn[name])(grid), line, label=name)
    panel.set(title=f"test mix {query}, rate {rate}", xlabel="predicted strength (sd)")
panels[0].set_ylabel("density over seeds")
panels[0].legend(fontsize=7)
figure.tight_layout()

# %% [markdown]
# The same three mixes in numbers, with 90 % intervals: the shift of the mean from the distribution
# before, and W₂ to the distributions before and retrained. The estimate of W₂ is corrected for the
# bias of noise, so that it scatters about 0 if nothing moves (and can be negative); the null level is
# its 95 % quantile if nothing moves.


# %%
def estimated(divergence, old, new):
    found = dtda.divergences.estimate(divergence, old, new, coupled=False)
    return found, shown(float(found.value), (float(found.lower), float(found.upper)))


rows = []
for query in most:
    old, truth = before(rate)[:, query, 0], after(rate, "retrained", what)[:, query, 0]
    for name in ("retrained", *methods):
        new = after(rate, name, what)[:, query, 0]
        far, far_shown = estimated("wasserstein", old, new)
        left = "" if name == "retrained" else estimated("wasserstein", truth, new)[1]
        rows.append(
            {
                "query": query,
                "sample": name,
                "shift of the mean": estimated("mean", old, new)[1],
                "W2 from before": far_shown,
                "null level": f"{float(far.null):.3f}",
                "W2 to retrained": left,
            }
        )
pd.DataFrame(rows).set_index(["query", "sample"])

# %% [markdown]
# Over all test mixes, the claim itself: the share of queries whose retrained sample is nearer to the
# pushed than to the original one, by the mean, by W₂ and by both. And two measures of how near: the
# correlation of predicted and retrained differences of means, and the *share explained*, 1 - Σ
# W₂²(pushed, retrained) / Σ W₂²(before, retrained), sums over mixes and subsets. It is 1 if pushed
# samples are distributed as retrained ones, 0 if pushing gains nothing over leaving samples where
# they were, and negative if pushing makes things worse.
#
# W₂² is the mean squared difference of quantiles. Pushed samples share keys with the samples that
# they start from, and retrained ones with trainings on all data; we compare the change of quantiles
# of each pair, and the change of means, so that the noise of shared seeds cancels. Of the share
# explained the two factors of each square come from different halves of the draws, so that noise adds
# nothing on average; of the shares of queries noise is left on both sides. Standard errors are
# jackknife estimates over eight blocks of draws and over subsets.


# %%
def change_of_quantiles(pair, draws):
    old, new = (np.sort(sample[draws], axis=0) for sample in pair)
    return new - old


def explained(guess, truth, draws, subsets):
    rng, left, total = np.random.default_rng(0), 0.0, 0.0
    for _ in range(8):
        halves = np.split(rng.permutation(draws)[: len(draws) // 2 * 2], 2)
        real = [change_of_quantiles(truth, half)[..., subsets] for half in halves]
        told = [change_of_quantiles(guess, half)[..., subsets] for half in halves]
        left += ((told[0] - real[0]) * (told[1] - real[1])).sum()
        total += (real[0] * real[1]).sum()
    return 1 - left / total


def nearer(guess, truth, draws, subsets):
    """Return which queries and subsets are nearer to the pushed sample, by mean and by W2."""
    real, told = (change_of_quantiles(pair, draws)[..., subsets] for pair in (truth, guess))
    by_mean = abs((told - real).mean(0)) < abs(real.mean(0))
    return by_mean, ((told - real) ** 2).mean(0) < (real**2).mean(0)


def nearer_by_mean(*samples):
    return nearer(*samples)[0].mean()


def nearer_by_wasserstein(*samples):
    return nearer(*samples)[1].mean()


def nearer_by_both(*samples):
    return np.logical_and(*nearer(*samples)).mean()


def correlation(guess, truth, draws, subsets):
    shifts = [(new - old)[draws].mean(0)[:, subsets] for old, new in (guess, truth)]
    return np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(*(s.T for s in shifts), strict=True)])


def jackknifed(statistic, guess, truth):
    """Return a statistic with its standard error over draws and over subsets."""
    draws, subsets = np.arange(len(guess[0])), np.arange(guess[1].shape[-1])
    by_draws = [statistic(guess, truth, draws[draws % 8 != k], subsets) for k in range(8)]
    variance = 7 * np.var(by_draws)
    if len(subsets) > 1:
        by_subsets = [statistic(guess, truth, draws, subsets[subsets != k]) for k in subsets]
        variance += (len(subsets) - 1) * np.var(by_subsets)
    return float(statistic(guess, truth, draws, subsets)), float(np.sqrt(variance))


def pair(rate, name, what):
    return before(rate, name), after(rate, name, what)


NEARER = (nearer_by_mean, nearer_by_wasserstein, nearer_by_both)
scores = {
    (rate, what, method, statistic.__name__): jackknifed(
        statistic, pair(rate, method, what), pair(rate, "retrained", what)
    )
    for rate in arms
    for what in parts
    for method in methods
    for statistic in (*NEARER, explained, correlation)
}
table = pd.Series({names: shown(*score) for names, score in scores.items()}).unstack()
order = [statistic.__name__ for statistic in (*NEARER, explained, correlation)]
table[order].rename_axis(["rate", "what goes", "push-forward"])

# %% [markdown]
# Predicted against retrained differences of means when the oldest tenth is removed, one point per
# test mix; bars are one standard error either way. On the diagonal the prediction is right.

# %%
figure, panels = plt.subplots(
    len(arms), 2, figsize=(7, 3.2 * len(arms)), dpi=80, sharex="row", sharey="row", squeeze=False
)
what = "oldest tenth"
for row, rate in zip(panels, arms, strict=True):
    estimate = dtda.divergences.estimate
    real = estimate("mean", *(each[..., 0] for each in pair(rate, "retrained", what)))
    for panel, method in zip(row, methods, strict=True):
        guess = estimate("mean", *(each[..., 0] for each in pair(rate, method, what)))
        panel.errorbar(
            guess.value, real.value, real.error, guess.error, fmt="o", ms=3, color="k", ecolor="0.7"
        )
        panel.axline((0, 0), slope=1, color="0.5", lw=1, ls="--")
        panel.set(title=f"{method}, rate {rate}", xlabel="predicted shift of the mean (sd of strength)")
    row[0].set_ylabel("retrained shift of the mean")
figure.tight_layout()

# %% [markdown]
# What must hold, for unrolled differentiation, each rate and each kind of subset: more than half of
# the queries are nearer to the pushed sample, by the mean and by W₂, by more than 1.645 standard
# errors. For influence functions the shares are findings.
#
# What came out at the default size: the claim holds for random thirds where the rate falls to 0, and
# for the means of nearly all cases. It fails by W₂ where the rate is constant, and for the coherent
# tenth. Two reasons. The rows of the tenth act together, and a first-order prediction underestimates
# them: the first figure shows that without the oldest mixes some predictions spread out far more than
# either push-forward predicts. And the count of queries is unfair to predictions where effects are
# small: the distance of the pushed to the retrained sample carries the noise of both, the distance of
# the original one of one alone. The share explained, in which this noise cancels, is above 0
# throughout, and 0.9 for random thirds.

# %%
findings, tests = {}, {}
words = {"nearer_by_mean": "mean", "nearer_by_wasserstein": "W2"}
for (rate, what, method, statistic), (value, error) in scores.items():
    name = f"{method}, rate {rate}, {what}"
    if statistic in words:
        findings[f"{name}: share of queries nearer, by {words[statistic]}"] = value, error
    if statistic in words and method == "unrolled":
        tests[f"{name}: most queries are nearer, by {words[statistic]}"] = value - 0.5 > 1.645 * error
    if statistic == "explained":
        findings[f"{name}: share explained"] = value, error
verdict(
    CLAIM,
    paper="on UCI Concrete retrained samples are nearer to the predicted than to the original ones, in "
    "mean and in Wasserstein distance, for the queries that it shows (figure 2)",
    findings=findings,
    tests=tests,
)

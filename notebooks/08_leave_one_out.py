# %% [markdown]
# # Leave-one-out is not broken, just noisy
#
# Leave-one-out is not broken but noisy: averaged or coupled retrainings agree with predictions.
#
# This is the paper's remark on leave-one-out (arXiv 2506.12965): a single retraining without an
# example says little about what the example does, because training is random; the mean over many
# does. We leave out random examples one at a time, predict by unrolled differentiation how far the
# mean of each query's loss moves, and retrain with other seeds. *Independent*: no two trainings
# share a seed. *Coupled*: the training with and the one without the example share initialisation
# and batches. Three settings: the handwritten digits of scikit-learn with all 1,437 images and with
# only 100, and UCI Concrete (896 rows; I-Cheng Yeh 1998, CC BY 4.0), all with small perceptrons.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
from claims import shown, sized, verdict
from scipy.optimize import minimize_scalar

import dtda_prob as dtda

CLAIM = "Leave-one-out is not broken but noisy: averaged or coupled retrainings agree with predictions."
size = sized(
    check={
        "independent": {"100 digits": 4},
        "coupled": 4,
        "data": 12,
        "queries": 4,
        "predict": 3,
        "resamples": 20,
    },
    default={
        "independent": {"1437 digits": 32, "100 digits": 128, "Concrete": 64},
        "coupled": 32,
        "data": 32,
        "queries": 30,
        "predict": 16,
        "resamples": 200,
    },
    full={
        "independent": {"1437 digits": 128, "100 digits": 512, "Concrete": 256},
        "coupled": 64,
        "data": 64,
        "queries": 40,
        "predict": 64,
        "resamples": 200,
    },
)

# %% [markdown]
# The three settings. All use momentum 0.9 and a cosine rate that ends at 0, for 20 epochs. With 100
# digits each image matters more, beside about as much noise, so that the whole curve can be seen
# with independent retrainings.


# %%
def optimizer(num_steps):
    return optax.sgd(optax.cosine_decay_schedule(0.05, num_steps), momentum=0.9)


def digits(num_data, widths, batch_size):
    split = dtda.zoo.digits()
    model = dtda.zoo.classifier(widths, 10)
    program = dtda.Program(model, split.x_train[:num_data], y=split.y_train[:num_data])
    kernel = dtda.kernels.sgd(optimizer, num_epochs=20, batch_size=batch_size)
    queries = slice(size.queries)
    return dtda.Training(
        program, kernel, dtda.measures.loss(split.x_test[queries], y=split.y_test[queries])
    )


def concrete():
    split = dtda.zoo.concrete()
    program = dtda.Program(dtda.zoo.regressor([32], noise=0.5**0.5), split.x_train, y=split.y_train)
    kernel = dtda.kernels.sgd(optimizer, num_epochs=20, batch_size=32)
    queries = slice(size.queries)
    measure = dtda.measures.squared_error(split.x_test[queries], y=split.y_test[queries])
    return dtda.Training(program, kernel, measure)


settings = {
    "1437 digits": lambda: digits(1437, [64], 64),
    "100 digits": lambda: digits(100, [16], 10),
    "Concrete": concrete,
}

# %% [markdown]
# For each setting: random data, the prediction (the mean unrolled derivative over some draws),
# coupled and independent retrainings, each with keys of its own, and a pilot of 8 coupled draws.
# From the pilot alone `dtda.power` predicts the correlation with the true shifts that a number of
# retrainings should reach: `sqrt(V / (V + s² / n))`, with V the variance of the true shifts over
# data and s² the noise of one retraining.


# %%
def study(name, seed=0):
    training = settings[name]()
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), len(name)), 5)
    labels = jax.random.choice(keys[0], training.program.num_data, (size.data,), replace=False)
    each = dtda.leave_one_out(training.program, np.asarray(labels))
    retrain = dtda.evaluate.retrainings
    return {
        "predicted": dtda.evaluate.predictions(dtda.unroll(training), keys[1], size.predict, each),
        "coupled": retrain(training, keys[2], each, num_retrainings=size.coupled),
        "independent": retrain(
            training, keys[3], each, num_retrainings=size.independent[name], coupled=False
        ),
        "pilot": dtda.power(training, keys[4], each, ["mean"], num_draws=8),
    }


studies = {name: study(name) for name in size.independent}

# %% [markdown]
# The score of a count n is the Pearson correlation over data between the predicted shift and the
# mean shift of n retrainings, averaged over queries and over all disjoint blocks of n retrainings.
# Its 90 % interval is normal on the scale of Fisher's z = artanh(r), with the standard deviation
# over resamples of the examples (all queries together, since they share the examples) and of the
# retrainings.


# %%
def shifts(arms):
    """Return the change of each draw, (draw, query, example)."""
    return (arms["perturbed"] - arms["full"]).transpose("draw", "query", "perturbation").values


def correlation(first, second):
    first, second = (x - x.mean(-1, keepdims=True) for x in (first, second))
    scale = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    return ((first * second).sum(-1) / scale).mean()


def blocks(num_draws, count):
    return np.arange(num_draws // count * count).reshape(-1, count)


def curve(arms, predicted, rng):
    """Return counts, the correlation of each, and resampled ones, (resample, count)."""
    each = shifts(arms)
    counts = 2 ** np.arange(int(np.log2(len(each))) + 1)
    data = np.random.default_rng(0).integers(size.data, size=(size.resamples, size.data))
    means = [
        np.mean([correlation(each[block].mean(0), predicted) for block in blocks(len(each), count)])
        for count in counts
    ]
    resampled = [
        [
            correlation(each[rng.permutation(len(each))[:count]].mean(0)[:, some], predicted[:, some])
            for count in counts
        ]
        for some in data
    ]
    return counts, np.array(means), np.array(resampled)


def interval(value, resampled, scale=np.arctanh, back=np.tanh):
    reach = 1.645 * scale(resampled).std(0, ddof=1)
    return back(scale(value) - reach), back(scale(value) + reach)


curves = {}
for name, found in studies.items():
    predicted = shifts(found["predicted"]).mean(0)
    for arms in ("coupled", "independent"):
        curves[name, arms] = curve(found[arms], predicted, np.random.default_rng(1))

# %% [markdown]
# The figure: correlation against the number of retrainings for each example. Circles: coupled;
# squares: independent; bars are 90 % intervals. Lines: what a perfect prediction would reach,
# according to the pilot of 8 draws. Where a line is near 1, points below it show the error of the
# prediction itself.

# %%
figure, panels = plt.subplots(
    1, len(studies), figsize=(4 * len(studies), 3.6), sharey=True, squeeze=False
)
for panel, (name, found) in zip(panels[0], studies.items(), strict=True):
    for arms, mark, line in (("coupled", "o", "-"), ("independent", "s", "--")):
        counts, means, resampled = curves[name, arms]
        low, high = interval(means, resampled)
        panel.vlines(counts, low, high, color="0.5")
        panel.plot(counts, means, mark, color="k", mfc="k" if mark == "o" else "w", label=arms)
        expected = found["pilot"].correlation.sel(arms=arms, divergence="mean").mean("query")
        panel.plot(expected["draws"], expected, line, color="0.3", lw=1, label=f"{arms}, by the pilot")
    panel.set(xscale="log", xlabel="retrainings for each example", title=name, ylim=(-0.3, 1.02))
    panel.axhline(0, color="0.8", lw=0.8)
panels[0, 0].set_ylabel("correlation of predicted and\nretrained shift over data")
panels[0, 0].legend(fontsize=7, loc="lower right")
figure.set_dpi(80)
figure.tight_layout()

# %% [markdown]
# How many independent retrainings would it take? Noise of variance a (in units of the variance of
# the true shifts) over n retrainings leaves a correlation of `c / sqrt(1 + a / n)`, where c is what
# remains without noise. We take c from all coupled retrainings and fit a to the independent curve.
# The table shows how many retrainings reach nine tenths of c, how many the pilot predicts for a
# perfect prediction, and how many independent retrainings one coupled retraining is worth.


# %%
def needed(counts, correlations, limit, share=0.9):
    def misfit(log_noise):
        return ((correlations - limit / np.sqrt(1 + np.exp(log_noise) / counts)) ** 2).sum()

    noise = np.exp(minimize_scalar(misfit, bounds=(-5, 15), method="bounded").x)
    return noise * share**2 / (1 - share**2)


extrapolated, rows = {}, []
for name, found in studies.items():
    counts, means, resampled = curves[name, "independent"]
    _, coupled, coupled_resampled = curves[name, "coupled"]
    again = [needed(counts, r, c[-1]) for r, c in zip(resampled, coupled_resampled, strict=True)]
    value = needed(counts, means, coupled[-1])
    extrapolated[name] = value, interval(value, np.array(again), np.log, np.exp)
    pilot = found["pilot"].table.loc["mean"]
    rows.append(
        {
            "setting": name,
            "independent needed": shown(*extrapolated[name]),
            "by the pilot": shown(pilot["independent_draws"], None),
            "coupled needed, by the pilot": shown(pilot["coupled_draws"], None),
            "one coupled is worth": shown(pilot["gain"], None),
        }
    )
pd.DataFrame(rows).set_index("setting")

# %% [markdown]
# What must hold, in every setting: coupled retrainings of four seeds give a correlation above 0.9;
# one independent retraining gives less than 0.3; and the correlation with independent retrainings
# rises from one to all of them, by more than its error. (At the default size, 32 data, the
# independent curves of 1437 digits and of Concrete hardly leave zero, and their rise may not be
# significant; at full size it is.)
#
# Where the claim fails at full size, and why. *Concrete, four coupled retrainings*: there the
# effect of an example depends on the seed, so that even differences of coupled trainings vary more
# over seeds than over examples; the pilot predicts that ten or more are needed, and the prediction
# is a mean over seeds that vary as much. *100 digits, one independent retraining*: each image is a
# hundredth of the data and has so large an effect that one retraining already shows some of it (the
# pilot predicts about 0.27), so that 0.3 is within the interval. Here the noise is smaller than we
# had assumed; leave-one-out does not fail.


# %%
def at(name, arms, count):
    counts, means, resampled = curves[name, arms]
    place = list(counts).index(count)
    return means[place], interval(means[place], resampled[:, place])


findings, tests = {}, {}
for name in studies:
    counts, means, resampled = curves[name, "independent"]
    few, single, all_of_them = at(name, "coupled", 4), at(name, "independent", 1), counts[-1]
    rise = means[-1] - means[0]
    error = (resampled[:, -1] - resampled[:, 0]).std(ddof=1)
    findings[f"{name}: correlation, 4 coupled retrainings"] = few
    findings[f"{name}: correlation, {all_of_them} independent"] = at(name, "independent", all_of_them)
    findings[f"{name}: independent retrainings needed"] = extrapolated[name]
    tests[f"{name}: above 0.9 with 4 coupled retrainings"] = few[1][0] > 0.9
    tests[f"{name}: below 0.3 with 1 independent retraining"] = single[1][1] < 0.3
    tests[f"{name}: rises with independent retrainings"] = rise > 1.645 * error
verdict(
    CLAIM,
    paper="with enough samples, means of the predicted and the retrained distributions correlate "
    "extremely well, and correlations near 0 of earlier work are noise (figure 8)",
    findings=findings,
    tests=tests,
)

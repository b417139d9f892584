# %% [markdown]
# # For Bayesians: whole groups removed from a hierarchical posterior
#
# What removing a whole group does to the means of a hierarchical posterior is predicted without
# refitting: by importance weights where their Pareto k-hat is below 0.7, and to first order by minus
# a covariance over the draws and by influence functions.
#
# This is the paper's setting with sampling in the place of training: NUTS is the stochastic kernel,
# its draws represent the distribution, and the data without a group are a perturbed dataset. The
# paper shows that influence functions are the limit of such responses as the posterior narrows.
# Here it does not narrow, so the question is how accurate they are. The data are radon measurements
# in 919 houses of 85 counties of Minnesota (Gelman and Hill, 2007; part of the library). A group is
# a county with all of its houses, up to 116. Predictions come from separate chains; the truth is
# NUTS again without the county, with fresh keys.

# %%
import warnings

import arviz_plots as azp
import arviz_stats
import claims
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import scipy.special
import scipy.stats
import xarray as xr

import dtda_prob as dtda

CLAIM = (
    "What removing a whole group does to the means of a hierarchical posterior is predicted without "
    "refitting: by importance weights where their Pareto k-hat is below 0.7, and to first order by "
    "minus a covariance over the draws and by influence functions."
)
size = claims.sized(
    check={"counties": 12, "chains": 3, "warmup": 30, "states": 20, "refits": 2},
    default={"counties": 85, "chains": 8, "warmup": 300, "states": 500, "refits": 12},
    full={"counties": 85, "chains": 8, "warmup": 500, "states": 1000, "refits": 24},
)

# %% [markdown]
# ## The program
#
# Log radon depends on the floor where it is measured, and on the county, whose level is normal
# around a line in the uranium of its soil with spread tau: partial pooling. The county is the
# example. Its level is integrated out in closed form: the houses of a county are then jointly
# normal, with covariance sigma^2 I + tau^2 11', and five sums over them are sufficient. That leaves
# five parameters and no funnel.

# %%
radon = dtda.zoo.radon()
names, first, county = np.unique(radon.county, return_index=True, return_inverse=True)
chosen = np.linspace(0, len(names) - 1, size.counties).astype(int)
names, uranium = names[chosen], radon.uranium[first][chosen]
houses = np.isin(county, chosen)
county = np.searchsorted(chosen, county[houses])
floor, log_radon = radon.floor[houses], radon.log_radon[houses]
num_houses = np.bincount(county)
products = [log_radon, floor, log_radon**2, log_radon * floor, floor**2]
sums = np.stack([np.bincount(county, weights=each) for each in products], axis=1)


def counties(sums, uranium, num_houses):
    base = numpyro.sample("base", dist.Normal(0.0, 3.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0))
    step = numpyro.sample("step", dist.Normal(0.0, 3.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("county", len(uranium)) as i:
        y, f, yy, yf, ff = sums[i].T
        n, line = num_houses[i], base + slope * uranium[i]
        total = y - n * line - step * f  # of what is left of the houses, and of its squares
        squares = yy - 2 * line * y - 2 * step * yf + n * line**2 + 2 * line * step * f + step**2 * ff
        pooled = sigma**2 + n * tau**2
        distance = (squares - tau**2 * total**2 / pooled) / sigma**2
        log_volume = n * jnp.log(2 * jnp.pi * sigma**2) + jnp.log(pooled / sigma**2)
        numpyro.factor("radon", -(log_volume + distance) / 2)


def population(values):
    return jnp.stack([values[each] for each in parameters])


parameters = ["base", "slope", "step", "tau", "sigma"]
program = dtda.Program(counties, sums, uranium, num_houses, data="county", labels=names)
kernel = dtda.kernels.nuts(num_warmup=size.warmup, num_samples=size.states)
measure = dtda.measures.function(population, queries=parameters)
training = dtda.Training(program, kernel, measure)
num_draws = size.chains * size.states
kept = ["parameters", "log_likelihood", "log_prior"]
keys = jax.random.split(jax.random.key(0), 4)
training

# %% [markdown]
# ## All counties
#
# One posterior sample for everything that follows. ArviZ reads the tree directly.

# %%
full = dtda.sample(training, keys[0], num_draws, keep=kept)
arviz_stats.summary(full, var_names=parameters, round_to=3)

# %% [markdown]
# ## Which counties to refit
#
# A third has the most houses, the hardest test of first order; a third has the highest k-hat, the
# hardest test of importance weights; the rest is random. K-hat is computed from the weights that
# `importance` gives to its own population of draws.

# %%
every = dtda.leave_one_out(program)
importance = dtda.importance(training, keys[1], num_draws=num_draws)
k_hats = dtda.diagnostics.k_hats(importance, every).values


def choose(num, seed=0):
    """Choose counties to refit."""
    by_size, by_k = np.argsort(-num_houses), np.argsort(-np.nan_to_num(k_hats))
    order = [*by_size[: num // 3], *by_k[: num // 3]]
    order += [*np.random.default_rng(seed).permutation(len(names))]
    return np.sort(list(dict.fromkeys(order))[:num])


refit = choose(size.refits)
without = every.isel(perturbation=refit)
print(f"k-hat above 0.7: {np.sum(k_hats > 0.7)} of {len(names)} counties")

# %% [markdown]
# ## Three predictions, and the truth
#
# `importance` resamples draws by their importance weights: exact in distribution, as long as the
# weights do not rest on a few draws. `covariance` moves all draws of a chain by minus the
# covariance of log-likelihood and measurement: the exact derivative of a posterior mean, with Monte
# Carlo error; it leaves the spread unchanged. `influence` moves each draw by the inverse of the mean
# Hessian over its chain, times the mean of the gradients at the draw and at the centre of the chain.
# Refitting is NUTS again without the county. (A draw that lands where the density is not finite is
# flagged and kept.) Refits have other keys, so that they share no noise with the predictions.

# %%
arms = {
    "importance": importance,
    "covariance": dtda.covariance(training, at="old"),
    "influence": dtda.influence(training, at="old"),
}
carried = {
    name: dtda.sample(arm, keys[2], num_draws, without, options=dtda.Options(check=False))
    for name, arm in arms.items()
}
start = dtda.sample(training, keys[2], num_draws, keep=kept)
refitted = dtda.sample(training, keys[3], num_draws, without, keep=kept)
for name, tree in carried.items():
    print(
        f"{name}: {int(tree['sample_stats/diverging'].sum())} draws of {num_draws * len(refit)} flagged"
    )


# %% [markdown]
# The removal of the county with the most houses: all four side by side, first as ArviZ summaries.


# %%
def values(tree):
    return tree["posterior_predictive/population"]


largest = int(np.argmax(num_houses[refit]))
several = {"all counties": full} | carried | {"refitted": refitted}


def posterior(tree):
    """Return the draws of the parameters without the largest county, as ArviZ expects them."""
    found = values(tree)
    found = found.isel(perturbation=largest, drop=True) if "perturbation" in found.dims else found
    return found.to_dataset("query")


trees = {name: posterior(tree) for name, tree in several.items()}
rows = {
    (query, name): arviz_stats.summary(tree[[query]], round_to="none").iloc[0][
        ["mean", "sd", "mcse_mean", "mcse_sd"]
    ]
    for query in ("base", "slope")
    for name, tree in trees.items()
}
print(f"without {names[refit][largest]}, {num_houses[refit][largest]} houses")
pd.DataFrame(rows).T.astype(float).round(4)

# %%
azp.plot_forest(
    {
        name: xr.DataTree.from_dict({"posterior": tree[["base", "slope", "step"]]})
        for name, tree in trees.items()
    },
    backend="matplotlib",
)
plt.show()

# %% [markdown]
# ## Shifts of mean and of spread
#
# In units of the posterior standard deviation, for each removed county and parameter. Errors
# are Monte Carlo standard errors between chains: a predicted shift is paired with the chains it
# starts from, the shift of a refit is not. A perfect prediction lies on the line up to these bars.

# %%
spread = values(full).std(("chain", "draw")).values  # query


def chain_statistics(tree):
    """Return mean and log standard deviation of each chain, `(chain, [perturbation,] query)`."""
    found = values(tree).transpose("chain", "draw", ..., "query").values.astype(float)
    return np.stack([found.mean(1) / spread, np.log(found.std(1))])


def error_of_mean(values, axis=1):
    return values.std(axis, ddof=1) / values.shape[axis] ** 0.5


before = chain_statistics(start)[:, :, None]
unpaired = chain_statistics(full)[:, :, None]
shifts = {name: chain_statistics(tree) - before for name, tree in carried.items()}
predicted = {name: (each.mean(1), error_of_mean(each)) for name, each in shifts.items()}
after = chain_statistics(refitted)
truth = after.mean(1) - unpaired.mean(1)  # of mean and log sd; perturbation, query
truth_error = np.hypot(error_of_mean(after), error_of_mean(unpaired))
good = k_hats[refit] < 0.7

# %%
figure, axes = plt.subplots(2, 3, figsize=(9, 5.4), sharex="row", sharey="row")
for row, label in zip((0, 1), ("mean, in sd", "log sd"), strict=True):
    for axis, (name, (value, error)) in zip(axes[row], predicted.items(), strict=True):
        for some, marker in ((good, "o"), (~good, "x")):
            axis.errorbar(
                truth[row, some].ravel(),
                value[row, some].ravel(),
                xerr=truth_error[row, some].ravel(),
                yerr=error[row, some].ravel(),
                fmt=marker,
                color="black" if marker == "o" else "0.5",
                ms=3,
                lw=0.5,
                label="k-hat below 0.7" if marker == "o" else "above",
            )
        axis.axline((0, 0), slope=1, color="0.6", lw=0.7)
        axis.set(xlabel=f"refitted shift of {label}", title=name if row == 0 else None)
    axes[row, 0].set_ylabel(f"predicted shift of {label}")
axes[0, 0].legend(frameon=False, fontsize=7)
plt.tight_layout()
plt.show()


# %% [markdown]
# Noise in the refits would bias slopes of predicted on refitted shifts towards 0, so we regress the
# refitted shift on the predicted one, through the origin; the noise of predictions is small in
# comparison. A slope above 1 means that predictions are too short. Errors are a jackknife over
# counties.


# %%
def fit(x, y):
    """Return the slope of y on x through the origin, and their correlation."""
    return np.array([(x * y).sum() / (x * x).sum(), np.corrcoef(x.ravel(), y.ravel())[0, 1]])


def jackknifed(x, y):
    """Return slope and correlation with their errors, over counties."""
    left = [np.arange(len(x)) != k for k in range(len(x))]
    parts = np.array([fit(x[some], y[some]) for some in left])
    return fit(x, y), np.sqrt((len(left) - 1) * parts.var(0))


def z_score(name, some):
    """Return the root mean square z of the difference of predicted and refitted means."""
    value, error = predicted[name][0][0], predicted[name][1][0]
    z = (value - truth[0]) / np.hypot(error, truth_error[0])
    return np.sqrt(np.square(z[some]).mean())


found = {name: jackknifed(value[0], truth[0]) for name, (value, _) in predicted.items()}
pd.DataFrame(
    {
        name: {
            "slope": round(fitted[0], 3),
            "its error": round(error[0], 3),
            "correlation": round(fitted[1], 3),
            "error": round(error[1], 3),
            "rms z": round(z_score(name, np.full(len(refit), True)), 2),
        }
        for name, (fitted, error) in found.items()
    }
)

# %% [markdown]
# The lower row shows why the claim is about means only. `importance` carries the spread as well.
# `covariance` leaves it unchanged. `influence` carries it to first order, which is enough for most
# counties, but not for the one whose removal widens a parameter most, where the weights of
# `importance` rest on few draws too.

# %% [markdown]
# ## k-hat against error
#
# Importance weights fail if a group has parameters of its own. To show it, the levels of the
# counties are put back as parameters: given the five others they are normal, so each draw gets
# levels without another run of NUTS. The weights of a county are then one over its likelihood *at its
# level*, and have heavy tails. (The same happens in a program in which the levels are latent sites.)


# %%
def at_levels(tree, seed=2):
    """Draw levels given the parameters, and return the log-likelihood of each county at them."""
    draws = values(tree).transpose("query", "chain", "draw").values.astype(float)
    base, slope, step, tau, sigma = draws[..., None]
    rest = log_radon - base - slope * uranium[county] - step * floor
    member = (county[:, None] == np.arange(len(names))).astype(float)
    total, pooled = rest @ member, sigma**2 + num_houses * tau**2
    noise = np.random.default_rng(seed).normal(size=total.shape)
    level = tau**2 * total / pooled + sigma * tau / np.sqrt(pooled) * noise
    squares = rest**2 @ member - 2 * level * total + num_houses * level**2
    return -num_houses * np.log(2 * np.pi * sigma**2) / 2 - squares / (2 * sigma**2)


densities = xr.Dataset({"radon": (("chain", "draw", "county"), at_levels(start))})
tree = xr.DataTree.from_dict({"log_likelihood": densities})
efficiency = float(values(start).azstats.ess(method="mean", relative=True).mean())
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # of k-hat, which is shown
    left_out = arviz_stats.loo(tree, pointwise=True, reff=efficiency)
kept_k = left_out.pareto_k.values
weights = np.exp(left_out.log_weights.transpose("county", "chain", "draw").values)[refit]
weights /= weights.sum((1, 2), keepdims=True)
draws = values(start).transpose("chain", "draw", "query").values / spread
kept_shift = np.einsum("kcd,cdq->kq", weights, draws) - draws.mean((0, 1))
print(f"k-hat above 0.7 with levels kept: {np.sum(kept_k > 0.7)} of {len(names)} counties")

# %% [markdown]
# For each refitted county, the length of the difference between predicted and refitted mean shifts
# over all parameters, in posterior standard deviations. The dashed line is the length expected for
# `importance` from Monte Carlo error alone.


# %%
def distance(shift):
    """Return the length of the difference from the refit, for each county."""
    return np.linalg.norm(shift - truth[0], axis=1)


figure, axis = plt.subplots(figsize=(6, 3.2))
for (name, (value, _)), marker in zip(predicted.items(), "osx", strict=True):
    axis.plot(k_hats[refit], distance(value[0]), marker, label=name, color="0.2", mfc="none")
axis.plot(kept_k[refit], distance(kept_shift), "^", color="0.6", label="weights, levels kept")
noise = np.sqrt((predicted["importance"][1][0] ** 2 + truth_error[0] ** 2).sum(1)).mean()
axis.axhline(noise, ls="--", color="0.5", lw=0.8)
axis.axvline(0.7, ls=":", color="0.5", lw=0.8)
axis.set(xlabel="Pareto k-hat of the county's removal", ylabel="error of the shift (sd)")
axis.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## Leave one group out
#
# As the county is the example, ArviZ's leave-one-out leaves one *group* out: the log density of all
# houses of a county given all other counties. For the refitted counties, refits give the true value.

# %%
owed = dtda.diagnostics.sensitivity(full)
again = refitted["log_likelihood/log_likelihood"]
density = np.stack(
    [
        again.isel(perturbation=k, example=d).transpose("chain", "draw").values.astype(float)
        for k, d in enumerate(refit)
    ]
)
elpd_of_chains = scipy.special.logsumexp(density, axis=2) - np.log(density.shape[2])
elpd, elpd_error = elpd_of_chains.mean(1), error_of_mean(elpd_of_chains)
by_arviz, arviz_error = (owed[each].values[refit] for each in ("elpd_loo", "elpd_loo_error"))
elpd_z = (by_arviz - elpd) / np.hypot(arviz_error, elpd_error)
order = np.argsort(-num_houses[refit])[:8]
pd.DataFrame(
    {
        "houses": num_houses[refit],
        "k-hat": k_hats[refit].round(2),
        "ArviZ": by_arviz.round(3),
        "its error": arviz_error.round(3),
        "refitted": elpd.round(3),
        "error": elpd_error.round(3),
    },
    index=names[refit],
).iloc[order]

# %% [markdown]
# ## Verdict

# %%
slopes = {name: (fitted[0], error[0]) for name, (fitted, error) in found.items()}
wider = {}
for name in ("importance", "influence"):
    fitted, error = jackknifed(predicted[name][0][1], truth[1])
    wider[name] = fitted[1], error[1]
correlations = {name: (fitted[1], error[1]) for name, (fitted, error) in found.items()}
reach = scipy.stats.t.ppf(0.975, len(refit) - 1)


def lower(pair):
    return pair[0] - reach * pair[1]


claims.verdict(
    CLAIM,
    paper="no experiment on hierarchical posteriors: the claim is ours",
    findings={
        "counties refitted": (len(refit), None),
        "rms z of importance, k-hat below 0.7": (z_score("importance", good), None),
        "correlation with refits, importance": correlations["importance"],
        "correlation with refits, covariance": correlations["covariance"],
        "correlation with refits, influence": correlations["influence"],
        "refitted on predicted, importance": slopes["importance"],
        "refitted on predicted, covariance": slopes["covariance"],
        "refitted on predicted, influence": slopes["influence"],
        "correlation of shifts of log sd, importance": wider["importance"],
        "correlation of shifts of log sd, influence": wider["influence"],
        "k-hat above 0.7, levels integrated out": (np.sum(k_hats > 0.7), None),
        "k-hat above 0.7, levels kept": (np.sum(kept_k > 0.7), None),
        "median error of the shift, importance (sd)": (
            np.median(distance(predicted["importance"][0][0])),
            None,
        ),
        "median error of the shift, levels kept (sd)": (np.median(distance(kept_shift)), None),
        "rms z of ArviZ's leave-one-group-out": (np.sqrt(np.square(elpd_z[good]).mean()), None),
    },
    tests={
        "importance agrees with refits to Monte Carlo error where k-hat is below 0.7: rms z < 1.5": (
            z_score("importance", good) < 1.5
        ),
        "covariance ranks as refits do: 95 % interval of the correlation above 0.7": (
            lower(correlations["covariance"]) > 0.7
        ),
        "influence ranks as refits do: 95 % interval of the correlation above 0.7": (
            lower(correlations["influence"]) > 0.7
        ),
        "to first order in size, covariance: slope between 0.67 and 1.5": (
            0.67 < slopes["covariance"][0] < 1.5
        ),
        "to first order in size, influence: slope between 0.67 and 1.5": (
            0.67 < slopes["influence"][0] < 1.5
        ),
    },
)

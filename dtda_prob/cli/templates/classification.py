"""A logistic regression on the rows of a table: which rows does a classification depend on?

    dtda sample EXPERIMENT study.zarr        the distribution of the margins over posterior draws
    dtda attribute EXPERIMENT study.zarr     what each row does to them
    dtda report study.zarr                   everything on a page

Everything below may be changed; the command looks for `training`, at the end.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd

import dtda_prob as dtda

# The table, and how its columns are used.
CSV = Path(__file__).parent / "data.csv"
# The column that is predicted.
TARGET = "target"
# The column that names the rows; None: their lines in the file.
LABEL = None
# Columns that enter as numbers, standardised; dates as days.
NUMBERS = ["number"]
# Columns that enter as categories: a 0 or 1 for each of their values, all 0 if it is missing.
CATEGORIES = ["category"]
# Columns that do not enter; move them to a list above to use them.
LEFT_OUT = []
# Rows that are held out as queries, chosen by the seed.
NUM_QUERIES = 10
SEED = 0

# The rows that have a target and all numbers, by their line in the file, whose header is line 1.
whole = dtda.read_table(CSV)
table = whole.frame.dropna(subset=[TARGET, *NUMBERS])

# The rows' names: their line if they have none, with a number if they are not unique.
lines = "line " + table.index.to_series().astype(str)
names = lines
if LABEL is not None:
    cells = whole.cells.loc[table.index, LABEL]
    names = cells.where(cells != "", lines)
again = names.groupby(names).cumcount()
names = names.where(again == 0, names.astype(str) + " (" + (again + 1).astype(str) + ")").to_numpy()

# Features, as a matrix: numbers first, then categories.
parts = [pd.get_dummies(table[name].astype(str), dtype=float) for name in CATEGORIES]
features = pd.concat([table[NUMBERS].astype(float), *parts], axis=1)

# The queries, held out at random. To choose rows yourself, write their positions here.
order = np.random.default_rng(SEED).permutation(len(table))
queries, rows = np.sort(order[:NUM_QUERIES]), np.sort(order[NUM_QUERIES:])

# Numbers are standardised by the training rows; a column that is constant there becomes 0.
x = features.to_numpy(np.float32, copy=True)
k = len(NUMBERS)
spread = x[rows, :k].std(0)
x[:, :k] = (x[:, :k] - x[rows, :k].mean(0)) / np.where(spread > 0, spread, 1)

# Classes are numbered in the order of their names.
classes = table[TARGET].convert_dtypes().astype(str)
CLASSES = sorted(classes.unique())
y = np.array([CLASSES.index(name) for name in classes])


def model(x, y=None):
    """Regress the log-odds of each class on all features; the first class has log-odds 0."""
    shape = x.shape[1], len(CLASSES) - 1
    intercepts = numpyro.sample("intercepts", dist.Normal(0, 2).expand([shape[1]]).to_event(1))
    slopes = numpyro.sample("slopes", dist.Normal(0, 1).expand(shape).to_event(2))
    with numpyro.plate("data", len(x)) as i:
        others = intercepts + x[i] @ slopes
        logits = jnp.concatenate([jnp.zeros((len(others), 1)), others], axis=1)
        numpyro.sample("y", dist.Categorical(logits=logits), obs=None if y is None else y[i])


program = dtda.Program(model, x[rows], y=y[rows], labels=names[rows])

# Draws are from the normal approximation of the posterior at its mode: fast, and accurate with more
# rows than features. dtda.kernels.nuts() samples the posterior itself, and takes longer. The tolerance
# suits single precision; with more features than rows, 1e-3 may be needed.
kernel = dtda.kernels.laplace(tolerance=1e-4)

# The measure: the log-odds of the true class of each held-out row, positive if it is predicted. Others
# are dtda.measures.loss and dtda.measures.prediction (the probabilities).
measure = dtda.measures.margin(x[queries], y=y[queries], queries=names[queries].tolist())

training = dtda.Training(program, kernel, measure)

# What a report shows of each row, what it calls things, and how many models predict the rows for it.
show = {
    "rows": table.set_axis(names)[[*NUMBERS, *CATEGORIES][:16]],
    "classes": CLASSES,
    "about": {"file": CSV.name, "target": TARGET, "model": "logistic regression"},
    "num_predictions": 16,
}

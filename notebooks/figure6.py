"""The paper's protocol of data pruning (figure 6): what ranks, and how arms are compared."""

import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import dtda_prob as dtda
from dtda_prob import curvature, evaluate, measures
from dtda_prob.compiling import compiled

SHARE = 0.1
QUIET = dtda.Where(progress=False)
DAMPINGS = (0.1, 1.0, 10.0)
"""Multiples of EK-FAC's automatic damping among which `chosen` chooses."""


def kernel(rate, num_epochs, batch_size):
    """Train by AdamW, with a warm-up over a tenth of the steps and a cosine decay."""

    def optimizer(steps):
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
        return optax.adamw(schedule, weight_decay=0.05, eps_root=1e-12)

    return dtda.kernels.sgd(optimizer, num_epochs=num_epochs, batch_size=batch_size)


class Quality(measures.Measure):
    """Measure the mean loss and the accuracy over images, from one evaluation of the model."""

    loss: measures.Measure
    accuracy: measures.Measure

    def outputs(self, params):
        return self.loss.outputs(params)

    def readout(self, outputs):
        return jnp.stack([each.readout(outputs).mean() for each in (self.loss, self.accuracy)])


def quality(x, y):
    """Return the measure of quality on some images, bound to a program when it is called with one."""

    def bound(program):
        each = [measure(x, y=y)(program) for measure in (measures.loss, measures.accuracy)]
        return Quality(*each, program=program, names=["loss", "accuracy"])

    return bound


def harmed(program, kernel, x, y):
    """Return the training that measures the mean loss of validation images, which images may harm."""
    return dtda.Training(program, kernel, measures.averaged(measures.loss(x, y=y)))


def place_of(choice):
    """Return which of the dampings was chosen."""
    methods = choice.table["transform"].values.tolist()
    return methods.index(choice.table.attrs["chosen"])


def by_ekfac(training):
    """Return influence by EK-FAC at each damping."""
    each = [curvature.kronecker(damping=curvature.auto(damping)) for damping in DAMPINGS]
    return [dtda.influence(training, one, at="old") for one in each]


def chosen(program, kernel, x, y, key, budget, where=QUIET):
    """Choose the damping by retraining without random tenths, with keys that serve nothing else.

    What is compared are predicted and retrained changes of the losses of single validation images.
    """
    training = dtda.Training(program, kernel, measures.loss(x, y=y))
    methods = by_ekfac(training)
    return dtda.choose(training, key, budget=budget, num_draws=2, methods=methods, where=where)


@compiled
def harm_of(method, key):
    """Return by how much the weight of each image raises the validation loss of one model."""
    return method.pull(key, method.training.program.full_weights())[0, 0]


def harms(method, key, seeds):
    """Return the harm of each image by the model of each seed, `(seed, image)`."""
    keys = method.training.kernel.keys(key, np.arange(seeds))
    return np.stack([np.asarray(harm_of(method, each), float) for each in keys])


def rules(harm):
    """Return what ranks: the model of each seed, and the mean of all of them."""
    return {"fixed seed": harm, "distributional": harm.mean(0)}


ARMS = {
    "distributional against all data": ("distributional", "all data"),
    "fixed seed against all data": ("fixed seed", "all data"),
    "distributional against fixed seed": ("distributional", "fixed seed"),
}


def gains(arms, pairs=ARMS):
    """Return by how much the first rule of each pair is better, paired by seed, with 90 % intervals."""
    rows = {}
    for query, sign in (("accuracy", 1), ("loss", -1)):
        table = evaluate.compare_rules(arms.sel(query=[query]))
        for name, (rule, other) in pairs.items():
            one = table.sel(rule=rule, other=other)
            ends = sorted(sign * float(one[end]) for end in ("lower", "upper"))
            rows[query, name] = [sign * float(one["difference"]), float(one["difference_error"]), *ends]
    index = pd.MultiIndex.from_tuples(rows, names=["gain in", "of"])
    return pd.DataFrame(rows.values(), index, ["gain", "error", "lower", "upper"])


def levels(arms):
    """Return the mean accuracy and loss of each rule with standard errors over seeds."""
    tables = {query: evaluate.compare_rules(arms.sel(query=[query])) for query in ("accuracy", "loss")}
    columns = {
        query: [f"{m:.4f} ± {e:.4f}" for m, e in zip(t["mean"].values, t["error"].values, strict=True)]
        for query, t in tables.items()
    }
    return pd.DataFrame(columns, tables["loss"]["rule"].values)

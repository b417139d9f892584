"""Find the digits whose labels are wrong, by their influence on their own loss."""

import jax
import numpy as np
import optax

import dtda_prob as dtda

digits = dtda.zoo.digits()
x, y = digits.x_train[:400], digits.y_train[:400].copy()
rng = np.random.default_rng(0)
wrong = np.isin(np.arange(400), rng.choice(400, 24, replace=False))
y[wrong] = (y[wrong] + rng.integers(1, 10, 24)) % 10

program = dtda.Program(dtda.zoo.classifier([32], 10), x, y=y)
kernel = dtda.kernels.sgd(optax.sgd(0.05, momentum=0.9), num_epochs=10, batch_size=32)
training = dtda.Training(program, kernel, dtda.measures.loss(x, y=y))

# The influence of each digit on its own loss: large where a label must be learnt by heart.
method = dtda.influence(training, dtda.curvature.kronecker(damping="auto"))
scores = dtda.attribute(
    method, jax.random.key(0), 4, ["mean"], options=dtda.Options(num_permutations=0, num_resamples=0)
)
own = np.abs(np.diagonal(scores["score"].sel(divergence="mean").values))
losses = dtda.sample(training, jax.random.key(0), 8).posterior_predictive["loss"]
found = dtda.evaluate.mislabels(
    {"influence on itself": own, "its loss": losses.mean(("chain", "draw")).values}, wrong
)
print(found[["auc", "auc_error"]].to_dataframe().round(3))
print(found["precision"].to_series().round(2))

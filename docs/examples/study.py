"""A study on disk: draws, scores and a verdict, by name; the same calls go on where they were."""

import jax
import optax

import dtda_prob as dtda

digits = dtda.zoo.digits()
program = dtda.Program(dtda.zoo.classifier([16], 10), digits.x_train[:200], y=digits.y_train[:200])
kernel = dtda.kernels.sgd(optax.sgd(0.05, momentum=0.9), num_epochs=10, batch_size=32)
measure = dtda.measures.loss(digits.x_test[:5], y=digits.y_test[:5])
training = dtda.Training(program, kernel, measure)
method, key, path = dtda.unroll(training), jax.random.key(0), "study.zarr"

for num_draws in (16, 32):  # the second time, 16 are there already
    dtda.sample(training, key, num_draws, where=dtda.Where(path, "full"))
scores = dtda.attribute(method, key, 16, where=dtda.Where(path, "scores"))
verdict = dtda.diagnostics.verdict(method, key, dtda.leave_one_out(program, range(8)), num_draws=16)
dtda.save(verdict.to_dataset(), path, name="verdict", kind="verdict")

print(dtda.contents(path)[["kind", "draws", "queries", "data", "diverging", "bytes"]])
print(verdict.text)

"""Examples that change how much a prediction varies from seed to seed, and hardly its mean."""

import jax
import optax

import dtda_prob as dtda

digits = dtda.zoo.digits()
program = dtda.Program(dtda.zoo.classifier([16], 10), digits.x_train[:200], y=digits.y_train[:200])
kernel = dtda.kernels.sgd(optax.sgd(0.05, momentum=0.9), num_epochs=10, batch_size=32)
measure = dtda.measures.margin(digits.x_test[:20], y=digits.y_test[:20])
training = dtda.Training(program, kernel, measure)

scores = dtda.attribute(dtda.unroll(training), jax.random.key(0), 128, ["mean", "variance"])
correlation = dtda.scores.rank_correlation(scores).sel(divergence="mean", other="variance")
print(f"rankings by mean and by variance: Spearman {float(correlation.mean()):.2f} over queries")

listed = dtda.scores.spread_without_shift(scores, rate=0.1)
print(f"{len(listed)} pairs of query and digit move the spread and hardly the mean")
print(listed.head(5).round(3).to_string())

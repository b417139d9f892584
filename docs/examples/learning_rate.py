"""What if the learning rate were different? Settings can be perturbed like the data."""

import jax
import optax

import dtda_prob as dtda

digits = dtda.zoo.digits()
plain = dtda.Program(dtda.zoo.classifier([16], 10), digits.x_train[:300], y=digits.y_train[:300])
program = dtda.vary(plain, "learning_rate")
kernel = dtda.kernels.sgd(optax.sgd(0.05, momentum=0.9), num_epochs=10, batch_size=32)
measure = dtda.measures.averaged(dtda.measures.loss(digits.x_test[:100], y=digits.y_test[:100]))
training = dtda.Training(program, kernel, measure)
print(training)

key = jax.random.key(0)
before = dtda.sample(training, key, 32).posterior_predictive["mean_loss"]
print(f"mean loss of 100 test digits: {float(before.mean()):.4f}")
for factor in (0.9, 1.1, 1.5):
    new = dtda.changed(program, learning_rate=factor)
    predicted = dtda.sample(dtda.unroll(training), key, 32, new, options=dtda.Options(check=False))
    retrained = dtda.sample(training, key, 32, new)
    after = [tree.posterior_predictive["mean_loss"] for tree in (predicted, retrained)]
    moved = [float((each - before).mean()) for each in after]
    error = float((after[0] - after[1]).std() / 32**0.5)
    print(f"rate times {factor}: predicted {moved[0]:+.4f}, retrained {moved[1]:+.4f} (+- {error:.4f})")

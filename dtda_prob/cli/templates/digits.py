"""A small network on handwritten digits: which training digits does a test digit depend on?

    dtda sample EXPERIMENT study.zarr        the distribution of the losses over training seeds
    dtda attribute EXPERIMENT study.zarr     what each training digit does to them
    dtda report study.zarr                   everything on a page

Everything below may be changed; the command looks for `training`, at the end. For a table of your own:
    dtda new --csv data.csv --target COLUMN
"""

import optax

import dtda_prob as dtda

digits = dtda.zoo.digits()  # 8 x 8 pixels each, as scikit-learn ships them
NUM_DATA, NUM_QUERIES = 400, 10

# The program: a NumPyro model and its data. Any model works if its data are in a plate; this one is a
# perceptron with 32 hidden units.
program = dtda.Program(
    dtda.zoo.classifier([32], 10), digits.x_train[:NUM_DATA], y=digits.y_train[:NUM_DATA]
)


def optimizer(num_steps):
    """Return SGD with a learning rate that falls to 0 over training."""
    return optax.sgd(optax.cosine_decay_schedule(0.05, num_steps), momentum=0.9)


# The kernel: how it is trained. Initialisation and the order of batches depend on the seed, so that the
# trained model is a random variable.
kernel = dtda.kernels.sgd(optimizer, num_epochs=20, batch_size=50)

# The measure: a function of the trained model, here the loss of the first test digits, in nats.
measure = dtda.measures.loss(digits.x_test[:NUM_QUERIES], y=digits.y_test[:NUM_QUERIES])

training = dtda.Training(program, kernel, measure)

# Perturbed datasets for --weights: each leaves out one of the first ten digits.
first_ten = dtda.leave_one_out(program, range(10))

# What a report shows of each example: inputs of 64 numbers are images of 8 x 8 pixels.
show = {"shape": (8, 8)}

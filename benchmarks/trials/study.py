"""The study that faults befall: draws, carried draws, effects and scores, in one store."""

import sys
from pathlib import Path

import jax

import dtda_prob as dtda
from dtda_prob import zoo
from dtda_prob.demo import digits_training

SEED = 0
NUM_QUERIES = 40


def training() -> dtda.Training:
    """Build the training of the demonstration, on handwritten digits."""
    return digits_training(zoo.digits(), NUM_QUERIES)


def run(store: Path) -> None:
    """Do all of a study, or what is missing of it."""
    source, key = training(), jax.random.key(SEED)
    several = dtda.random_subsets(source.program, jax.random.key(SEED + 1), 6, 0.95)
    transform = dtda.unroll(source)
    quiet = {"store": store, "check": False, "progress": False}
    dtda.sample(
        source, key, 64, options=dtda.Options(chunk_size=8), where=dtda.Where(name="full"), **quiet
    )
    dtda.sample(
        transform,
        key,
        8,
        several,
        options=dtda.Options(chunk_size=8),
        where=dtda.Where(name="carried"),
        **quiet,
    )
    dtda.attribute(
        transform, key, 4, ["mean"], where=dtda.Where(name="scores", effects="effects"), **quiet
    )


if __name__ == "__main__":
    run(Path(sys.argv[1]))

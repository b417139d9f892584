"""The study that faults befall: draws, carried draws, effects and scores, in one store."""

import sys
from dataclasses import replace
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
    """Compute a study, or what is missing of it."""
    source, key = training(), jax.random.key(SEED)
    several = dtda.random_subsets(source.program, jax.random.key(SEED + 1), 6, 0.95)
    transform = dtda.unroll(source)
    options, where = dtda.Options(chunk_size=8, check=False), dtda.Where(store, progress=False)
    dtda.sample(source, key, 64, options=options, where=where / "full")
    dtda.sample(transform, key, 8, several, options=options, where=where / "carried")
    kept = replace(where, name="scores", effects="effects")
    dtda.attribute(transform, key, 4, ["mean"], options=options, where=kept)


if __name__ == "__main__":
    run(Path(sys.argv[1]))

"""How samples and scores are computed, beside what they are of."""

from dataclasses import dataclass, fields

from dtda_prob.studies.draw import CHUNK
from dtda_prob.typing import PRNGKey, check_key


@dataclass(frozen=True)
class Options:
    """Settings of `sample` and `attribute` that most calls leave as they are.

    Attributes:
        check: retrain one draw at the (up to four) perturbations of the longest predicted steps, and
            warn where the prediction is out of range.
        num_chains: of `sample`: blocks of independent draws that ArviZ sees as chains, at least 2; 4 if
            None. Where the kernel keeps several states of a run, each run is a chain.
        chunk_size: trainings per compiled call.
        new_key: of `attribute` by push: the key of the samples on perturbed data, which then share no
            seed with the sample on all data or each other; if None they share its keys, so that the
            comparison is coupled.
        level: of `attribute`: probability that intervals, of scores and of ranks, cover.
        num_permutations: of `attribute`: permutations for null levels and p-values.
        num_resamples: of `attribute`: resamples for the certainty of ranks; 0 leaves it out.
        top: of `attribute`: `top_probability` is the probability to be among so many.
        keep_contributions: of `attribute`: keep what each draw contributes to each score, for
            `scores.aggregate`; `num_draws` times the memory.

    Raises:
        ValueError: if a setting is out of its range.
    """

    check: bool = True
    num_chains: int | None = None
    chunk_size: int = CHUNK
    new_key: PRNGKey | None = None
    level: float = 0.9
    num_permutations: int = 20
    num_resamples: int = 100
    top: int = 10
    keep_contributions: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level} must lie between 0 and 1, both excluded")
        for name, least in (
            ("chunk_size", 1),
            ("num_permutations", 0),
            ("num_resamples", 0),
            ("top", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.num_chains is not None and self.num_chains < 2:
            raise ValueError(f"num_chains={self.num_chains} must be at least 2, which ArviZ needs")
        if self.new_key is not None:
            check_key(self.new_key)

    def only(self, call: str, names: set[str]) -> None:
        """Raise ValueError where a setting is given that a call does not have."""
        given = {each.name for each in fields(self) if getattr(self, each.name) is not each.default}
        if other := sorted(given - names):
            raise ValueError(f"options: {call} has no {other}; it has {sorted(names)}")

"""Do the intervals of divergences cover, and do their discoveries hold: programs with a known answer.

Run with `uv run python benchmarks/coverage.py`, or with the names of tables (`location`, `regression`,
`vectors`, `null`, `agreement`); it prints its tables and writes them to `docs/benchmarks/coverage.md`.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import scipy.stats
from page import circumstances
from scipy.special import entr, softmax
from scipy.stats import norm

import dtda_prob as dtda
from dtda_prob.attribution import comparison
from dtda_prob.attribution.methods import compare
from dtda_prob.divergences import (
    Divergence,
    available,
    estimate,
    kullback_leibler,
    quantile,
    tail_probability,
)
from dtda_prob.training import Training

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "coverage.md"
SEED, DRAWS, REPETITIONS = 0, 64, 400
FAMILIES, FAMILY, PERMUTATIONS = 200, 200, 20
CORRELATION = 0.98
"""Of an old draw with its partner, in the location program."""

SLOW = {"sinkhorn": 10, "mmd": 60}
"""Families of divergences that take longer."""
THRESHOLD = 0.5
MORE = [quantile(0.9), tail_probability(THRESHOLD), kullback_leibler(reverse=True)]
OF_PROBABILITIES = ("predictive_entropy", "expected_entropy", "mutual_information")
SCALARS_ALONE = ("median", "wasserstein1", "kolmogorov_smirnov")
VECTORS_ALONE = ("sliced_wasserstein", *OF_PROBABILITIES)
OF_SCALARS = [d for name, d in available.items() if name not in VECTORS_ALONE] + MORE
OF_VECTORS = [d for name, d in available.items() if name not in SCALARS_ALONE]
Normal = tuple[float, float]
Arms = tuple[np.ndarray, np.ndarray]


def location() -> pd.DataFrame:
    """Compare N(0, 1) with N(0.5, 1.3^2); coupled pairs of draws have correlation 0.98."""
    rng, found = np.random.default_rng(SEED), []
    for coupled in (False, True):
        old, noise = rng.normal(size=(2, DRAWS, REPETITIONS))
        new = 0.5 + 1.3 * (partner(old, noise) if coupled else noise)
        found.append(covered(OF_SCALARS, old, new, coupled, truths((0.0, 1.0), (0.5, 1.3))))
    return pd.concat(found, axis=1)


def regression() -> pd.DataFrame:
    """Remove the last 8 of 40 data from conjugate regression on 5 features; measure one prediction.

    Draws come from `kernels.exact`, with one key for both samples and with two keys. Both
    distributions are normal, with means and variances in closed form; units are standard deviations
    of the old distribution.
    """
    training, weights, normals = conjugate()
    found = []
    for coupled in (False, True):
        keys = jax.random.split(jax.random.key(SEED + coupled), 2)
        compared = comparison(training, keys[0], weights, new_key=None if coupled else keys[1])
        arms = compared.arms(DRAWS * REPETITIONS)
        (centre, scale), (shifted, spread) = normals
        old, new = (
            (arm.reshape(REPETITIONS, DRAWS).T - centre) / scale for arm in (arms.old, arms.new)
        )
        exact = truths((0.0, 1.0), ((shifted - centre) / scale, spread / scale))
        found.append(covered(OF_SCALARS, old, new, coupled, exact))
    return pd.concat(found, axis=1)


def vectors() -> pd.DataFrame:
    """Shift a normal with three coordinates by 0.5; for entropies, probabilities of 4 classes.

    The probabilities are the softmax of normal logits; the change shifts their means and scales their
    spread by 1.3.
    """
    rng, found = np.random.default_rng(SEED), []
    for coupled in (False, True):
        old, noise = rng.normal(size=(2, DRAWS, REPETITIONS, 3))
        still = partner(old, noise) if coupled else noise
        new = still + np.array([0.5, 0.0, 0.0])
        plain = [d for d in OF_VECTORS if d.name not in OF_PROBABILITIES]
        part = covered(plain, old, new, coupled, truths_of_vectors(0.5), vector=True)
        old, noise = rng.normal(size=(2, DRAWS, REPETITIONS, 4))
        old, new = probabilities(old, partner(old, noise) if coupled else noise)
        entropies = [d for d in OF_VECTORS if d.name in OF_PROBABILITIES]
        rest = covered(entropies, old, new, coupled, truths_of_probabilities(), vector=True)
        found.append(pd.concat([part, rest]))
    return pd.concat(found, axis=1)


def null() -> pd.DataFrame:
    """Draw both samples from N(0, 1), 200 new samples for each old sample, 200 times.

    No example of the 200 is influential. "p <= 0.05" is the share of examples that appear influential,
    "discovery" the share of the 200 families in which Benjamini and Hochberg's procedure finds any at a
    false discovery rate of 0.1. As in `attribute`, there are 20 permutations, whose values are pooled
    over the family. Slow divergences have fewer families.
    """
    rng, found = np.random.default_rng(SEED), []
    for coupled in (False, True):
        families: dict[str, list[np.ndarray]] = {}
        for part in range(FAMILIES // 10):
            old = rng.normal(size=(DRAWS, 10, 1))
            noise = rng.normal(size=(DRAWS, 10, FAMILY))
            new = partner(old, noise) if coupled else noise
            seed = int(rng.integers(2**31))
            for divergence in OF_SCALARS:
                if 10 * part >= SLOW.get(divergence.name, FAMILIES):
                    continue
                tested = estimate(
                    divergence, old, new, coupled=coupled, num_permutations=PERMUTATIONS, seed=seed
                )
                families.setdefault(divergence.name, []).append(tested.p_value)
        rates = pd.DataFrame({k: discoveries(np.concatenate(v)) for k, v in families.items()}).T
        found.append(rates.astype({"families": int}).astype({"families": str}))  # without decimals
        found[-1].columns = pd.MultiIndex.from_product([[mode(coupled)], found[-1].columns])
    return pd.concat(found, axis=1)


AGREEMENTS = {
    "good": (23, 32, 0.9, 1.0),
    "poor": (23, 32, 0.6, 1.0),
    "little noise": (23, 32, 0.97, 0.2),
    "much noise": (23, 32, 0.9, 3.0),
    "8 groups": (8, 32, 0.8, 1.0),
    "1 query": (23, 1, 0.8, 1.0),
}
"""Numbers of groups and of queries, the correlation with the truth, and the noise of a draw."""


def agreement() -> pd.DataFrame:
    """Compare 8 predicted draws with 4 retrainings, as `choose` does: made-up effects, 300 times.

    Effects have sd 1.8 over groups, common factors over queries, and independent noise in each draw and
    retraining. Truth is the mean estimate; for "limit" it is the mean direction of predictions without
    noise. Coverage is of 95 % intervals by the stated errors (whose own standard error is 0.013).
    """
    rng, rows = np.random.default_rng(SEED), {}
    for name, (groups, queries, correlation, noise) in AGREEMENTS.items():
        each = [agreements(rng, groups, queries, correlation, noise) for _ in range(300)]
        found, row = pd.DataFrame(each), {}
        for what in ("direction", "size"):
            error = found[f"{what}_error"]
            mean = found[what].mean()
            row[what, "mean"], row[what, "spread"] = mean, found[what].std()
            row[what, "error"] = (error**2).mean() ** 0.5
            row[what, "coverage"] = (abs(found[what] - mean) < 1.96 * error).mean()
        row["limit", "mean"], row["limit", "truth"] = found["limit"].mean(), found["exact"].mean()
        rows[name] = row
    return pd.DataFrame.from_dict(rows, "index").rename_axis("effects")


def agreements(
    rng: np.random.Generator, groups: int, queries: int, correlation: float, noise: float
) -> dict[str, float]:
    def effects() -> np.ndarray:
        own = rng.normal(size=(queries, groups))
        return loadings @ rng.normal(size=(3, groups)) + 0.5 * own

    def noisy(number: int, means: np.ndarray) -> np.ndarray:
        return means + noise * rng.normal(size=(number, queries, groups))

    loadings = rng.normal(size=(queries, 3))
    true, other = effects(), effects()
    exact = correlation * true + (1 - correlation**2) ** 0.5 * other
    methods = {"noisy": noisy(8, exact), "exact": exact[None]}
    table = compare(methods, noisy(4, true))
    names = ("direction", "direction_error", "size", "size_error", "limit")
    row = {name: float(table[name].sel(transform="noisy")) for name in names}
    return row | {"exact": float(table["direction"].sel(transform="exact"))}


def discoveries(p_values: np.ndarray) -> dict[str, float]:
    adjusted = scipy.stats.false_discovery_control(p_values, axis=-1)
    return {
        "p <= 0.05": (p_values <= 0.05).mean(),
        "discovery": (adjusted.min(-1) <= 0.1).mean(),
        "families": len(p_values),
    }


def partner(old: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return CORRELATION * old + np.sqrt(1 - CORRELATION**2) * noise


def mode(coupled: bool) -> str:
    return "coupled" if coupled else "independent"


def covered(
    divergences: list[Divergence],
    old: np.ndarray,
    new: np.ndarray,
    coupled: bool,
    truth: dict[str, float],
    vector: bool = False,
) -> pd.DataFrame:
    """Compare estimates of all repetitions with the truth."""
    rows = {}
    for divergence in divergences:
        found = estimate(divergence, old, new, coupled=coupled, vector=vector, num_permutations=0)
        exact = truth[divergence.name]
        rows[divergence.name] = {
            "truth": exact,
            "mean": found.value.mean(),
            "sd": found.value.std(),
            "error": np.sqrt((found.error**2).mean()),
            "coverage": ((found.lower <= exact) & (exact <= found.upper)).mean(),
        }
        print(mode(coupled), divergence.name, rows[divergence.name], flush=True)
    table = pd.DataFrame(rows).T
    table.columns = pd.MultiIndex.from_product([[mode(coupled)], table.columns])
    return table


def conjugate() -> tuple[Training, jax.Array, tuple[Normal, Normal]]:
    """Return training, weights without a group, and distributions of the predictive mean."""
    rng, noise, prior = np.random.default_rng(SEED), 0.5, 2.0
    x = rng.normal(size=(40, 5))
    y = x @ rng.normal(size=5) + noise * rng.normal(size=40)
    query = np.ones((1, 5))
    program = dtda.Program(dtda.zoo.linear_regression, x, y=y, noise=noise, prior=prior)
    training = Training(program, dtda.kernels.exact(), dtda.measures.prediction(query, noise=noise))
    group = np.arange(32, 40)
    kept = np.where(np.isin(np.arange(40), group), 0.0, 1.0)

    def predicted(weights: np.ndarray) -> Normal:
        precision = x.T @ (weights[:, None] * x) / noise**2 + np.eye(5) / prior**2
        covariance = np.linalg.inv(precision)
        centre = query[0] @ covariance @ x.T @ (weights * y) / noise**2
        return float(centre), float(np.sqrt(query[0] @ covariance @ query[0]))

    return training, dtda.remove(program, group), (predicted(np.ones(40)), predicted(kept))


def truths(old: Normal, new: Normal) -> dict[str, float]:
    """Return every divergence of two normals, in closed form or on a fine grid."""
    (a, s), (b, t) = old, new
    quantiles = norm.ppf((np.arange(10**5) + 0.5) / 10**5)
    gaps = (a + s * quantiles) - (b + t * quantiles)
    x = np.linspace(min(a - 9 * s, b - 9 * t), max(a + 9 * s, b + 9 * t), 200_001)
    p, q = (norm.pdf(x, *arm) * (x[1] - x[0]) for arm in (old, new))
    return {
        "mean": b - a,
        "variance": t**2 - s**2,
        "log_sd_ratio": np.log(t / s),
        "median": b - a,
        "quantile(0.9)": (b - a) + norm.ppf(0.9) * (t - s),
        "tail_probability(0.5)": norm.sf(0.5, b, t) - norm.sf(0.5, a, s),
        "wasserstein1": np.abs(gaps).mean(),
        "wasserstein": np.hypot(a - b, s - t),
        "sinkhorn": np.sqrt((a - b) ** 2 + entropic(s, t)),
        "energy": 2 * far(a - b, s, t) - far(0, s, s) - far(0, t, t),
        "mmd": like(0, s, s, s) + like(0, t, t, s) - 2 * like(a - b, s, t, s),
        "kullback_leibler": np.log(t / s) + (s**2 + (a - b) ** 2) / (2 * t**2) - 0.5,
        "kullback_leibler_reverse": np.log(s / t) + (t**2 + (a - b) ** 2) / (2 * s**2) - 0.5,
        "jensen_shannon": (entr((p + q) / 2) - (entr(p) + entr(q)) / 2).sum(),
        "total_variation": np.abs(p - q).sum() / 2,
        "kolmogorov_smirnov": np.abs(norm.cdf(x, *old) - norm.cdf(x, *new)).max(),
    }


def entropic(s: float, t: float, epsilon: float = 0.1) -> float:
    """Return the Sinkhorn divergence of centred normals (Janati et al., 2020)."""
    half = epsilon * 2 * s**2 / 2  # the mean squared distance of old draws is 2 s^2

    def cost(u: float, v: float) -> float:
        root = np.sqrt(4 * u**2 * v**2 + half**2)
        return u**2 + v**2 - root + half * np.log(root + half)

    return cost(s, t) - (cost(s, s) + cost(t, t)) / 2


def far(shift: float, s: float, t: float) -> float:
    """Return E|X - Y|."""
    scale = np.hypot(s, t)
    return 2 * scale * norm.pdf(shift / scale) + shift * (1 - 2 * norm.cdf(-shift / scale))


def like(shift: float, s: float, t: float, old: float) -> float:
    """Return E k(X, Y) for the Gaussian kernel of the median distance between old draws."""
    width = (old * np.sqrt(2) * norm.ppf(0.75)) ** 2
    whole = width + s**2 + t**2
    return np.sqrt(width / whole) * np.exp(-(shift**2) / (2 * whole))


def truths_of_vectors(shift: float) -> dict[str, float]:
    """Return every divergence of two standard normals with three coordinates, so far apart."""
    flat = truths((0.0, 1.0), (shift, 1.0))
    alike = ("wasserstein1", "wasserstein", "kullback_leibler", "jensen_shannon", "total_variation")
    directions = np.random.default_rng(0).normal(size=(3, 64))
    directions /= np.linalg.norm(directions, axis=0)
    distance = partial(scipy.stats.chi.expect, args=(3,))
    width = scipy.stats.chi.median(3) * np.sqrt(2)

    def kernel(lag: float) -> float:
        whole = width**2 + 2
        return (width**2 / whole) ** 1.5 * np.exp(-(lag**2) / (2 * whole))

    def apart(lag: float) -> float:
        return np.sqrt(2) * scipy.stats.ncx2.expect(np.sqrt, args=(3, lag**2 / 2))

    return {
        **{name: flat[name] for name in alike},
        "mean": shift,
        "variance": 0.0,
        "log_sd_ratio": 0.0,
        "sliced_wasserstein": shift * np.sqrt((directions[0] ** 2).mean()),
        "sinkhorn": shift,
        "energy": 2 * (apart(shift) - np.sqrt(2) * distance(lambda r: r)),
        "mmd": 2 * (kernel(0.0) - kernel(shift)),
    }


def probabilities(old: np.ndarray, new: np.ndarray) -> Arms:
    centre = np.array([1.0, 0.5, 0.0, -0.5])
    return softmax(centre + old, axis=-1), softmax(1.3 * centre + 1.3 * new, axis=-1)


def truths_of_probabilities() -> dict[str, float]:
    """Return the changes of entropies, by two million draws (errors below 0.001)."""
    arms = probabilities(*np.random.default_rng(SEED + 1).normal(size=(2, 2 * 10**6, 4)))
    of_mean = [entr(arm.mean(0)).sum() for arm in arms]
    mean_of = [entr(arm).sum(-1).mean() for arm in arms]
    whole, inside = of_mean[1] - of_mean[0], mean_of[1] - mean_of[0]
    return dict(zip(OF_PROBABILITIES, (whole, inside, whole - inside), strict=True))


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "location": location,
    "regression": regression,
    "vectors": vectors,
    "null": null,
    "agreement": agreement,
}
HEAD = f"""# Coverage

{DRAWS} draws per sample. Over {REPETITIONS} repetitions: the mean estimate and the truth, the spread of
the estimates and the root mean square of their standard errors, and the coverage of 90 % intervals
(whose own standard error is 0.015).
"""


def section(name: str) -> str:
    start, table = time.perf_counter(), TABLES[name]()
    about = "\n".join(line.strip() for line in (TABLES[name].__doc__ or "").strip().split("\n"))
    table.columns = [", ".join(column) for column in table.columns]
    table = table.rename_axis(table.index.name or "divergence")
    body = table.to_markdown(floatfmt=".3f")
    foot = circumstances(SEED, start)
    print(body, foot, sep="\n", flush=True)
    return f"{name.capitalize()}\n\n{about}\n\n{body}\n\n{foot}"


def main(names: list[str]) -> None:
    """Replace sections of the page, and leave the others."""
    kept = PAGE.read_text().split("\n## ")[1:] if PAGE.exists() else []
    page = {part.split("\n")[0].lower(): part.strip() for part in kept}
    for name in names or TABLES:
        page[name] = section(name)
        parts = [HEAD.strip(), *(page[name] for name in TABLES if name in page)]
        PAGE.write_text("\n\n## ".join(parts) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

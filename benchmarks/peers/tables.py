"""Every library of the field on the same trainings, against the same retrainings.

Run with `uv run python benchmarks/peers/run.py` (some 50 minutes of a processor), or with the names of
some of its cases: `digits`, `images`, `text`, `linear`. It makes the environments of the other
libraries, trains the same networks in torch and by us, retrains them on perturbed data in torch and by
us, scores by every library, and writes the sections of these cases.

Every library scores models of seeds that have no part in the truth: other libraries the same 16 models,
trained in torch, as many as 45 processor seconds allow on digits, 30 on images and text; we train our
own. A score says by how much the loss of a query rises if the example is removed. Scores of several
models are averaged (TRAK: joined as it documents). "Halves": half of the examples are dropped, and
training has as many epochs. "1 %": one per cent of the examples have weight 0. "Left out": single
examples have weight 0. Each is the Spearman correlation of predicted and retrained effects, averaged
over queries; other libraries, and ours where "added up" is said, predict a set by the sum of scores.
"+-" is the error over perturbations and retrainings together. "Another seed" is the correlation of the
scores of one model with one retraining without 1 %. "Rise" is the rise of a query's loss, in nats, if
the 1 % of the examples that the most models rank first for it are removed, and its error over queries.
Nothing is tuned on these queries: a setting is the default of a library, or one option of its
documentation with a round number for its damping; only lambda 100 of TRAK was found on digits, and
regularization 1 of dattri on text, in their favour. The last line of a section names the code that
wrote it; results that were kept may be older.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ours
import pandas as pd
import xarray as xr
from cases import CASES
from environments import versions
from settings import LIBRARIES

import dtda_prob as dtda
from dtda_prob import evaluate
from dtda_prob.correlations import pearson, spearman

sys.path.append(str(Path(__file__).parents[1]))
import page

SEED = 0
CACHE = Path(__file__).parent / "cache"
COUNTS = (1, 4, 16)
TRUTHS = {"halves": "halves", "small": "1 %", "left": "left out"}
SIDES = {"torch": "torch", "ours-truth": "ours"}
COLUMNS = [f"{kind}, {side}" for kind in TRUTHS.values() for side in SIDES.values()]
OURS = {
    "choose": "**ours**, by default (`choose`)",
    "unroll": "**ours**, `unroll`",
    "EK-FAC": "**ours**, EK-FAC",
}
GOOD = 0.5
"""A correlation that makes a row worth a look at its cost."""


def truths(name: str) -> dict[str, xr.Dataset]:
    """Return the effects of retraining, of each kind and side."""
    case = CASES[name]()
    found = {}
    for kind, label in TRUTHS.items():
        weights = case.perturbations(kind)
        for side, other in SIDES.items():
            kept = np.load(CACHE / name / f"{side}-{kind}.npz")
            arms = xr.Dataset(
                {
                    "full": (("draw", "query"), kept["full"]),
                    "perturbed": (("draw", "query", "perturbation"), kept["perturbed"].swapaxes(1, 2)),
                    "weights": (("perturbation", "example"), weights.values),
                    "key": (("draw", "word"), np.arange(len(kept["full"]))[:, None]),
                },
                {
                    "query": np.arange(kept["full"].shape[1]),
                    "perturbation": np.arange(len(weights)),
                    "example": np.arange(weights.shape[1]),
                },
                {"arms": "coupled", "measure": "loss", "source": "retrain", "removal": "reweight"},
            )
            found[f"{label}, {other}"] = evaluate.effects(arms, num_splits=20)
    return found


def predictions(name: str) -> Iterator[tuple[str, int, dict[str, xr.Dataset], Path]]:
    """Yield the name of a row, its number of models, and its scores or effects of each kind."""
    folder = CACHE / name
    for library, settings in LIBRARIES.items():
        for setting in settings:
            path = folder / f"{library}-{setting}.npz"
            kept = dict(np.load(path)) if path.exists() else {}
            for count in COUNTS:
                scores = kept.get(f"joint_{count}")
                if "draws" in kept and scores is None and count <= len(kept["draws"]):
                    joint = library == "trak" and count > 1
                    scores = None if joint else kept["draws"][:count].mean(0)
                if scores is not None:
                    read = dtda.read_scores(scores)
                    label = setting if library == "baselines" else f"{library}, {setting}"
                    yield label, count, dict.fromkeys(COLUMNS, read), path
    for method, label in OURS.items():
        path = folder / f"ours-{method}.npz"
        if not path.exists():
            continue
        kept = np.load(path)
        for count in COUNTS:
            read = dtda.read_scores(kept["draws"][:count].mean(0))
            asked = kept["halves"][:count].mean(0)
            halves = {f"halves, {side}": asked for side in SIDES.values()}
            yield label, count, dict.fromkeys(COLUMNS, read) | halves, path
        added = {f"halves, {side}": read for side in SIDES.values()}
        yield f"{label}, added up", count, added, path


def compared(predicted, truth: xr.Dataset) -> tuple[float, float]:
    """Return the linear datamodelling score of scores, or of effects, and its error."""
    if not isinstance(predicted, xr.Dataset):
        made = truth.copy(deep=False).drop_vars("halves").assign(key=truth["key"] + 1000)
        predicted = made.assign(value=truth["value"].copy(data=predicted[None]))
    found = evaluate.agreement(predicted, truth, num_resamples=25)
    return float(found["lds"][0]), float(found["lds_error"][0])


def quality(name: str) -> pd.DataFrame:
    """Return all rows of a case, with the truths themselves at the end."""
    known, single = truths(name), single_retrainings(name)
    kept_at = CACHE / name / "agreements.json"
    memory = json.loads(kept_at.read_text()) if kept_at.exists() else {}
    rows = []
    for label, count, predicted, path in predictions(name):
        row = {"method": label, "models": count}
        for column in COLUMNS:
            place = f"{path.name} {path.stat().st_mtime} {label} {count} {column}"
            if column in predicted and place not in memory:
                memory[place] = compared(predicted[column], known[column])
            row[column], row[f"+- {column}"] = memory.get(place, (np.nan, np.nan))
        kept_at.write_text(json.dumps(memory))
        kept = np.load(path)
        if count == 1:
            row["another seed"] = across(kept["draws"], *single)
        raised = CACHE / name / "rise" / path.name
        if raised.exists() and count == models_of(kept) and "added" not in label:
            each = np.load(raised)["rise"].mean(0)
            row["rise"], row["+- rise"] = each.mean(), each.std(ddof=1) / len(each) ** 0.5
        rows.append(row)
    rows.append({"method": "the other truth"} | other_truth(known))
    rows.append({"method": "ceiling by noise of the truth"} | ceilings(known))
    return pd.DataFrame(rows)


def models_of(kept) -> int:
    """Return the largest count of a result."""
    joint = [count for count in COUNTS if f"joint_{count}" in kept]
    return max(joint or [count for count in COUNTS if count <= len(kept["draws"])])


def single_retrainings(name: str) -> tuple[np.ndarray, np.ndarray]:
    kept, rows = np.load(CACHE / name / "torch-small.npz"), CASES[name]().rows()["small"]
    return kept["perturbed"].swapaxes(1, 2) - kept["full"][:, :, None], 1 - rows


def across(draws: np.ndarray, retrained: np.ndarray, removed: np.ndarray) -> float:
    """Average the correlations of single models with single retrainings."""
    moved = draws[:4] @ removed.T
    return float(np.nanmean([spearman(own, other) for own in moved for other in retrained]))


def other_truth(known: dict[str, xr.Dataset]) -> dict[str, float]:
    row = {}
    for kind in TRUTHS.values():
        for side, other in (("torch", "ours"), ("ours", "torch")):
            column = f"{kind}, {side}"
            moved = known[f"{kind}, {other}"]["value"].values[0]
            row[column], row[f"+- {column}"] = compared(moved, known[column])
    return row


def ceilings(known: dict[str, xr.Dataset]) -> dict[str, float]:
    """Return the root of the reliability of each truth, by the formula of Spearman and Brown."""
    return {c: float(evaluate.reliability(truth).mean()) ** 0.5 for c, truth in known.items()}


def table(name: str) -> pd.DataFrame:
    """Return the rows of a case, kept on disk: they take a while."""
    sources = [*(CACHE / name).glob("*.npz"), *(CACHE / name / "rise").glob("*.npz")]
    path = CACHE / name / "quality.csv"
    if not path.exists() or path.stat().st_mtime < max(each.stat().st_mtime for each in sources):
        quality(name).to_csv(path, index=False)
    return pd.read_csv(path)


def shown(name: str) -> pd.DataFrame:
    """Return the rows of a case as the page shows them, with errors beside the numbers."""
    found = table(name)
    same = found["method"].isin(LIBRARIES["baselines"]) & (found["models"] < COUNTS[-1])
    found = found[~same].reset_index(drop=True)
    rows = pd.DataFrame({"method": found["method"], "models": found["models"].map(whole)})
    for column in [each for each in (*COLUMNS, "another seed", "rise") if each in found]:
        error = found.get(f"+- {column}", pd.Series(np.nan, found.index))
        rows[column] = [number(*pair) for pair in zip(found[column], error, strict=True)]
    return rows.set_index("method")


def whole(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.0f}"


def number(value: float, error: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.3f}" + ("" if np.isnan(error) else f" +- {error:.3f}")


def cost(name: str) -> pd.DataFrame:
    rows = []
    for path in sorted((CACHE / name).glob("*-*.npz")):
        library, _, setting = path.stem.partition("-")
        kept = np.load(path)
        if library == "baselines" or "first" not in kept:
            continue
        label = OURS[setting] if library == "ours" else f"{library}, {setting}"
        rows.append(
            {
                "method": label,
                "first, s": float(kept["first"]),
                "warm, s a model": float(kept["warm"]),
                "MB": float(kept["megabytes"]),
                "lines": whole(kept["lines"] if "lines" in kept else own_lines(setting)),
            }
        )
    return pd.DataFrame(rows).set_index("method").sort_values("first, s")


def own_lines(setting: str) -> int:
    return ours.lines((ours.METHODS[setting], ours.singles))


def what_others_do_better() -> pd.DataFrame:
    """Compare processor seconds and memory with the best of the others.

    Other libraries give their first scores sooner by far: nearly all of our first call is compilation,
    and by default retrainings that choose the method. They are handed a trained model, while ours
    train. The fastest and the smallest of the others are looked for among rows whose scores of one
    model correlate with halves by at least 0.5. With one model of the transformer, several
    libraries are more accurate than ours by default, which is `unroll` there; most of all conjugate
    gradients of dattri, once its regularization makes the Hessian positive definite, and they are still
    ahead with four. With sixteen ours is ahead of all, which were given fewer models where theirs take
    longer. Without what they rank first, losses of the transformer rise alike. kronfluence, dattri-llm
    and bergson score networks of sizes that we do not train today.
    Lines of code are in the tables of cost.
    """
    rows = []
    for name in done():
        spent, found = cost(name), table(name)
        good = found[(found["models"] == 1) & (found["halves, torch"] >= GOOD)]["method"]
        others = spent[spent.index.isin(good) & ~spent.index.str.contains("ours")]
        for column in ("first, s", "warm, s a model", "MB"):
            best = others[column].idxmin()
            rows.append(
                {
                    "case": name,
                    "cost": column,
                    "best of the others": best,
                    "best": others.loc[best, column],
                    "kronfluence": spent.loc["kronfluence, EK-FAC, default", column],
                    "ours, by default": spent[column].get(OURS["choose"], np.nan),
                    "ours, unroll": spent.loc[OURS["unroll"], column],
                }
            )
    return with_page(pd.DataFrame(rows).set_index("case"), "What others do better")


def paired(name: str, first: str, second: str) -> float:
    """Return the error over queries of the difference of two rises."""
    each = [np.load(CACHE / name / "rise" / f"{row}.npz")["rise"].mean(0) for row in (first, second)]
    apart = each[0] - each[1]
    return float(apart.std(ddof=1) / len(apart) ** 0.5)


def file_of(method: str) -> str:
    """Return the name of the file of a row of another library."""
    known = method in LIBRARIES["baselines"]
    return f"baselines-{method}" if known else method.replace(", ", "-", 1)


def first_and_best() -> pd.DataFrame:
    """Compare ours by default with the best row of any other library, by truth and number of models.

    Ours is by `choose`, or by `unroll` where that is not measured. Where the other library is better,
    "ours less best" is negative; these lines come first. "error" belongs to the difference, as if both
    were independent, which is conservative; of rises, paired by query.
    """
    lines = []
    for name in done():
        found = table(name)
        found = found[found["models"].notna()]
        asked = "choose" if (CACHE / name / "ours-choose.npz").exists() else "unroll"
        mine = found["method"] == OURS[asked]
        others = found[~found["method"].str.contains("ours")]
        for column in [*COLUMNS, *(["rise"] if "rise" in found else [])]:
            for count in COUNTS if column != "rise" else COUNTS[-1:]:
                own = found[mine & (found["models"] == count)].iloc[0]
                rivals = others[(others["models"] <= count) & others[column].notna()]
                if np.isnan(own[column]) or rivals.empty:
                    continue
                best = rivals.loc[rivals[column].idxmax()]
                lines.append(
                    {
                        "case": name,
                        "truth": column,
                        "models": count,
                        "best of the others": f"{best['method']} ({whole(best['models'])})",
                        "best": best[column],
                        "ours": own[column],
                        "by": asked,
                        "ours less best": own[column] - best[column],
                        "error": paired(name, f"ours-{asked}", file_of(best["method"]))
                        if column == "rise"
                        else np.hypot(own[f"+- {column}"], best[f"+- {column}"]),
                    }
                )
    rows = with_page(pd.DataFrame(lines).set_index("case"), "First and best")
    ahead = rows["ours less best"] > 0
    return pd.concat([rows[~ahead], rows[ahead]])


def libraries() -> pd.DataFrame:
    """List the versions that were installed, beside Python 3.11."""
    names = {
        "kronfluence": "kronfluence",
        "dattri": "dattri",
        "trak": "traker",
        "pydvl": "pydvl",
        "curvlinops": "curvlinops-for-pytorch",
        "captum": "captum",
        "bergson": "bergson",
        "dattri_llm": "dattri-llm",
        "devinterp": "devinterp",
    }
    known = page.tables("peers").get("Libraries", pd.DataFrame())
    rows = dict(zip(known.index, known.to_dict("records"), strict=True))
    for library, package in names.items():
        if any([*(CACHE / name).glob(f"{library}-*.npz")] for name in done()):
            found = versions(library, CACHE)
            rows[package] = {
                "version": found[package],
                "torch": found["torch"],
                "numpy": found["numpy"],
            }
    return pd.DataFrame.from_dict(rows, "index").rename_axis("library")


def metrics() -> pd.DataFrame:
    """Judge scores of digits by quanda 0.5, which needs no retraining.

    "Same class": the share of the five highest scores of a query that have its label. "Top 1, union":
    how many different examples lead, over the number of queries. Examples of the same label, and near
    neighbours, win by these metrics and lose in all that retraining shows above.
    """
    found = json.loads((CACHE / "digits" / "metrics.json").read_text())
    return pd.DataFrame.from_dict(found, "index").rename_axis("library-setting")


def logistic_regression() -> pd.DataFrame:
    """Attribute the losses of 40 patients to 200, by pyinfluence 0.5 and by us.

    Logistic regression of scikit-learn on the breast cancer data. "Correlation" is Pearson's with
    refits without each example, averaged over queries whose loss moves; "size" is the slope of refits
    on predictions: 1 is right. Seconds are the processor's; the refits are pyinfluence's.
    """
    theirs, mine = (np.load(CACHE / "linear" / f"linear-{who}.npz") for who in ("found", "ours"))
    exact, rows = theirs["refits"], {}
    predicted = {
        "pyinfluence, influence": (theirs["influences"], theirs["influences seconds"], np.nan),
        "**ours**, influence": (mine["influence"], mine["influence first"], mine["influence warm"]),
    }
    for name, (scores, first, warm) in predicted.items():
        rows[name] = {
            "correlation": float(np.nanmean(pearson(scores, exact))),
            "size": float((scores * exact).sum() / (scores**2).sum()),
            "first, s": float(first),
            "warm, s": float(warm),
        }
    rows["refits by pyinfluence"] = {"first, s": float(theirs["refits seconds"])}
    return pd.DataFrame.from_dict(rows, "index").rename_axis("method")


def trainings() -> pd.DataFrame:
    """Count the examples of each case, and the processor seconds of a training and of both truths."""
    rows = {}
    for name in done():
        folder, case = CACHE / name, CASES[name]()
        kept = {f"{a}-{k}": np.load(folder / f"{a}-{k}.npz")["seconds"] for a in SIDES for k in TRUTHS}
        rows[name] = {
            "examples": whole(case.program.num_data),
            "queries": whole(len(case.data["x_query"])),
            "halves x retrainings": f"{case.sizes[0]} x {case.about['truths']['halves'][0]}",
            "1 %": f"{case.sizes[1]} x {case.about['truths']['small'][0]}",
            "left out": f"{case.sizes[2]} x {case.about['truths']['left'][0]}",
            "a model in torch, s": json.loads((folder / "models.json").read_text())["seconds"],
            "truths in torch, s": sum(float(v) for k, v in kept.items() if k.startswith("torch")),
            "our truths, s": sum(float(v) for k, v in kept.items() if k.startswith("ours")),
        }
    return with_page(pd.DataFrame.from_dict(rows, "index").rename_axis("case"), "Trainings")


def what_did_not_run() -> pd.DataFrame:
    """List the settings that gave no scores, with their own words.

    "Takes too long": the first model takes four times the seconds that all may take. bergson's EK-FAC
    and MAGIC are not asked: its command takes a model of transformers on disk.
    """
    rows = []
    for name in done():
        for path in sorted((CACHE / name).glob("*-*.npz")):
            kept = np.load(path)
            if "error" in kept:
                said = str(kept["error"]).splitlines()[0].replace("|", "/")
                rows.append({"case": name, "method": path.stem.replace("-", ", ", 1), "error": said})
    found = pd.DataFrame(rows, columns=["case", "method", "error"]).set_index("case")
    return with_page(found, "What did not run")


def done() -> list[str]:
    """Return the cases whose results are here."""
    return [name for name in CASES if (CACHE / name / "ours-unroll.npz").exists()]


def with_page(rows: pd.DataFrame, section: str) -> pd.DataFrame:
    """Add the rows that the page has of other cases, whose results are not here."""
    known = page.tables("peers").get(section, rows[:0])
    kept = known[~known.index.isin(rows.index) & ~known.index.isin(done())]
    both = pd.concat([rows, kept]) if len(kept) else rows
    order = {name: i for i, name in enumerate(CASES)}
    return both.sort_index(key=lambda names: names.map(order), kind="stable").rename_axis("case")


def digits_quality() -> pd.DataFrame:
    """Perceptron 64-64-10 on 1437 digits, 20 epochs of SGD with momentum, cosine rate; 40 queries."""
    return shown("digits")


def digits_cost() -> pd.DataFrame:
    """Processor seconds, with one thread, to the first scores of all queries and examples, and warm.

    The first come from a process that has imported and compiled nothing. Other libraries are handed a
    trained model; ours train theirs, and `choose` the 96 models of its comparison. "MB" is the peak of
    resident memory above its size after imports of torch or jax and of the data. "Lines" counts the
    code that calls the library, without empty lines.
    """
    return cost("digits")


def images_quality() -> pd.DataFrame:
    """Perceptron 784-64-10 on 5,000 images of MNIST, 5 epochs of SGD with momentum; 20 queries."""
    return shown("images")


def images_cost() -> pd.DataFrame:
    """As for digits."""
    return cost("images")


def text_quality() -> pd.DataFrame:
    """Transformer of characters (3,355 parameters) on 200 sequences, 6 epochs of AdamW; 20 queries.

    dattri solves with the Hessian, whose least eigenvalues are negative here, by more than 0.01. Ten
    conjugate gradients reach them, so that scores point the wrong way; with a regularization of 1 the
    matrix is positive definite.
    """
    return shown("text")


def text_cost() -> pd.DataFrame:
    """As for digits."""
    return cost("text")


def wrong_labels() -> pd.DataFrame:
    """Find ten wrong diagnoses among the 200 patients, by cleanlab 2.9 and by `dtda.check`.

    cleanlab ranks by its label quality, with logistic regression of scikit-learn; `dtda.check` reads
    the patients from a file. "Area" is that under the receiver operating characteristic, with
    DeLong's error; "precision" the share of wrong labels among the first ten.
    """
    data = np.load(CACHE / "linear" / "linear.npz")
    theirs, mine = (np.load(CACHE / "linear" / f"linear-{who}.npz") for who in ("found", "ours"))
    scores = {
        "cleanlab": -theirs["label_quality"],
        "**ours**, `dtda.check`": -mine["rank"].astype(float),
    }
    found = evaluate.mislabels(scores, data["y"] != data["y_wrong"])
    columns = {
        "area": [
            number(*pair) for pair in zip(found["auc"].values, found["auc_error"].values, strict=True)
        ],
        "precision": found["precision"].values[:, 0],
        "first, s": [float(theirs["label_quality seconds"]), float(mine["rank seconds"])],
    }
    return pd.DataFrame(columns, index=[*scores]).rename_axis("method")


OF_CASE = {
    "digits": [digits_quality, digits_cost],
    "images": [images_quality, images_cost],
    "text": [text_quality, text_cost],
}
SHARED = [what_others_do_better, first_and_best, trainings, what_did_not_run]
OTHERS = {
    metrics: "digits/metrics.json",
    logistic_regression: "linear/linear-ours.npz",
    wrong_labels: "linear/linear-ours.npz",
}
PARTS = [*SHARED, *(part for each in OF_CASE.values() for part in each), *OTHERS, libraries]


def here() -> list:
    """Return the sections whose results are here; the others stay on the page as they are."""
    own = [part for name in done() for part in OF_CASE[name]]
    others = [part for part, path in OTHERS.items() if (CACHE / path).exists()]
    return [*SHARED, *own, *others, libraries] if own else others


if __name__ == "__main__":
    page.write_some("peers", "Other libraries", __doc__, PARTS, here(), SEED)

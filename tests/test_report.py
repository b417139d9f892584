"""The report of a study: one page, safe whatever the labels, and interactive in a browser."""

import base64
import contextlib
import io
import re
import shutil
from functools import cache
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import optax
import pandas as pd
import pytest
import xarray as xr
from PIL import Image
from strangers import rewritten
from tables import regression_data

import dtda_prob as dtda
from dtda_prob import numerals
from dtda_prob.report import figures, influences
from dtda_prob.report.looks import Looks, looks, png
from dtda_prob.report.study import meaning_of, open_study
from dtda_prob.report.tables import Column, Table

KEY = jax.random.key(0)
HOSTILE = (
    "<img src=x onerror=hacked=1>",
    "</script><script>hacked=1</script>",
    "javascript:hacked=1",
    '"><svg onload=hacked=1>',
    "<!--<script>",
    "{{ 7 * 7 }} ${hacked=1}",
    "$$\\href{javascript:hacked=1}{x}$$",
    "@y{safe}<img src=x onerror=hacked=1>",
    "line\u2028separator",
)
ABOUT = {"file": "\u202e<b>.csv", "target": "price", "model": "linear regression"}
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is on the PATH")


@cache
def training() -> dtda.Training:
    """Regress 12 examples with hostile labels, and measure 3 queries with some."""
    x, y = regression_data()
    labels = [f"{HOSTILE[i % len(HOSTILE)]} {i}" for i in range(len(x))]
    program = dtda.Program(dtda.zoo.linear_regression, x, y=y, noise=0.5, labels=labels)
    measure = dtda.measures.squared_error(x[:3], y=y[:3], queries=HOSTILE[:3])
    return dtda.Training(program, dtda.kernels.exact(), measure)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Save one of everything in a study."""
    path, source = tmp_path_factory.mktemp("studies") / "study.zarr", training()
    predict = dtda.influence(source, at="old")
    without = dtda.remove(source.program, source.program.labels[:1])
    options = dtda.Options(chunk_size=4, check=False)
    dtda.sample(source, KEY, 12, options=options, where=dtda.Where(path, "full"))
    dtda.sample(source, KEY, 12, without, options=options, where=dtda.Where(path, "retrained"))
    options = dtda.Options(num_permutations=4, num_resamples=9, top=3, check=False)
    dtda.attribute(predict, KEY, 6, ["mean", "wasserstein"], options=options, where=dtda.Where(path))
    dtda.save(agreement(), path, name="agreement", kind="agreement")
    dtda.save(verdict(), path, name="verdict", kind="verdict")
    shown = dtda.report.examples(source, about=ABOUT, num_predictions=4)
    dtda.save(shown, path, name="examples", kind="examples")
    return path


def agreement() -> xr.Dataset:
    """Compare made-up effects of leaving out examples with hostile labels."""
    rng, labels = np.random.default_rng(0), training().program.labels[: len(HOSTILE)]
    dims = ("divergence", "query", "perturbation")
    coords = {"divergence": ["mean"], "query": list(HOSTILE[:3]), "perturbation": labels}
    truth = 1e-4 * rng.normal(size=(1, 3, len(labels)))
    halves = truth + 1e-5 * rng.normal(size=(4, 2, *truth.shape))
    about = {"source": "influence", "measure": "squared_error", "draws": 4, "arms": "coupled"}

    def effects(value: np.ndarray, key: int) -> xr.Dataset:
        named = {
            "value": (dims, value),
            "error": (dims, np.full(value.shape, 1e-5)),
            "halves": (("split", "half", *dims), halves),
            "weights": ("perturbation", np.zeros(len(labels))),
            "key": (("draw", "word"), [[0, key]]),
        }
        return xr.Dataset(named, coords, about | {"removal": "reweight"})

    guess = truth + 1e-5 * rng.normal(size=truth.shape)
    return dtda.evaluate.agreement(effects(guess, 0), effects(truth, 1), num_resamples=9)


def verdict() -> xr.Dataset:
    columns = {
        "value": [0.5, 0.0],
        "error": [0.1, np.nan],
        "threshold": [">= 0.9", "<= 0"],
        "passed": [False, True],
    }
    return xr.Dataset(
        {name: ("check", values) for name, values in columns.items()},
        {"check": ["cosine", HOSTILE[0]]},
        {"text": f"1 of 2 checks are passed.\nWhat cannot:\n- {HOSTILE[1]}\n  goes on"},
    )


@pytest.fixture(scope="module")
def page(study) -> Path:
    return dtda.report.write(study, study.parent / "report.html", top=3)


class Read(HTMLParser):
    """The tags of a page with their attributes, its scripts, and its text."""

    def __init__(self, page: Path):
        super().__init__()
        self.tags, self.scripts, self.words, self.open = [], [], [], []
        self.feed(page.read_text())
        self.close()
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            attrs, text = self.scripts.pop()
            self.scripts.append((attrs, text + data))
        else:
            self.words.append(data)

    def named(self, name: str) -> list[dict]:
        return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture(scope="module")
def parsed(page) -> Read:
    return Read(page)


def test_page_is_whole_small_and_loads_nothing(page, parsed):
    assert page.stat().st_size < 3e5
    loads = [
        attrs[name] for _, attrs in parsed.tags for name in ("src", "href", "srcset") if name in attrs
    ]
    assert loads
    assert all(address.startswith(("#", "data:")) for address in loads)
    style = next(text for _, text in parsed.scripts if "--page:" in text)
    assert not {"url(", "@import"} & set(re.findall(r"url\(|@import", style))
    policy = parsed.named("meta")[1]["content"]
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy
    assert "unsafe-eval" not in policy


def test_page_shows_everything_in_the_study(parsed):
    for word in ("full", "retrained", "goes on", "not passed", "linear_regression", "influence"):
        assert word in parsed.text
    captions = [attrs["aria-label"] for attrs in parsed.named("div") if attrs.get("role") == "region"]
    # Three tables a query; two over all queries; two of the agreement, one of checks, one of parts, and
    # the first.
    assert len(captions) == 3 * 3 + 2 + 2 + 1 + 1 + 1
    figures = [attrs for attrs in parsed.named("svg") if attrs.get("class") == "figure"]
    assert len(figures) == 3 + 3 + 1
    assert all(figure["aria-label"] for figure in figures)
    assert len([attrs for attrs in parsed.named("path") if attrs.get("class") == "line"]) == 4 * 2
    assert len([attrs for attrs in parsed.named("g") if attrs.get("class") == "mark"]) == 3 * len(
        HOSTILE
    )


def test_the_first_screen_names_file_target_and_model_and_shows_rows_with_predictions(study, parsed):
    first = parsed.text.split("How to read this")[0]
    assert "Which rows of \u2068\u202e<b>.csv\u2069 move the predicted price?" in first
    assert "A linear regression of “price” was fitted" in first
    scores = dtda.load(study, "scores")["score"].isel(divergence=0)
    size = abs(scores).mean("query").to_series()
    leading = size.idxmax()
    assert f"Removing row {leading}" in first
    assert f"{size.max() / size.sum():.1%}" in first
    source, kept = training(), dtda.load(study, "examples")["data"].to_dataset().sel(example=leading)
    measure = dtda.measures.prediction(*source.program.args, noise=0.5)
    drawn = dtda.sample(dtda.Training(source.program, source.kernel, measure), KEY, 4)
    row = source.program.labels.tolist().index(leading)
    own = drawn["posterior_predictive/prediction"].mean(("chain", "draw")).values[row]
    np.testing.assert_allclose(kept["predicted"], own, rtol=1e-5)
    assert numerals.brief(float(own), 4) in first
    (link,) = [a["href"] for a in parsed.named("a") if a["href"].startswith("data:text/csv")]
    listed = pd.read_csv(io.BytesIO(base64.b64decode(link.partition(",")[2])))
    assert listed["row"].tolist() == size.sort_values(ascending=False).index.tolist()
    np.testing.assert_allclose(listed["share"].sum(), 1, rtol=1e-4)
    assert numerals.isolated("plain") == "plain"


def test_labels_are_text_and_nothing_else(parsed):
    text = "".join(parsed.words)
    assert all(label in text for label in HOSTILE)
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") for name in attrs)]
    assert len(parsed.scripts) == 2  # the style, and a script
    drawn = [attrs["d"] for attrs in parsed.named("path")]
    assert all(re.fullmatch(r"[MLHV0-9., -]+", path) for path in drawn)


def test_page_is_accessible(parsed):
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert len(parsed.named("h1")) == len(parsed.named("main")) == 1
    assert {attrs.get("scope") for attrs in parsed.named("th")} == {"col"}
    assert all("alt" in attrs for attrs in parsed.named("img"))
    pointed = [a[name] for _, a in parsed.tags for name in ("aria-labelledby", "for") if name in a]
    assert set(pointed) <= set(ids)


def test_missing_and_unfinished_parts_are_named(tmp_path):
    path, source = tmp_path / "study.zarr", training()
    dtda.sample(source, KEY, 8, options=dtda.Options(chunk_size=4), where=dtda.Where(path, "full"))
    next((path / "full/blocks/done/c").glob("0")).unlink()
    text = Read(dtda.report.write(path, tmp_path / "report.html")).text
    assert "“full” is not finished" in text
    assert "no diagnostics yet" in text
    assert "not compared with retraining yet" in text
    assert "the study keeps none" in text


def test_rows_are_the_largest_in_either_direction_with_their_errors(study, parsed):
    scores = dtda.load(study, "scores").to_dataset()
    one = scores.isel(query=0).sel(divergence="mean")
    order = one["score"].values.argsort()
    keys = {attrs["data-key"] for attrs in parsed.named("td")}
    assert {str(one["example"].values[i]) for i in (*order[:3], *order[-3:])} <= keys
    for name in ("score", "error", "q_value"):
        assert {str(float(value)) for value in one[name].values[order[-3:]]} <= keys


def test_means_over_queries_are_those_of_all_at_once(study, monkeypatch):
    monkeypatch.setattr(influences, "BLOCK", 24)  # one query at a time
    part = next(part for part in open_study(study).parts if part.name == "scores")
    scores = influences.scores_of(part, 3, Looks({}))
    means = influences.over_queries(scores)
    whole = dtda.load(study, "scores").to_dataset()
    for i, mean in enumerate(means):
        one = whole.isel(divergence=i)
        np.testing.assert_allclose(mean["score"], one["score"].mean("query"))
        np.testing.assert_allclose(mean["error"], one["error"].mean("query"))
        np.testing.assert_allclose(mean["size"], abs(one["score"]).mean("query"))
        np.testing.assert_array_equal(mean["significant"], (one["q_value"] <= 0.1).sum("query"))
    size = abs(whole["score"].isel(divergence=0)).mean("query").to_series().sort_values(ascending=False)
    said = influences.leading(scores, means[0])
    assert said.startswith(f"Removing example {size.index[0]} moves ")
    assert f"have {size.iloc[:3].sum() / size.sum():.0%} of all influence" in said


def test_queries_are_chosen_by_label(study, tmp_path):
    page = Read(dtda.report.write(study, tmp_path / "one.html", queries=[HOSTILE[1]]))
    assert len(page.named("article")) == 1
    assert "2 queries of the 3" in page.text
    for options, message in ({"queries": ["nobody"]}, "no such query"), ({"top": 0}, "top=0"):
        with pytest.raises(ValueError, match=message):
            dtda.report.write(study, tmp_path / "none.html", **options)
    assert not (tmp_path / "none.html").exists()


def test_a_page_that_is_too_large_shows_less_and_says_so(study, page, tmp_path, monkeypatch):
    monkeypatch.setattr("dtda_prob.report.page.MOST_BYTES", page.stat().st_size - 100)
    page = Read(dtda.report.write(study, tmp_path / "less.html", top=3))
    assert len(page.named("article")) < 3
    assert "queries of the 3 of" in page.text


# Studies from strangers.


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("", {"model": "m" * 1_000_000}),
        ("", {"sites": {f"site {i}": "latent" for i in range(30_000)}}),
        ("full", {"transform": "t" * 1_000_000}),
        ("full", {"removal": "r" * 1_000_000}),
    ],
)
def test_megabytes_of_text_are_cut(study, page, tmp_path, name, changes):
    copy = rewritten(study, tmp_path, name, **changes)
    written = dtda.report.write(copy, tmp_path / "report.html", top=3)
    assert written.stat().st_size < page.stat().st_size + 10_000


def test_long_texts_are_cut(page, tmp_path):
    path = tmp_path / "study.zarr"
    dtda.sample(
        training(),
        KEY,
        8,
        options=dtda.Options(chunk_size=4, check=False),
        where=dtda.Where(path, "full"),
    )
    long = verdict().assign_attrs(text="- " + 5_000_000 * "x")
    dtda.save(long.assign_coords(check=["y" * 1_000_000, "z"]), path, name="verdict", kind="verdict")
    written = dtda.report.write(path, tmp_path / "report.html", top=3)
    assert written.stat().st_size < page.stat().st_size


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("full", {"measure": "x"}),
        ("full", {"kernel": [1]}),
        ("scores", {"grid": {"query": "one"}}),
        ("scores", {"key": "words"}),
        ("", {"rows": 3}),
        ("", {"versions": ["1"]}),
        ("scores", {"kind": "sample set"}),
        ("full", {"kind": "scores"}),
        ("examples", {"kind": "verdict"}),
    ],
)
def test_descriptions_of_other_types_are_refused_or_harmless(study, tmp_path, name, changes):
    copy = rewritten(study, tmp_path, name, **changes)
    with contextlib.suppress(dtda.StoreError):  # no error of another type
        dtda.report.write(copy, tmp_path / "report.html")


def test_a_damaged_chunk_is_a_store_error(study, tmp_path):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(study, copy)
    chunk = next(
        file for file in (copy / "scores/score").rglob("*") if file.is_file() and "c" in file.parts
    )
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    with pytest.raises(dtda.StoreError, match="dtda info --verify"):
        dtda.report.write(copy, tmp_path / "report.html")


def luminance(color: str) -> float:
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_colors_have_contrast_in_light_and_dark(parsed):
    style = next(text for _, text in parsed.scripts if "--page:" in text)
    pairs = dict(re.findall(r"--(\w+): light-dark\(([^)]*)\)", style))
    for theme in range(2):
        of = {name: luminance(pair.split(", ")[theme]) for name, pair in pairs.items()}
        for name in ("ink", "quiet", "accent", "good", "bad"):
            for ground in (of["page"], of["raised"]):
                low, high = sorted([of[name], ground])
                assert (high + 0.05) / (low + 0.05) >= 4.5, (name, theme)


# Examples.


@cache
def images(shape: tuple[int, ...]) -> dtda.Training:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(6, *shape)), rng.integers(0, 3, 6)

    def model(x, y=None):
        flat = jax.numpy.reshape(x, (len(x), -1))
        dtda.zoo.classifier([], 3)(flat, y)

    program = dtda.Program(model, x, y=y)
    kernel = dtda.kernels.sgd(optax.sgd(0.1), num_steps=1)
    return dtda.Training(program, kernel, dtda.measures.loss(x[:2], y=y[:2]))


@pytest.mark.parametrize(
    ("shape", "given", "wanted"),
    [
        ((8, 8), None, (8, 8, 1)),
        ((64,), (8, 8), (8, 8, 1)),
        ((12,), (2, 2, 3), (2, 2, 3)),
        ((70, 33), None, (24, 11, 1)),
        ((64,), None, None),
    ],
)
def test_images_become_thumbnails(shape, given, wanted):
    source = images(shape)
    tree = dtda.report.examples(source, shape=given)
    for part, number in (("data", 6), ("queries", 2)):
        dataset = tree[part].to_dataset()
        assert "row" not in dataset
        if wanted is None:
            assert "64 features" in dataset.attrs["left_out"]
        else:
            assert dataset["thumbnail"].shape == (number, *wanted)
            assert (dataset["thumbnail"].min(), dataset["thumbnail"].max()) == (0, 255)
    np.testing.assert_array_equal(tree["data"]["target"].values[:, 0], source.program.kwargs["y"])


def test_few_features_are_a_row_with_names():
    x, y = regression_data()
    tree = dtda.report.examples(training(), columns=["a", "b", "c"])
    np.testing.assert_allclose(tree["data"]["row"].sel(column="b"), x[:, 1], rtol=1e-6)
    np.testing.assert_allclose(tree["queries"]["target"].values[:, 0], y[:3], rtol=1e-6)
    assert tree["data"]["example"].values[0] == f"{HOSTILE[0]} 0"


def test_rows_of_a_table_replace_inputs():
    x, _ = regression_data()
    source = training()
    labels = [*source.program.labels, *source.measure.queries]
    table = pd.DataFrame({"colour": "<b>red</b>", "size": np.arange(len(labels))}, index=labels)
    tree = dtda.report.examples(source, rows=table)
    assert tree["queries"]["row"].sel(column="size").values.tolist()[0] == str(len(x))
    features = looks(tree, "data", "example").features([str(labels[1])])
    assert features.to_dict("list") == {"colour": ["<b>red</b>"], "size": [1]}
    numbers = dtda.report.examples(source, rows=table[["size"]])["data"]["row"]
    assert numbers.values[:, 0].tolist() == list(range(len(x)))


def test_some_examples_are_kept_and_the_rest_is_named(monkeypatch):
    source = images((8, 8))
    chosen = dtda.report.examples(source, classes=["a", "b", "c"])["data"].to_dataset()
    assert set(chosen["target"].values) <= {"a", "b", "c"}
    monkeypatch.setattr(import_module("dtda_prob.report.examples"), "MOST_BYTES", 200)
    first = dtda.report.examples(source)["data"].to_dataset()
    assert 0 < first.sizes["example"] < 6
    assert "all but the first" in first.attrs["left_out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (3, 3)}, "shape="),
        ({"columns": ["a"]}, "must name 3 features"),
        ({"classes": ["a"]}, "must name every value"),
        ({"about": {"name": "x"}}, "'name'. must be among"),
        ({"rows": pd.DataFrame({"a": [1]}, index=["x"])}, "no row for"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dtda.report.examples(training(), **options)


def test_a_measure_without_inputs_has_no_queries_to_show():
    source = training()
    parameters = dtda.Training(source.program, source.kernel, dtda.measures.parameters())
    assert not dtda.report.examples(parameters)["queries"].to_dataset().data_vars


def test_thumbnails_are_images_of_the_pixels():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    _, text = png(pixels).split(",")
    np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(text))), pixels[..., 0])


# Numbers and tables.


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (numerals.with_error(1.2345e-4, 2.1e-6), "(123.5 ± 2.1)×10⁻⁶"),
        (numerals.plain(numerals.with_error(-1.2345e-4, 2.1e-6)), "(-123.5 +- 2.1)e-6"),
        (numerals.with_error(-0.5, 0.04), "−0.500 ± 0.040"),
        (numerals.with_error(3.0, np.nan), "3"),
        (numerals.beside_error(1.0, 0.0), "1.000 ± 0"),
        (numerals.fixed(-0.001, 2), "0.00"),
        (numerals.brief(1.5e-7), "1.50×10⁻⁷"),
        (numerals.share(0.0), "< 0.001"),
        (numerals.size(2_500_000), "2.5 MB"),
        (numerals.duration(np.nan), "–"),
        (numerals.clip("abcdef", 3), "ab…"),
        (meaning_of({}, "variance", "loss").unit, "nats²"),
        (meaning_of({}, "variance", "squared_error").unit, "target units⁴"),
        (meaning_of({"meanings": "[1"}, "mean", "prediction").unit, ""),
    ],
)
def test_numbers_are_written_with_their_errors(text, wanted):
    assert text == wanted


class skewed(dtda.divergences.Divergence):
    """A signed divergence that the library does not know."""

    signed = True
    quantity = "the skewness of the {measure}"

    def statistic(self, old, new, coupled):
        return (new**3).mean(0) - (old**3).mean(0)


def test_directions_are_those_of_the_divergences_scored():
    """Also where a divergence is the user's own."""
    scores = dtda.attribute(training(), KEY, 4, ["mean", "wasserstein", skewed()])
    own, mean, distance = (
        meaning_of(scores.attrs, name, "squared_error") for name in ("skewed", "mean", "wasserstein")
    )
    assert own == ("the skewness of the squared error", "raises", "lowers", "target units²")
    told = influences.explained("skewed", "squared_error", "the change", own)
    assert "positive, the change raises the skewness of the squared error; where" in told
    assert "has no direction" in influences.explained("wasserstein", "loss", "it", distance)
    assert (mean.positive, mean.quantity) == ("raises", "the squared error")


def test_figures_have_scaled_axes_and_omit_what_is_missing():
    rng, (one, other) = np.random.default_rng(0), figures.styles_of(["one", "other"])
    tiny = figures.densities({one: 1e-7 * rng.normal(size=64), other: np.zeros(9)}, "loss", "nats", "")
    assert (tiny.x.label, [style.name for style, _ in tiny.lines]) == ("loss (10⁻⁹ nats)", ["one"])
    wide = {one: 10 ** rng.normal(-3, 0.3, 64), other: 10 ** rng.normal(0, 0.3, 64)}
    ticks = figures.densities(wide, "loss", "", "").x.ticks
    assert [text for _, text in ticks] == ["10⁻³", "10⁻²", "10⁻¹", "10⁰"]
    made = agreement().isel(perturbation=slice(3))
    made["predicted"][0, 0, 1] = np.nan
    marks = figures.agreement(made, HOSTILE[0], "mean", "nats", "").marks
    assert [mark.label.split(":")[0] for mark in marks] == [HOSTILE[0] + " 0", HOSTILE[2].split(":")[0]]
    near = figures.densities({one: rng.normal(size=64)}, "prediction", "", "", truth=5.0)
    assert near.truth == 5.0 == near.x.high
    assert figures.densities({one: rng.normal(size=64)}, "loss", "", "", truth=1e3).truth is None
    assert tiny.truth is None


def test_tables_sort_by_value_and_show_text():
    columns = {
        "Rank": Column([1, 2]),
        "Score": Column([0.5, np.nan], ["a half", "–"]),
        "Name": Column(["<b>", "x" * 99]),
        "Empty": Column([np.nan, np.nan], ["–", ""]),
    }
    table = Table("all", columns)
    assert list(table.heads()) == [
        ("Rank", "number", "ascending"),
        ("Score", "number", ""),
        ("Name", "text", ""),
    ]
    first, second = table.rows()
    assert first == (("number", "1", "1"), ("number", "0.5", "a half"), ("text", "<b>", "<b>"))
    assert second[1] == ("number", "", "–")
    assert len(second[2][2]) == 80


# In a browser.


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, page):
    """Open the page at phone width, and check that it reports no error and requests nothing."""
    tab = browser.new_page(viewport={"width": 360, "height": 900}, color_scheme="light")
    tab.set_default_timeout(30000)
    complaints, asked = [], []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda one: one.type in ("error", "warning") and complaints.append(one.text))
    tab.on("dialog", lambda dialog: complaints.append(dialog.message))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    yield tab
    assert not complaints
    assert tab.evaluate("typeof hacked") == "undefined"
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    tab.close()


@needs_browser
def test_page_fits_a_phone_and_draws_its_figures_in_light_dark_and_print(tab):
    ground = "getComputedStyle(document.body).backgroundColor"
    turned = "getComputedStyle(document.querySelector('.figure')).filter"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    for figure in ("#query-0 .figure", "#trust .figure"):
        box = tab.locator(figure).first.bounding_box()
        assert 200 < box["width"] <= 360
    light = tab.evaluate(ground)
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate(ground) != light
    assert "invert" in tab.evaluate(turned)
    tab.emulate_media(media="print")
    assert tab.evaluate(turned) == "none"
    assert tab.evaluate(ground) == "rgb(255, 255, 255)"


@needs_browser
def test_tables_sort_and_filter_and_queries_are_chosen(tab):
    table = tab.locator("#query-0 .ranking:visible .table")
    head = table.locator("th", has=tab.get_by_role("button", name="Score", exact=True))

    def keys() -> list[float]:
        column = head.evaluate("head => head.cellIndex")
        cells = table.locator(f"tbody tr:visible td:nth-child({column + 1})")
        return [float(key) for key in cells.evaluate_all("all => all.map(one => one.dataset.key)")]

    assert keys() == sorted(keys(), key=abs, reverse=True)
    for order, reverse in (("descending", True), ("ascending", False)):
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == order
        assert keys() == sorted(keys(), reverse=reverse)
    assert "sorted by Score" in table.get_by_role("status").inner_text()
    table.get_by_role("searchbox").fill("JavaScript:hacked=1 2")
    assert table.get_by_role("status").inner_text().startswith("1 of ")
    assert tab.locator(".panel:visible").count() == 1
    tab.get_by_role("button", name="Next query").press("Enter")
    assert tab.locator("#query-1").is_visible()
    tab.locator("#query-1 select.rankings").select_option("wasserstein")
    assert tab.locator("#query-1 .ranking:visible h4").inner_text() == "Influence by wasserstein"
    tab.get_by_role("button", name="Show all").click()
    assert tab.locator(".panel:visible").count() == 3
    tab.get_by_role("checkbox", name="retrained").uncheck()
    assert tab.locator("#query-0 [data-set='full'] path").is_visible()
    assert not tab.locator("#query-0 [data-set='retrained'] path").is_visible()


@needs_browser
def test_tooltips_show_labels_as_text(tab):
    titles = tab.locator("#trust .figure").first.locator(".mark title").all_text_contents()
    assert any("<img src=x onerror=hacked=1>" in title for title in titles)


@needs_browser
def test_page_is_readable_without_scripts(browser, page):
    tab = browser.new_context(java_script_enabled=False).new_page()
    tab.goto(page.as_uri())
    assert tab.locator(".panel:visible").count() == 3
    assert tab.locator(".figure:visible").count() == 3 + 3 + 1
    assert not tab.locator("button:visible").count()
    tab.context.close()

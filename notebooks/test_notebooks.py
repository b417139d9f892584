"""Run each notebook at its smallest size, and compare the page with the stored results."""

import gc
import json
import re
import runpy
import sys
import warnings

import claims
import figure6
import jax
import jupytext
import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import table
import xarray as xr

import dtda_prob as dtda

NAMES = table.names()
KEPT = 300_000  # bytes of a notebook with its outputs


@pytest.fixture
def script(monkeypatch):
    """Run a script of the folder in this process, which has imported what all of them need."""
    monkeypatch.chdir(table.FOLDER)
    mpl.use("agg")

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # as a script shows them
            runpy.run_path(str(table.FOLDER / name), run_name="__main__")

    yield run
    plt.close("all")
    plt.rcdefaults()
    jax.config.update("jax_enable_x64", False)
    jax.clear_caches()
    gc.collect()


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_source_are_the_same(name):
    path = table.FOLDER / f"{name}.ipynb"
    kept, source = nbformat.read(path, as_version=4), jupytext.read(table.FOLDER / f"{name}.py")
    assert cells(kept) == cells(source), f"run it again: uv run python notebooks/run.py {name}"
    assert path.stat().st_size < KEPT
    outputs = [each for cell in kept.cells for each in cell.get("outputs", [])]
    assert not [each for each in outputs if each.output_type == "error"]
    shown = "".join(each.get("text", "") for each in outputs)
    assert not re.findall(r"^(?:/|[A-Z]:).*\.py:\d+", shown, re.M), "a path of the machine that ran it"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_starts_with_what_it_concludes_upon(name):
    first = nbformat.read(table.FOLDER / f"{name}.ipynb", as_version=4).cells[0].source
    said = " ".join(first.split())
    for verdict in table.stored(name):
        assert verdict.claim in said


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_is_stored(name):
    page = table.PAGE.read_text()
    assert [line for line in page.splitlines() if line.startswith(f"| [{name}]")] == table.rows(name)
    assert "\n".join(table.full(name)) in page
    assert [each.size for each in table.stored(name)] in (["default"], ["default", "full"])


def test_a_row_says_whether_its_code_has_changed_since(monkeypatch):
    ran = json.loads(table.full_record("01_picture").read_text())["code"]
    monkeypatch.setattr(table, "code", lambda name: ran)
    assert not any("earlier" in row for row in table.rows("01_picture"))
    monkeypatch.setattr(table, "code", lambda name: "changed since")
    default, full = table.rows("01_picture")
    assert "with earlier code" not in default
    assert "with earlier code" in full


def test_the_script_for_a_gpu_runs_on_a_few_images_of_noise(tmp_path, script, capsys):
    """The files are as CIFAR-10's; scores and retrainings are kept seed by seed.

    Each seed is retrained without the tenth that its own scores lead, and without the tenth that the
    mean over seeds leads.
    """
    rng, records, kept = np.random.default_rng(0), np.empty((10, 3073), np.uint8), tmp_path / "kept"
    for part in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        records[:, 0], records[:, 1:] = rng.integers(10, size=10), rng.integers(256, size=(10, 3072))
        records.tofile(tmp_path / f"{part}.bin")
    sizes = "--images 40 --held 10 --seeds 2 --width 4 --depths 1 --patch 8 --epochs 1 --batch 10"
    script("gpu/06_pruning.py", tmp_path, kept, "--budget", "0", *sizes.split())
    assert "distributional against fixed seed" in capsys.readouterr().out
    assert {path.name for path in kept.iterdir()} == {"harm_0.npy", "harm_1.npy", "retrained.zarr"}
    harm = np.stack([np.load(kept / f"harm_{seed}.npy") for seed in range(2)])
    for seed, own in enumerate(harm):
        retrained = dtda.load(kept / "retrained.zarr", f"retrained.run_{seed}.perturbed")
        for row, scores in zip(
            retrained["constant_data/weights"].values, (own, harm.mean(0)), strict=True
        ):
            assert {*np.flatnonzero(row == 0)} == {*np.argsort(-scores, kind="stable")[:4]}


def test_gains_are_positive_where_the_first_rule_is_better():
    rng = np.random.default_rng(0)
    full = xr.DataArray(
        rng.random((6, 2)), dims=("draw", "query"), coords={"query": ["loss", "accuracy"]}
    )
    moved = xr.DataArray([[0.0, -0.2], [0.0, 0.1]], dims=("query", "perturbation"))
    arms = xr.Dataset({"full": full, "perturbed": full + moved})
    arms = arms.assign(rule=("perturbation", ["fixed seed", "distributional"]))
    table = figure6.gains(arms)
    for query, gain in (("loss", 0.2), ("accuracy", 0.1)):
        for other in ("all data", "fixed seed"):
            row = table.loc[query, f"distributional against {other}"]
            np.testing.assert_allclose(row[["gain", "lower", "upper"]], gain, atol=1e-12)


def test_comments_and_text_are_no_code(monkeypatch, tmp_path):
    def digest(text: str) -> str:
        (tmp_path / "a.py").write_text(text)
        return table.code("a")

    monkeypatch.setattr(table, "FOLDER", tmp_path)
    before = digest("# %% [markdown]\n# Text.\n\n# %%\nx = 1\n")
    assert digest("# %% [markdown]\n# Other text.\n\n# %%\n# said\n\nx = 1\n") == before
    assert digest("# %% [markdown]\n# Text.\n\n# %%\nx = 2\n") != before


def test_the_page_has_nothing_else():
    assert table.PAGE.read_text() == table.written()


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_at_its_least_size(name, tmp_path, script, monkeypatch):
    monkeypatch.setenv("DTDA_SIZE", "check")
    monkeypatch.setenv("DTDA_RECORD", str(tmp_path / "found.json"))
    script(f"{name}.py")
    found = json.loads((tmp_path / "found.json").read_text())
    assert claims.Verdict(**found).claim == table.stored(name)[0].claim

"""Run each notebook at its smallest size, and compare the page with the stored results."""

import json
import os
import subprocess
import sys

import claims
import jupytext
import nbformat
import numpy as np
import pytest
import table

NAMES = table.names()
KEPT = 300_000  # bytes of a notebook with its outputs


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


def test_the_script_for_a_gpu_runs_on_a_few_images_of_noise(tmp_path):
    """The files are as CIFAR-10's; scores and retrainings are kept seed by seed."""
    rng, records = np.random.default_rng(0), np.empty((10, 3073), np.uint8)
    for part in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        records[:, 0], records[:, 1:] = rng.integers(10, size=10), rng.integers(256, size=(10, 3072))
        records.tofile(tmp_path / f"{part}.bin")
    sizes = "--images 40 --held 10 --seeds 2 --width 4 --depths 1 --patch 8 --epochs 1 --batch 10"
    command = [sys.executable, "gpu/06_pruning.py", tmp_path, tmp_path / "kept", "--budget", "0"]
    run = subprocess.run([*command, *sizes.split()], cwd=table.FOLDER, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "distributional against fixed seed" in run.stdout
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert kept == {"harm_0.npy", "harm_1.npy", "retrained.zarr"}


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
def test_a_notebook_runs_at_its_least_size(name, tmp_path):
    found = tmp_path / "found.json"
    environment = {"DTDA_SIZE": "check", "DTDA_RECORD": str(found), "MPLBACKEND": "agg"}
    run = subprocess.run(
        [sys.executable, f"{name}.py"],
        cwd=table.FOLDER,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert claims.Verdict(**json.loads(found.read_text())).claim == table.stored(name)[0].claim

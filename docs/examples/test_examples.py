"""Run each example, and the demonstration, as a user would, in a folder of its own."""

import runpy
from pathlib import Path

import pytest
import xarray as xr

import dtda_prob as dtda
from dtda_prob import demo

EXAMPLES = [path for path in sorted(Path(__file__).parent.glob("*.py")) if path != Path(__file__)]


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")


def small_training(split, num_queries: int) -> dtda.Training:
    """Regress on the pixels in closed form, which compiles in no time."""
    x, y = split.x_train[:40], split.y_train[:40].astype(float)
    program, kernel = dtda.Program(dtda.zoo.linear_regression, x, y=y), dtda.kernels.exact()
    measure = dtda.measures.loss(split.x_test[:num_queries], y=split.y_test[:num_queries])
    return dtda.Training(program, kernel, measure)


def test_the_demo_runs_small(tmp_path, monkeypatch):
    small = {
        "NUM_QUERIES": 8,
        "NUM_LEFT_OUT": 4,
        "NUM_GROUPS": 1,
        "ATTRIBUTION_DRAWS": 4,
        "RETRAININGS": 6,
    }
    for name, value in small.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "digits_training", small_training)
    lines: list[str] = []
    demo.run(tmp_path / "demo", 8, 0, lines.append)
    text = "\n".join(lines)
    for part in ("shift retrained", "null level", "Spearman", "W2(predicted, retrained)"):
        assert part in text
    files = {path.name for path in (tmp_path / "demo").iterdir()}
    assert files == {"study.zarr", "distributions.png", "leave_one_out.png"}
    tree = xr.open_datatree(tmp_path / "demo" / "study.zarr")
    assert tree["retrained_0/posterior_predictive/loss"].sizes == {"chain": 4, "draw": 2, "query": 8}

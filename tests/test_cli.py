"""The command and the package: light to import, and the demonstration runs."""

import subprocess
import sys

import pytest
import xarray as xr
from click.testing import CliRunner

from dtda_prob import cli, demo
from dtda_prob.storage import StoreError


def imported_by(code: str) -> set[str]:
    script = f"import sys; {code}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code", ["import dtda_prob", "import dtda_prob.cli", "import dtda_prob as d; dir(d)"]
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    assert not imported_by(code) & {"jax", "numpy", "numpyro", "xarray", "matplotlib"}


def test_every_public_name_is_there():
    import dtda_prob

    assert all(getattr(dtda_prob, name) is not None for name in dtda_prob.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        dtda_prob.no_such_name  # noqa: B018


def test_help_names_the_commands():
    result = CliRunner().invoke(cli.main, ["--help"])
    assert result.exit_code == 0
    assert "demo" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--draws", "10"], "multiple of 4"), (["--output", "."], "exists")]
)
def test_the_demo_refuses_bad_options(arguments, message):
    result = CliRunner().invoke(cli.main, ["demo", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_folders_are_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dtda-demo-1").mkdir()
    assert str(cli._free_folder()) == "dtda-demo-2"


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
    lines: list[str] = []
    demo.run(tmp_path / "demo", 8, 0, lines.append)
    text = "\n".join(lines)
    for part in ("shift retrained", "null level", "Spearman", "W2(predicted, retrained)"):
        assert part in text
    files = {path.name for path in (tmp_path / "demo").iterdir()}
    assert files == {"study.zarr", "distributions.png", "leave_one_out.png"}
    tree = xr.open_datatree(tmp_path / "demo" / "study.zarr")
    assert tree["retrained_0/posterior_predictive/loss"].sizes == {"chain": 4, "draw": 2, "query": 8}


def test_a_study_of_something_else_is_not_gone_on_with(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise StoreError("key is [0, 1], stored [0, 0]")

    monkeypatch.setattr(demo, "run", refuse)
    (tmp_path / "study.zarr").mkdir()
    result = CliRunner().invoke(cli.main, ["demo", "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == "Error: key is [0, 1], stored [0, 0]\n"

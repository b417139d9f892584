"""The command and the package: light to import, clear when refused, and the same as the library."""

import errno
import json
import subprocess
import sys
import warnings
from pathlib import Path

import cloudpickle
import jax
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from strangers import rewritten

import dtda_prob as dtda
from dtda_prob import cli, demo
from dtda_prob.cli import experiment as experiments
from dtda_prob.cli.attribute import DIVERGENCES
from dtda_prob.cli.evaluate import _numbers
from dtda_prob.cli.main import COMMANDS, SHELLS, free_folder
from dtda_prob.cli.output import definitions
from dtda_prob.studies import run

EXPERIMENT = """
import numpy as np
import dtda_prob as dtda
from dtda_prob.zoo import linear_regression

x = np.random.default_rng(0).normal(size=(12, 2))
names = [f"row {i}" for i in range(11)] + ["last, not least"]
program = dtda.Program(linear_regression, x, y=x @ [1.0, -2.0], labels=names)
measure = dtda.measures.prediction(np.eye(2), queries=["a", "b"])
training = again = dtda.Training(program, dtda.kernels.exact(), measure)
exactly = dtda.retrain(training)
pairs = dtda.groups(program, {"first": ["row 0", "row 1"], "second": ["row 2", "row 3"]})
"""
FILES = {
    "mine.py": EXPERIMENT,
    "empty.py": "x = 1",
    "two.py": EXPERIMENT + "\nother = dtda.Training(program, dtda.kernels.exact(0.0), measure)",
    "fails.py": "def half(x):\n    return undefined_name / 2\n\nhalf(1)",
    "syntax.py": "x = (1",
    "leaves.py": "raise SystemExit(3)",
    "own.py": "class Own(BaseException): pass\n\nraise Own('of the experiment')",
    "gaps.csv": "a,b,y\n1,2,3\n,2,4\n3,4,5\n4,inf,5\n5,6,7",
    "flat.csv": "a,y\n1,2\n3,2\n4,2\n5,2",
    "few.csv": "a,y\n1,2\n2,3",
    "alone.csv": "id,y\nu,2\nv,3\nw,4\nx,4.5",
    "ragged.csv": "a,y\n1,2\n2,3,4\n",
    "none.csv": "",
}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Write files that are refused, and one that is not: once, so that each is imported once."""
    folder = tmp_path_factory.mktemp("files")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported_by(code: str) -> set[str]:
    script = f"import sys; {code}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code", ["import dtda_prob", "import dtda_prob.cli", "import dtda_prob as d; dir(d)"]
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    heavy = {"jax", "numpy", "numpyro", "xarray", "pandas", "matplotlib", "platformdirs", "tqdm"}
    assert not imported_by(code) & heavy


def test_what_a_study_holds_is_listed_without_jax():
    assert "jax" not in imported_by("import dtda_prob.numerals, dtda_prob.storage")


def test_every_public_name_is_there():
    assert all(getattr(dtda, name) is not None for name in dtda.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        dtda.no_such_name  # noqa: B018


def test_help_names_the_commands_in_order_and_each_has_an_example():
    output = invoke("--help").output
    places = [output.index(f"\n  {command.name} ") for command in COMMANDS]
    assert places == sorted(places)
    for command in COMMANDS:
        shown = invoke(str(command.name), "-h")
        assert shown.exit_code == 0
        assert f"Example: dtda {command.name}" in shown.output


SAMPLE, ATTRIBUTE = ("sample", "mine.py", "s.zarr"), ("attribute", "mine.py", "s.zarr")
NEW = ("new", "written.py", "--csv")
REFUSED = {
    "no file": (("sample", "none.py", "s.zarr"), 2, "`dtda new none.py` writes one"),
    "not Python": (("sample", "few.csv", "s.zarr"), 2, "must end in .py"),
    "no training": (("sample", "empty.py", "s.zarr"), 2, "training = dtda.Training(program"),
    "several": (("sample", "two.py", "s.zarr"), 2, "name one of two.py:training, two.py:other"),
    "another name": (("sample", "mine.py:mu", "s.zarr"), 2, "it defines training, exactly"),
    "no training of that name": (("sample", "mine.py:x", "s.zarr"), 2, "called 'x'"),
    "an error in the file": (("sample", "fails.py", "s.zarr"), 1, "return undefined_name / 2"),
    "its kind": (("sample", "fails.py", "s.zarr"), 1, "NameError: name 'undefined_name'"),
    "no Python in the file": (("sample", "syntax.py", "s.zarr"), 1, "SyntaxError"),
    "a file that exits": (("sample", "leaves.py", "s.zarr"), 1, "SystemExit: 3"),
    "its own BaseException": (("sample", "own.py", "s.zarr"), 1, "Own: of the experiment"),
    "engine": ((*SAMPLE, "--engine", "gpu"), 2, "'gpu' is not one of: here, devices, processes"),
    "no processes": ((*SAMPLE, "--engine", "processes:0"), 2, "is not one of"),
    "no number": ((*SAMPLE, "--draws", "many"), 2, "'many' is not a valid integer"),
    "label": ((*SAMPLE, "--remove", "row 1,row 99"), 2, "no example has the label 'row 99'"),
    "both": ((*SAMPLE, "--remove", "row 1", "--weights", "pairs"), 2, "not both"),
    "no weights": ((*SAMPLE, "--weights", "nothing"), 2, "it defines again, dtda"),
    "no weights at all": ((*SAMPLE, "--weights", "names"), 2, "names holds no weights"),
    "draws": ((*SAMPLE, "--draws", "6"), 2, "6 must be a positive multiple of 4"),
    "name": ((*SAMPLE, "--name", "a/b"), 1, "must consist of letters"),
    "method": ((*ATTRIBUTE, "--method", "shapley"), 2, "'shapley' is not one of unroll"),
    "not the mean": (
        (*ATTRIBUTE, "--retrainings", "8", "--divergence", "variance"),
        2,
        "corrects scores by the mean alone, not by variance",
    ),
    "few retrainings": ((*ATTRIBUTE, "--retrainings", "3"), 1, "3 subsets are too few"),
    "divergence": ((*ATTRIBUTE, "--divergence", "distance"), 1, "distance"),
    "nothing perturbed": (("push", "mine.py", "s.zarr"), 2, "say which data are perturbed"),
    "nowhere to keep": (("diagnose", "mine.py", "s.zarr"), 1, "begin with: dtda sample mine.py"),
    "diagnosed here": (("diagnose", "mine.py", "s.zarr", "--engine", "devices"), 2, "here"),
    "no study": (("info", "s.zarr"), 2, "does not exist"),
    "another folder": (("info", "."), 1, "holds no zarr.json"),
    "check itself": (("check", "few.csv", "--csv", "few.csv"), 2, "few.csv is the table itself"),
    "check nowhere": (("check", "few.csv", "--html", "a/b.html"), 2, "there is no folder a"),
    "check column": (("check", "few.csv", "--target", "z"), 2, "no column is called 'z'"),
    "check few": (("check", "gaps.csv", "--target", "y"), 1, "5 rows; 10 or more are needed"),
    "no table": (("new", "written.py", "--target", "y"), 2, "pass --csv as well"),
    "column": ((*NEW, "few.csv", "--target", "z"), 2, "no column is called 'z'; there are 'a', 'y'"),
    "label column": ((*NEW, "few.csv", "--target", "y", "--label", "z"), 2, "'z'"),
    "gaps": (
        (*NEW, "gaps.csv", "--target", "y"),
        1,
        "'a' (1 of 5 rows), 'b' (1 of 5 rows). Fill them in, or choose: --missing columns leaves these "
        "columns out; --missing rows leaves these rows out, and keeps 3 of 5; without 'a' alone it "
        "would keep 4",
    ),
    "few": ((*NEW, "few.csv", "--target", "y"), 1, "known in 2 rows; 4 or more are needed"),
    "few complete": ((*NEW, "gaps.csv", "--target", "y", "--missing", "rows"), 1, "3 complete rows"),
    "flat": ((*NEW, "flat.csv", "--target", "y"), 1, "has one value in all rows"),
    "alone": ((*NEW, "alone.csv", "--target", "y"), 1, "no column to predict 'y' from"),
    "empty": ((*NEW, "none.csv", "--target", "y"), 1, "none.csv is empty"),
    "ragged": ((*NEW, "ragged.csv"), 1, "ragged.csv, line 3: 3 cells under a header of 2: '2,3,4'"),
    "there": (("new", "mine.py"), 1, "mine.py exists; name another file"),
    "other suffix": (("new", "mine.txt"), 2, "must end in .py"),
    "shell": (("completion", "tcsh"), 2, "'tcsh' is not one of"),
    "demo draws": (("demo", "--draws", "10"), 2, "multiple of 4"),
    "demo folder": (("demo", "--output", "."), 2, "exists"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_why_and_leaves_nothing(files, monkeypatch, case):
    monkeypatch.chdir(files)
    arguments, code, message = REFUSED[case]
    before = {path.name for path in files.iterdir()} - {"__pycache__"}
    result = invoke(*arguments)
    said = " ".join(result.stderr.split())
    assert (result.exit_code, result.stdout) == (code, "")
    assert " ".join(message.split()) in said
    assert "Traceback" not in said
    assert "/click/" not in said
    assert {path.name for path in files.iterdir()} - {"__pycache__"} == before


STEPS = {
    "full": ("sample", "mine.py:training"),
    "retrained": ("sample", "mine.py", "--remove", "row 1,row 3", "--remove", "last, not least"),
    "predicted": ("push", "mine.py:exactly", "--remove", "row 1,row 3", "--remove", "last, not least"),
    "scores": ("attribute", "mine.py", "--method", "exactly", "--draws", "4", "--top", "3"),
    "fused_8": ("attribute", "mine.py:exactly", "--draws", "4", "--retrainings", "8"),
    "check": ("evaluate", "mine.py:exactly", "--weights", "pairs", "--draws", "4", "--name", "check"),
    "verdict": ("diagnose", "mine.py:exactly", "--draws", "16", "--number", "3"),
}
SMALL = {"sample": ["--draws", "8"], "push": ["--draws", "8"], "evaluate": ["--retrainings", "6"]}


def test_a_verdict_says_on_a_plain_terminal_what_passed():
    name = "draws that are not finite, or far from all the others of the same run"
    check = {"name": name, "value": 0.1234, "error": np.nan, "threshold": "<= 0.01", "passed": False}
    first, *others = lines = definitions([_numbers(check)])
    assert first.split()[0] == "failed"
    assert others[-1].endswith("value 0.123, asked <= 0.01")
    assert max(map(len, lines)) < 80


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, dict[str, Result]]:
    """Run all steps once, in a folder of their own."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("mine.py").write_text(EXPERIMENT)
        results = {}
        for name, (command, file, *more) in STEPS.items():
            results[name] = invoke(command, file, "s.zarr", *more, *SMALL.get(command, []), "--json")
    return folder, results


@pytest.mark.parametrize("name", STEPS)
def test_a_step_prints_one_object_and_its_cost_beside(study, name):
    _, results = study
    result = results[name]
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["name"] == name
    assert said["cost"]["trainings"] > 0
    assert "memory at a time" in result.stderr


def test_what_is_kept_is_what_the_library_gives(study):
    folder, results = study
    training = experiments.load(str(folder / "mine.py")).training
    key, without = jax.random.key(0), ["row 1", "row 3", "last, not least"]
    for name, weights in (("full", None), ("retrained", dtda.remove(training.program, without))):
        drawn = dtda.sample(training, key, 8, weights)["posterior_predictive/prediction"]
        said = json.loads(results[name].stdout)
        np.testing.assert_allclose(said["mean"], drawn.mean(("chain", "draw")), rtol=1e-5)
        error = drawn.astype(float).std(("chain", "draw"), ddof=1) / 8**0.5
        np.testing.assert_allclose(said["error"], error, rtol=1e-4)
        assert said["labels"] == ["query a", "query b"]
    full, retrained = (
        np.asarray(json.loads(results[name].stdout)["mean"]) for name in ("full", "retrained")
    )
    moved = json.loads(results["retrained"].stdout)["moved"]
    np.testing.assert_allclose(moved["mean"], retrained - full, rtol=1e-4)
    assert moved["from"] == "full"
    predicted = json.loads(results["predicted"].stdout)
    assert (predicted["mean"], predicted["moved"]) == (retrained.tolist(), moved)
    kinds = dtda.contents(folder / "s.zarr")["kind"]
    assert (kinds["check"], kinds["verdict"], kinds["scores"]) == ("agreement", "verdict", "scores")
    assert kinds["examples"] == "examples"
    assert "fused.retrained" in kinds  # by which more retrainings add to these
    verdict = dtda.load(folder / "s.zarr")["verdict"]
    assert {"value", "error", "threshold", "passed"} <= set(verdict.data_vars)
    assert "checks are passed" in verdict.attrs["text"]


def test_scores_are_ranked_by_size_with_their_errors(study):
    folder, results = study
    said = json.loads(results["scores"].stdout)
    scores = dtda.load(folder / "s.zarr")["scores"].to_dataset()
    for one in said["scores"]:
        there = scores.sel(divergence=one["divergence"], query=one["query"])
        sizes = [abs(each["score"]) for each in one["strongest"]]
        assert len(sizes) == 3
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == pytest.approx(float(abs(there["score"]).max()))
        best = there.sel(example=one["strongest"][0]["label"])
        assert one["strongest"][0]["error"] == pytest.approx(float(best["error"]))
    told = dtda.scores.influential(scores, 0.1).groupby(level="divergence").size().to_dict()
    assert {name: count for name, count in said["influential"].items() if count} == told


def test_a_step_that_is_done_costs_nothing_and_says_what_comes_next(study, monkeypatch):
    folder, _ = study
    monkeypatch.chdir(folder)
    again = invoke("sample", "mine.py", "s.zarr", "--draws", "8")
    assert again.exit_code == 0
    assert "looking up what the study has" in again.stderr
    assert "prediction  mean +- error" in again.stdout
    assert again.stdout.endswith("Next: dtda attribute mine.py s.zarr\n")
    scored = invoke(*ATTRIBUTE, "--method", "exactly", "--draws", "4", "--top", "2")
    assert "significant (FDR <= 10%)  * and 4 times the average" in scored.stdout
    size = abs(dtda.load("s.zarr")["scores"]["score"].sel(divergence="mean")).mean("query")
    first = scored.stdout.split("mean absolute mean score\n")[1].split()
    assert f"row {first[1]}" == size.to_series().idxmax()
    assert scored.stdout.endswith("Next: dtda diagnose mine.py s.zarr\n")
    command, file, *more = STEPS["retrained"]
    both = invoke(command, file, "s.zarr", *more, "--draws", "8")
    assert both.stdout.endswith("Next: dtda report s.zarr\n")
    refused = invoke(*SAMPLE, "--no-resume")
    assert refused.exit_code == 1
    assert "has 'full' already" in refused.stderr
    other = invoke(*SAMPLE, "--draws", "8", "--seed", "1")
    assert other.exit_code == 1
    assert "key is 0, 1, stored 0, 0" in other.stderr


def test_info_tells_what_is_there_and_what_is_damaged(study, monkeypatch):
    folder, _ = study
    monkeypatch.chdir(folder)
    whole = invoke("info", "s.zarr", "--verify", "--json")
    names = [one["name"] for one in json.loads(whole.stdout)["contents"]]
    assert whole.exit_code == 0
    assert set(STEPS) <= set(names)
    chunk = next((folder / "s.zarr/full/sample_stats/objective/c").rglob("*/0"))
    content = chunk.read_bytes()
    chunk.write_bytes(bytes(len(content)))
    damaged = invoke("info", "s.zarr", "--verify")
    chunk.write_bytes(content)
    assert damaged.exit_code == 1
    assert "1 of " in damaged.stdout
    assert "repair('s.zarr')" in damaged.stdout


def raising(error: BaseException):
    def raised(*arguments, **options):
        raise error

    return raised


def noted(error: BaseException, note: str) -> BaseException:
    error.add_note(note)
    return error


SAFE = "3 of 5 blocks are safe as name='full' in store='s.zarr'; call the same again to go on"
FAILURES = {
    "interrupted": (
        noted(KeyboardInterrupt(), SAFE),
        130,
        "What is finished of full is saved in s.zarr;",
        "same command",
    ),
    "before anything": (KeyboardInterrupt(), 130, "Interrupted.", "run the same command again"),
    "refused": (
        noted(dtda.StoreError("another key"), SAFE),
        1,
        "Error: another key\nWhat is finished of full",
        "resume",
    ),
    "escapes": (ValueError("a\x1b[2Jb"), 1, "Error: a\\x1b[2Jb", ""),
    "disk": (OSError(errno.ENOSPC, "the disk is full"), 1, "Error:", "the disk is full"),
    "broken pipe": (OSError(errno.EPIPE, "broken pipe"), 1, "", ""),
    "engine": (dtda.EngineError("make a new pool"), 1, "Error: make a new pool\n", ""),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_end_with_their_code_and_no_traceback(tmp_path, monkeypatch, case):
    error, code, *parts = FAILURES[case]
    monkeypatch.setattr(demo, "run", raising(error))
    result = invoke("demo", "--output", str(tmp_path / "new"))
    assert result.exit_code == code
    assert all(part in result.stderr for part in parts)
    assert "Traceback" not in result.output
    if case == "broken pipe":
        assert result.output == ""


def test_an_interruption_says_how_much_is_saved(study, tmp_path, monkeypatch):
    folder, _ = study
    stopped = KeyboardInterrupt()
    for name in ("full", "scores"):
        noted(stopped, SAFE.replace("full", name).replace("s.zarr", str(folder / "s.zarr")))
    monkeypatch.setattr(demo, "run", raising(stopped))
    said = invoke("demo", "--output", str(tmp_path / "new")).stderr
    assert "8 draws of full are saved in " in said
    assert "100% of scores is saved in " in said


def test_faults_of_ours_and_asked_for_tracebacks_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "run", raising(KeyError("a fault")))
    assert isinstance(invoke("demo", "--output", str(tmp_path / "new")).exception, KeyError)
    monkeypatch.setattr(demo, "run", raising(ValueError("shown")))
    shown = invoke("--traceback", "demo", "--output", str(tmp_path / "new"))
    assert isinstance(shown.exception, ValueError)


def test_warnings_are_a_line_on_stderr(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "run", lambda *arguments: warnings.warn("draws diverge", stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = invoke("demo", "--output", str(tmp_path / "new"))
    assert result.stderr == "Warning: draws diverge\n"


def test_errors_of_a_model_name_the_line_of_the_experiment(folder):
    broken = EXPERIMENT.replace(
        "training = again", "def odd(x, y=None):\n    return x.nothing\n\ntraining = again"
    )
    text = broken + "\nmeasure = dtda.measures.function(lambda params: params['none'])\n"
    (folder / "odd.py").write_text(text + "bad = dtda.Training(program, training.kernel, measure)")
    result = invoke("sample", "odd.py", "s.zarr")
    assert result.exit_code == 1
    assert "KeyError: 'none'" in result.stderr
    assert "odd.py" in result.stderr


def test_other_processes_need_no_file(folder):
    """What an experiment and the modules beside it define travels by value."""
    (folder / "beside.py").write_text("def double(x):\n    return 2 * x")
    (folder / "alone.py").write_text(
        "import beside\n" + EXPERIMENT + "\nf = lambda x: beside.double(x)"
    )
    found = experiments.load("alone.py")
    content = cloudpickle.dumps(found.module.f)
    for name in ("alone", "beside"):
        del sys.modules[name]
    sys.path.remove(str(folder))
    assert cloudpickle.loads(content)(3) == 6


TABLES = {
    "regression": ('y\'s "value", [€]', "name"),
    "classification": ("kind\\of thing", None),
}


@pytest.mark.parametrize("kind", TABLES)
def test_new_writes_an_experiment_that_reads_the_table(folder, kind):
    target, label = TABLES[kind]
    rng, count = np.random.default_rng(0), 21
    values = {
        "name": [f'it\'s "{i // 2}"' for i in range(count)],
        "CSV = 1": rng.normal(size=count) * 1e4,
        "constant": np.ones(count),
        "'class'\\n": rng.choice(["a", "b"], count),
        "lengthy" * 9: rng.normal(size=count),
        "lengthy" * 10: rng.normal(size=count),
        "free text": [f"text {i}" for i in range(count)],
        "kind\\of thing": rng.choice(["x", 'y"', "z"], count),
        'y\'s "value", [€]': rng.normal(size=count),
    }
    table = pd.DataFrame(values)
    table.loc[4, "CSV = 1"] = np.nan
    (folder / "data").mkdir()
    table.to_csv(folder / "data" / "my table.csv", index=False, sep=";")
    options = ["--label", label] if label else []
    result = invoke(
        "new", "a/b.py", "--csv", "data/my table.csv", "--target", target, *options, "--missing", "rows"
    )
    assert result.exit_code == 1  # there is no folder a
    result = invoke(
        "new", "b.py", "--csv", "data/my table.csv", "--target", target, *options, "--missing", "rows"
    )
    assert result.exit_code == 0, result.output
    assert f"a {'linear' if kind == 'regression' else 'logistic'} regression of" in result.output
    assert "Omitted, since numbers are missing: 1 row." in result.output
    assert "free text" in result.output
    found = experiments.load("b.py")
    program, measure = found.training.program, found.training.measure
    assert (program.num_data, len(measure.queries)) == (15, 5)
    rows = {*program.labels.tolist(), *measure.queries.tolist()}
    assert len(rows) == 20
    assert ('it\'s "1" (2)' if label else "line 5") in rows
    assert ('it\'s "2" (2)' if label else "line 6") not in rows  # whose number is missing
    x, _ = program.args[0], program.kwargs["y"]
    numbers = len(found.module.NUMBERS)
    spread = np.asarray(x[:, :numbers]).std(0)
    np.testing.assert_allclose(spread[spread > 0], 1, rtol=1e-4)
    assert target == found.module.TARGET


def test_new_without_a_table_writes_one_on_embedded_data(folder):
    result = invoke("new")
    assert result.stdout.endswith("Next: dtda sample experiment.py study.zarr\n")
    assert "dtda sample experiment.py study.zarr" in Path("experiment.py").read_text()
    assert experiments.load("experiment.py:training").training.program.num_data == 400


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_get_a_script(shell):
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_DTDA_COMPLETE" in result.stdout


COMPLETED = {
    "files": ("dtda sample exp", {"file,exp"}),
    "more files": ("dtda check t", {"file,t"}),
    "methods": ("dtda attribute e.py s.zarr --method un", {"plain,unroll"}),
    "divergences": ("dtda evaluate e.py s.zarr --divergence var", {"plain,variance"}),
    "columns": ("dtda check flat.csv --target a", {"plain,a"}),
    "columns of a new table": ("dtda new e.py --csv gaps.csv --label b", {"plain,b"}),
    "columns of no table": ("dtda check none.csv --target a", set()),
}


@pytest.mark.parametrize("case", COMPLETED)
def test_shells_complete_files_names_and_columns(files, monkeypatch, case):
    monkeypatch.chdir(files)
    words, wanted = COMPLETED[case]
    about = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_DTDA_COMPLETE": "bash_complete",
    }
    result = CliRunner().invoke(cli.main, [], prog_name="dtda", env=about)
    assert {*result.stdout.split()} == wanted


def test_all_divergences_are_completed():
    assert {*DIVERGENCES} == {*dtda.divergences.available}


def test_folders_are_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dtda-demo-1").mkdir()
    assert str(free_folder()) == "dtda-demo-2"


# What strangers hand over, and machines without a home.


def test_an_experiment_that_prints_leaves_stdout_to_the_result(folder):
    loud = (
        "def loud(x, y=None):\n    print('traced')\n    linear_regression(x, y)\n\nprint('imported')\n"
    )
    text = EXPERIMENT.replace("Program(linear_regression", "Program(loud")
    (folder / "loud.py").write_text(text.replace("x = np", loud + "x = np"))
    result = invoke("sample", "loud.py", str(folder / "s.zarr"), "--draws", "8", "--json")
    assert json.loads(result.stdout)["draws"] == 8
    assert all(word in result.stderr for word in ("imported", "traced"))


def test_info_escapes_what_a_terminal_would_act_on(study, tmp_path):
    folder, _ = study
    hostile = "\x1b[2J\x1b]0;title\x07" + 100_000 * "x"
    path = rewritten(folder / "s.zarr", tmp_path, "full", transform=hostile)
    result = invoke("info", str(path))
    assert result.exit_code == 0
    assert "\\x1b[2J" in result.stdout
    assert not {"\x1b", "\x07"} & set(result.stdout)
    assert len(result.stdout) < 5000


@pytest.mark.parametrize(
    "changes", [{"measure": "x"}, {"grid": "evil"}, {"transform": 7}, {"kind": ["scores"]}]
)
def test_info_of_another_description_has_no_traceback(study, tmp_path, changes):
    folder, _ = study
    path = str(rewritten(folder / "s.zarr", tmp_path, "full", **changes))
    page = str(tmp_path / "report.html")
    for command in (("info", path), ("info", path, "--verify"), ("report", path, "--output", page)):
        result = invoke(*command)
        assert isinstance(result.exception, SystemExit | None), result.exception


def test_a_folder_that_is_moved_while_it_is_written_is_safe(folder, monkeypatch):
    Path("mine.py").write_text(EXPERIMENT)
    compute = run._Written.__call__

    def moved(self, block):
        Path("s.zarr").rename("elsewhere.zarr")
        return compute(self, block)

    monkeypatch.setattr(run._Written, "__call__", moved)
    result = invoke(*SAMPLE, "--draws", "8")
    said = " ".join(result.stderr.split())
    assert result.exit_code == 1
    assert "if it was moved, pass its new path. What is finished is safe" in said
    assert not Path("s.zarr").exists()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert invoke("sample", "mine.py", "elsewhere.zarr", "--draws", "8").exit_code == 0


@pytest.mark.parametrize(
    "name", ["EXPERIMENT.py", "e8\\x.py", "C:\\Users\\new.py", 'a"""b.py', "a'b.py"]
)
def test_paths_and_columns_with_special_characters(folder, name):
    columns = ["EXPERIMENT", "TARGET", 'a"""b', "\\N{x}"]
    rng = np.random.default_rng(0)
    pd.DataFrame(rng.normal(size=(12, 4)), columns=columns).to_csv("EXPERIMENT.csv", index=False)
    result = invoke("new", name, "--csv", "EXPERIMENT.csv", "--target", "EXPERIMENT")
    assert result.exit_code == 0, result.output
    module = experiments.load(name).module
    assert (module.TARGET, module.CSV.name) == ("EXPERIMENT", "EXPERIMENT.csv")
    assert columns[1:] == module.NUMBERS
    assert f"dtda sample {name} study.zarr" in module.__doc__


def test_a_target_that_is_an_exact_sum_of_columns_has_a_mode(folder):
    table = pd.DataFrame(
        np.random.default_rng(0).normal(size=(300, 3)).round(3), columns=["a", "b", "c"]
    )
    table.assign(y=table.sum(axis=1)).to_csv("sum.csv", index=False)
    assert invoke("new", "e.py", "--csv", "sum.csv", "--target", "y").exit_code == 0
    drawn = dtda.sample(experiments.load("e.py").training, jax.random.key(0), 4)
    assert not drawn["sample_stats/diverging"].any()


def test_a_small_table_of_floats_gaps_and_blank_labels_can_be_sampled(folder):
    rows = "".join(f"n{i},{i}.5,{i % 7}.1\n" for i in range(20))
    Path("data.csv").write_text("name,x,y\n,1.5,2\nn20,,3.5\n" + rows)
    options = ("--target", "y", "--missing", "rows", "--label", "name")
    assert invoke("new", "e.py", "--csv", "data.csv", *options).exit_code == 0
    training = experiments.load("e.py").training
    assert np.isfinite(np.asarray(training.program.args[0])).all()
    assert all(map(str, training.program.labels))
    dtda.report.examples(training, **experiments.load("e.py").module.show)

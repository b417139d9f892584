"""Rows of a table that look wrong: planted errors come first, with their reasons, in every output."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import norm

from dtda_prob import cli
from dtda_prob.suspects.cells import contradictions, surprises
from dtda_prob.suspects.features import matrix
from dtda_prob.suspects.influence import RIDGE, influence
from dtda_prob.suspects.left_out import Judgement, folds, of_all
from dtda_prob.suspects.scales import Scale, best, scales
from dtda_prob.tables import read_table, roles

NUMBER = 60


def clean() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x, kind = rng.normal(5, 1, NUMBER).round(2), rng.choice(["a", "b"], NUMBER)
    price = 20 * x + 30 * (kind == "a") + rng.normal(0, 3, NUMBER)
    age = rng.uniform(0, 50, NUMBER)
    return pd.DataFrame({"x": x, "kind": kind, "age": age, "price": price.round(1)})


def planted() -> pd.DataFrame:
    """A table with a misplaced point, a feature of a billion, a text among numbers, and a gap."""
    table = clean().astype({"age": object, "price": object})
    table.loc[7, "price"] *= 10
    table.loc[20, "age"] = 1e9
    table.loc[33, "age"] = "old"
    table.loc[44, "price"] = None
    return table


WRONG = {9: "is the decimal point misplaced?", 22: "age is 1e+09, where all others", 35: "'old', which"}


def test_planted_errors_come_first_on_the_terminal_in_the_list_and_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planted().to_csv("houses.csv", index=False)
    words = ["houses.csv", "--csv", "ranked.csv", "--html", "page.html", "--draws", "2", "--json"]
    result = CliRunner().invoke(cli.main, ["check", *words])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["target"], said["task"], said["models"]) == ("price", "regression", 20)
    assert "category: " in result.stderr
    first = {one["line"]: one["why"] for one in said["rows"][:3]}
    assert {line: why for line, why in first.items() if WRONG[line] in why} == first
    ranked = pd.read_csv("ranked.csv")
    assert sorted(ranked["line"]) == list(range(2, NUMBER + 2))
    assert ranked["line"].iloc[:10].tolist() == [one["line"] for one in said["rows"]]
    assert (ranked["score"].diff().iloc[1:] <= 1e-4).all()
    assert {*ranked["line"][ranked["influence"].nlargest(2).index]} == {9, 22}
    assert "without it, a linear fit moves by" in ranked["why"][ranked["line"] == 9].iloc[0]
    lost = ranked[ranked["line"] == 46].iloc[0]
    assert np.isnan(lost["loss"])
    page = (tmp_path / "page.html").read_text()
    assert "Which rows of houses.csv look wrong?" in page
    assert all(why.partition("'")[0] in page for why in first.values())


def test_a_flipped_class_comes_first(tmp_path):
    import dtda_prob as dtda

    table = clean()
    table["large"] = np.where(table.pop("price") > 115, "yes", "no")
    cheapest = int((table["x"] + 2 * (table["kind"] == "a")).idxmin())
    table.loc[cheapest, "large"] = "yes"
    table.to_csv(tmp_path / "t.csv", index=False)
    found = dtda.check(tmp_path / "t.csv", num_draws=2, progress=False)
    first = found.rows.iloc[0]
    assert (found.roles.task, first["line"]) == ("classification", cheapest + 2)
    assert re.match(r"large is 'yes' \(.*%\), where 'no' is predicted \(", first["why"])
    np.testing.assert_array_less(0.5, found.rows["spread"])


def test_no_cell_can_flatten_a_feature(tmp_path):
    planted().to_csv(tmp_path / "t.csv", index=False)
    x = matrix(roles(read_table(tmp_path / "t.csv")))
    assert np.isfinite(x).all()
    assert np.abs(x).max() <= 4
    spread = x[:, 1:].std(0)
    assert (spread > 0.1).all()


def test_only_far_numbers_and_odd_texts_surprise(tmp_path):
    planted().to_csv(tmp_path / "t.csv", index=False)
    nats = surprises(read_table(tmp_path / "t.csv"), "price")
    assert set(nats.index[(nats > 0).any(axis=1)]) == {22, 35}
    assert nats.loc[35, "age"] == pytest.approx(2 * np.log(NUMBER))
    assert nats.loc[22, "age"] > 30


def test_rows_that_contradict_each_other_name_each_other(tmp_path):
    (tmp_path / "t.csv").write_text("x,k,y\n1.5,a,no\n1.5,a,yes\n1.5,a,no\n2.5,a,no\n1.5,b,yes\n")
    assert contradictions(roles(read_table(tmp_path / "t.csv"))).to_dict() == {3: 2}


def test_densities_are_in_the_units_of_the_target_on_either_scale():
    values = np.random.default_rng(0).lognormal(3, 1, 500)
    plain, log = scales(values)
    assert (plain.is_log, log.is_log) == (False, True)
    zeros = np.zeros(500)
    own = -norm.logpdf(log.model(values))
    found = log.original(Judgement(own, zeros, zeros, zeros + 1, 1), values)
    normal = norm(log.centre, log.spread)
    expected = -(normal.logpdf(np.log(values)) - np.log(values))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4)
    np.testing.assert_allclose(found.predicted, np.exp(log.centre), rtol=1e-6)
    worse = plain.original(
        Judgement(-norm.logpdf(plain.model(values)), zeros, zeros, zeros + 1, 1), values
    )
    assert best([worse, found]) is found
    assert len(scales(values - values.min())) == len(scales(100 + zeros)) == 1
    assert Scale.of(100 + zeros, False).spread > 0


def test_a_loss_is_of_the_mean_density_over_draws_with_its_error():
    rng = np.random.default_rng(0)
    draws = rng.gamma(2.0, size=(400, 30, 50))
    loss, error = of_all(-np.log(draws))
    np.testing.assert_allclose(loss, -np.log(draws.mean(0)), rtol=1e-6, atol=1e-9)
    spread = np.array([of_all(-np.log(part))[0] for part in np.split(draws, 40)]).std(0)
    assert np.mean(error) * 40**0.5 == pytest.approx(spread.mean(), rel=0.1)
    assert of_all(np.full((4, 1), 1000.0))[0] == pytest.approx(1000)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_influence_is_what_refits_show(num_outputs):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, num_outputs))
    x = np.column_stack([x, x[:, 0]])  # features that say the same
    x[4] *= 5

    def fit(rows: np.ndarray) -> np.ndarray:
        some = np.column_stack([np.ones(len(x)), x])[rows]
        slopes = np.linalg.solve(some.T @ some + RIDGE * np.eye(5), some.T @ y[rows])
        return np.column_stack([np.ones(len(x)), x]) @ slopes

    moved = [fit(np.arange(30) != i) - fit(np.arange(30)) for i in range(30)]
    expected = [np.sqrt((each**2).mean()) for each in moved]
    np.testing.assert_allclose(influence(x, y), expected, rtol=1e-6)


def test_parts_are_of_equal_size():
    for number in (12, 60, 999):
        sizes = np.bincount(folds(number, 0))
        assert sizes.max() - sizes.min() <= 1

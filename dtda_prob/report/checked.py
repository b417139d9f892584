"""The rows of a table that look wrong, on one page."""

import base64
from os import PathLike
from pathlib import Path

import numpy as np
from markupsafe import Markup

from dtda_prob.numerals import brief, clip, count, fixed
from dtda_prob.report.figures import Figure, Mark, axis
from dtda_prob.report.page import rendered, replace_file
from dtda_prob.report.tables import LONGEST, MOST_ROWS, Column, Table
from dtda_prob.suspects import Checked

TOP = 10
MOST_CELLS = 12
"""Columns of the table that are shown."""
MOST_POINTS = 1500
"""Rows in the picture."""
DOWNLOADED = 2000
"""Rows that the page holds for downloading."""
HOW = (
    "A score is in nats: how much less likely the value of {target} is than usual, by the models that "
    "were trained without the row, and how much less likely its most unusual cell is by the other "
    "cells of its column. The loss is the negative logarithm of the density or probability of the "
    "value; its standard error is over models. Influence is how far the predictions of a linear fit "
    "for all rows move without the row, root mean square: {unit}. High scores need not be errors: rare "
    "rows surprise too."
)
UNITS = {"regression": "in standard deviations of the target", "classification": "as probabilities"}
SENTENCE = Markup('<span class="sentence">{}</span>')


def write_checked(checked: Checked, path: str | PathLike) -> Path:
    """Write the suspicious rows of a table as one page, which opens from disk and loads nothing.

    Raises:
        OSError: if the page cannot be written.
    """
    roles = checked.roles
    file, number = roles.table.path.name, len(checked.rows)
    downloaded = checked.table.iloc[:DOWNLOADED].to_csv(float_format="%.6g")
    text = rendered(
        "check.html",
        title=f"Which rows of {file} look wrong?",
        eyebrow=f"Check of {file}",
        asked=_asked(checked),
        first=_table(checked, 0, TOP, "The most suspicious rows"),
        rest=_table(checked, TOP, TOP + MOST_ROWS, "Rows by suspicion"),
        figure=_picture(checked),
        columns=roles.described(),
        how=HOW.format(target=roles.target.name, unit=UNITS[roles.task]),
        download=Markup("data:text/csv;base64,") + base64.b64encode(downloaded.encode()).decode(),
        name=f"{roles.table.path.stem}-ranked.csv",
        cut=f"the first {DOWNLOADED:,} of {number:,} rows" if number > DOWNLOADED else "",
    )
    replace_file(Path(path), text)
    return Path(path)


def _asked(checked: Checked) -> str:
    roles = checked.roles
    models, others = count(checked.num_models, "model"), count(len(roles.features), "other column")
    return (
        f"{models}, each trained without a part of {count(len(roles.lines), 'row')}, predicted "
        f"“{clip(roles.target.name, LONGEST)}” from {others} in the rows that they had not seen. The "
        "rows that surprise them most come first; line 1 is the header."
    )


def _table(checked: Checked, start: int, stop: int, caption: str) -> Table:
    """Return some ranks as a table: the reason first, numbers behind it, and the row as it stands."""
    some = checked.table.iloc[start:stop]
    pairs = zip(some["loss"], some["error"], strict=True)
    losses = [f"{fixed(loss, 2)} ± {fixed(error, 2)}" for loss, error in pairs]
    columns = {
        "#": Column(some.index.to_numpy()),
        "Line": Column(some["line"].to_numpy(), [str(line) for line in some["line"]]),
        "Why": Column(some["why"].tolist(), [SENTENCE.format(clip(why)) for why in some["why"]]),
        "Score": Column(some["score"].to_numpy(), [fixed(x, 1) for x in some["score"]]),
        "Loss (nats)": Column(some["loss"].to_numpy(), losses),
        "Influence": Column(some["influence"].to_numpy(), [fixed(x, 3) for x in some["influence"]]),
    }
    cells = some.iloc[:, len(checked.rows.columns) :]
    target = checked.roles.target.name
    kept = [name for name in cells if name not in columns and name != target][:MOST_CELLS]
    columns |= {str(name): Column(cells[name].tolist()) for name in kept}
    left = cells.shape[1] - len(kept) - 1
    return Table(caption, columns, f"{count(left, 'more column')} not shown." if left > 0 else "")


def _picture(checked: Checked) -> Figure | None:
    """Draw actual against predicted numbers; the first rows are marked by their lines."""
    rows = checked.rows.dropna(subset=["loss"])
    if checked.roles.task != "regression" or rows.empty:
        return None
    rest = rows.iloc[TOP:]
    rest = rest.iloc[:: max(1, -(-len(rest) // MOST_POINTS))]
    x, y = (
        np.concatenate([rows[name].iloc[:TOP], rest[name]]).astype(float)
        for name in ("predicted", "actual")
    )
    is_log = bool(min(x.min(), y.min()) > 0 and y.max() > 5 * np.quantile(y, 0.95))
    x, y = (np.log10(x), np.log10(y)) if is_log else (x, y)
    target = checked.roles.target.name
    ends = np.concatenate([x, y])
    described = f"Actual and predicted {target}: the {min(TOP, len(rows))} first rows are marked"
    across, down = (axis(f"{word} {target}", ends, is_log) for word in ("predicted", "actual"))
    figure = Figure(described, across, down, [], [])
    lines, known = [*rows["line"].iloc[:TOP], *rest["line"]], rows.set_index("line")
    for place, (across, down) in enumerate(zip(figure.across(x), figure.down(y), strict=True)):
        row = known.loc[lines[place]]
        text = f"line {lines[place]}: {brief(row['actual'], 4)}, predicted {brief(row['predicted'], 4)}"
        figure.marks.append(Mark(across, down, "", text, place < TOP))
    return figure

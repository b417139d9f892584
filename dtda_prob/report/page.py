"""One self-contained page from a study on disk."""

import os
import uuid
from base64 import b64encode
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dtda_prob.report.parts import Study, open_study

if TYPE_CHECKING:
    from dtda_prob.report.panels import Choice

NEEDED = {"bokeh": "bokeh", "jinja2": "jinja2", "PIL": "pillow"}
ASSETS = "assets"
MOST_BYTES = 6_000_000
"""Of a page; with more, fewer queries are shown, and then fewer data of each."""


class Scripts(NamedTuple):
    """What the page runs, written into it.

    Attributes:
        theme: sets light or dark before anything is drawn.
        library: draws figures.
        page: sorts, filters and chooses.
    """

    theme: str
    library: str
    page: str

    def policy(self) -> str:
        """Let these run and nothing else, and load nothing from anywhere."""
        hashes = " ".join(f"'sha256-{b64encode(sha256(s.encode()).digest()).decode()}'" for s in self)
        return (
            f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
            "base-uri 'none'; form-action 'none'"
        )


def write(
    study: str | Path,
    path: str | Path = "report.html",
    *,
    queries: Sequence[Hashable] | None = None,
    num_queries: int = 12,
    top: int = 10,
    title: str | None = None,
) -> Path:
    """Write what a study holds as one page, which opens from disk and loads nothing.

    The page says what was asked, what the diagnostics and the comparisons with retraining say (of a
    "verdict" and of an "agreement" that were saved in the study), how the measurement of each query is
    distributed in each sample set, which data move it most, and what it cost. Of the scores only what
    is shown is held in memory, however many they are; where a page would be larger than 6 MB, it shows
    fewer queries, and says so.

    Args:
        study: the folder of the study, finished or not.
        path: the file to write; one that exists is replaced.
        queries: labels of the queries to show one by one; the first `num_queries` if None.
        num_queries: how many.
        top: data to show of each query, at either end where the divergence has a sign.
        title: of the page.

    Returns:
        The path.

    Raises:
        ImportError: if the extra `interactive` is not installed.
        StoreError: if the study is no store, or is not safe to open.
        ValueError: if a number is not positive, or a query is none of the study's, or none are named.
        OSError: if the page cannot be written.
    """
    _check(num_queries if queries is None else len(queries), top)
    _require()
    from dtda_prob.report.panels import Choice

    labels = None if queries is None else [str(label) for label in queries]
    number = num_queries if labels is None else len(labels)
    text = _fitting(open_study(study), Choice(labels, number, top), title)
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _check(num_queries: int, top: int) -> None:
    for name, value in (("num_queries", num_queries), ("top", top)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def _require() -> None:
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ImportError(f"a report needs {', '.join(missing)}: pip install 'dtda_prob[interactive]'")


def _fitting(study: Study, choice: "Choice", title: str | None) -> str:
    """Render what fits into a page; the page says what it leaves out."""
    text = _render(study, choice, title)
    number, top = choice.num_queries, choice.top
    if len(text.encode()) <= MOST_BYTES or (number, top) == (1, 1):
        return text
    number, top = (number // 2, top) if number > 1 else (number, top // 2)
    queries = None if choice.queries is None else choice.queries[:number]
    return _fitting(study, choice._replace(queries=queries, num_queries=number, top=top), title)


def _render(study: Study, choice: "Choice", title: str | None) -> str:
    import jinja2
    from markupsafe import Markup

    from dtda_prob.report import facts, figures, summary
    from dtda_prob.report.panels import panels_of

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dtda_prob.report", ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # Figures refer to what stands before in their descriptions, whose order is theirs.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    shown = panels_of(study, choice)
    checked = summary.evidence(study, choice.num_queries)
    scripts = Scripts(_asset("theme.js"), figures.script(), _asset("page.js"))
    return environment.get_template("page.html").render(
        title=title or summary.title(shown),
        study=study.path.name,
        policy=scripts.policy(),
        style=Markup(_asset("page.css")),
        scripts=Scripts(*map(Markup, scripts)),
        glance=summary.glance(study, shown, checked),
        warnings=facts.warnings(study),
        asked=facts.asked(study),
        checked=checked,
        shown=shown,
        parts=facts.parts(study),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=version("dtda_prob"),
    )


def _asset(name: str) -> str:
    return (Path(__file__).parent / ASSETS / name).read_text(encoding="utf-8")

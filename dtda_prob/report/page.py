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
from typing import Any, NamedTuple

NEEDED = {"bokeh": "bokeh", "jinja2": "jinja2", "PIL": "pillow"}
ASSETS = "assets"


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
    is shown is held in memory, however many they are.

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
        ValueError: if a number is not positive, or a query is none of the study's.
        OSError: if the page cannot be written.
    """
    _check(num_queries, top)
    _require()
    from dtda_prob.report.panels import Choice
    from dtda_prob.report.parts import open_study

    labels = None if queries is None else [str(label) for label in queries]
    text = _render(open_study(study), Choice(labels, num_queries, top), title)
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


def _render(study: Any, choice: Any, title: str | None) -> str:
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

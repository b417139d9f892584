"""One self-contained page from a study on disk."""

import os
import uuid
from base64 import b64encode
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dtda_prob.numerals import clip
from dtda_prob.report import figures, summary
from dtda_prob.report.panels import Choice, panels_of
from dtda_prob.report.quality import agreements_of, verdict_of
from dtda_prob.report.study import Study, groups_of, open_study
from dtda_prob.storage import readable

ASSETS = "assets"
MOST_BYTES = 6_000_000
"""Of a page; a larger one shows fewer queries, and then fewer rows of each."""


def write(
    study: str | Path,
    path: str | Path = "report.html",
    *,
    queries: Sequence[Hashable] | None = None,
    num_queries: int = 12,
    top: int = 10,
    title: str | None = None,
) -> Path:
    """Write a study as one page, which opens from disk and loads nothing.

    The page shows, for each query, the distribution of its measurement in each sample set and the most
    influential examples; averages over all queries; diagnostics and comparisons with retraining that
    were saved in the study (kinds "verdict" and "agreement"); what was asked, and what it cost. Only
    what is shown is held in memory. A page above 6 MB shows fewer queries, and says so; long texts are
    cut.

    Args:
        study: the folder of the study, finished or not.
        path: the file to write; an existing file is replaced.
        queries: labels of the queries to show; the first `num_queries` if None.
        num_queries: how many.
        top: examples to show for each query, at either end where the divergence has a sign.
        title: of the page.

    Returns:
        The path.

    Raises:
        StoreError: if the study is no store, is not safe to open, or is damaged.
        ValueError: if a number is not positive, or a query is unknown.
        OSError: if the page cannot be written.
    """
    labels = None if queries is None else [str(label) for label in queries]
    number = num_queries if labels is None else len(labels)
    for name, value in (("num_queries", number), ("top", top)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    with readable(Path(study)):
        opened = open_study(Path(study))
        known = {label for group in groups_of(opened) for label in group.queries}
    if unknown := [label for label in labels or () if label not in known]:
        raise ValueError(
            f"queries={unknown[:5]}: the study has no such query; pass labels of its queries"
        )
    with readable(Path(study)):
        text = _fitting(opened, Choice(labels, number, top), title)
    replace_file(Path(path), text)
    return Path(path)


def replace_file(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _fitting(study: Study, choice: Choice, title: str | None) -> str:
    """Render what fits into a page; the page says what it leaves out."""
    text = _render(study, choice, title)
    number, top = choice.num_queries, choice.top
    if len(text.encode()) <= MOST_BYTES or (number, top) == (1, 1):
        return text
    number, top = (number // 2, top) if number > 1 else (number, top // 2)
    queries = None if choice.queries is None else choice.queries[:number]
    return _fitting(study, choice._replace(queries=queries, num_queries=number, top=top), title)


def _render(study: Study, choice: Choice, title: str | None) -> str:
    shown, agreements = panels_of(study, choice), agreements_of(study, choice.num_queries)
    verdicts = [verdict_of(part) for part in study.of_kind("verdict")]
    return rendered(
        "page.html",
        title=title or summary.title(shown),
        eyebrow=f"Study {study.path.name}",
        fitted=summary.fitted(study, shown),
        checked=list(summary.checked(verdicts, agreements)),
        stem=study.path.stem,
        warnings=list(summary.warnings(study)),
        asked=summary.asked(study),
        verdicts=verdicts,
        agreements=agreements,
        shown=shown,
        parts=summary.holds(study),
    )


def rendered(template: str, **parts: Any) -> str:
    """Render a page from its template and what it shows; text is escaped and clipped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dtda_prob.report", ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_clipped,
    )
    script = _asset("page.js")
    return environment.get_template(template).render(
        policy=Markup(_policy(script)),
        style=Markup(_asset("page.css")),
        script=Markup(script),
        across=figures.ACROSS,
        down=figures.DOWN,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=version("dtda_prob"),
        **parts,
    )


def _policy(script: str) -> str:
    """Return a policy that runs this script and no other, and loads nothing."""
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _clipped(value: Any) -> Any:
    """Bound every text on the page, whatever a store contains."""
    return clip(value) if type(value) is str else value


def _asset(name: str) -> str:
    return (Path(__file__).parent / ASSETS / name).read_text(encoding="utf-8")

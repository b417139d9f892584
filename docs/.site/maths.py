"""Turn the formulas of pages into MathML when the site is built; browsers draw it without a script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<formula>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(content: str, **page: Any) -> str:
    """Replace what `pymdownx.arithmatex` marked."""
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = {"span": "inline", "div": "block"}[found["tag"]]
    return convert(html.unescape(found["formula"]), display=display)

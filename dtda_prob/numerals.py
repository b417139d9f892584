"""Numbers as text: with their errors, units and powers of ten."""

import math
import unicodedata
from typing import Any

import numpy as np

MINUS, TIMES, NONE = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "–"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DIRECTED = {"R", "AL", "AN", "RLE", "RLO", "LRE", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"}
"""Kinds of characters that turn the direction of what stands beside them."""
ASCII = str.maketrans("−⁻⁰¹²³⁴⁵⁶⁷⁸⁹–", "--0123456789-")


def with_error(value: float, error: float) -> str:
    """Return a number and its standard error, to two digits of the error.

    >>> with_error(1.2345e-4, 2.1e-6)
    '(123.5 ± 2.1)×10⁻⁶'
    """
    if not np.isfinite(error):
        return brief(value)
    exponent = exponent_of([value, error])
    both = beside_error(value / 10.0**exponent, error / 10.0**exponent)
    return f"({both}){TIMES}{scaled_unit(exponent, '')}" if exponent else both


def beside_error(value: float, error: float) -> str:
    """Return a number and its standard error in units that are named elsewhere."""
    decimals = decimals_for([error])
    written = fixed(error, decimals)
    if error and not float(written):
        return f"{brief(value, 6)} ± {brief(error, 2)}"
    return f"{fixed(value, decimals)} ± {written if error else 0}"


def plain(text: str) -> str:
    """Return the same number in ASCII, for terminals.

    >>> plain(with_error(1.2345e-4, 2.1e-6))
    '(123.5 +- 2.1)e-6'
    """
    return text.replace(f"{TIMES}10", "e").replace("±", "+-").translate(ASCII)


def exponent_of(values: Any) -> int:
    """Return the power of a thousand that brings the largest number between 0.1 and 1000."""
    finite = np.abs(np.asarray(values, float))
    largest = np.max(finite[np.isfinite(finite)], initial=0.0)
    if largest == 0 or 0.1 <= largest < 1000:
        return 0
    return 3 * math.floor(math.log10(largest) / 3)


def decimals_for(errors: Any) -> int:
    """Return the decimals that show two digits of the median error, at most 6."""
    known = np.asarray(errors, float)
    known = known[np.isfinite(known) & (known > 0)]
    if not known.size:
        return 3
    return int(np.clip(1 - math.floor(math.log10(np.median(known))), 0, 6))


def fixed(value: float, decimals: int) -> str:
    """Return a number with a fixed count of decimals; a dash if it is not finite."""
    if not np.isfinite(value):
        return NONE
    text = f"{value:.{decimals}f}"
    return (text if float(text) else text.lstrip("-")).replace("-", MINUS)


def brief(value: float, digits: int = 3) -> str:
    """Return a number with a fixed count of significant digits; a dash if it is not finite."""
    if not np.isfinite(value):
        return NONE
    text = f"{value:,.{digits}g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.{digits - 1}e}"
    mantissa, _, exponent = text.partition("e")
    power = f"{TIMES}10{str(int(exponent)).translate(SUPERSCRIPTS)}" if exponent else ""
    return mantissa.replace("-", MINUS) + power


def share(value: float) -> str:
    """Return a probability; small ones are bounded rather than rounded to 0."""
    if not np.isfinite(value):
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def scaled_unit(exponent: int, unit: str) -> str:
    """Return a unit with the power of ten by which numbers in a column are multiplied."""
    scale = f"10{str(exponent).translate(SUPERSCRIPTS)}" if exponent else ""
    return " ".join(filter(None, [scale, unit]))


def size(number: float) -> str:
    """Return a number of bytes, such as '2.5 MB'."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def duration(seconds: float) -> str:
    """Return a time, such as '1.5 min'."""
    if not np.isfinite(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def count(number: Any, one: str, many: str | None = None) -> str:
    """Return a number of things, such as '1 query' or '2,000 queries'."""
    written = f"{number:,}" if isinstance(number, int | float) else str(number)
    return f"{written} {one if number == 1 else many or one + 's'}"


def isolated(text: Any, most: int = 80) -> str:
    """Return a short text that keeps its direction to itself, for the middle of a sentence."""
    text = clip(text, most)
    directed = any(unicodedata.bidirectional(c) in DIRECTED for c in text)
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}" if directed else text


def clip(text: Any, most: int = 500) -> str:
    """Return at most so many characters, ending in an ellipsis if any are missing."""
    text = str(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"

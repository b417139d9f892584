"""Labels of examples and queries: names that can be compared, sorted and stored."""

from typing import Any

import numpy as np

FIRST, LAST = 1678, 2261
"""Years that nanoseconds reach, which is how xarray reads dates back from a store."""
UNITS = ("W", "D", "h", "m", "s", "ms", "us", "ns")


def check_labels(labels: Any, size: int, what: str = "labels", each: str = "example") -> np.ndarray:
    """Return labels as an array of integers, numbers, dates or texts; positions if None.

    Args:
        labels: one for each.
        size: how many there should be.
        what: what they are called in an error.
        each: what each of them names.

    Raises:
        ValueError: for another number of labels, or labels that are missing, of several types, or of a
            type that cannot be stored (tuples, complex numbers, dates of other centuries).
    """
    if labels is None:
        return np.arange(size)
    names = _uniform(labels)
    if names.shape != (size,):
        raise ValueError(f"{what} must be one per {each}, {size}; got shape {names.shape}")
    is_number = names.dtype.kind in "fMm"
    if names.dtype.kind in "Mm" and not _is_kept(names):
        raise ValueError(
            f"{what} must be dates of the years {FIRST} to {LAST}, or durations, in units of "
            f"{', '.join(UNITS)}; these are {names.dtype}: write them as text, "
            f"[str(label) for label in {what}]"
        )
    if names.dtype.kind not in "iufMmU" or (is_number and not np.isfinite(names).all()):
        kind = "NaN, NaT or infinite" if is_number else _kinds(labels)
        raise ValueError(
            f"{what} must be all integers, finite numbers, dates or texts; these are {kind}: write "
            f"them as text, [str(label) for label in {what}]"
        )
    return names


def check_unique(labels: np.ndarray, what: str = "labels") -> np.ndarray:
    """Refuse labels of which two are alike.

    Raises:
        ValueError: if two are.
    """
    if len(np.unique(labels)) < len(labels):
        raise ValueError(f"{what} must differ from each other; number the repeated ones")
    return labels


def next_labels(labels: np.ndarray, texts: list[str]) -> np.ndarray:
    """Return labels for further rows: the next numbers or dates, or these texts beside texts."""
    if labels.dtype.kind == "U":
        return np.array(texts)
    return labels.max() + (1 + np.arange(len(texts)))


def _is_kept(dates: np.ndarray) -> bool:
    """Return whether dates or durations are the same when xarray reads them back from a store."""
    unit, _ = np.datetime_data(dates.dtype)
    are_dates = dates.dtype.kind == "M"
    if unit not in (*UNITS, *("Y", "M") * are_dates):
        return False
    years = 1970 + dates[~np.isnat(dates)].astype("datetime64[Y]").astype(int) if are_dates else FIRST
    return bool(np.all((years >= FIRST) & (years <= LAST)))


def _uniform(labels: Any) -> np.ndarray:
    """Return an array whose type is the labels' own: no number turns into text."""
    names = np.asarray(labels if hasattr(labels, "dtype") else _array(list(labels)))
    if names.dtype.kind == "O":
        kinds = {_kind(each) for each in names.ravel()}
        if len(kinds) == 1 and kinds <= {"text", "integer", "number"}:
            return np.array(names.tolist())
    return names


def _array(labels: list) -> np.ndarray:
    if len({_kind(each) for each in labels}) > 1 or any(isinstance(each, tuple) for each in labels):
        names = np.empty(len(labels), object)
        names[:] = labels
        return names
    return np.asarray(labels)


def _kind(label: Any) -> str:
    if isinstance(label, str):
        return "text"
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        return "integer"
    if isinstance(label, float | np.floating):
        return "number" if np.isfinite(label) else "NaN"
    return type(label).__name__


def _kinds(labels: Any) -> str:
    array = np.asarray(labels if hasattr(labels, "dtype") else _array(list(labels)))
    if array.dtype.kind == "O":
        return " and ".join(sorted({_kind(each) for each in array.ravel()}))
    return str(array.dtype)

"""What attributes may say: those that xarray acts on when it opens a store, and our own manifest.

Attributes of other names are carried along, and are not looked at.
"""

import re
from typing import Any

import numpy as np

from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.inspection.documents import COPY_AGAIN, parse
from dtda_prob.storage.nodes import FORMAT

CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
DATE = re.compile(
    r"(days|hours|minutes|(milli|micro|nano)?seconds) since "
    r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d:\d\d(\.\d{1,9})?)?"
)
DTYPE = re.compile(r"timedelta64\[(s|ms|us|ns)\]")
DOUBLE = re.compile(r"[A-Za-z0-9+/]{11}=")  # eight bytes in base 64
REMOVE = "remove the attribute"


def check_attributes(place: str, attributes: Any, kind: str | None) -> None:
    """Check the attributes of an array of a data type, or of a group (None)."""
    if not isinstance(attributes, dict):
        raise StoreError(f"{place!r} has attributes that are no JSON object; {COPY_AGAIN}")
    if kind is not None:
        _check_decoded(place, attributes, kind)
    if not isinstance(attributes.get("coordinates", ""), str):
        raise StoreError(f"{place!r} has the attribute coordinates, which is no string; {REMOVE}")
    if "dtda_prob" in attributes:
        check_manifest(place, attributes["dtda_prob"])


def check_manifest(place: str, manifest: object) -> None:
    """Check that a manifest is JSON, of a format that this version reads."""
    where = f"{place}: attributes['dtda_prob']"
    if not isinstance(manifest, str):
        raise StoreError(
            f"{where!r} is a {type(manifest).__name__}, not a string of JSON; {COPY_AGAIN}"
        )
    number = parse(manifest.encode(errors="replace"), where).get("format", FORMAT)
    if type(number) is not int or number < 1:
        raise StoreError(f"{where!r} has format {number!r}, no positive integer; {COPY_AGAIN}")
    if number > FORMAT:
        raise StoreError(
            f"{where!r} has format {number}, written by a newer version; upgrade dtda_prob"
        )


def _check_decoded(place: str, attributes: dict, kind: str) -> None:
    for name in sorted(attributes.keys() & RULES.keys()):
        if not RULES[name](attributes[name], kind, attributes):
            shown = repr(attributes[name])[:60]
            what = f"{name}={shown}, which xarray would act on and cannot, or not safely"
            raise StoreError(f"{place!r} has the attribute {what}; {REMOVE}")


def _is_number(value: Any, kind: str, _: dict) -> bool:
    return isinstance(value, int | float) and not abs(value) >= 2.0**1023 and _is_numeric(kind)


def _is_fill(value: Any, kind: str, _: dict) -> bool:
    """Xarray keeps the fill value of floats as the bytes of a double."""
    if "float" in kind:
        return isinstance(value, str) and DOUBLE.fullmatch(value) is not None
    if "int" in kind:
        return isinstance(value, int) and np.iinfo(kind).min <= value <= np.iinfo(kind).max
    return isinstance(value, bool) and kind == "bool"


def _is_unit(value: Any, kind: str, attributes: dict) -> bool:
    """Dates of other calendars become a Python object each."""
    if not isinstance(value, str) or "since" not in value:
        return True
    calendar = attributes.get("calendar", CALENDARS[0])
    return DATE.fullmatch(value) is not None and calendar in CALENDARS and _is_numeric(kind)


def _is_dtype(value: Any, kind: str, _: dict) -> bool:
    if value == "bool":
        return kind != "string"
    return isinstance(value, str) and DTYPE.fullmatch(value) is not None and _is_numeric(kind)


def _is_unsigned(value: Any, kind: str, _: dict) -> bool:
    return value in ("true", "false") and "int" in kind


def _is_name(value: Any, kind: str, _: dict) -> bool:
    return isinstance(value, str)


def _is_never(value: Any, kind: str, _: dict) -> bool:
    return False


def _is_numeric(kind: str) -> bool:
    return "int" in kind or "float" in kind


RULES = {
    "_FillValue": _is_fill,
    "missing_value": _is_number,
    "scale_factor": _is_number,
    "add_offset": _is_number,
    "_Unsigned": _is_unsigned,
    "bounds": _is_name,
    "units": _is_unit,
    "dtype": _is_dtype,
    "_Encoding": _is_never,
}

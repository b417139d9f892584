"""What attributes may say: those that xarray acts on when it opens a store, and our own manifest.

Attributes of other names are carried along, and are not looked at.
"""

import re
from typing import Any

from dtda_prob.storage.documents import COPY_AGAIN, parse
from dtda_prob.storage.errors import StoreError

FORMAT = 1
MAX_CHARACTERS = 200
NUMBERS = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")
CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
DTYPE = re.compile(r"bool|timedelta64\[(s|ms|us|ns)\]")
REMOVE = "remove the attribute"


def check_attributes(place: str, attributes: Any) -> None:
    """Check the attributes of a group or an array."""
    if not isinstance(attributes, dict):
        raise StoreError(f"{place!r} has attributes that are no JSON object; {COPY_AGAIN}")
    for name in sorted(attributes.keys() & RULES.keys()):
        if not RULES[name](attributes[name], attributes):
            shown = repr(attributes[name])[:60]
            raise StoreError(
                f"{place!r} has the attribute {name}={shown}, which xarray would act on; {REMOVE}"
            )
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


def _is_scalar(value: object, _: dict) -> bool:
    return isinstance(value, int | float) or _is_short(value, _)


def _is_short(value: object, _: dict) -> bool:
    return isinstance(value, str) and len(value) <= MAX_CHARACTERS


def _is_text(value: object, _: dict) -> bool:
    return isinstance(value, str)


def _is_decoded(value: object, _: dict) -> bool:
    return isinstance(value, str) and DTYPE.fullmatch(value) is not None


def _is_unit(value: object, attributes: dict) -> bool:
    """Dates of other calendars become a Python object each."""
    if not isinstance(value, str) or "since" not in value:
        return True
    return len(value) <= MAX_CHARACTERS and attributes.get("calendar", CALENDARS[0]) in CALENDARS


def _is_never(value: object, _: dict) -> bool:
    return False


RULES = {
    **dict.fromkeys(NUMBERS, _is_scalar),
    "coordinates": _is_text,
    "bounds": _is_text,
    "units": _is_unit,
    "dtype": _is_decoded,
    "_Encoding": _is_never,
}

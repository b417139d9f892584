"""Set on modules the `__init__` that equinox makes of their fields, so that signatures show it."""

from collections.abc import Iterator
from typing import Any

from griffe import Attribute, Class, Expr, ExprCall, Extension, Function, Package, Parameter, Parameters
from griffe import ParameterKind as Kind

BASE = "dtda_prob.module.Module"


class Fields(Extension):
    """Read annotated attributes of modules, their own and inherited ones, as parameters."""

    def on_package(self, *, pkg: Package, **given: Any) -> None:
        """Add the missing `__init__` to each module of a package."""
        lineages = [[each, *each.mro()] for each in _classes(pkg)]
        for lineage in [*filter(_is_missing, lineages)]:  # before one of them has it
            init = Function("__init__", parameters=Parameters(*_parameters(lineage)), returns="None")
            lineage[0].set_member("__init__", init)


def _classes(parent: Any) -> Iterator[Class]:
    for member in [*parent.members.values()]:
        if not member.is_alias and (member.is_class or member.is_module):
            yield from [member] if member.is_class else ()
            yield from _classes(member)


def _is_missing(lineage: list[Class]) -> bool:
    return lineage[-1].path == BASE and not any("__init__" in one.members for one in lineage)


def _parameters(lineage: list[Class]) -> list[Parameter]:
    """Return the fields of all ancestors, the oldest first, keyword-only ones last."""
    fields: dict[str, Parameter | None] = {}
    for one in reversed(lineage):
        kind = Kind.positional_or_keyword
        for member in one.members.values():
            if _annotation(member).endswith("KW_ONLY"):
                kind = Kind.keyword_only
            elif _is_field(member):
                fields[member.name] = _parameter(member, kind)
    found = [each for each in fields.values() if each is not None]
    own = Parameter("self", kind=Kind.positional_or_keyword)
    return [own, *sorted(found, key=lambda each: each.kind is Kind.keyword_only)]


def _annotation(member: Any) -> str:
    return str(member.annotation or "") if isinstance(member, Attribute) else ""


def _is_field(member: Any) -> bool:
    """Return whether an attribute is a field: annotated, and no property or class variable."""
    return bool(_annotation(member)) and "instance-attribute" in member.labels


def _parameter(field: Attribute, kind: Kind) -> Parameter | None:
    """Return the parameter of a field, None where the library alone sets it."""
    settings = _settings(field.value)
    if settings.get("init") == "False" or (settings.get("repr") == "False" and "default" in settings):
        return None
    if settings.get("kw_only") == "True":
        kind = Kind.keyword_only
    default = settings.get("default") if settings else field.value
    return Parameter(field.name, annotation=field.annotation, kind=kind, default=default)


def _settings(value: Any) -> dict[str, str | Expr]:
    """Return the arguments of `eqx.field`."""
    if not isinstance(value, ExprCall) or not str(value.function).endswith("field"):
        return {}
    return {each.name: each.value for each in value.arguments}

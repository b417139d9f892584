"""What a notebook claims and what it found, shown at its end and kept for the table of all of them."""

import json
import os
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax

STARTED = time.perf_counter()

type Error = float | tuple[float, float] | None
"""A standard error, the ends of an interval, or None of what is not estimated."""


def sized(*, check: Mapping[str, Any], default: Mapping[str, Any], full: Mapping[str, Any]):
    """Choose a notebook's sizes by `DTDA_SIZE`: `"check"`, `"default"` or `"full"`.

    Args:
        check: the least at which all of the notebook still runs, in seconds; its numbers say nothing.
        default: what a reader runs, in less than five minutes on two cores.
        full: what is run once and kept.
    """
    sizes = {"check": check, "default": default, "full": full}
    return SimpleNamespace(**sizes[size()])


def size() -> str:
    """Name the size that was asked for."""
    asked = os.environ.get("DTDA_SIZE", "default")
    if asked not in ("check", "default", "full"):
        raise ValueError(f"DTDA_SIZE is {asked!r}: give check, default or full")
    return asked


@dataclass(frozen=True)
class Verdict:
    """A claim, the numbers found, and which of its parts they bear out.

    Attributes:
        claim: the claim in one sentence.
        paper: what the paper reports of it, in words and numbers.
        findings: what it is, a number and its error.
        tests: what must hold, and whether it does.
        size: the size that was run.
        minutes: wall clock since the notebook began.
        megabytes: largest resident memory of the process.
        where: device and versions.
    """

    claim: str
    paper: str
    findings: Sequence[tuple[str, float, Error]]
    tests: Sequence[tuple[str, bool]]
    size: str
    minutes: float
    megabytes: float
    where: str

    def word(self) -> str:
        """Return whether the claim holds, in words."""
        failing = [test for test, held in self.tests if not held]
        if not failing:
            return "holds"
        if len(failing) == len(self.tests):
            return "does not hold"
        return f"holds in part; not: {'; '.join(failing)}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {
            "text/plain": self.word(),
            "text/markdown": self.markdown(),
            "application/json": asdict(self),
        }

    def price(self) -> str:
        """Return the size, time, memory and device of the run."""
        return f"Size `{self.size}`, {self.minutes:.1f} minutes, {self.megabytes:.0f} MB; {self.where}."

    def markdown(self) -> str:
        """Return the verdict, its tests and the findings as Markdown."""
        tests = [f"- {'yes' if held else '**no**'}: {test}" for test, held in self.tests]
        rows = [f"| {what} | {shown(*found)} |" for what, *found in self.findings]
        return "\n".join(
            [
                f"**The claim {self.word()}.** {self.claim}",
                "",
                f"The paper: {self.paper}",
                "",
                *tests,
                "",
                "| finding | value |",
                "| --- | --- |",
                *rows,
                "",
                self.price(),
            ]
        )


def verdict(
    claim: str, paper: str, findings: Mapping[str, tuple[Any, Any]], tests: Mapping[str, Any]
) -> Verdict:
    """Conclude a notebook, in its last cell.

    Args:
        claim: the claim in one sentence, as in the notebook's first cell.
        paper: what the paper reports, or that it reports no number.
        findings: by what it is, a number and its standard error (or the two ends of an interval, or
            None of what is not estimated).
        tests: by what must hold for the claim, whether it does.

    Raises:
        ValueError: there is no test or no finding.
    """
    if not tests or not findings:
        raise ValueError("a verdict needs at least one test and one finding")
    concluded = Verdict(
        claim=claim,
        paper=paper,
        findings=[(what, float(value), _plain(error)) for what, (value, error) in findings.items()],
        tests=[(test, bool(held)) for test, held in tests.items()],
        size=size(),
        minutes=(time.perf_counter() - STARTED) / 60,
        megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        where=_where(),
    )
    if path := os.environ.get("DTDA_RECORD"):
        Path(path).write_text(json.dumps(asdict(concluded), indent=1) + "\n")
    return concluded


def shown(value: float, error: Error) -> str:
    """Write a number with its error.

    >>> shown(0.9312, 0.0123), shown(2.5, (2.0, 3.25)), shown(1250.0, None)
    ('0.931 ± 0.012', '2.5 [2, 3.25]', '1250')
    """
    if error is None:
        return f"{value:.4g}"
    if isinstance(error, (tuple, list)):
        return f"{value:.3g} [{error[0]:.3g}, {error[1]:.3g}]"
    return f"{value:.3g} ± {error:.2g}"


def _plain(error: Any) -> Error:
    if error is None:
        return None
    if isinstance(error, (tuple, list)):
        return float(error[0]), float(error[1])
    return float(error)


def _where() -> str:
    device = jax.devices()[0]
    name = f"{os.cpu_count()} CPU cores" if device.platform == "cpu" else device.device_kind
    return f"{name}, Python {platform.python_version()}, jax {jax.__version__}"

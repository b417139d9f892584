"""Benchmarks are run by hand, so that what they import could move without anybody seeing it."""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_benchmarks_find_what_they_import():
    paths = [*FOLDER.glob("[a-z]*.py"), *FOLDER.glob("trials/[a-z]*.py")]
    names = sorted(".".join(path.relative_to(FOLDER).with_suffix("").parts) for path in paths)
    code = "\n".join(f"import {name}" for name in names)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "growth" in names


def test_tables_name_the_code_that_was_measured():
    pages = [*(FOLDER.parent / "docs" / "benchmarks").glob("*.md")]
    feet = [line for page in pages for line in page.read_text().splitlines() if line[:5] == "Seed "]
    assert len(feet) >= len(pages) - 1
    assert not [foot for foot in feet if not re.search(r"code of \d{4}-\d\d-\d\d \(\w+\)", foot)]

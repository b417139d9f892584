"""Data sets that come with the installation."""

from importlib import resources
from typing import NamedTuple

import numpy as np
import sklearn.datasets
from sklearn.model_selection import train_test_split


class Split(NamedTuple):
    """Training inputs and targets, and test inputs and targets for queries."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Radon(NamedTuple):
    """Measurements of radon in houses, one row per house.

    Attributes:
        county: name of its county.
        floor: 1 where it was measured on the first floor, 0 in the basement.
        uranium: log of the uranium in the soil of the county, in parts per million.
        log_radon: log of 0.1 more than the measurement, in picocuries per litre.
    """

    county: np.ndarray
    floor: np.ndarray
    uranium: np.ndarray
    log_radon: np.ndarray


def digits(seed: int = 0) -> Split:
    """Load scikit-learn's handwritten digits, 8x8 pixels scaled to [0, 1]: 1437 to train, 360 to test.

    Source: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository.

    Args:
        seed: seed of the split.

    >>> digits().x_train.shape, digits().x_test.shape
    ((1437, 64), (360, 64))
    """
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        (x / 16).astype(np.float32), y.astype(np.int32), test_size=360, random_state=seed
    )
    return Split(x_train, y_train, x_test, y_test)


def concrete(seed: int = 0) -> Split:
    """Load the compressive strength of concrete, 8 features, standardised: 896 to train, 103 to test.

    The rows are shuffled: the first 103 test, the next 896 train, the last 31 of the 1030 are unused.
    Features and strength are standardised by the mean and standard deviation of the training rows.

    Source: I-Cheng Yeh (1998), Concrete Compressive Strength, UCI Machine Learning Repository, licensed
    CC BY 4.0.

    Args:
        seed: seed of the split.

    >>> concrete().x_train.shape, concrete().x_test.shape
    ((896, 8), (103, 8))
    """
    # concrete.csv: I-Cheng Yeh (1998), UCI Machine Learning Repository, CC BY 4.0. Changed: column
    # names are shorter, values have 8 significant digits.
    with (resources.files(__package__) / "concrete.csv").open() as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    table = np.random.default_rng(seed).permutation(table)
    test, train = table[:103], table[103:999]
    mean, sd = train.mean(axis=0), train.std(axis=0)
    test, train = (((part - mean) / sd).astype(np.float32) for part in (test, train))
    return Split(train[:, :-1], train[:, -1], test[:, :-1], test[:, -1])


def radon() -> Radon:
    """Load radon in 919 houses of 85 counties of Minnesota.

    Source: U.S. Environmental Protection Agency, State Residential Radon Survey (1989), a work of the
    government of the United States, as prepared by P. N. Price, A. Nero and A. Gelman (1996) and
    distributed with PyMC3, licensed Apache 2.0.

    >>> radon().log_radon.shape, len(np.unique(radon().county))
    ((919,), 85)
    """
    # radon.csv: EPA State Residential Radon Survey; taken from PyMC3 3.8 (Apache 2.0). Changed: four
    # columns are kept, names of counties are in lower case, measurements are not yet logarithms.
    with (resources.files(__package__) / "radon.csv").open() as file:
        county, *numbers = np.loadtxt(file, delimiter=",", skiprows=1, dtype=str, unpack=True)
    uranium, floor, activity = np.array(numbers).astype(np.float32)
    return Radon(county, floor, np.log(uranium), np.log(activity + np.float32(0.1)))

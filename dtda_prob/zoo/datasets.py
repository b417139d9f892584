"""Data sets that come with the installation."""

from typing import NamedTuple

import numpy as np
import sklearn.datasets
from sklearn.model_selection import train_test_split


class Split(NamedTuple):
    """Inputs and targets to train on, and to ask about."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


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

"""What sharing keys is worth: correlation of coupled arms, and how many draws it saves."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.studies.tree import draws_of

Draws = Float[np.ndarray, "... draw"]
Values = Float[np.ndarray, "..."]
NAMES = ("correlation", "correlation_error", "variance_ratio", "variance_ratio_error")


def coupling(old: xr.DataTree | xr.DataArray, new: xr.DataTree | xr.DataArray) -> xr.Dataset:
    """Say how far draws that share a key move together on both sides of a comparison.

    The mean of a difference over n draws has the variance Var(old - new) / n where arms are coupled,
    and (Var(old) + Var(new)) / n where they are not. `variance_ratio` is the quotient: a coupled
    draw is worth that many independent ones. Errors are the delete-one jackknife's over draws; that of
    the variance ratio is taken of its logarithm, which is nearer to normal.

    Args:
        old: a sample set from `dtda.sample`, or values with dimension `draw`.
        new: the same, with the same keys; what other dimensions the two have, such as `perturbation`,
            are matched by name.

    Returns:
        `correlation`, `variance_ratio` and their standard errors. The ratio is infinite where nothing
        moves but the mean, and NaN where nothing varies at all.

    Raises:
        ValueError: if the arms hold other numbers of draws, fewer than 3, or draws of other keys.
    """
    _check_keys(old, new)
    first, second = draws_of(old), draws_of(new)
    if first.sizes["draw"] != second.sizes["draw"] or first.sizes["draw"] < 3:
        raise ValueError(
            f"coupled arms need as many draws each, at least 3; got {first.sizes['draw']} and "
            f"{second.sizes['draw']}"
        )
    over = [["draw"], ["draw"]]
    found = xr.apply_ufunc(_couple, first, second, input_core_dims=over, output_core_dims=[[]] * 4)
    return xr.Dataset(dict(zip(NAMES, found, strict=True)))


def _couple(old: Draws, new: Draws) -> tuple[Values, Values, Values, Values]:
    old, new = (arm - arm.mean(-1, keepdims=True) for arm in np.broadcast_arrays(old, new))
    products = old**2, new**2, old * new, (old - new) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation, its_error = _jackknife(_correlation, products)
        log_ratio, log_error = _jackknife(_log_ratio, products)
    return correlation, its_error, np.exp(log_ratio), np.exp(log_ratio) * log_error


def _correlation(of_old: Values, of_new: Values, shared: Values, difference: Values) -> Values:
    return shared / np.sqrt(of_old * of_new)


def _log_ratio(of_old: Values, of_new: Values, shared: Values, difference: Values) -> Values:
    return np.log(of_old + of_new) - np.log(difference)


def _jackknife(statistic: Callable, products: tuple[Draws, ...]) -> tuple[Values, Values]:
    """Give a statistic of sums of squares, and its error; leaving a draw out moves the means too."""
    n = products[0].shape[-1]
    value = statistic(*(product.sum(-1) for product in products))
    left = [product.sum(-1, keepdims=True) - product * n / (n - 1) for product in products]
    return value, np.sqrt((n - 1) * statistic(*left).var(-1))


def _check_keys(old: xr.DataTree | xr.DataArray, new: xr.DataTree | xr.DataArray) -> None:
    trees = [arm for arm in (old, new) if isinstance(arm, xr.DataTree)]
    keys = [tree.children["sample_stats"].to_dataset()["key"].values for tree in trees]
    if len(keys) == 2 and not np.array_equal(keys[0], keys[1]):
        raise ValueError("the arms were drawn with other keys, so that they are not coupled; share one")

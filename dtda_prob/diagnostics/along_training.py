"""From which point of training on a response at its end agrees with the exact one."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from dtda_prob import kernels
from dtda_prob.compiling import compiled
from dtda_prob.correlations import pearson, spearman
from dtda_prob.studies.source import draw_keys
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.unroll import unroll
from dtda_prob.typing import PRNGKey, Weights, check_key

SHARES = (0.25, 0.5, 0.75, 1.0)
MEASURES = ("pearson", "spearman", "norm_ratio")
Response = Float[np.ndarray, "draw query *output example"]


def along_training(
    push_forward: PushForward,
    key: PRNGKey,
    *,
    shares: Sequence[float] = SHARES,
    num_draws: int = 4,
) -> xr.Dataset:
    """Compare a response with the exact derivative of training, after each of several shares of it.

    Training that is truncated at a share (`kernels.truncate`) takes the same steps up to there. The
    transform's response is taken at those parameters, with the damping that suits so much training; the
    exact derivative is `unroll`'s. Influence functions are the limit of unrolling where training comes
    to rest (Mlodozeniec et al., arXiv 2506.12965): if the two agree more and more, the transform is the
    right one; if they never do, training has not converged, or the curvature is the wrong one. Costs a
    `pull` of both for each draw and share.

    Args:
        push_forward: a transform with a response, such as `influence`, taken at all data.
        key: key of the draws.
        shares: shares of training, above 0 and at most 1.
        num_draws: number of draws, at least 2.

    Returns:
        Per share and query, means over draws and their standard errors (`..._error`) of `pearson` and
        `spearman`, the correlations of the two responses over data, and of `norm_ratio`, the length of
        the transform's response over the length of the exact one. NaN where a response is the same for
        all data.

    Raises:
        ValueError: for shares out of range or fewer than 2 draws.
        NotImplementedError: if the transform has no response.
    """
    check_key(key)
    if num_draws < 2:
        raise ValueError(f"num_draws={num_draws} must be at least 2, to have an error")
    each = [_at_share(push_forward, draw_keys(key, num_draws), share) for share in shares]
    fields = {}
    for name, values in zip(MEASURES, map(np.stack, zip(*each, strict=True)), strict=True):
        dims = ("share", "query", "output")[: values.ndim - 1]
        fields[name] = (dims, values.mean(1))
        fields[f"{name}_error"] = (dims, values.std(1, ddof=1) / num_draws**0.5)
    coords = {"share": list(shares), "query": push_forward.training.measure.queries}
    return xr.Dataset(fields, coords, attrs={"transform": push_forward.name})


def _at_share(push_forward: PushForward, keys: Array, share: float) -> tuple[np.ndarray, ...]:
    whole = push_forward.training
    training = replace(whole, kernel=kernels.truncate(whole.kernel, share))
    weights = training.program.full_weights()
    at = {} if push_forward.at is None else {"at": "old"}
    methods = replace(push_forward, training=training, **at), unroll(training, at="old")
    return _agreement(*(np.asarray(each, float) for each in compiled(_pulls)(methods, keys, weights)))


def _pulls(
    methods: Sequence[PushForward], keys: Key[Array, " draw"], weights: Weights
) -> tuple[Array, ...]:
    """Pull by each method, at the end of training, its only state."""
    return jax.lax.map(lambda key: tuple(each.pull(key, weights)[0] for each in methods), keys)


def _agreement(response: Response, exact: Response) -> tuple[np.ndarray, ...]:
    """Compare responses over data: Pearson, Spearman and the ratio of lengths."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.linalg.norm(response, axis=-1) / np.linalg.norm(exact, axis=-1)
    return pearson(response, exact), spearman(response, exact), ratio

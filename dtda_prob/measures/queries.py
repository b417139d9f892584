"""Losses, predictions, margins and accuracies of queries."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from dtda_prob.measures import readouts
from dtda_prob.measures.measure import Value
from dtda_prob.measures.predictive import Predictive


class loss(Predictive):
    """Measure -log p(y | theta) of each query, in nats, summed over observed sites.

    Args:
        *args: the model's arguments, bound to the queries.
        queries: one label per query; by default their positions.
        site: one observed site, where it alone is meant.
        per: "token", or spans `(start, stop)`, to make each token of a query, or each span of tokens,
            a query of its own.
        **kwargs: the model's keyword arguments, observations included.

    >>> loss(jnp.ones((2, 3)), y=jnp.zeros(2))
    loss(f32[2,3], y=f32[2])
    """

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        return -_log_likelihood(self, sites)


class log_likelihood(Predictive):
    """Measure log p(y | theta) of each query, in nats, summed over observed sites; see `loss`."""

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        return _log_likelihood(self, sites)


class prediction(Predictive):
    """Measure the predictive mean: probabilities for a categorical; see `loss` for arguments.

    `site` names the observed site where the program has several. The elements of one query, such as the
    tokens of a sequence, are outputs of it; with per="token" each is a query of its own.
    """

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        fn, _, dim = _opened(readouts.only(self.site, sites))
        return readouts.keep(readouts.mean(fn), fn, dim, self.per)


class squared_error(Predictive):
    """Measure (y - predictive mean)^2 of numbers, summed over dimensions; see `prediction`.

    What the program masks counts as 0, as it does in `loss`.
    """

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        fn, y, dim = _opened(readouts.only(self.site, sites))
        return readouts.sum_rest(readouts.squared_error(fn, _given(y)), fn, dim, self.per)


class margin(Predictive):
    """Measure log p(y) - log(1 - p(y)), the log-odds of the observed class; see `prediction`."""

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        fn, y, dim = _opened(readouts.only(self.site, sites))
        return readouts.keep(readouts.log_odds(fn, _given(y)), fn, dim, self.per)


class accuracy(Predictive):
    """Measure 1 where the likeliest class is the observed one, else 0; see `prediction`.

    It is a step function, so its own derivative is zero: transport the outputs or the parameters.
    """

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Value:
        fn, y, dim = _opened(readouts.only(self.site, sites))
        return readouts.keep(readouts.is_correct(fn, _given(y)), fn, dim, self.per)


def _log_likelihood(measure: Predictive, sites: dict) -> Value:
    site, per = measure.site, measure.per
    chosen = sites if site is None else {site: readouts.only(site, sites)}
    if per is not None:
        chosen = {name: _opened(each) for name, each in chosen.items()}
    parts = {
        name: readouts.sum_rest(jnp.asarray(fn.log_prob(_given(y))), fn, dim, per)
        for name, (fn, y, dim) in chosen.items()
    }
    numbers = {name: len(part) for name, part in parts.items()}
    if len(set(numbers.values())) > 1:
        raise ValueError(
            f"observed sites have different numbers of queries, {numbers}: name one, site=..."
        )
    return jnp.sum(jnp.stack([*parts.values()]), axis=0)


def _opened(site: readouts.Site) -> readouts.Site:
    fn, dim = readouts.opened(site[0], site[2])
    return fn, site[1], dim


def _given(y: Any) -> Array:
    if y is None:
        raise ValueError("the queries hold no observations; pass them too, as in `loss(x, y)`")
    return y

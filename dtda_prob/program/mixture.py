"""Discrete latent sites of examples, summed out of their observations.

Where sites and observations lie in the same plates, an observed site becomes a mixture, which has a
predictive distribution. Elsewhere, NumPyro enumerates; see `enumeration`.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array
from numpyro import handlers
from numpyro.distributions import Categorical, Distribution, MixtureGeneral, Unit
from numpyro.primitives import Messenger

from dtda_prob.program.discrete import Discrete, value_of
from dtda_prob.program.enumeration import log_marginals
from dtda_prob.program.layout import Layout
from dtda_prob.program.plates import Sites, base, is_latent
from dtda_prob.typing import PRNGKey

Assignment = Mapping[str, int]
"""The number of one value for each discrete latent site."""


def marginal(model: Callable, discrete: Discrete, layout: Layout) -> Callable:
    """Return the model with each example's discrete latent sites summed out of its observations.

    It is linear in the weights, unlike NumPyro's own enumeration, which multiplies the weights in
    before the sum. In the same plates, an observed site that follows discrete ones becomes a mixture,
    with one component for each joint assignment; where several follow, each is mixed as those before
    it make likely, so that together they have the joint density. Elsewhere, an example's observations
    become one factor.

    Args:
        model: a NumPyro model, which visits all examples.
        discrete: its discrete latent sites and the observations beside them.
        layout: where the examples lie.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        key = numpyro.prng_key()
        trace = _runner(model, args, kwargs, key)
        handler = _Factor(model, args, kwargs, key, discrete, layout) if discrete.nested else None
        with handler or _Mixture(trace, discrete):
            return model(*args, **kwargs)

    return run


class _Hidden(Messenger):
    """Hide discrete sites from the handlers outside, and take the values of the others."""

    def __init__(self, discrete: Discrete):
        super().__init__(None)
        self.discrete = discrete
        self.sizes, self.observed = dict(discrete.sizes), discrete.observed
        self.values: dict[str, Any] = {}
        self.earlier: list[str] = []

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["name"] in self.sizes:
            msg["value"], msg["stop"] = value_of(msg["fn"], 0), True
            self.earlier.append(msg["name"])
        elif msg["type"] == "sample" and msg["name"] in self.observed:
            self.sum_out(msg)

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] in ("param", "plate") or (is_latent(msg) and msg["name"] not in self.sizes):
            self.values[msg["name"]] = msg["value"]

    def sum_out(self, msg: Any) -> None:
        """Change the distribution of an observed site."""
        raise NotImplementedError


class _Factor(_Hidden):
    """Set the last observed site to the log density of all of an example's observations."""

    def __init__(
        self,
        model: Callable,
        args: tuple,
        kwargs: dict,
        key: PRNGKey | None,
        discrete: Discrete,
        layout: Layout,
    ):
        super().__init__(discrete)
        self.layout = layout
        self.run = lambda values: log_marginals(
            handlers.substitute(handlers.seed(model, _key(key)), data=values), args, kwargs, discrete
        )

    def sum_out(self, msg: Any) -> None:
        is_last = msg["name"] == self.observed[-1]
        size = msg["fn"].batch_shape[self.layout.dim(msg)]
        terms = self.run(self.values) if is_last else jnp.zeros(size)
        fn = Unit(terms.reshape((-1,) + (1,) * (-self.layout.dim(msg) - 1)))
        msg |= {"fn": fn, "value": jnp.zeros((*fn.batch_shape, 0)), "scale": None}


class _Mixture(_Hidden):
    """Mix the observed sites that follow discrete ones."""

    def __init__(self, run: Callable, discrete: Discrete):
        super().__init__(discrete)
        self.run = run

    def sum_out(self, msg: Any) -> None:
        if self.earlier:
            msg["fn"] = self._mixture(msg["name"], msg["fn"].batch_shape)

    def _mixture(self, name: str, shape: tuple[int, ...]) -> Distribution:
        sizes = {site: size for site, size in self.sizes.items() if site in self.earlier}
        values = {site: value for site, value in self.values.items() if site not in sizes}
        traces = [self.run(assignment, values) for assignment in _assignments(sizes)]
        logits = [_log_weight(trace, name, sizes, self.observed) for trace in traces]
        shares = jnp.stack([jnp.broadcast_to(part, shape) for part in logits], -1)
        fns = [trace[name]["fn"] for trace in traces]
        if isinstance(base(fns[0]), Unit):
            return _summed_factor(shares, fns)
        return MixtureGeneral(Categorical(logits=shares), fns)


def _summed_factor(shares: Array, fns: list[Distribution]) -> Unit:
    """Return the `numpyro.factor` log sum_z p(z) exp(factor(z))."""
    factors = jnp.stack([jnp.asarray(fn.log_prob(jnp.zeros((*fn.batch_shape, 0)))) for fn in fns], -1)
    return Unit(jax.nn.logsumexp(jax.nn.log_softmax(shares) + factors, axis=-1))


class _Assign(Messenger):
    """Set discrete sites to the values of an assignment."""

    def __init__(self, fn: Callable, assignment: Assignment):
        super().__init__(fn)
        self.assignment = assignment

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["name"] in self.assignment:
            msg["value"] = value_of(msg["fn"], self.assignment[msg["name"]])


def _runner(model: Callable, args: tuple, kwargs: dict, key: PRNGKey | None) -> Callable:
    """Trace a model, unseen by the handlers around it, at assignments and values of other sites."""

    def run(assignment: Assignment, values: Mapping[str, Any]) -> dict[str, Any]:
        known = handlers.substitute(handlers.seed(model, _key(key)), data=dict(values))
        with handlers.block():
            return handlers.trace(_Assign(known, assignment)).get_trace(*args, **kwargs)

    return run


def _key(key: PRNGKey | None) -> PRNGKey:
    return jax.random.key(0) if key is None else key


def _assignments(sizes: Mapping[str, int]) -> list[dict[str, int]]:
    numbers = itertools.product(*(range(size) for size in sizes.values()))
    return [dict(zip(sizes, row, strict=True)) for row in numbers]


def _log_weight(sites: Sites, name: str, sizes: Mapping[str, int], observed: tuple[str, ...]) -> Array:
    """Add up the log densities of the assignment and of the observations before a site."""
    before = itertools.takewhile(lambda other: other != name, sites)
    given = [other for other in observed if not is_latent(sites[other])]
    parts = [sites[other] for other in before if other in sizes or other in given]
    return sum((s["fn"].log_prob(s["value"]) for s in parts), start=jnp.zeros(()))

"""Discrete latent sites of a datum, summed out exactly: log sum_z p(z_i) p(y_i | z_i, theta)."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array
from numpyro import handlers
from numpyro.distributions import Categorical, MixtureGeneral
from numpyro.primitives import Messenger

from dtda_prob.plates import Site, Sites, in_plate, is_latent
from dtda_prob.typing import PRNGKey

Sizes = Mapping[str, int]
"""The number of values of each discrete latent site."""

Assignment = Mapping[str, Any]
"""The number of one value for each discrete latent site, or one for each of its elements."""


def local_sizes(sites: Sites, plate: str) -> dict[str, int]:
    """Count the values of each discrete latent site inside a plate.

    Raises:
        NotImplementedError: if there are infinitely many.
    """
    return {
        name: _num_values(site)
        for name, site in sites.items()
        if is_latent(site) and site["fn"].support.is_discrete and in_plate(site, plate)
    }


def marginal(model: Callable, sizes: Sizes, observed: tuple[str, ...]) -> Callable:
    """Sum the discrete latent sites of each datum out of its observations.

    An observed site that follows them becomes a mixture, with one component for each joint assignment;
    where several follow, each is mixed as those before it make likely, so that together they have the
    joint density. It is linear in the weights of data as NumPyro's own enumeration, which multiplies
    the weights in before the sum, is not.

    Args:
        model: a NumPyro model.
        sizes: the discrete sites and how many values each has.
        observed: the observed sites inside the plate.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        key = numpyro.prng_key()
        with _Marginal(_runner(model, args, kwargs, key), sizes, observed):
            return model(*args, **kwargs)

    return run


def check_exact(
    model: Callable, args: tuple, kwargs: dict, plate: str, sizes: Sizes, observed: tuple[str, ...]
) -> None:
    """Refuse models where the sum does not go datum by datum.

    Data are given assignments at random, and what each site makes of them is compared with what it
    makes of the same assignment for all data.

    Raises:
        NotImplementedError: naming the site, and what to do.
    """
    run = _runner(model, args, kwargs, jax.random.key(0))
    sites = run({}, {})
    _check_plates(sites, plate, sizes, observed)
    values, shape = _values(sites), sites[next(iter(sizes))]["fn"].batch_shape
    numbers = np.array([[*row.values()] for row in _assignments(sizes)])
    mixed = np.random.default_rng(0).integers(len(numbers), size=shape)

    @jax.jit
    def log_probs(which: Array) -> dict[str, Array]:
        rows = jnp.moveaxis(jnp.asarray(numbers)[which], -1, 0)
        return _log_probs(run(dict(zip(sizes, rows, strict=True)), values))

    alike = [log_probs(np.full(shape, k)) for k in range(len(numbers))]
    for name, found in log_probs(mixed).items():
        every = np.stack([np.asarray(each[name]) for each in alike])
        local = name in sizes or name in observed
        expected = np.take_along_axis(every, mixed[None], 0)[0] if local else every
        _check_equal(name, np.asarray(found), expected)


def _check_plates(sites: Sites, plate: str, sizes: Sizes, observed: tuple[str, ...]) -> None:
    names = [*sizes, *observed]
    plates = {name: {frame.name for frame in sites[name]["cond_indep_stack"]} for name in names}
    shapes = {sites[name]["fn"].batch_shape for name in names}
    if any(plates[name] != plates[names[0]] for name in names) or len(shapes) > 1:
        raise NotImplementedError(
            f"discrete latent sites {[*sizes]} and observed sites {[*observed]} of plate {plate!r} lie "
            "in different plates, and cannot be summed datum by datum; make further dimensions of an "
            "observation an event (`.to_event`), or marginalise by hand with a mixture distribution"
        )
    scaled = [name for name in names if sites[name]["scale"] is not None]
    if scaled:
        raise NotImplementedError(
            f"sites {scaled} are scaled inside the model, next to discrete latent sites {[*sizes]}; "
            "leave handlers.scale out and weigh the data instead"
        )


def _check_equal(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    if not np.allclose(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise NotImplementedError(
            f"site {name!r} depends on the discrete latent sites of several data, or it is a latent "
            "site or outside the plate and depends on any: they cannot be summed datum by datum; "
            "marginalise by hand (a mixture distribution, a forward pass with numpyro.factor)"
        )


class _Marginal(Messenger):
    """Hide discrete sites from the handlers outside, and mix the observed sites that follow them."""

    def __init__(self, run: Callable, sizes: Sizes, observed: tuple[str, ...]):
        super().__init__(None)
        self.run, self.sizes, self.observed = run, sizes, observed
        self.values: dict[str, Any] = {}
        self.earlier: list[str] = []

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample":
            return
        if msg["name"] in self.sizes:
            msg["value"], msg["stop"] = _value(msg["fn"], 0), True
            self.earlier.append(msg["name"])
        elif msg["name"] in self.observed and self.earlier:
            msg["fn"] = self._mixture(msg["name"], msg["fn"].batch_shape)

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] in ("param", "plate") or is_latent(msg):
            self.values[msg["name"]] = msg["value"]

    def _mixture(self, name: str, shape: tuple[int, ...]) -> MixtureGeneral:
        sizes = {site: size for site, size in self.sizes.items() if site in self.earlier}
        values = {site: value for site, value in self.values.items() if site not in sizes}
        traces = [self.run(assignment, values) for assignment in _assignments(sizes)]
        logits = [_log_weight(trace, name, sizes, self.observed) for trace in traces]
        mixing = Categorical(logits=jnp.stack([jnp.broadcast_to(part, shape) for part in logits], -1))
        return MixtureGeneral(mixing, [trace[name]["fn"] for trace in traces])


class _Assign(Messenger):
    """Give discrete sites the values of an assignment."""

    def __init__(self, fn: Callable, assignment: Assignment):
        super().__init__(fn)
        self.assignment = assignment

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["name"] in self.assignment:
            msg["value"] = _value(msg["fn"], self.assignment[msg["name"]])


def _runner(model: Callable, args: tuple, kwargs: dict, key: PRNGKey | None) -> Callable:
    """Trace a model, unseen by the handlers around it, at assignments and values of other sites."""
    key = jax.random.key(0) if key is None else key

    def run(assignment: Assignment, values: Mapping[str, Any]) -> dict[str, Any]:
        known = handlers.substitute(handlers.seed(model, key), data=dict(values))
        with handlers.block():
            return handlers.trace(_Assign(known, assignment)).get_trace(*args, **kwargs)

    return run


def _assignments(sizes: Sizes) -> list[dict[str, int]]:
    numbers = itertools.product(*(range(size) for size in sizes.values()))
    return [dict(zip(sizes, row, strict=True)) for row in numbers]


def _num_values(site: Site) -> int:
    try:
        return len(site["fn"].enumerate_support(expand=False))
    except NotImplementedError as error:
        raise NotImplementedError(
            f"latent site {site['name']!r} is discrete and takes infinitely many values, which cannot "
            "be summed; marginalise it by hand, for instance with a mixture distribution"
        ) from error


def _value(fn: Any, number: Any) -> Array:
    """Give the value of that number to each element of a discrete site."""
    values = fn.enumerate_support(expand=False)
    values = values.reshape(len(values), *fn.event_shape)
    return values[jnp.broadcast_to(jnp.asarray(number), fn.batch_shape)]


def _values(sites: Sites) -> dict[str, Any]:
    return {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] == "param" or (is_latent(site) and not site["fn"].support.is_discrete)
    }


def _log_weight(sites: Sites, name: str, sizes: Sizes, observed: tuple[str, ...]) -> Array:
    """Add up the log densities of the assignment and of what is observed before a site."""
    before = itertools.takewhile(lambda other: other != name, sites)
    given = [other for other in observed if not is_latent(sites[other])]
    parts = [sites[other] for other in before if other in sizes or other in given]
    return sum((s["fn"].log_prob(s["value"]) for s in parts), start=jnp.zeros(()))


def _log_probs(sites: Sites) -> dict[str, Array]:
    sampled = {name: site for name, site in sites.items() if site["type"] == "sample"}
    return {name: jnp.asarray(s["fn"].log_prob(s["value"])) for name, s in sampled.items()}

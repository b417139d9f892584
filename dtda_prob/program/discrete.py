"""Discrete latent sites, summed out exactly: an example's own by a mixture, shared ones by NumPyro.

An example's own sites give log sum_z p(z_i) p(y_i | z_i, theta), which stays linear in the weights;
shared sites give log sum_z p(z) prod_i p(y_i | z, theta)^w_i, which is not.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array
from numpyro import handlers
from numpyro.distributions import Categorical, Distribution, MixtureGeneral, Unit
from numpyro.primitives import Messenger

from dtda_prob.program.layout import Layout
from dtda_prob.program.plates import Site, Sites, base, is_latent
from dtda_prob.typing import PRNGKey

Sizes = Mapping[str, int]
"""The number of values of each discrete latent site."""

Assignment = Mapping[str, Any]
"""The number of one value for each discrete latent site, or one for each of its elements."""


def local_sizes(sites: Sites, layout: Layout) -> dict[str, int]:
    """Count the values of each discrete latent site inside a plate.

    Raises:
        NotImplementedError: if there are infinitely many, or such sites and the observations lie in
            different plates or are scaled.
    """
    sizes = {
        name: _num_values(site)
        for name, site in sites.items()
        if is_latent(site) and site["fn"].support.is_discrete and layout.holds(site)
    }
    inside = [name for name in layout.plates if name not in sites and name not in layout.sites]
    if sizes and inside:
        raise NotImplementedError(
            f"discrete latent sites {[*sizes]} of plate {inside[0]!r} lie inside a scan; put the scan "
            "inside the plate: a forward pass over discrete states with numpyro.factor"
        )
    if sizes:
        observed = [n for n, s in sites.items() if _is_observed(s) and layout.holds(s)]
        _check_plates(sites, layout, [*sizes], observed)
    return sizes


def marginal(model: Callable, sizes: Sizes, observed: tuple[str, ...]) -> Callable:
    """Return the model with each example's discrete latent sites summed out of its observations.

    An observed site that follows them becomes a mixture, with one component for each joint assignment;
    where several follow, each is mixed as those before it make likely, so that together they have the
    joint density. It is linear in the weights, unlike NumPyro's own enumeration, which multiplies the
    weights in before the sum.

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


def assigned_densities(
    model: Callable, args: tuple, kwargs: dict, sizes: Sizes
) -> tuple[dict[str, Array], dict[str, Array], np.ndarray]:
    """Compute the densities of all sites at assignments of the discrete ones.

    Returns:
        Densities at each joint assignment, the same for all examples, `(assignment, ...)`; densities
        at a random assignment of each example; that assignment.
    """
    run = _runner(model, args, kwargs, jax.random.key(0))
    sites = run({}, {})
    values, shape = _values(sites), sites[next(iter(sizes))]["fn"].batch_shape
    numbers = np.array([[*row.values()] for row in _assignments(sizes)])
    mixed = np.random.default_rng(0).integers(len(numbers), size=shape)

    def log_probs(which: Array) -> dict[str, Array]:
        rows = jnp.moveaxis(jnp.asarray(numbers)[which], -1, 0)
        return _log_probs(run(dict(zip(sizes, rows, strict=True)), values))

    alike = jnp.broadcast_to(
        jnp.arange(len(numbers)).reshape(-1, *(1,) * len(shape)), (len(numbers), *shape)
    )
    return jax.lax.map(log_probs, alike), log_probs(jnp.asarray(mixed)), mixed


def check_separable(
    alike: Mapping[str, Any], mixed: Mapping[str, Any], which: np.ndarray, local: tuple[str, ...]
) -> None:
    """Refuse models whose sum over discrete sites does not factorise over examples.

    Args:
        alike: densities with one assignment for all examples, `(assignment, ...)`.
        mixed: densities with an assignment for each example.
        which: that assignment.
        local: discrete and observed sites inside the plate.

    Raises:
        NotImplementedError: naming the site, and what to do.
    """
    for name, actual in mixed.items():
        every = np.asarray(alike[name])
        expected = np.take_along_axis(every, np.asarray(which)[None], 0)[0] if name in local else every
        if not np.allclose(np.asarray(actual), expected, rtol=1e-4, atol=1e-4, equal_nan=True):
            raise NotImplementedError(
                f"site {name!r} depends on the discrete latent sites of several examples, or it is a "
                "latent site or outside the plate and depends on any: they cannot be summed example by "
                "example; marginalise by hand (a mixture distribution, a forward pass with "
                "numpyro.factor)"
            )


def shared_sites(sites: Sites, layout: Layout) -> tuple[str, ...]:
    """Return the names of the discrete latent sites outside a plate.

    Raises:
        NotImplementedError: if there are discrete sites inside the plate too.
    """
    discrete = {n: s for n, s in sites.items() if is_latent(s) and s["fn"].support.is_discrete}
    shared = tuple(name for name, site in discrete.items() if not layout.holds(site))
    if 0 < len(shared) < len(discrete):
        raise NotImplementedError(
            f"latent sites {[*discrete]} are discrete, and some are shared by examples where others "
            "belong to one; marginalise one kind by hand, for instance with a mixture distribution"
        )
    return shared


def num_batch_dims(sites: Sites) -> int:
    """Count the dimensions that plates take, to the left of which sites may be enumerated."""
    return max(len(site["fn"].batch_shape) for site in sites.values() if site["type"] == "sample")


def enumerated(model: Callable, depth: int) -> Callable:
    """Return a seeded model whose discrete sites NumPyro enumerates, for `potential_energy(enum=True)`.

    Args:
        model: the model.
        depth: the number of dimensions that plates take.

    Raises:
        ImportError: if funsor is not installed.
    """
    try:
        from numpyro.contrib.funsor import config_enumerate, enum
    except ImportError as error:
        raise ImportError(
            "discrete latent sites that examples share are summed out with funsor, which is missing: "
            "pip install 'dtda_prob[enum]'; or marginalise them, as with a mixture distribution"
        ) from error
    return enum(config_enumerate(model), first_available_dim=-1 - depth)


def refuse_shared(shared: tuple[str, ...], what: str) -> None:
    """Refuse what is only defined example by example, where discrete sites are shared.

    Raises:
        NotImplementedError: if there are any.
    """
    if shared:
        raise NotImplementedError(
            f"{what}: examples share the discrete latent sites {[*shared]}, so that the log density is "
            "no sum over examples; train on all of them at every step, measure with "
            "measures.parameters or measures.function, take retrain, unroll or influence with the "
            "Hessian, or marginalise by hand"
        )


def _check_plates(sites: Sites, layout: Layout, sizes: list[str], observed: list[str]) -> None:
    names = [*sizes, *observed]
    plates = {name: {frame.name for frame in sites[name]["cond_indep_stack"]} for name in names}
    shapes = {sites[name]["fn"].batch_shape for name in names}
    if any(plates[name] != plates[names[0]] for name in names) or len(shapes) > 1:
        raise NotImplementedError(
            f"discrete latent sites {sizes} and observed sites {observed} of {layout.title} lie in "
            "different plates, and cannot be summed example by example; make further dimensions of an "
            "observation an event (`.to_event`), or marginalise by hand with a mixture distribution"
        )
    scaled = [name for name in names if sites[name]["scale"] is not None]
    if scaled:
        raise NotImplementedError(
            f"sites {scaled} are scaled inside the model, next to discrete latent sites {sizes}; leave "
            "handlers.scale out and reweight the examples instead"
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
    """Return the value of that number for each element of a discrete site."""
    values = fn.enumerate_support(expand=False)
    values = values.reshape(len(values), *fn.event_shape)
    return values[jnp.broadcast_to(jnp.asarray(number), fn.batch_shape)]


def _values(sites: Sites) -> dict[str, Any]:
    return {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] == "param" or (is_latent(site) and not site["fn"].support.is_discrete)
    }


def _is_observed(site: Site) -> bool:
    return site["type"] == "sample" and not is_latent(site)


def _log_weight(sites: Sites, name: str, sizes: Sizes, observed: tuple[str, ...]) -> Array:
    """Add up the log densities of the assignment and of the observations before a site."""
    before = itertools.takewhile(lambda other: other != name, sites)
    given = [other for other in observed if not is_latent(sites[other])]
    parts = [sites[other] for other in before if other in sizes or other in given]
    return sum((s["fn"].log_prob(s["value"]) for s in parts), start=jnp.zeros(()))


def _log_probs(sites: Sites) -> dict[str, Array]:
    sampled = {name: site for name, site in sites.items() if site["type"] == "sample"}
    return {name: jnp.asarray(s["fn"].log_prob(s["value"])) for name, s in sampled.items()}

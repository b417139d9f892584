"""Binding a model to its data: what can be traced, what is known of it, and whether it is sound."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpyro import handlers

from dtda_prob.compiling import compiled
from dtda_prob.module import code
from dtda_prob.program import discrete
from dtda_prob.program.abstraction import remembered
from dtda_prob.program.data import Concrete, MisfitError, argument, bound, holds_pandas, settle, unbound
from dtda_prob.program.layout import Choice, Layout, laid_out
from dtda_prob.program.plates import Sites
from dtda_prob.program.state import stateful
from dtda_prob.program.structure import Structure, abstract, structure_of
from dtda_prob.program.whole import in_blocks
from dtda_prob.typing import Params, PRNGKey

if TYPE_CHECKING:
    from dtda_prob.program.program import Program

TRIES = 10
"""Initialisations that are tried before a model is refused, as samplers do."""
COMPANIONS = 8
"""Examples that are put into a batch beside another one, to see whether they change its density."""


class Data(NamedTuple):
    """What a model is run with: its arguments, and where its latent sites start.

    Attributes:
        args: positional arguments, arrays of numbers as JAX arrays; see `data.bound`.
        kwargs: keyword arguments.
        start: NumPyro's initialisation strategy and its settings.
    """

    args: tuple
    kwargs: dict[str, Any]
    start: "Start"


class Start(NamedTuple):
    """An initialisation strategy, compared by its settings."""

    function: Callable
    args: tuple
    kwargs: dict[str, Any]

    def __call__(self, site: Any) -> Any:
        return self.function(site, *self.args, **self.kwargs)


def start_of(strategy: Callable) -> Start:
    """Take one of NumPyro's initialisation strategies, called or bare."""
    strategy = strategy if isinstance(strategy, partial) else strategy()
    if not isinstance(strategy, partial):
        return Start(strategy, (), {})
    settings = bound((strategy.args, strategy.keywords))
    settings = jax.tree.map(lambda leaf: Concrete(leaf) if isinstance(leaf, float) else leaf, settings)
    return Start(strategy.func, *settings)


def trace(model: Callable, layout: Layout | None, data: Data, key: PRNGKey) -> Sites:
    """Trace a model at an initial point, all examples visited."""
    seeded = handlers.seed(laid_out(stateful(model), layout=layout), key)
    started = handlers.substitute(seeded, substitute_fn=data.start)
    return handlers.trace(started).get_trace(*data.args, **data.kwargs)


def bind(
    model: Callable, args: tuple, kwargs: dict, choice: Choice, init_strategy: Callable
) -> tuple[Data, Structure]:
    """Return a model's arguments, as few of them concrete as it allows, and its structure.

    Raises:
        Exception: what the model raises; see `structure_of` for what is refused.
    """
    start, attempts = start_of(init_strategy), [False, True][: 1 + holds_pandas((args, kwargs))]
    key = jax.random.key(0)

    def inspect(data: Data) -> Structure:
        def compute() -> Structure:
            return structure_of(lambda data: trace(model, None, data, key), data, choice)

        return remembered((model, choice, data), "structure", compute)

    for pandas in attempts:
        try:
            return settle(inspect, Data(*bound((args, kwargs), pandas=pandas), start))
        except Exception as error:
            if pandas == attempts[-1] or isinstance(error, MisfitError):
                raise _named(error, args, kwargs) from error
    raise AssertionError("unreachable")


def follows_indices(program: "Program") -> bool:
    """Return whether a model's observations follow the indices of the plates of its examples."""
    return remembered(program, "follows indices", lambda: _follows_indices(program))


def _follows_indices(program: "Program") -> bool:
    layout, batch = program.layout, max(1, min(2, program.num_data - 1))
    shapes: list[int] = []
    if layout.sites or not layout.shares:
        return False

    def densities(data: Data) -> None:
        indices = dict.fromkeys(layout.plates, jnp.arange(batch))
        batched = handlers.substitute(program.summed, data=indices)
        seeded = handlers.seed(batched, jax.random.key(0))
        started = handlers.substitute(seeded, substitute_fn=data.start)
        sites = handlers.trace(started).get_trace(*data.args, **data.kwargs)
        for name in program.observed:
            fn, dim = sites[name]["fn"], layout.dim(sites[name])
            shapes.append(jnp.shape(fn.log_prob(sites[name]["value"]))[dim])

    try:
        abstract(densities, program.data)
    except (ValueError, TypeError):
        return False
    return all(size == batch for size in shapes)


def check_binding(program: "Program") -> None:
    """Refuse models that are not finite or do not factorise, and warn where examples meet in batches.

    Raises:
        ValueError: if the log density is not finite at initialisation.
        NotImplementedError: if a sum over discrete sites does not go example by example.
    """
    if program.structure.discrete:
        discrete.check_separable(compiled(_separates, quick=True)(program))
    for seed in range(TRIES):
        key = jax.random.key(seed)
        finite, meets = compiled(_probe, quick=True)(program, key)
        if finite:
            return _warn_of_batches() if meets else None
    losses = compiled(_losses)(program, key)
    bad = np.flatnonzero(~np.isfinite(losses))
    where = f"data {program.labels[bad[:5]].tolist()} ({len(bad)} in all)" if len(bad) else "the prior"
    raise ValueError(
        f"the log density of the model is not finite at initialisation, for {where}; look for missing "
        "or infinite inputs, missing or out-of-support observations, or pass another init_strategy"
    )


def _separates(program: "Program") -> dict[str, Bool[Array, ""]]:
    found: Any = program.structure.discrete
    sites = trace(program.model, program.layout, unbound(program.data), jax.random.key(0))
    return discrete.separates(program.joint, program.args, program.kwargs, found, program.layout, sites)


def _probe(program: "Program", key: PRNGKey) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Return whether the objective is finite, and whether an example's density depends on its batch."""
    params = program.init(key)
    value = in_blocks(program, params, jnp.ones(program.num_data))
    return jnp.isfinite(value), _depends_on_batch(program.evaluated, params)


def _depends_on_batch(program: "Program", params: Params) -> Bool[Array, ""]:
    if program.structure.shared or not program.follows_indices or program.num_data < 4:
        return jnp.array(False)
    others = np.unique(np.linspace(1, program.num_data - 1, COMPANIONS).astype(int))
    # Three to a batch: normalised by the moments of two, the first would be 1 or -1 beside any other.
    batches = jnp.stack([jnp.zeros_like(others), others, jnp.roll(others, 1)], 1)

    def first(batch: Array) -> Float[Array, ""]:
        return _densities(program, params, batch)[0]

    densities = jax.vmap(first)(batches)
    return ~jnp.allclose(densities, densities[0], rtol=1e-3, atol=1e-4, equal_nan=True)


def _densities(program: "Program", params: Params, indices: Array) -> Float[Array, " batch"]:
    """Compute the log density of each example of a batch, of all observed sites together."""
    rows = []
    for fn, value, dim in program.observations(params, indices).values():
        density = jnp.moveaxis(jnp.asarray(fn.log_prob(value)), dim, 0)
        rows.append(density.reshape(len(indices), -1).sum(-1))
    return jnp.stack(rows).sum(0)


def _losses(program: "Program", key: PRNGKey) -> Array:
    losses = jax.grad(program.objective, argnums=1)
    return losses(program.init(key), jnp.ones(program.num_data))


def _warn_of_batches() -> None:
    warnings.warn(
        "the density of an example depends on the other examples of its batch (batch normalisation, "
        "a contrastive loss?), so that at weight 0 it still acts through them; name the arguments with "
        "which layers use running statistics, as in evaluation={'train': False}, normalise within each "
        "example (layer or group norm), or remove rows by removal='drop'",
        stacklevel=4,
    )


def _named(error: Exception, args: tuple, kwargs: dict) -> Exception:
    """Name arguments that are no numbers, where the model fails on them."""
    leaves = jax.tree.leaves_with_path((args, kwargs), is_leaf=lambda leaf: bool(_kind(leaf)))
    strange = {argument(path): _kind(leaf) for path, leaf in leaves if _kind(leaf)}
    if not strange or isinstance(error, NotImplementedError | MisfitError):
        shapes = [f"{argument(path)}: {code(unbound(leaf))}" for path, leaf in leaves]
        error.add_note(f"Program ran the model on {', '.join(shapes)}")
        return error
    told = ", ".join(f"{name} ({kind})" for name, kind in strange.items())
    return ValueError(
        f"the model fails on arguments that are no arrays of numbers, {told}: "
        f"{str(error).splitlines()[0]}; pass arrays of numbers (df.to_numpy(), "
        "classes as np.unique(y, return_inverse=True)[1])"
    )


def _kind(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray):
        return f"array of {leaf.dtype}" if leaf.dtype.kind not in "biufcV" else ""
    if isinstance(leaf, list) and any(isinstance(each, str) for each in leaf):
        return "list of texts"
    return type(leaf).__name__ if type(leaf).__module__.partition(".")[0] == "pandas" else ""

"""What one abstract trace tells of a model: its sites, their axes and sizes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Unit, constraints

from dtda_prob.compiling import is_traced, operations
from dtda_prob.program import discrete, indexing
from dtda_prob.program.data import MisfitError, argument, unbound
from dtda_prob.program.layout import Choice, Layout, is_normal_vector, layout_of
from dtda_prob.program.loss import Loss
from dtda_prob.program.plates import Site, Sites, base, frames, is_latent
from dtda_prob.program.state import names


@dataclass(frozen=True)
class Structure:
    """What does not depend on the values of a program's data.

    Attributes:
        layout: where the examples lie.
        observed: observed sites of examples.
        outside: other observed sites, which weights do not reach.
        factors: observed sites that are `numpyro.factor`, or become one where sites are summed out.
        losses: observed sites that are a `dtda.Loss`.
        local: for each latent site of examples, the axis of its value that runs over them.
        local_params: the same for parameters (`numpyro.param`).
        params: parameters whose constraint is not the real line.
        discrete: discrete latent sites of examples, if there are any.
        shared: discrete latent sites that examples share.
        depth: dimensions that plates take.
        has_prior: whether anything but the observations enters the objective.
        on_real_line: whether no parameter is constrained.
        state: mutable sites whose values training carries from step to step; see `state`.
        rounds: whether the model computes with fewer digits than float32.
    """

    layout: Layout
    observed: tuple[str, ...]
    outside: tuple[str, ...]
    factors: tuple[str, ...]
    losses: tuple[str, ...]
    local: tuple[tuple[str, int], ...]
    local_params: tuple[tuple[str, int], ...]
    params: tuple[str, ...]
    discrete: discrete.Discrete | None
    shared: tuple[str, ...]
    depth: int
    has_prior: bool
    on_real_line: bool
    state: tuple[str, ...]
    rounds: bool = False


def abstract(function: Callable, tree: Any) -> Any:
    """Trace a function with the arrays and floats of its argument abstract; return its jaxpr."""
    traced, static = eqx.partition(tree, is_traced)
    return jax.make_jaxpr(lambda traced: function(unbound(eqx.combine(traced, static))))(traced)


def structure_of(trace: Callable[[Any], Sites], data: Any, choice: Choice) -> Structure:
    """Return the structure of a model, and refuse models that mix examples.

    Args:
        trace: traces the model for its data.
        data: the model's arguments; see `data.bound`.
        choice: where the examples lie; see `layout_of`.

    Raises:
        ValueError: if no examples are found, or observations do not lie along them: lengths that
            differ, a missing or a further axis.
        NotImplementedError: for discrete sites that cannot be summed out.
    """
    result: list[Structure] = []

    def densities(data: Any) -> dict[str, Any]:
        sites = trace(data)
        result.append(_structure(sites, layout_of(sites, choice)))
        layout = result[-1].layout
        return check_observations(layout.trace(sites), result[-1].observed, layout)

    jaxpr = abstract(densities, data)
    check_lengths(jaxpr, data, result[-1].layout)
    return replace(result[-1], rounds=_rounds(jaxpr.jaxpr))


def _rounds(jaxpr: Any) -> bool:
    """Return whether a result is of a floating type shorter than float32, in bfloat16 for example."""
    results = [out.aval for operation in operations(jaxpr) for out in operation.outvars]
    floating = [each.dtype for each in results if jnp.issubdtype(each.dtype, jnp.floating)]
    return any(dtype.itemsize < jnp.dtype(jnp.float32).itemsize for dtype in floating)


def _structure(raw: Sites, layout: Layout) -> Structure:
    sites = layout.trace(raw)
    axes = layout.local_axes(sites)
    is_param = {name: sites[name]["type"] == "param" for name in axes}
    samples = {name: site for name, site in sites.items() if site["type"] == "sample"}
    seen = [name for name, site in samples.items() if not is_latent(site)]
    observed = tuple(name for name in seen if layout.holds(sites[name]))
    own = discrete.of_examples(sites, layout)
    summed = own.observed if own and own.nested else ()
    return Structure(
        layout=layout,
        observed=observed,
        outside=tuple(name for name in seen if name not in observed),
        factors=tuple(k for k in observed if k in summed or isinstance(base(sites[k]["fn"]), Unit)),
        losses=tuple(name for name in observed if isinstance(base(sites[name]["fn"]), Loss)),
        local=tuple((name, axis) for name, axis in axes.items() if not is_param[name]),
        local_params=tuple((name, axis) for name, axis in axes.items() if is_param[name]),
        params=tuple(name for name, site in sites.items() if _is_constrained_param(site)),
        discrete=own,
        shared=discrete.shared_sites(sites, layout),
        depth=discrete.num_batch_dims(sites),
        has_prior=any(_is_prior(raw[name], name in observed) for name in samples),
        on_real_line=all(
            _support(site) is constraints.real for site in sites.values() if _is_free(site)
        ),
        state=names(raw),
    )


def _is_prior(site: Site, is_observed: bool) -> bool:
    return is_normal_vector(site["fn"]) if is_observed else not is_summed(site)


def check_observations(sites: Sites, observed: tuple[str, ...], layout: Layout) -> dict[str, Any]:
    """Return the log densities of observed sites, and refuse observations without an axis of examples.

    Raises:
        ValueError: naming the site, its shapes, and what to do.
    """
    return {name: _check_observation(sites[name], layout) for name in observed if name in sites}


def _check_observation(site: Site, layout: Layout) -> Any:
    fn, dim, name, where = site["fn"], layout.dim(site), site["name"], layout.title
    size = fn.batch_shape[dim]
    declared = {frame.dim for frame in frames(site)}
    further = {axis: n for axis, n in _axes(fn.batch_shape) if axis not in declared and n > 1}
    inner = base(fn)
    if isinstance(inner, Unit):
        if size in further.values() and size > 1:
            raise MisfitError(_crossed(name, fn.batch_shape, where, size))
        if jnp.size(inner.log_factor) == 1 < size:
            raise MisfitError(_constant(name, where, size))
        return fn.log_prob(site["value"])
    if is_latent(site):
        return jnp.zeros(())
    shape = jnp.shape(site["value"])
    log_prob = _log_prob(site, shape)
    batch = dict(_axes(shape[: len(shape) - fn.event_dim]))
    if log_prob.shape != fn.batch_shape or any(batch.get(axis, 1) != n for axis, n in further.items()):
        raise MisfitError(_crossed(name, log_prob.shape, where, size))
    if shape and batch.get(dim, 1) != size:
        raise MisfitError(
            f"site {name!r}: the observations have shape {shape} and no axis of {size} for "
            f"{where}, so that each example would count all of them; leave .to_event out, or move "
            "the axis of examples out of the event"
        )
    return log_prob


def _log_prob(site: Site, shape: tuple[int, ...]) -> Any:
    try:
        return jnp.asarray(site["fn"].log_prob(site["value"]))
    except (ValueError, TypeError) as error:
        fn = site["fn"]
        raise MisfitError(
            f"site {site['name']!r}: observations of shape {shape} and type "
            f"{jnp.result_type(site['value'])} do not fit {type(base(fn)).__name__} of batch shape "
            f"{fn.batch_shape} and event shape {fn.event_shape} ({error}); give one row per example, "
            "and classes as integers"
        ) from error


def _crossed(name: str, shape: tuple[int, ...], where: str, size: int) -> str:
    return (
        f"site {name!r}: its log density has shape {shape}, with an axis that no plate explains beside "
        f"the {size} examples of {where}, so that each example would be scored on the "
        f"observations of others; a column of shape ({size}, 1) against a vector does that: take "
        "y[:, 0] and x[:, 0], or declare the axis (a plate, .to_event)"
    )


def _constant(name: str, where: str, size: int) -> str:
    return (
        f"site {name!r} is a numpyro.factor with one number for all {size} examples of "
        f"{where}, so that each example would count all of it; give it one number per example"
    )


def check_lengths(jaxpr: Any, data: Any, layout: Layout, size: int | None = None) -> None:
    """Refuse arrays whose rows are taken by a plate's indices and are not as many.

    Args:
        jaxpr: the model, traced.
        data: its arguments.
        layout: where its examples lie.
        size: the number of examples of these data; the program's own if None.

    Raises:
        ValueError: naming the argument, its length and the size of the plate.
    """
    size = layout.size if size is None else size
    if size < 2 or not layout.shares:
        return
    named = [argument(path) for path, leaf in jax.tree.leaves_with_path(data) if is_traced(leaf)]
    for lookup in indexing.misfits(indexing.lookups(jaxpr, size), size):
        where = "JAX would repeat its last row" if lookup.length < size else "rows would be left out"
        array = f"argument {named[lookup.leaf]!r}" if lookup.leaf >= 0 else "an array in the model"
        raise MisfitError(
            f"{array} has {lookup.length} rows where {layout.title} has {size}: {where}; give one row "
            "per example"
        )


def check_axes(own: Any, asked: Any, num_data: int) -> None:
    """Refuse no query at all, and a single one without the axis of queries.

    Args:
        own: the program's positional arguments and keyword arguments.
        asked: the arguments of the queries.
        num_data: the number of examples.

    Raises:
        ValueError: naming the argument.
    """
    shapes = {path: np.shape(leaf) for path, leaf in jax.tree.leaves_with_path(own)}
    for path, leaf in jax.tree.leaves_with_path(asked):
        rows = shapes.get(path, ())
        if is_traced(leaf) and rows[:1] == (num_data,) and np.shape(leaf)[:1] == (0,):
            raise MisfitError(f"queries: argument {argument(path)!r} has no rows; give at least one")
        if is_traced(leaf) and rows[:1] == (num_data,) and 0 < np.ndim(leaf) < len(rows):
            raise MisfitError(
                f"queries: argument {argument(path)!r} has shape {np.shape(leaf)} where the program's "
                f"has {rows}; a single query needs an axis of its own, x[None]"
            )


def is_summed(site: Site) -> bool:
    """Return whether a site is no parameter, since it is discrete."""
    return is_latent(site) and site["fn"].support.is_discrete


def _axes(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(axis - len(shape), size) for axis, size in enumerate(shape)]


def _is_free(site: Site) -> bool:
    return site["type"] == "param" or (is_latent(site) and not is_summed(site))


def _support(site: Site) -> Any:
    """Return the constraint of single numbers."""
    if site["type"] == "param":
        return site["kwargs"].get("constraint", constraints.real)
    support = site["fn"].support
    return getattr(support, "base_constraint", support)


def _is_constrained_param(site: Site) -> bool:
    constraint = site["kwargs"].get("constraint", constraints.real) if site["type"] == "param" else None
    return constraint is not None and constraint is not constraints.real

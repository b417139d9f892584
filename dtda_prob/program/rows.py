"""Rows of a distribution: some examples' distribution, taken from the one of all examples."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    MixtureSameFamily,
    TransformedDistribution,
    constraints,
)

from dtda_prob.program.layout import Described, Layout
from dtda_prob.program.plates import Indices, Site


def of_site(site: Site, layout: Layout, indices: Indices) -> Described:
    """Return some examples of a site of all; those that do not belong to it are masked."""
    fn, value, dim = layout.describe(site)
    rows, inside = _places(site, layout, indices)
    fn = take(fn, dim, rows)
    if not layout.shares:
        fn = fn.mask(inside.reshape((-1,) + (1,) * (-dim - 1)))
    return fn, jnp.take(value, rows, jnp.ndim(value) - fn.event_dim + dim), dim


def of_scale(site: Site, layout: Layout, indices: Indices) -> Array | float:
    """Return the factor of the log density of some examples inside the model."""
    if site["scale"] is None:
        return 1.0
    return _rows_of(site["scale"], layout.dim(site), _places(site, layout, indices)[0])


def _places(site: Site, layout: Layout, indices: Indices) -> tuple[Indices, Bool[Array, " batch"]]:
    """Return the rows of examples in a site, and whether they are there."""
    start, size = layout.rows(site)
    inside = (indices >= start) & (indices < start + size)
    return jnp.clip(indices - start, 0, size - 1), inside


def take(fn: Distribution, dim: int, rows: Indices) -> Distribution:
    """Return the distribution of some rows.

    Args:
        fn: the distribution of all rows.
        dim: the batch dimension that runs over rows, a negative integer.
        rows: their positions.
    """
    if len(fn.batch_shape) < -dim or fn.batch_shape[dim] == 1:
        return fn
    if isinstance(fn, ExpandedDistribution):
        shape = [*fn.batch_shape]
        shape[dim] = len(rows)
        return take(fn.base_dist, dim, rows).expand(tuple(shape))
    if isinstance(fn, MaskedDistribution):
        return take(fn.base_dist, dim, rows).mask(_rows_of(fn._mask, dim, rows))
    if isinstance(fn, Independent):
        inner = fn.reinterpreted_batch_ndims
        return take(fn.base_dist, dim - inner, rows).to_event(inner)
    return _take_fields(fn, dim, rows)


def _take_fields(fn: Distribution, dim: int, rows: Indices) -> Distribution:
    names = type(fn).gather_pytree_data_fields()
    children, static = fn.tree_flatten()
    fields = zip(names, children, strict=True)
    copy = type(fn).tree_unflatten(static, tuple(_take_field(fn, n, v, dim, rows) for n, v in fields))
    shape = [*fn.batch_shape]
    shape[dim] = len(rows)
    copy._batch_shape = tuple(shape)
    return copy


def _take_field(fn: Distribution, name: str, value: Any, dim: int, rows: Indices) -> Any:
    if isinstance(fn, MixtureSameFamily) and name == "_component_distribution":
        return take(value, dim - 1, rows)
    if isinstance(fn, TransformedDistribution) and isinstance(value, Distribution):
        return take(value, dim - len(value.batch_shape) + len(fn.batch_shape), rows)
    if isinstance(value, Distribution):
        return take(value, dim, rows)
    if isinstance(value, list | tuple):
        return type(value)(_take_field(fn, name, each, dim, rows) for each in value)
    if not hasattr(value, "ndim"):
        return value
    constraint = fn.arg_constraints.get(name, constraints.real)
    return _rows_of(value, dim - constraint.event_dim, rows)


def _rows_of(array: Any, axis: int, rows: Indices) -> Any:
    shape = jnp.shape(array)
    return array if len(shape) < -axis or shape[axis] == 1 else jnp.take(array, rows, axis)

"""Where the examples of a model lie: in its plates, or along the leading axis of observed sites."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpyro
from numpyro.distributions import Distribution, Independent, MultivariateNormal, Normal, Unit
from numpyro.primitives import CondIndepStackFrame, Messenger

from dtda_prob.program.data import MisfitError
from dtda_prob.program.plates import (
    Site,
    Sites,
    base,
    frames,
    has_own_value,
    is_latent,
    is_observed,
    num_batch_dims,
    plate_sizes,
)
from dtda_prob.typing import Weights

Choice = str | Sequence[str] | None
"""A plate, an observed site, or a list of them; None where there is one way."""


Described = tuple[Distribution, Any, int]
"""A site's distribution, its observation (None if latent) and the dimension of examples."""


@dataclass(frozen=True)
class Layout:
    """The plates whose elements are the examples, and the sites whose rows are.

    A site without a plate is laid out: its leading axis becomes a plate of the site's own name.

    Attributes:
        starts: by plate, its first example; plates of one size share their examples.
        sizes: by plate, how many elements it has.
        sites: the plates that are sites.
    """

    starts: tuple[tuple[str, int], ...]
    sizes: tuple[tuple[str, int], ...]
    sites: tuple[str, ...]

    @property
    def size(self) -> int:
        """The number of examples."""
        return max(start + size for (_, start), (_, size) in zip(self.starts, self.sizes, strict=True))

    @property
    def plates(self) -> tuple[str, ...]:
        """The names of the plates."""
        return tuple(dict(self.starts))

    @property
    def title(self) -> str:
        """Where the examples lie, as in an error: `plate 'data'`."""
        kinds = [f"{'site' if name in self.sites else 'plate'} {name!r}" for name in self.plates]
        return " and ".join(kinds)

    @property
    def shares(self) -> bool:
        """Whether each plate holds all examples."""
        return all(size == self.size for _, size in self.sizes)

    def holds(self, site: Site) -> bool:
        """Return whether a site belongs to examples."""
        return "cond_indep_stack" in site and any(f.name in self.plates for f in frames(site))

    def plate(self, site: Site) -> str:
        """Return the plate of a site."""
        return next(frame.name for frame in frames(site) if frame.name in self.plates)

    def dim(self, site: Site) -> int:
        """Return the dimension of examples among a site's batch dimensions, a negative integer."""
        return next(frame.dim for frame in frames(site) if frame.name in self.plates)

    def rows(self, site: Site) -> tuple[int, int]:
        """Return the first example of a site, and how many it has."""
        name = self.plate(site)
        return dict(self.starts)[name], dict(self.sizes)[name]

    def describe(self, site: Site) -> Described:
        """Return what is read of a site."""
        return site["fn"], None if is_latent(site) else site["value"], self.dim(site)

    def local_axes(self, sites: Sites) -> dict[str, int]:
        """Return the axis over examples in the value of each latent site or parameter of examples.

        Batch dimensions lead, so that the axis counts from the left and is the same in unconstrained
        space, where events may have other dimensions.
        """
        local = {k: v for k, v in sites.items() if has_own_value(v) and self.holds(v)}
        return {name: num_batch_dims(site) + self.dim(site) for name, site in local.items()}

    def weights(self, site: Site, weights: Weights) -> Weights:
        """Return the weights of a site's examples."""
        start, size = self.rows(site)
        return weights[start : start + size]

    def count(self, sites: Sites) -> int:
        """Return the number of examples in a trace of the model, on other data."""
        return max(size for name, size in plate_sizes(sites).items() if name in self.plates)

    def trace(self, sites: Sites) -> Sites:
        """Return a trace with the sites laid out that are."""
        return {k: {**v, **lay(v)} if k in self.sites else v for k, v in sites.items()}


def as_choice(data: Any) -> Choice:
    """Return a plate, a site or a list of them as a choice that can be hashed.

    Raises:
        ValueError: if it is not made of names.
    """
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, list | tuple) and data and all(isinstance(name, str) for name in data):
        return tuple(data)
    raise ValueError(
        f"data must name plates or observed sites, and is a {type(data).__name__}; pass an argument of "
        "the model that is called `data` by position"
    )


class laid_out(Messenger):
    """Visit all examples, whatever `subsample_size` a plate has, and give sites without plate one.

    Which elements a batch visits is decided outside the model, by substituting the plate's indices.

    Args:
        fn: the model.
        layout: where the examples lie; None to visit all elements of every plate.
    """

    def __init__(self, fn: Callable | None = None, *, layout: Layout | None = None):
        super().__init__(fn)
        self.layout = layout

    def process_message(self, msg: Any) -> None:
        """Take all indices, before other handlers substitute theirs; lay out sites."""
        layout = self.layout
        if msg["type"] == "plate" and (layout is None or msg["name"] in layout.plates):
            size, _ = msg["args"]
            msg["args"], msg["value"] = (size, None), jnp.arange(size)
        elif msg["type"] == "sample" and layout is not None and msg["name"] in layout.sites:
            rest = remainder(msg)
            msg.update(lay(msg))
            if rest is not None:
                numpyro.factor(f"{msg['name']} as a whole", rest)


def lay(site: Site) -> dict[str, Any]:
    """Return the distribution and plates of a site whose leading axis is over examples."""
    fn = _of_rows(site["fn"], site["value"])
    if site["value"] is not None:
        shape = jnp.shape(site["value"])
        fn = fn.expand(jnp.broadcast_shapes(fn.batch_shape, shape[: len(shape) - fn.event_dim]))
    fn = fn if fn.batch_shape else fn.expand((1,))
    frame = CondIndepStackFrame(site["name"], -len(fn.batch_shape), fn.batch_shape[0])
    return {"fn": fn, "cond_indep_stack": [*frames(site), frame]}


def remainder(site: Site) -> Any:
    """Return what a normal vector's log density is beside its rows' densities given the others.

    With it, weights 1 give the joint density, and weight 0 of one row the density of the others.
    """
    if not is_normal_vector(site["fn"]) or is_latent(site):
        return None
    rows = _of_rows(site["fn"], site["value"]).log_prob(site["value"])
    return site["fn"].log_prob(site["value"]) - rows.sum()


def is_normal_vector(fn: Any) -> bool:
    """Return whether a distribution is one multivariate normal vector, whose rows are dependent."""
    return isinstance(base(fn), MultivariateNormal) and fn.batch_shape == ()


def _of_rows(fn: Any, value: Any) -> Any:
    """Return a distribution with an axis of rows where it has only an event, of the same joint density.

    A normal vector's rows are each given the others (Sundararajan and Keerthi, 2001): the precision's
    diagonal holds their precisions.
    """
    if is_normal_vector(fn):
        if value is None:
            return Normal(fn.mean, jnp.sqrt(fn.variance))
        tril: Any = getattr(base(fn), "scale_tril")  # noqa: B009
        root = jnp.linalg.inv(tril)
        variance = 1 / (root**2).sum(0)
        residual = root.T @ (root @ (value - fn.mean))
        return Normal(value - variance * residual, jnp.sqrt(variance))
    if isinstance(fn, Independent) and fn.batch_shape == ():
        inner = fn.base_dist
        return inner.to_event(len(inner.batch_shape) - 1) if len(inner.batch_shape) > 1 else inner
    return fn


def layout_of(sites: Sites, choice: Choice) -> Layout:
    """Return where the examples lie in the trace of a model.

    Args:
        sites: the trace.
        choice: plates or sites; None finds the plate "data", else the one plate that holds all
            observations, else the one observed site.

    Raises:
        ValueError: if nothing is found, there are several ways, or a choice holds no observation.
    """
    observed = {name: site for name, site in sites.items() if is_observed(site)}
    chosen = _found(sites, observed) if choice is None else choice
    names = [chosen] if isinstance(chosen, str) else [*chosen]
    sizes = {name: _size(sites, observed, name) for name in names}
    starts, after = {}, 0
    for size in dict.fromkeys(sizes.values()):
        starts |= {name: after for name in names if sizes[name] == size}
        after += size
    layout = Layout(
        tuple(starts.items()),
        tuple((name, sizes[name]) for name in starts),
        tuple(name for name in starts if name in observed),
    )
    _check_once(observed, layout)
    return layout


def _found(sites: Sites, observed: dict[str, Site]) -> str:
    """Return the plate or site of the examples where there is one way."""
    data = {name: site for name, site in observed.items() if not _is_factor(site)} or observed
    data = {name: site for name, site in data.items() if frames(site) or _shape(site)}
    if not data:
        told = f"observes one number at each of {[*observed]}" if observed else "observes nothing"
        raise ValueError(
            f"the model {told}, and no examples are found: pass the observations when binding, as in "
            "Program(model, x, y=y), with one row per example, and give each its own term of a "
            "numpyro.factor"
        )
    plates = {frame.name for site in observed.values() for frame in frames(site)}
    if "data" in plates:
        return "data"
    common = [p for p in plates if all(any(f.name == p for f in frames(s)) for s in data.values())]
    ways = sorted(common) or [*dict.fromkeys(_home(site) for site in data.values())]
    if len(ways) == 1:
        return ways[0]
    raise ValueError(
        f"the examples can lie in {_told(sites, data, ways)}; name the plate, the site, or a list of "
        f"them: data={ways[0]!r}"
    )


def _home(site: Site) -> str:
    return frames(site)[-1].name if frames(site) else site["name"]


def _told(sites: Sites, data: dict[str, Site], ways: list[str]) -> str:
    told = {name: f"site {name!r} of shape {_shape(site)}" for name, site in data.items()}
    told |= {name: f"plate {name!r} of {size}" for name, size in plate_sizes(sites).items()}
    return ", or ".join(told[name] for name in ways)


def _size(sites: Sites, observed: dict[str, Site], name: str) -> int:
    sizes = plate_sizes(sites)
    if name in sizes and any(f.name == name for site in observed.values() for f in frames(site)):
        return sizes[name]
    if name in sizes:
        raise ValueError(
            f"data={name!r}: the plate holds no observed site; pass the observations (obs=...) when "
            "binding. Where they lie in another plate and are indexed by this one, that other plate "
            "holds the examples: bind to it, and remove groups of its examples with dtda.groups"
        )
    if name not in observed:
        raise ValueError(
            f"data={name!r}: the model has no such plate and no such observed site; it has plates "
            f"{sorted(sizes)} and observed sites {[*observed]}"
        )
    return _num_rows(observed[name])


def _num_rows(site: Site) -> int:
    """Return the number of rows of a site that lies in no plate.

    Raises:
        ValueError: if its leading axis is not over examples.
    """
    name, shape = site["name"], _shape(site)
    laid = lay(site)
    fn, frame = laid["fn"], laid["cond_indep_stack"][-1]
    if any(each.dim == frame.dim for each in frames(site)):
        plate = next(each.name for each in frames(site) if each.dim == frame.dim)
        raise ValueError(f"data={name!r}: the site lies in plate {plate!r}; write data={plate!r}")
    if not _num_axes(site):
        raise MisfitError(
            f"site {name!r} of shape {shape} has one log density for all its elements "
            f"({type(base(fn)).__name__}), so that there are no examples to remove: give each its own, "
            f"as in `with numpyro.plate('data', n):`, or one term of a numpyro.factor to each"
        )
    return frame.size


def _check_once(observed: dict[str, Site], layout: Layout) -> None:
    for name, site in observed.items():
        inside = [frame.name for frame in frames(site) if frame.name in layout.plates]
        if len(inside) + (name in layout.sites) > 1:
            raise ValueError(
                f"data={[*layout.plates]}: site {name!r} lies in {inside}; name one of them"
            )


def _num_axes(site: Site) -> int:
    """Count the axes of a site's log density once its rows are laid out."""
    if _is_factor(site):
        return len(site["fn"].batch_shape)
    fn, shape = _of_rows(site["fn"], site["value"]), _shape(site)
    return max(len(fn.batch_shape), len(shape) - fn.event_dim)


def _shape(site: Site) -> tuple[int, ...]:
    return site["fn"].batch_shape if _is_factor(site) else jnp.shape(site["value"])


def _is_factor(site: Site) -> bool:
    return isinstance(base(site["fn"]), Unit)

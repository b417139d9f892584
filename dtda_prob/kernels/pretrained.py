"""Pretrained parameters: the start of training, a finished chain, or an ensemble."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from dtda_prob.compiling import compiled
from dtda_prob.kernels import finished, supports
from dtda_prob.kernels.kernel import Kernel, Masks, Phase, Sizes, Start, State, Step
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class pretrained(Phase):
    """Take parameters that exist: one model, a finished chain, or an ensemble of models.

    One model is a start: `sequence(pretrained(params), sgd(...))` fine-tunes it. Sites that are not
    named keep their initialisation, which is all the randomness that is left to the start. It takes no
    step, and no example moves it: `unroll` sees data in what comes after alone. A part stays as it is
    where the optimizer freezes it, as in the example; responses then leave it alone too.

    Several models are draws, and the kernel stands by itself: nothing is trained, and `importance`,
    `covariance`, `influence` and `newton` carry the draws to other data. Draws of chains are a sample
    of the posterior of temperature 1. Errors are taken between blocks of successive draws, up to 20 of
    at least 10 effective draws each, so that they count autocorrelation (batch means). Models of an
    ensemble are independent of each other.

    Args:
        params: for each site an array, or a tree of arrays, on the site's own support (a scale is
            positive). Chains are what NumPyro's `mcmc.get_samples()` gives, with one more axis (draw)
            or two (chain, draw), the `MCMC` itself, or ArviZ's tree; deterministic sites are passed
            over. States of BlackJAX are positions in unconstrained space. A list is an ensemble.
        posterior: whether several models are draws of the posterior of temperature 1, or an ensemble of
            independent trainings; if None chains are the former, and a list is the latter.
        unconstrained: whether values are in unconstrained space, as they are for BlackJAX.

    Raises:
        ValueError: in `Training`, where a site is unknown, or missing of several models, or a value of
            another shape or off its support, or chains are too short for errors.

    >>> import optax
    >>> from dtda_prob.kernels import sequence, sgd
    >>> frozen = optax.transforms.freeze({"weight0": True, "weight1": False})
    >>> head_only = sequence(
    ...     pretrained({"weight0": np.eye(3)}), sgd(optax.chain(optax.sgd(0.1), frozen), num_steps=10)
    ... )
    """

    params: Mapping[str, PyTree]
    posterior: bool | None = eqx.field(default=None, kw_only=True)
    unconstrained: bool = eqx.field(default=False, kw_only=True)

    def __init__(
        self, params: Any, *, posterior: bool | None = None, unconstrained: bool | None = None
    ):
        read = _read(params)
        self.params = read.values
        self.posterior = posterior if posterior is not None or read.is_chain else False
        self.unconstrained = read.unconstrained if unconstrained is None else unconstrained

    def bind(self, program: Program) -> Kernel:
        """Return several models as draws; one model as it is."""
        names = sorted(set(self.params) - set(supports.site_types(program)))
        if names:
            raise ValueError(
                f"pretrained: the program has no sites {names}, it has {sorted(program.shapes)}"
            )
        values = {name: value for name, value in self.params.items() if name in program.shapes}
        expected = jax.eval_shape(program.constrain, program.shapes)
        leading = _leading(values, expected)
        if not leading:
            return self
        if missing := sorted(set(expected) - set(values)):
            name, value = next(iter(values.items()))
            own, passed = (np.shape(jax.tree.leaves(each)[0]) for each in (expected[name], value))
            raise ValueError(
                f"pretrained: site {name!r} has shape {own}, the value passed {passed}: draws need "
                f"values of every site, and {missing} have none"
            )
        draws = _draws(self, values, program, leading)
        if self.posterior is False:
            return finished.ensemble(draws, math.prod(leading))
        return finished.chains(draws, math.prod(leading[:-1]), leading[-1])

    def init(self, previous: State, program: Program) -> Start:
        values = _in_space(self, dict(self.params), program, previous.params)
        return Start(previous.params | values)

    def step(self, key: PRNGKey, state: Start, program: Program, weights: Weights) -> Step:
        return state, program.objective(state.params, weights)

    @property
    def keeps_state(self) -> bool:
        """Return True: what is not passed stays as it is."""
        return True

    def count_steps(self, program: Program) -> int:
        return 0

    def step_sizes(self, program: Program) -> Sizes:
        return np.zeros(0)

    def moved(self, program: Program, before: Masks, num_steps: int) -> Masks:
        return before | jax.tree.map(np.zeros_like, {name: before[name] for name in self.params})

    def check_program(self, program: Program) -> None:
        """Compare names, trees and shapes with the program's, and values with their round trip."""
        start = program.shapes
        unknown = sorted(set(self.params) - set(start))
        if unknown:
            raise ValueError(f"pretrained: the program has no sites {unknown}, it has {sorted(start)}")
        expected = jax.eval_shape(program.constrain, start)
        for name, value in self.params.items():
            _check_shapes(name, value, expected[name])
        back = compiled(_round_trip)(self, program)
        for name, value in self.params.items():
            if not all(jax.tree.leaves(jax.tree.map(_same, value, back[name]))):
                raise ValueError(_outside(name))


class Read(NamedTuple):
    """What was passed: values by site, whether they are a chain, and in unconstrained space."""

    values: dict[str, Any]
    is_chain: bool = True
    unconstrained: bool = False


def _read(params: Any) -> Read:
    """Read parameters, chains of NumPyro, ArviZ and BlackJAX, and lists of models.

    Raises:
        TypeError: for anything else.
    """
    if hasattr(params, "get_samples"):
        return Read(dict(params.get_samples(group_by_chain=True)))
    if hasattr(params, "position"):
        return Read(dict(params.position), unconstrained=True)
    if hasattr(params, "children") and not hasattr(params, "posterior"):
        raise ValueError(f"pretrained: the tree has no group 'posterior', it has {[*params.children]}")
    group = getattr(params, "posterior", params)
    if hasattr(group, "data_vars"):
        chained = group.data_vars.items()
        return Read({str(name): each.transpose("chain", "draw", ...).values for name, each in chained})
    if isinstance(params, Mapping):
        return Read(dict(params))
    if isinstance(params, list | tuple) and params:
        return Read(jax.tree.map(lambda *leaves: np.stack(leaves), *map(dict, params)), is_chain=False)
    raise TypeError(
        f"pretrained: pass values by site, a finished chain (NumPyro's MCMC or its samples, ArviZ's "
        f"tree, BlackJAX's states), or a list of models; got {type(params).__name__}"
        f"{'' if params is None or np.size(params) else ' without elements'}"
    )


def _leading(values: dict[str, Any], expected: Params) -> tuple[int, ...]:
    """Return the extents of the axes that draws add to every site: none, (draw,) or (chain, draw)."""
    if not values or any(
        jax.tree.structure(value) != jax.tree.structure(expected[name])
        for name, value in values.items()
    ):
        return ()
    own = {name: expected[name] for name in values}
    pairs = zip(jax.tree.leaves(values), jax.tree.leaves(own), strict=True)
    found = {_added(np.shape(value), leaf.shape) for value, leaf in pairs}
    leading = found.pop() if len(found) == 1 else ()
    if len(leading) == 2 and leading[0] > leading[1]:
        warnings.warn(
            f"pretrained: {leading[0]} chains of {leading[1]} draws each; axes are (chain, draw), swap "
            "them where they are not",
            RuntimeWarning,
            stacklevel=4,
        )
    return leading


def _added(shape: tuple[int, ...], expected: tuple[int, ...]) -> tuple[int, ...]:
    more = len(shape) - len(expected)
    return shape[:more] if more in (1, 2) and shape[more:] == expected else ()


def _draws(kernel: pretrained, values: dict[str, Any], program: Program, leading: tuple) -> Params:
    """Return all draws in unconstrained space, one after the other.

    Raises:
        ValueError: where a value lies outside of its support.
    """
    count = math.prod(leading)
    flat = jax.tree.map(lambda leaf: np.reshape(leaf, (count, *np.shape(leaf)[len(leading) :])), values)
    draws, inside = compiled(_moved, quick=True)(kernel.unconstrained, flat, program)
    for name, each in jax.device_get(inside).items():
        if not each.all():
            raise ValueError(f"{_outside(name)}, for {int((~each).sum())} of {count} draws")
    return draws


def _moved(unconstrained: bool, values: dict[str, Any], program: Program) -> tuple[Params, Any]:
    start = program.init(jax.random.key(0))

    def one(values: dict[str, Any]) -> tuple[Params, Any]:
        cast = {name: jax.tree.map(_in_precision, start[name], value) for name, value in values.items()}
        moved = cast if unconstrained else supports.unconstrain(program, cast)
        finite = {
            name: jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(value)]).all()
            for name, value in moved.items()
        }
        return moved, finite

    return jax.vmap(one)(values)


def _in_space(kernel: pretrained, values: dict[str, Any], program: Program, like: Params) -> Params:
    """Map values to unconstrained space, in the precision of the parameters that they replace."""
    cast = {name: jax.tree.map(_in_precision, like[name], value) for name, value in values.items()}
    return cast if kernel.unconstrained else supports.unconstrain(program, cast)


def _outside(name: str) -> str:
    return f"pretrained: the value for site {name!r} is not inside the site's support"


def _in_precision(like: Array, value: Any) -> Array:
    return jnp.asarray(value, like.dtype)


def _round_trip(kernel: pretrained, program: Program) -> Params:
    start = program.init(jax.random.key(0))
    values = _in_space(kernel, dict(kernel.params), program, start)
    return values if kernel.unconstrained else program.constrain(start | values)


def _check_shapes(name: str, value: Any, expected: Any) -> None:
    if jax.tree.structure(value) != jax.tree.structure(expected):
        raise ValueError(
            f"pretrained: the value for site {name!r} is not a tree of arrays like the site's, whose "
            f"leaves are {_paths(expected)}; it has {_paths(value)}. Of a module pass its arrays "
            "alone: eqx.filter(module, eqx.is_array), or nnx.state(module)"
        )
    shapes, own = (jax.tree.map(np.shape, tree) for tree in (value, expected))
    if shapes != own:
        raise ValueError(f"pretrained: site {name!r} has shape {own}, the value passed {shapes}")


def _paths(tree: PyTree) -> list[str]:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]
    return paths[:8] + ["..."] * (len(paths) > 8)


def _same(value: Array, back: Array) -> bool:
    return bool(np.allclose(value, back, rtol=1e-3, atol=1e-5))

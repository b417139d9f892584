"""What identifies a program, a training or a push-forward, as text and numbers that JSON can hold."""

import inspect
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions.distribution import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)

from dtda_prob import kernels
from dtda_prob.program import Program
from dtda_prob.program.plates import Site
from dtda_prob.studies.digests import of_array, of_function, of_labels
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.push_forward import At
from dtda_prob.typing import Params, PRNGKey, Weights

PACKAGES = ("dtda_prob", "jax", "jaxlib", "numpyro", "optax", "blackjax", "numpy")
"""Packages whose change may change the bits of a draw."""
DEVICES = re.compile(r"--xla_force_host_platform_device_count=\d+")


def of_program(program: Program) -> dict[str, Any]:
    """Return what identifies a program: its model, its data and its objective.

    Costs a few traces of the model and a pass over the data; nothing is compiled.

    Returns:
        Its `model`, `plate`, `settings` and `rows`; by argument of the model, `data` (precision and
        shape) and `values` (digests, and Python's numbers as they are); by site, `sites` (what it is
        sampled from) and `shapes`; digests of `labels`, of the rows `beside` the data, of `objective`
        and of `init`.
    """
    key, params, weights = _abstract(program)
    leaves, sites = _data(program), _sites(program)
    return {
        "model": getattr(program.model, "__qualname__", type(program.model).__qualname__),
        "plate": program.layout.title,
        "settings": [f"{setting.name} {setting.shape}" for setting in program.settings],
        "data": {name: _kind(leaf) for name, leaf in leaves.items()},
        "values": {name: _value(leaf) for name, leaf in leaves.items()},
        "labels": of_labels(program.labels),
        "rows": {"num_data": program.num_data, "num_rows": program.num_rows},
        "beside": of_array(np.stack([program.initial_weights[: program.num_data], program.slots])),
        "sites": {name: _origin(site) for name, (site, _) in sites.items()},
        "shapes": {name: str(shape) for name, (_, shape) in sites.items()},
        "objective": of_function(_objective, params, weights, modules=(program,)),
        "init": of_function(_init, key, modules=(program,)),
    }


def of_source(source: Training | PushForward) -> dict[str, Any]:
    """Return what identifies a training, or a push-forward with its training, apart from the program.

    Costs a trace of training and of the push (or of the pull, where there is no push), once for sources
    of one structure; nothing is compiled. The push of `importance` holds its population, whose bits
    differ on other devices.

    Returns:
        Its `transform`; its `measure` (name, number of queries); the settings of the `kernel`;
        digests of the labels of the `queries`, of what is observed (`observe`), of the `training` as it
        runs on the program, and of `push` and the weights `at` which it is expanded, where that is no
        word. `at` and `push` are None where the source is a training.
    """
    training = source if isinstance(source, Training) else source.training
    program, kernel, measure = training.program, training.kernel, training.measure
    key, params, weights = _abstract(program)

    is_training = isinstance(source, Training)
    return {
        "transform": "training" if is_training else source.name,
        "at": None if is_training else _word(source.at),
        "measure": {"name": measure.name, "num_queries": len(measure.queries)},
        "queries": of_labels(measure.queries),
        "observe": of_function(_observe, params, modules=(training,)),
        "kernel": _kernel(kernel, program),
        "training": of_function(_run, key, weights, modules=(kernel, program)),
        "push": None if is_training else _push(source, key, weights),
    }


def surroundings() -> dict[str, str]:
    """Return the settings of JAX that make other draws of the same keys."""
    partitionable = jax.config.jax_threefry_partitionable
    return {
        "precision": str(jnp.result_type(float)),
        "random": "threefry" if partitionable else "threefry, JAX_THREEFRY_PARTITIONABLE=0",
    }


def versions() -> dict[str, str]:
    """Return what may change the bits of a draw and is no part of a study."""
    device = jax.devices()[0]
    flags = " ".join(DEVICES.sub("", os.environ.get("XLA_FLAGS", "")).split())
    return {name: version(name) for name in PACKAGES} | {
        "platform": jax.default_backend(),
        "device": device.device_kind,
        "processor": _processor(),
        "XLA_FLAGS": flags or "none",
        "matmul precision": str(jax.config.jax_default_matmul_precision),
    }


def _processor() -> str:
    """Return the model of the processor."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    return model[1] if model else platform.processor() or platform.machine()


def _abstract(program: Program) -> tuple[PRNGKey, Any, Any]:
    """Return a key, and the shapes of the parameters and the weights."""
    key = jax.random.key(0, impl="threefry2x32")
    weights = jax.ShapeDtypeStruct(program.initial_weights.shape, jnp.result_type(float))
    return key, jax.eval_shape(program.init, key), weights


def _data(program: Program) -> dict[str, Any]:
    bound = inspect.signature(program.model).bind(*program.args, **program.kwargs)
    return _by_path(dict(bound.arguments))


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype} of shape {leaf.shape}" if _is_array(leaf) else type(leaf).__qualname__


def _value(leaf: Any) -> str:
    """Return the digest of an array, the value of a number or a text, the name of anything else."""
    if _is_array(leaf):
        return of_array(leaf)
    if isinstance(leaf, bool | int | float | complex | str):
        return repr(leaf)
    return getattr(leaf, "__qualname__", type(leaf).__qualname__)


def _sites(program: Program) -> dict[str, tuple[Site, tuple[int, ...]]]:
    """Return each site and its shape, a tree of parameters leaf by leaf, without running the model."""
    found = {}

    def trace(key: PRNGKey) -> None:
        model = handlers.seed(program.joint, key)
        for name, site in handlers.trace(model).get_trace(*program.args, **program.kwargs).items():
            if site["type"] in ("sample", "param"):
                leaves = _by_path({name: site["value"]})
                found.update({path: (site, jnp.shape(leaf)) for path, leaf in leaves.items()})

    jax.eval_shape(trace, _abstract(program)[0])
    return found


def _origin(site: Site) -> str:
    if site["type"] == "param":
        return "a parameter"
    observed = "observed" if site["is_observed"] else "latent"
    return f"{observed} {_family(site['fn'])}"


def _family(fn: Distribution) -> str:
    while isinstance(fn, ExpandedDistribution | Independent | MaskedDistribution):
        fn = fn.base_dist
    return type(fn).__name__


def _kernel(kernel: kernels.Kernel, program: Program) -> dict[str, Any]:
    return {
        "num_phases": len(kernel.phases),
        "num_steps": [phase.count_steps(program) for phase in kernel.phases],
        "temperature": [phase.temperature for phase in kernel.phases],
        "num_states": kernel.num_states,
        "thinning": kernel.thinning,
    }


def _push(source: PushForward, key: PRNGKey, weights: Any) -> str:
    try:
        return of_function(_pushed, key, weights, weights, modules=(source,))
    except NotImplementedError:
        return of_function(_pulled, key, weights, modules=(source,))


def _objective(program: Program, params: Params, weights: Weights) -> Any:
    return program.objective(params, weights)


def _init(program: Program, key: PRNGKey) -> Params:
    return program.init(key)


def _observe(training: Training, params: Params) -> Any:
    return training.observe(params)


def _run(kernel: kernels.Kernel, program: Program, key: PRNGKey, weights: Weights) -> Any:
    return kernel.run(key, program, weights)


def _pushed(source: PushForward, key: PRNGKey, old: Weights, new: Weights) -> Any:
    return source.push(key, old, new)


def _pulled(source: PushForward, key: PRNGKey, weights: Weights) -> Any:
    return source.pull(key, weights)


def _word(at: At | None) -> str | None:
    return at if at is None or isinstance(at, str) else of_array(jnp.asarray(at))

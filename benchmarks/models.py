"""Bind models of the kinds that people publish, and compare weight 0 with deleted rows in NumPyro.

Run with `uv run python benchmarks/models.py` (ten minutes on two cores); names of models after it
restrict it to these. Every model is written for this catalogue with small synthetic data, after the
examples and tutorials of NumPyro, the galleries of PyMC and Stan, and posteriordb.
"""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from catalogue import MODELS, Entry
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import potential_energy
from page import write

import dtda_prob as dtda
from dtda_prob.program.enumeration import enumerated
from dtda_prob.program.layout import laid_out

SEED = 0
POINTS = 2


def models() -> pd.DataFrame:
    """Bind each model as it stands; compare its log density at weight 0 with NumPyro's on deleted rows.

    `data` says where the examples lie, empty where `Program` finds them; `seconds` the processor
    time of binding; `difference` the largest absolute difference of the log densities, of the first,
    the middle and the last example at two points, relative to the log density at least 1. Where a row
    cannot be deleted, since later observations are given it, the log density of all rows is compared.
    """
    chosen = sys.argv[1:] or [*MODELS]
    return pd.DataFrame([row(name, MODELS[name]) for name in chosen]).set_index("model")


def row(name: str, entry: Entry) -> dict[str, Any]:
    """Bind a model, or note the sentence that refuses it."""
    told = {} if entry.data is None else {"data": entry.data}
    known = {"model": name, "kind": entry.kind, "data": entry.data or ""}
    start = time.process_time()
    try:
        program = dtda.Program(entry.model, *entry.args, **told)
    except Exception as error:
        expected = bool(entry.refused) and entry.refused in str(error)
        return known | {"outcome": "refused" if expected else f"FAILED: {error}"}
    seconds = time.process_time() - start
    try:
        difference = largest_difference(entry, program)
    except Exception as error:
        return known | {"outcome": f"bound; NumPyro failed: {str(error).splitlines()[0]}"}
    return known | {
        "outcome": "bound, though it should be refused" if entry.refused else "bound",
        "examples": program.num_data,
        "seconds": seconds,
        "difference": difference,
    }


def largest_difference(entry: Entry, program: dtda.Program) -> float:
    """Compare log densities at two points and three examples."""
    differences = []
    objective = jax.jit(program.objective)
    for seed in range(POINTS):
        params = program.init(jax.random.key(seed))
        for weights, args, left in datasets(entry, program):
            ours = -program.num_rows * objective(params, weights)
            if left is not None:
                ours = ours - local_prior(program, params, left)
            theirs = log_density(program, args, without(program, params, left))
            differences.append(abs(ours - theirs) / max(1.0, abs(theirs)))
    return float(max(differences))


def datasets(entry: Entry, program: dtda.Program) -> list[tuple[Any, tuple, int | None]]:
    """Return weights, the data without the row of weight 0, and its position."""
    ones, size = jnp.ones(program.num_data), program.num_data
    if entry.delete is None:
        return [(ones, entry.args, None)]
    return [(ones.at[i].set(0.0), entry.delete(entry.args, i), i) for i in (0, size // 2, size - 1)]


def without(program: dtda.Program, params: Any, left: int | None) -> Any:
    """Return the parameters without an example's own."""
    if left is None:
        return params
    own = {name: np.delete(params[name], left, axis) for name, axis in program.local.items()}
    return params | own


def local_prior(program: dtda.Program, params: Any, left: int) -> Any:
    """Compute the log density of an example's own latent sites, which keep their prior at weight 0."""
    if not program.local:
        return 0.0
    everything = handlers.substitute(handlers.seed(program.joint, 0), data=program.constrain(params))
    sites = handlers.trace(everything).get_trace(*program.args, **program.kwargs)
    return sum(_of_row(program, sites[name], params[name], left) for name in program.local)


def _of_row(program: dtda.Program, site: Any, free: Any, left: int) -> Any:
    """Compute the log density of one row of a site, in unconstrained space."""
    fn, axis = site["fn"], program.local[site["name"]]
    to_support = biject_to(fn.support)
    density = fn.log_prob(site["value"])
    jacobian = to_support.log_abs_det_jacobian(free, to_support(free))
    extra = jnp.ndim(jacobian) - jnp.ndim(density)
    jacobian = jacobian.sum(tuple(range(-extra, 0))) if extra > 0 else jacobian
    return jnp.take(density + jacobian, left, axis).sum()


def log_density(program: dtda.Program, args: tuple, params: Any) -> float:
    """Return NumPyro's own log density, all elements of subsampled plates visited."""
    structure = program.structure
    summed = bool(structure.shared or structure.discrete)
    args = jax.tree.map(jnp.asarray, args)
    model = handlers.seed(laid_out(program.model), 0)
    model = enumerated(model, structure.depth) if summed else model
    return -float(potential_energy(model, args, {}, params, enum=summed))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    write("models", "Models", __doc__, [models], SEED)

"""Draws that exist already: a finished chain, or an ensemble of trained models, as a kernel."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.diagnostics import effective_sample_size
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key

from dtda_prob.compiling import compiled
from dtda_prob.kernels.kernel import Phase, Run, Sizes, Start, State, Step, no_step_size
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

MOST_BLOCKS = 20
"""Blocks that the draws of chains are cut into, at most: errors then have 19 degrees of freedom."""
LEAST_EFFECTIVE = 10
"""Effective draws of a block, at least, so that blocks are about independent."""


class finished(Phase):
    """Return draws that exist; `kernels.pretrained` makes it when it is bound to a program.

    A run is one model of an ensemble, or a block of successive draws of a chain. There are up to 20
    blocks, each long enough to hold 10 effective draws, so that errors between blocks count the
    autocorrelation of the chain (batch means).

    Attributes:
        params: draws in unconstrained space, with axes `(run, state, ...)`.
        num_effective: the effective number of draws, averaged over parameters.
        num_there: number of runs.
        block: draws of a run.
        posterior: whether they are draws from the posterior of temperature 1.
    """

    params: Params
    num_effective: int
    num_there: int
    block: int
    posterior: bool

    @property
    def num_states(self) -> int:
        """Return the number of draws of a block."""
        return self.block

    @property
    def num_runs(self) -> int:
        """Return the number of blocks, or of models."""
        return self.num_there

    @property
    def temperature(self) -> float | None:
        """Return 1 for a posterior, None for an ensemble."""
        return 1.0 if self.posterior else None

    @property
    def not_differentiable(self) -> str:
        """Return why draws that exist have no derivative."""
        return "draws that exist do not follow the weights"

    def keys(self, key: PRNGKey, runs: Int[Array, " run"] | np.ndarray) -> Key[Array, " run"]:
        """Return keys that name the runs, whatever the key."""
        return jax.vmap(lambda run: jax.random.key(run, impl="threefry2x32"))(jnp.asarray(runs))

    def run(
        self, key: PRNGKey, program: Program, weights: Weights, params: Params | None = None
    ) -> Run:
        """Return the run that the key names; see `keys`."""
        place = jax.random.key_data(key)[-1] % self.num_there
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[place], self.params)
        return Run(params, jnp.zeros((self.block, 0)), {})

    def check(self, program: Program) -> None:
        """Raise if rows are dropped, or settings vary that are no arguments of the model."""
        if program.num_rows < program.num_data:
            raise ValueError(
                "draws that exist belong to all rows, of which none can be dropped; remove examples by "
                "removal='reweight'"
            )
        if program.hyperparameters:
            raise ValueError(f"settings {program.hyperparameters} vary, and nothing is trained by them")

    def init(self, previous: State, program: Program) -> Start:
        raise ValueError("draws that exist are no phase of a training; use the kernel by itself")

    def step(self, key: PRNGKey, state: Start, program: Program, weights: Weights) -> Step:
        raise ValueError("draws that exist take no step")

    def count_steps(self, program: Program) -> int:
        return 0

    def step_sizes(self, program: Program) -> Sizes:
        raise no_step_size("draws that exist have none")


def ensemble(params: Params, num_models: int) -> finished:
    """Return trained models as a kernel, from their parameters `(model, ...)`."""
    params = jax.tree.map(lambda leaf: leaf[:, None], params)
    return finished(params, num_models, num_models, 1, posterior=False)


def chains(params: Params, num_chains: int, num_draws: int) -> finished:
    """Return chains as a kernel, from their parameters, draw after draw and chain after chain.

    Raises:
        ValueError: if they cannot be cut into three blocks of one length.
    """
    each = np.asarray(compiled(_effective, quick=True)(params, num_chains))
    usable = each[np.isfinite(each) & (each > 0)]
    total = num_chains * num_draws
    least, mean = (usable.min(), usable.mean()) if usable.size else (total, total)
    wanted = min(MOST_BLOCKS, max(3, int(least) // LEAST_EFFECTIVE))
    block = _length(num_draws, max(1, wanted // num_chains))
    blocks = total // block
    if blocks < 3:
        raise ValueError(
            f"pretrained: {num_draws} draws of {num_chains} chains, with an effective number of "
            f"{least:.0f}, do not divide into three or more blocks of one length, between which errors "
            "could be taken; give more chains, or so many draws that their number has divisors"
        )
    params = jax.tree.map(lambda leaf: leaf.reshape(blocks, block, *leaf.shape[1:]), params)
    return finished(params, min(total, math.ceil(mean)), blocks, block, posterior=True)


def _length(num_draws: int, num_blocks: int) -> int:
    """Return the length of at most so many equal blocks that make up a chain."""
    return num_draws // max(n for n in range(1, num_blocks + 1) if num_draws % n == 0)


def _effective(params: Params, num_chains: int) -> Float[Array, " parameter"]:
    rows = jax.vmap(lambda one: ravel_pytree(one)[0])(params)
    return jnp.atleast_1d(effective_sample_size(rows.reshape(num_chains, -1, rows.shape[-1])))

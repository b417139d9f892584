"""Every kind of kernel, with the traits by which laws select it.

A new kernel is added here, and is then tested by the laws of `test_kernels`, by those of `test_laws`
where it is `basic`, and by `test_pairs` where it has a `row` in the table of docs/kernels.md.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from numpyro.infer.autoguide import AutoDelta, AutoNormal

from dtda_prob import kernels
from dtda_prob.kernels import Kernel
from dtda_prob.kernels.finished import finished
from dtda_prob.measures import function

RESTARTS = [
    {"init_value": 0.0, "peak_value": 0.1, "decay_steps": 4, "warmup_steps": 1, "end_value": 0.01}
] * 2


class Case(NamedTuple):
    """A kernel for 12 examples and the sites of `tables.regression`.

    Attributes:
        kernel: the kernel.
        row: its row in the table of docs/kernels.md.
        basic: compiles fast, and has laws of its own in `test_laws`.
        rows: visits rows in a way of its own.
        random: another key gives another outcome.
        smooth: finite differences agree with its derivative to five digits.
        weighted: its outcome depends on the weights.
        temperature: of the posterior that it draws from.
        num_states: draws of each run.
        alike: its steps and their derivative are those of another case, of other numbers, or have
            tests of their own.
    """

    kernel: Kernel
    row: str = ""
    basic: bool = False
    rows: bool = False
    random: bool = True
    smooth: bool = True
    weighted: bool = True
    temperature: float | None = None
    num_states: int = 1
    alike: bool = False


def _descent(optimizer, num_steps: int = 8) -> Kernel:
    return kernels.sgd(optimizer, num_steps=num_steps, batch_size=4)


def _accumulated(num_steps: int) -> optax.MultiSteps:
    precision = jnp.result_type(float)
    return optax.MultiSteps(optax.adam(0.05), every_k_schedule=2, accumulator_dtype=precision)


def _clipped(num_steps: int) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.1, num_steps // 4, num_steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))


def missed(sites):
    """A measure for early stopping, lowest some steps before the end."""
    return ((sites["slopes"] - jnp.array([1.4, -0.8, 0.5])) ** 2).sum()


DESCENT = _descent(optax.sgd(0.05))
ADAM = optax.adam(0.05)
CHAIN = finished({"slopes": np.linspace(-1, 1, 90).reshape(6, 5, 3)}, 30, 6, 5, posterior=True)
PRETRAINED = kernels.pretrained({"slopes": np.arange(3.0)})
SGLD = kernels.sgld(1e-3, num_steps=4, batch_size=4)

CASES: dict[str, Case] = {
    "sgd by epoch": Case(
        kernels.sgd(optax.sgd(0.05, momentum=0.9), num_epochs=3, batch_size=4), basic=True, rows=True
    ),
    "sgd by independent batches": Case(
        kernels.sgd(optax.sgd(0.05), num_steps=7, batch_size=4, replace=True),
        basic=True,
        rows=True,
    ),
    "adam on all data": Case(kernels.sgd(ADAM, num_steps=9), basic=True, rows=True),
    "phases": Case(
        kernels.sequence(
            kernels.sgd(optax.sgd(0.05), num_epochs=2, batch_size=4),
            kernels.sgd(optax.sgd(0.01), num_steps=3),
        ),
        "`sequence`",
        basic=True,
    ),
    "exact": Case(kernels.exact(), "`exact`", basic=True, rows=True, temperature=1.0),
    "exact mode": Case(kernels.exact(temperature=0.0), basic=True, random=False, temperature=0.0),
    "descent": Case(DESCENT, "`sgd`, multiples of gradients", alike=True),
    "adamw, clipped, warmed up": Case(_descent(_clipped), "`sgd`, others (Adam, clipping)"),
    "adam with restarts": Case(_descent(optax.adam(optax.sgdr_schedule(RESTARTS))), alike=True),
    "accumulated": Case(_descent(_accumulated), alike=True),
    "lbfgs": Case(kernels.lbfgs(solve="conjugate_gradient"), "`lbfgs`", random=False, alike=True),
    "laplace": Case(kernels.laplace(temperature=0.5), "`laplace`", temperature=0.5),
    "pretrained alone": Case(PRETRAINED, "`pretrained` alone", random=False, weighted=False),
    "finished chain": Case(
        CHAIN, "`pretrained`, chains", weighted=False, temperature=1.0, num_states=5
    ),
    "pretrained": Case(kernels.sequence(PRETRAINED, DESCENT), "`pretrained`, then `sgd`", alike=True),
    "average": Case(kernels.average(DESCENT, decay=0.8), "`average`"),
    "best": Case(kernels.best(DESCENT, function(missed), every=2), "`best`", alike=True),
    "late average": Case(kernels.average(DESCENT, share=0.5), alike=True),
    "in precision": Case(kernels.in_precision(DESCENT), "`in_precision`", smooth=False),
    "variational": Case(
        kernels.svi(AutoNormal, ADAM, num_steps=8, batch_size=4), "`svi`", temperature=1.0
    ),
    "point guide": Case(
        kernels.svi(AutoDelta, ADAM, num_steps=4, batch_size=4), "`svi`, a point guide", alike=True
    ),
    "sgld": Case(SGLD, "`sgld`", temperature=1.0),
    "preconditioned sgld": Case(
        kernels.sgld(1e-3, num_steps=4, rms_decay=0.9), "`sgld`, preconditioned", temperature=1.0
    ),
    "sghmc": Case(
        kernels.sghmc(1e-3, num_steps=4, num_integration_steps=2), "`sghmc`", temperature=1.0
    ),
    "sgnht": Case(kernels.sgnht(1e-3, num_steps=4), "`sgnht`", temperature=1.0, alike=True),
    "nuts": Case(
        kernels.nuts(num_warmup=20, num_samples=5),
        "`nuts`",
        smooth=False,
        temperature=1.0,
        num_states=5,
    ),
    "nuts, one state": Case(
        kernels.nuts(num_warmup=20, num_samples=1), "`nuts`, one state", smooth=False, temperature=1.0
    ),
    "hmc": Case(
        kernels.hmc(num_warmup=20, num_samples=5, num_integration_steps=2),
        "`hmc`",
        smooth=False,
        temperature=1.0,
        num_states=5,
    ),
    "late descent": Case(kernels.keep(DESCENT, 3), "`keep` of `sgd`", num_states=3),
    "late sgld": Case(kernels.keep(SGLD, 3), "`keep` of `sgld`", temperature=1.0, num_states=3),
    "truncated": Case(kernels.truncate(SGLD, 0.5), "`truncate`", alike=True),
}

"""Every transform that moves draws, with the traits by which laws select it.

A new transform is added here, and is then tested by the laws of `test_laws`; `test_pairs` has its own
table of transforms, one for each column of docs/kernels.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import optax

import dtda_prob as dtda
from dtda_prob.transforms import PushForward


class Case(NamedTuple):
    """A transform.

    Attributes:
        make: from a training, and the options `at` and `space` where it is linear, to the transform.
        linear: its push is linear in the new weights.
        any_kernel: it goes with any kernel that has a derivative; others need steps of gradients.
        curved: it takes a curvature, and is tested where the Hessian is not the Gauss-Newton matrix.
        alike: its push and its pull are those of another case, of other numbers, or have tests of
            their own.
    """

    make: Callable[..., PushForward]
    linear: bool = True
    any_kernel: bool = False
    curved: bool = False
    alike: bool = False


def _influence(curvature: dtda.curvature.Curvature) -> Callable[..., PushForward]:
    return lambda training, **options: dtda.influence(training, curvature, **options)


def _unroll_gauss_newton(training: dtda.Training, **options) -> PushForward:
    return dtda.unroll(training, matrix="gauss_newton", **options)


def _segments(training: dtda.Training, **options) -> PushForward:
    return dtda.segments(training, dtda.curvature.gram(), num_segments=2, **options)


def _trajectory(training: dtda.Training, **options) -> PushForward:
    return dtda.trajectory(training, num_checkpoints=2, **options)


def _covariance(training: dtda.Training, **options) -> PushForward:
    return dtda.covariance(training, step_size=1e-3, num_samples=20, num_warmup=5, **options)


def _newton(training: dtda.Training) -> PushForward:
    return dtda.newton(training, dtda.curvature.dense(damping=0.1), num_steps=2)


def _finetune(training: dtda.Training) -> PushForward:
    return dtda.finetune(training, dtda.kernels.sgd(optax.sgd(0.05), num_epochs=2, batch_size=4))


CASES = {
    "unroll": Case(dtda.unroll, any_kernel=True, alike=True),
    "unroll by Gauss-Newton steps": Case(_unroll_gauss_newton, alike=True),
    "influence by dense Hessian": Case(dtda.influence, any_kernel=True, alike=True),
    "influence by damped Hessian": Case(_influence(dtda.curvature.dense(damping=0.1)), curved=True),
    "segments": Case(_segments, curved=True),
    "trajectory": Case(_trajectory),
    "covariance": Case(_covariance),
    "influence by Kronecker factors": Case(
        _influence(dtda.curvature.kronecker(damping=0.1)), alike=True
    ),
    "newton": Case(_newton, linear=False, curved=True),
    "finetune": Case(_finetune, linear=False),
}
SPACES = ("outputs", "parameters", "measurement")

"""Perturbations of inputs, priors and hyper-parameters, as further weights."""

from typing import Any

import numpy as np
import xarray as xr

from dtda_prob.perturbations.weights import labelled
from dtda_prob.program import Program


def vary(program: Program, *names: str) -> Program:
    """Return the program whose weights hold settings beside the examples.

    The new program's vector of weights holds, behind the weights of examples, one number for each
    number of each setting: what is added to an argument of the model (an input, the scale of a prior),
    or the relative change of a hyper-parameter of the kernel. It is 0 where nothing changes. `pull`
    then has columns for them too, of which `part` takes one setting's; `changed` makes perturbations,
    which every transform predicts and retraining checks.

    Args:
        program: the model and its data.
        *names: arguments of the model that are made of floats, or hyper-parameters: "learning_rate" of
            `kernels.sgd`, "step_size" of Langevin dynamics, and whatever
            `optax.inject_hyperparams` makes constant, such as "weight_decay".

    Raises:
        ValueError: if none is named, one twice, an argument is not made of floats, or settings vary
            already; in `Training`, if a name is neither an argument nor a hyper-parameter.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> def model(x, y, prior):
    ...     slope = numpyro.sample("slope", dist.Normal(0.0, prior))
    ...     with numpyro.plate("data", len(x)) as i:
    ...         numpyro.sample("y", dist.Normal(slope * x[i], 1.0), obs=y[i])
    >>> program = vary(Program(model, jnp.arange(3.0), jnp.ones(3), prior=2.0), "x", "prior")
    >>> changed(program, prior=2.5).values
    array([1. , 1. , 1. , 0. , 0. , 0. , 0.5])
    """
    return program.vary(names)


def changed(program: Program, **values: Any) -> xr.DataArray:
    """Return the weights at other values of settings, with the data as they are.

    Args:
        program: one whose settings `vary`.
        **values: new values of arguments of the model; factors of hyper-parameters, so that
            `learning_rate=1.1` is ten per cent more.

    Raises:
        ValueError: if a setting does not vary, or a value has another shape or is not finite.
    """
    settings = {setting.name: setting for setting in program.settings}
    unknown = sorted(set(values) - set(settings))
    if unknown or not values:
        raise ValueError(
            f"values names {unknown or 'nothing'}; the settings that vary are {[*settings]}"
        )
    weights = program.initial_weights.copy()
    for name, value in values.items():
        setting, value = settings[name], np.asarray(value, float)
        if value.shape != setting.shape or not np.isfinite(value).all():
            raise ValueError(
                f"{name} must be finite and have shape {setting.shape}; got shape {value.shape}"
            )
        old = np.asarray(program.arguments.arguments[name], float) if setting.is_argument else 1.0
        weights[setting.start : setting.stop] = (value - old).ravel()
    return labelled(program, weights, "reweight")


def part(program: Program, array: Any, name: str) -> Any:
    """Return the columns of a setting in an array whose last axis is over all weights.

    Args:
        program: one whose settings `vary`.
        array: such as a response, `(query, example)`.
        name: of the setting.

    Returns:
        An array with the setting's own axes for the last one: `(query, example, feature)` for inputs.

    Raises:
        ValueError: if the setting does not vary.
    """
    for setting in program.settings:
        if setting.name == name:
            return setting.of(array)
    raise ValueError(f"name={name!r}: the settings that vary are {[s.name for s in program.settings]}")

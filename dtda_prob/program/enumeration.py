"""Enumeration of discrete latent sites by NumPyro, with funsor."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.primitives import Messenger

from dtda_prob.program.discrete import Discrete


def enumerated(model: Callable, depth: int) -> Callable:
    """Return a seeded model whose discrete sites NumPyro enumerates, for `potential_energy(enum=True)`.

    Args:
        model: the model.
        depth: the number of dimensions that plates take.

    Raises:
        ImportError: if funsor is not installed.
    """
    try:
        from numpyro.contrib.funsor import config_enumerate, enum
    except ImportError as error:
        raise ImportError(
            "discrete latent sites that examples share, or that lie in other plates than the "
            "observations, are summed out with funsor, which is missing: "
            "pip install 'dtda_prob[enum]'; or marginalise them, as with a mixture distribution"
        ) from error
    return enum(config_enumerate(model), first_available_dim=-1 - depth)


def log_marginals(
    model: Callable, args: tuple, kwargs: dict, discrete: Discrete
) -> Float[Array, " example"]:
    """Compute log sum_z p(z_i) p(y_i | z_i) of each example i, over all its discrete sites and plates.

    NumPyro's joint density is this summed over examples; it is not where their plate is kept open.

    Args:
        model: the model, seeded and with values for its other sites.
        args: its arguments.
        kwargs: its keyword arguments.
        discrete: its discrete latent sites and the observations beside them.
    """
    kept = (*dict(discrete.sizes), *discrete.observed)
    alone = handlers.block(model, hide_fn=lambda msg: not _is_kept(msg, kept))
    opened = enumerated(_Open(alone, discrete.plate), discrete.depth)
    import funsor
    import funsor.optimizer
    from numpyro.contrib.funsor import infer_util

    operations = funsor.ops.logaddexp, funsor.ops.add
    with handlers.block():
        lazy, *_ = infer_util._enum_log_density(
            opened, args, kwargs, {}, *operations, apply_optimizer=False
        )
    density = funsor.optimizer.apply_optimizer(lazy)
    return funsor.to_data(density, name_to_dim={discrete.plate: -1})


class _Open(Messenger):
    """Take a plate from the sites of a trace once the model has run, so that it is not summed over."""

    def __init__(self, fn: Callable, plate: str):
        super().__init__(fn)
        self.plate, self.stacks = plate, []

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "sample":
            self.stacks.append(msg["cond_indep_stack"])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = super().__call__(*args, **kwargs)
        for stack in self.stacks:
            stack[:] = [frame for frame in stack if frame.name != self.plate]
        return result


def _is_kept(msg: Mapping[str, Any], kept: tuple[str, ...]) -> bool:
    """Return whether a site is one of these, or a first step of them in a scan."""
    return msg["type"] != "sample" or msg["name"].replace("_PREV_", "") in kept

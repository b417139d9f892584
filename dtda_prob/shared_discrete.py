"""Discrete latent sites that data share: log sum_z p(z) prod_i p(y_i | z)^w_i, by NumPyro."""

from collections.abc import Callable

from dtda_prob.plates import Sites, in_plate, is_latent


def shared_sites(sites: Sites, plate: str) -> tuple[str, ...]:
    """Name the discrete latent sites outside a plate.

    Raises:
        NotImplementedError: if there are discrete sites inside the plate too.
    """
    discrete = {n: s for n, s in sites.items() if is_latent(s) and s["fn"].support.is_discrete}
    shared = tuple(name for name, site in discrete.items() if not in_plate(site, plate))
    if 0 < len(shared) < len(discrete):
        raise NotImplementedError(
            f"latent sites {[*discrete]} are discrete, and some are shared by data where others belong "
            "to one; marginalise one kind by hand, for instance with a mixture distribution"
        )
    return shared


def num_batch_dims(sites: Sites) -> int:
    """Count the dimensions that plates take, to the left of which sites may be enumerated."""
    return max(len(site["fn"].batch_shape) for site in sites.values() if site["type"] == "sample")


def enumerated(model: Callable, depth: int) -> Callable:
    """Let NumPyro enumerate the discrete sites of a seeded model, for `potential_energy(enum=True)`.

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
            "discrete latent sites that data share are summed out with funsor, which is missing: pip "
            "install 'dtda_prob[enum]'; or marginalise them, for instance with a mixture distribution"
        ) from error
    return enum(config_enumerate(model), first_available_dim=-1 - depth)


def refuse(shared: tuple[str, ...], what: str) -> None:
    """Refuse what is only defined datum by datum, where discrete sites are shared.

    Raises:
        NotImplementedError: if there are any.
    """
    if shared:
        raise NotImplementedError(
            f"{what}: data share the discrete latent sites {[*shared]}, so that the log density is no "
            "sum over data; train on all data at every step, measure with measures.parameters or "
            "measures.function, take retrain, unroll or influence with the Hessian, or marginalise by "
            "hand"
        )

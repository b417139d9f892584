"""A NumPyro model bound to its data, and the objective that training minimises."""

import copy
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.distribution import Distribution
from numpyro.infer import init_to_uniform
from numpyro.infer.util import compute_log_probs, constrain_fn, potential_energy

from dtda_prob.displays import Displayed
from dtda_prob.enumeration import check_exact, local_sizes, marginal
from dtda_prob.plates import (
    Indices,
    Site,
    Sites,
    describe,
    gather,
    is_latent,
    local_axes,
    observed_sites,
    plate_dim,
    plate_size,
    whole,
)
from dtda_prob.settings import Setting, lay_out, moved
from dtda_prob.shared_discrete import enumerated, num_batch_dims, refuse, shared_sites
from dtda_prob.typing import Params, PRNGKey, Weights
from dtda_prob.weighing import weigh


class Program(Displayed):
    """Bind a NumPyro model to its data.

    The objective is L(theta, w) = -(1/n) [ sum_i w_i log p(y_i | theta) + log prior(theta) ], with
    theta in unconstrained space (the prior is the density there, Jacobian included) and n =
    `num_rows`, the number of data however they are weighed. On a batch of B data out of the M that
    epochs choose from, the sum is estimated by M/B times the sum over the batch.

    Latent sites inside the plate belong to a datum. They are parameters like others, of which a batch
    sees its own; weights do not multiply their prior, so that removing a datum leaves them to it.
    Discrete ones are summed out: y_i has the density sum_z p(z) p(y_i | z, theta), exactly. Discrete
    sites that data share are summed out by NumPyro, with funsor: weights are then powers inside the
    sum, log sum_z p(z) prod_i p(y_i | z, theta)^w_i, and what is defined datum by datum is refused.

    Args:
        model: a NumPyro model with at least one observed site inside `plate`. To be trained on
            batches it must index its data by the plate's indices,
            `with numpyro.plate("data", len(x)) as i: ... x[i]`. All data are bound, whatever
            `subsample_size` the plate has: kernels choose batches.
        *args: the model's arguments, any pytrees.
        plate: name of the plate whose elements are the data.
        labels: one name per datum; by default their positions.
        init_strategy: where `numpyro.sample` sites start, one of NumPyro's strategies.
        **kwargs: the model's keyword arguments.

    Attributes:
        num_data: number of data N, the size of the plate.
        num_rows: number of data n that an epoch visits; less than N after `drop`.
        present: the weights of the data as they are: 1 each, and 0 for the rows that `relabel` and
            `add` put beside them.
        places: the place of each row in the order that an epoch visits: its own, and for a copy that
            of its original.
        labels: one name per weight: of each datum, and behind them of the numbers of settings.
        settings: what varies beside the data, see `dtda_prob.vary`; nothing, to begin with.
        observed: names of the observed sites inside the plate.
        local: for each latent site inside the plate, the axis of its value that runs over data.
        has_prior: whether anything but the data's observations enters the objective.
        derived: what other modules have worked out about the model and its data, by name; it does not
            depend on `num_rows`, and programs made by `drop` share it.

    Raises:
        ValueError: if the plate is missing or holds no observation, if labels do not fit, or if the
            log-likelihood is not finite at initialisation.
        NotImplementedError: for mutable state, and discrete latent sites that cannot be summed out.
        ImportError: if data share discrete latent sites and funsor is not installed.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model(x, y):
    ...     slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("data", len(x)) as i:
    ...         numpyro.sample("y", dist.Normal(slope * x[i], 1.0), obs=y[i])
    >>> Program(model, jnp.arange(3.0), jnp.ones(3)).num_data
    3
    """

    def __init__(
        self,
        model: Callable,
        *args: Any,
        plate: str = "data",
        labels: Sequence[Hashable] | np.ndarray | None = None,
        init_strategy: Callable = init_to_uniform,
        **kwargs: Any,
    ):
        self.model, self.plate = model, plate
        self.args, self.kwargs = jax.tree.map(_as_device_array, (args, kwargs))
        self._init_strategy = init_strategy if isinstance(init_strategy, partial) else init_strategy()
        self._precision: DTypeLike | None = None
        self._joint = whole(model, plate=plate)
        sites = self._trace(jax.random.key(0))
        self.num_data = self.num_rows = plate_size(sites, plate)
        self.present, self.places = np.ones(self.num_data), np.arange(self.num_data)
        self.observed = observed_sites(sites, plate)
        _check_state(sites)
        self._shared = shared_sites(sites, plate)
        self._depth = num_batch_dims(sites)
        self._model = self._sum_out(sites)
        axes = local_axes(sites, plate)
        self.local = {name: axis for name, axis in axes.items() if sites[name]["type"] == "sample"}
        self._local_params = {name: axis for name, axis in axes.items() if name not in self.local}
        self.has_prior = any(
            site["type"] == "sample" and not _is_summed(site) and name not in self.observed
            for name, site in sites.items()
        )
        self.derived: dict[str, Any] = {}
        self._param_transforms = {
            name: biject_to(site["kwargs"].get("constraint", constraints.real))
            for name, site in sites.items()
            if site["type"] == "param"
        }
        self.labels = _check_labels(labels, self.num_data)
        self.settings: tuple[Setting, ...] = ()
        self._check_finite()

    def facts(self) -> dict[str, object]:
        """Give what is shown of it."""
        shapes = jax.tree.leaves(jax.eval_shape(self.init, jax.random.key(0)))
        gone = f", {self.num_data - self.num_rows} of them dropped" * (self.num_rows < self.num_data)
        found: dict[str, object] = {
            "model": getattr(self.model, "__qualname__", type(self.model).__name__),
            "data": f"{self.num_data} in plate {self.plate!r}{gone}",
            "observed": ", ".join(self.observed),
            "parameters": sum(leaf.size for leaf in shapes),
            "prior": "yes" if self.has_prior else "none",
        }
        return found | ({"settings": ", ".join(s.name for s in self.settings)} if self.settings else {})

    def init(self, key: PRNGKey) -> Params:
        """Draw initial parameters, in unconstrained space."""
        sites = self._trace(key)
        latents = {k: v for k, v in sites.items() if is_latent(v) and not _is_summed(v)}
        return {
            **{k: biject_to(v["fn"].support).inv(v["value"]) for k, v in latents.items()},
            **{k: _map_param(t.inv, sites[k]["value"]) for k, t in self._param_transforms.items()},
        }

    def objective(
        self,
        params: Params,
        weights: Weights,
        indices: Indices | None = None,
        key: PRNGKey | None = None,
    ) -> Float[Array, ""]:
        """Evaluate L(theta, w), or its estimate from a batch.

        Args:
            params: parameters in unconstrained space.
            weights: one per datum.
            indices: positions of a batch; all data if None.
            key: randomness for models that ask for it with `numpyro.prng_key()`; a fixed key if
                None.
        """
        program, rows = self.at(weights)
        if self._precision is None:
            return program._objective(params, rows, indices, key)
        rounded = jax.tree.map(partial(_cast, self._precision), params)
        return program._objective(rounded, rows, indices, key).astype(weights.dtype)

    def _objective(
        self, params: Params, weights: Weights, indices: Indices | None, key: PRNGKey | None
    ) -> Float[Array, ""]:
        model = handlers.seed(self.weighed(weights, indices), _key_or_default(key))
        params = params if indices is None else self._at(params, indices)
        if self._shared:
            model = enumerated(model, self._depth)
        potential = potential_energy(
            model, self.args, self.kwargs, self._constrain_params(params), enum=bool(self._shared)
        )
        return potential / self.num_rows

    def losses(self, params: Params) -> Float[Array, " datum"]:
        """Give -log p(y_i | theta) of each datum.

        The objective is linear in the weights, so this is its derivative with respect to them.

        Raises:
            NotImplementedError: if data share discrete latent sites.
        """
        refuse(self._shared, "losses of single data are not defined")
        ones = jnp.ones(self.num_data, _dtype(params))
        return self.num_rows * jax.grad(self.objective, argnums=1)(params, ones)

    def log_prior(self, params: Params) -> dict[str, Float[Array, ""]]:
        """Give the log density of each site that is no datum's observation.

        Densities are those on the sites' own supports, without the Jacobians that the objective has,
        and whatever the data weigh: latent sites, and observations outside the plate.

        Raises:
            ValueError: if there is no such site.
            NotImplementedError: if data share discrete latent sites.
        """
        refuse(self._shared, "the prior densities of single sites are not defined")
        if not self.has_prior:
            raise ValueError("log_prior: the program has no site with a prior; leave it out")
        model, values = handlers.seed(self._model, jax.random.key(0)), self.constrain(params)
        found, _ = compute_log_probs(model, self.args, self.kwargs, values)
        return {name: density for name, density in found.items() if name not in self.observed}

    def gradients(self, params: Params, batch_size: int = 64) -> Params:
        """Give the gradient of each datum's loss: the parameters' tree with a leading `datum`.

        Data are taken `batch_size` at a time, one by one through the plate's indices.

        Raises:
            ValueError: if the model ignores the plate's indices.
        """
        gradient = self._gradient(params)
        return jax.lax.map(gradient, jnp.arange(self.num_data), batch_size=batch_size)

    def gradient_norms(self, params: Params, batch_size: int = 64) -> Float[Array, " datum"]:
        """Give the norm of the gradient of each datum's loss; see `gradients`."""
        gradient = self._gradient(params)

        def norm(index: Int[Array, ""]) -> Float[Array, ""]:
            return optax.tree.norm(gradient(index))

        return jax.lax.map(norm, jnp.arange(self.num_data), batch_size=batch_size)

    def _gradient(self, params: Params) -> Callable[[Int[Array, ""]], Params]:
        """Give the gradient of one datum's loss as a function of its position."""
        self.check_batches(1)
        ones = jnp.ones(self.num_data, _dtype(params))

        def loss(params: Params, index: Int[Array, ""]) -> Float[Array, ""]:
            alone = partial(self.objective, params, indices=index[None])
            return jax.jvp(alone, (ones,), (ones,))[1] * (self.num_rows / self._num_visited(ones))

        return partial(jax.grad(loss), params)

    def at(self, weights: Weights) -> tuple["Program", Weights]:
        """Give the program with its settings as the weights say, and the weights of the data alone."""
        if weights.shape[-1] == self.num_data:
            return self, weights
        program = copy.copy(self)
        program.args, program.kwargs = moved(self.model, self.args, self.kwargs, self.settings, weights)
        return program, weights[: self.num_data]

    def vary(self, names: Sequence[str]) -> "Program":
        """Give the program whose weights hold settings behind the data; see `dtda_prob.vary`."""
        if self.settings:
            raise ValueError(
                f"names={[*names]}: settings {[each.name for each in self.settings]} vary already; "
                "name all of them at once"
            )
        program = copy.copy(self)
        program.settings = lay_out(self.model, self.args, self.kwargs, names, self.num_data)
        numbers = [label for each in program.settings for label in each.labels()]
        program.present = np.concatenate([self.present, np.zeros(len(numbers))])
        program.labels = _with_settings(self.labels, numbers)
        return program

    def factor(self, weights: Weights, name: str) -> Float[Array, ""] | float:
        """Give the factor of a hyper-parameter of the kernel: 1 where it does not vary."""
        found = [each for each in self.settings if each.name == name and each.value is None]
        return 1 + found[0].of(weights) if found else 1.0

    @property
    def hyperparameters(self) -> list[str]:
        """Name the hyper-parameters of the kernel that vary."""
        return [each.name for each in self.settings if each.value is None]

    def slopes(self, params: Params, weights: Weights) -> Weights:
        """Give the derivative of n L with respect to the weights: `losses`, and that of settings."""
        return self.num_rows * jax.grad(self.objective, argnums=1)(params, weights)

    def weighed(self, weights: Weights, indices: Indices | None = None) -> Callable:
        """Give the model with weighed data, all or those of a batch, for NumPyro's own inference."""
        weights, share = jnp.asarray(weights)[: self.num_data], None
        if indices is not None and self.num_rows < self.num_data:
            share = self._num_visited(weights) / self.num_data
        model = weigh(self._model, weights=weights, plate=self.plate, share=share)
        return model if indices is None else handlers.substitute(model, data={self.plate: indices})

    def constrain(self, params: Params) -> Params:
        """Carry parameters from unconstrained space to the supports of their sites."""
        model = handlers.seed(self._joint, jax.random.key(0))
        return constrain_fn(model, self.args, self.kwargs, params)

    def predictive(
        self, params: Params, *args: Any, **kwargs: Any
    ) -> dict[str, tuple[Distribution, Any, int]]:
        """Give the distribution of each observed site for other inputs.

        Args:
            params: parameters in unconstrained space.
            *args: the model's arguments, bound to other data.
            **kwargs: the model's keyword arguments.

        Returns:
            Per observed site its distribution, its value (None where the arguments observe nothing)
            and the dimension of the plate, a negative integer. Latent sites inside the plate are
            those of the data, discrete ones are summed out.

        Raises:
            ValueError: if the program has latent sites inside the plate and the arguments hold another
                number of data.
        """
        args, kwargs = jax.tree.map(_as_device_array, (args, kwargs))
        refuse(self._shared, "the predictive distribution of a datum is not defined")
        values = self.constrain(params)
        if self.local or self._local_params:
            self._check_queries(values, args, kwargs)
        sites = self._sites(handlers.substitute(self._model, data=values), args, kwargs)
        return {name: describe(sites[name], self.plate) for name in self.observed}

    def observations(
        self, params: Params, indices: Indices
    ) -> dict[str, tuple[Distribution, Any, int]]:
        """Give the distribution of each observed site for some of the data; see `predictive`."""
        refuse(self._shared, "the distribution of a datum is not defined")
        values = self._at(self.constrain(params), indices) | {self.plate: indices}
        sites = self._sites(handlers.substitute(self._model, data=values), self.args, self.kwargs)
        return {name: describe(sites[name], self.plate) for name in self.observed}

    def full_weights(self) -> Weights:
        """Weigh all data alike, as much as the rows that are left: 1 each where none is dropped."""
        return jnp.asarray(self.present * min(1.0, self.num_rows / self.present.sum()))

    @property
    def num_places(self) -> int:
        """Count the rows of an epoch where none is dropped; copies share their original's place."""
        return len(np.unique(self.places))

    def with_rows(self, args: tuple, kwargs: dict, labels: np.ndarray, places: np.ndarray) -> "Program":
        """Bind the model to these data and more rows, which are not there to begin with.

        Kernels visit the places that there were and the new ones. A row at the place of another is its
        counterfactual copy: kernels visit the one of non-zero weight.

        Args:
            args: the model's arguments, the new rows after the data's own.
            kwargs: the model's keyword arguments.
            labels: one name per row.
            places: the place of each new row; those of its own are the next numbers.

        Raises:
            ValueError: if the plate does not hold that many rows more; see `Program`.
        """
        if self.settings:
            raise ValueError("settings vary already: add or relabel rows first, and `vary` then")
        strategy = self._init_strategy
        program = Program(
            self.model, *args, plate=self.plate, labels=labels, init_strategy=strategy, **kwargs
        )
        program.present = np.concatenate([self.present, np.zeros(len(places))])
        program.places = np.concatenate([self.places, places])
        program.num_rows = self.num_rows + program.num_places - self.num_places
        return program

    def drop(self, num_removed: int) -> "Program":
        """Give the program whose epochs visit `num_data - num_removed` rows.

        Kernels then fill their batches with rows of non-zero weight first, run as many epochs with
        fewer steps, and the objective is normalised by the rows that are left.

        Raises:
            ValueError: if nothing would be left.
        """
        if not 0 <= num_removed < self.num_data:
            raise ValueError(
                f"num_removed={num_removed} must lie between 0 and {self.num_data - 1}: "
                f"the program has {self.num_data} data and one must be left"
            )
        program = copy.copy(self)
        program.num_rows = self.num_data - num_removed
        return program

    def cast(self, dtype: DTypeLike) -> "Program":
        """Return the program whose objective is evaluated in another precision.

        Floating data are cast, and so are parameters before the model sees them; the objective has the
        precision of the weights.
        """
        program = copy.copy(self)
        program.args, program.kwargs = jax.tree.map(partial(_cast, dtype), (self.args, self.kwargs))
        program._precision = dtype
        return program

    def check_batches(self, batch_size: int) -> None:
        """Refuse a batch size that the data or the model cannot serve.

        Raises:
            ValueError: if the batch does not fit, or the model ignores the plate's indices.
            NotImplementedError: if data share discrete latent sites.
        """
        refuse(self._shared, f"batch_size={batch_size}: batches do not estimate the objective")
        if not 1 <= batch_size <= self.num_rows:
            raise ValueError(f"batch_size={batch_size} must lie between 1 and {self.num_rows} rows")
        if not self._follows_indices:
            raise ValueError(
                f"batch_size={batch_size}: the model cannot be trained on batches, since it does not "
                f"index its data by the indices of plate {self.plate!r}; write `with "
                f"numpyro.plate({self.plate!r}, len(x)) as i:` and use x[i] and y[i] inside, or "
                "leave batch_size out to train on all data at every step"
            )

    @property
    def _follows_indices(self) -> bool:
        batch = max(1, min(2, self.num_data - 1))
        model = handlers.substitute(self._model, data={self.plate: jnp.arange(batch)})

        def densities(key: PRNGKey) -> list[Array]:
            trace = handlers.trace(handlers.seed(model, key)).get_trace(*self.args, **self.kwargs)
            sites = [trace[name] for name in self.observed]
            arrays = [site["fn"].log_prob(site["value"]) for site in sites]
            dims = [plate_dim(site, self.plate) for site in sites]
            return [jnp.moveaxis(a, dim, 0) for a, dim in zip(arrays, dims, strict=True)]

        try:
            shapes = jax.eval_shape(densities, jax.random.key(0))
        except (ValueError, TypeError):
            return False
        return all(len(shape) == batch for shape in shapes)

    def _num_visited(self, weights: Weights) -> int | Int[Array, ""]:
        """Count the rows that batches are chosen from: those of non-zero weight, where rows go."""
        if self.num_rows == self.num_data:
            return self.num_data
        return jnp.maximum(jnp.count_nonzero(weights), self.num_rows)

    def _sites(self, model: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
        return handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(*args, **kwargs)

    def _trace(self, key: PRNGKey) -> dict[str, Any]:
        model = handlers.substitute(handlers.seed(self._joint, key), substitute_fn=self._init_strategy)
        return handlers.trace(model).get_trace(*self.args, **self.kwargs)

    def _constrain_params(self, params: Params) -> Params:
        return params | {k: _map_param(t, params[k]) for k, t in self._param_transforms.items()}

    def _sum_out(self, sites: Sites) -> Callable:
        """Give the model without the discrete latent sites of single data."""
        sizes = local_sizes(sites, self.plate)
        if not sizes:
            return self._joint
        check_exact(self._joint, self.args, self.kwargs, self.plate, sizes, self.observed)
        return marginal(self._joint, sizes, self.observed)

    def _at(self, params: Params, indices: Indices) -> Params:
        """Take the latent values of a batch; NumPyro takes parameters itself, unless all are there."""
        everything = len(indices) == self.num_data
        return gather(params, self.local | (self._local_params if everything else {}), indices)

    def _check_queries(self, values: Params, args: tuple, kwargs: dict) -> None:
        local = [*self.local, *self._local_params]
        shared = {name: value for name, value in values.items() if name not in local}
        model = handlers.substitute(self._model, data=shared)
        size = plate_size(self._sites(model, args, kwargs), self.plate)
        if size != self.num_data:
            raise ValueError(
                f"the queries hold {size} data where the program has {self.num_data}, and its sites "
                f"{local} have a value for each datum and none for others; ask about the data "
                "themselves, or about the parameters with measures.function"
            )

    def _check_finite(self) -> None:
        """Try ten initialisations, as samplers do, before refusing the model."""
        ones = jnp.ones(self.num_data)
        for seed in range(10):
            params = self.init(jax.random.key(seed))
            if jnp.isfinite(jax.jit(self.objective)(params, ones)):
                return
        losses = jax.grad(self.objective, argnums=1)
        bad = np.flatnonzero(~np.isfinite(jax.jit(losses)(params, ones)))
        named = self.labels[bad[:5]].tolist()
        where = f"data {named} ({len(bad)} in all)" if len(bad) else "the prior"
        raise ValueError(
            f"the log density of the model is not finite at initialisation, for {where}; look for "
            "missing or out-of-support observations, or pass another init_strategy"
        )


def _as_device_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def _cast(dtype: DTypeLike, leaf: Any) -> Any:
    floating = isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(dtype) if floating else leaf


def _key_or_default(key: PRNGKey | None) -> PRNGKey:
    return jax.random.key(0) if key is None else key


def _dtype(params: Params) -> Any:
    return jnp.result_type(*jax.tree.leaves(params))


def _map_param(transform: Callable, value: Params) -> Params:
    return jax.tree.map(transform, value)


def _is_summed(site: Site) -> bool:
    """Say whether a site is no parameter, since it is discrete."""
    return is_latent(site) and site["fn"].support.is_discrete


def _check_state(sites: Sites) -> None:
    for name, site in sites.items():
        if site["type"] == "mutable":
            raise NotImplementedError(
                f"site {name!r} is mutable state, which a pure training kernel cannot carry; "
                "use a layer without running statistics (layer or group norm)"
            )


def _with_settings(labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Label settings by their names, or by the next numbers where data are labelled by numbers."""
    if np.issubdtype(labels.dtype, np.integer):
        return np.concatenate([labels, labels.max() + 1 + np.arange(len(names))])
    return _check_labels(np.concatenate([labels, names]), len(labels) + len(names))


def _check_labels(labels: Any, num_data: int) -> np.ndarray:
    labels = np.arange(num_data) if labels is None else np.asarray(labels)
    if labels.shape != (num_data,):
        raise ValueError(f"labels must be one per datum, {num_data}; got shape {labels.shape}")
    if len(np.unique(labels)) < num_data:
        raise ValueError("labels must differ from each other; number the repeated ones")
    return labels

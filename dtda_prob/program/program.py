"""A NumPyro model bound to its data, and the objective that training minimises."""

import inspect
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
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
from numpyro.primitives import Messenger

from dtda_prob.module import Module, call
from dtda_prob.program import binding
from dtda_prob.program.binding import Data
from dtda_prob.program.data import Named, bound, like, unbound
from dtda_prob.program.discrete import enumerated, marginal, refuse_shared
from dtda_prob.program.labels import check_labels, check_unique
from dtda_prob.program.plates import Indices, Sites, describe, gather, is_latent, plate_size, whole
from dtda_prob.program.reweight import reweight
from dtda_prob.program.settings import Setting, lay_out, moved
from dtda_prob.program.structure import Structure, is_summed
from dtda_prob.typing import Params, PRNGKey, Weights


class Program(Module):
    """Bind a NumPyro model to its data.

    The objective is L(theta, w) = -(1/n) [ sum_i w_i log p(y_i | theta) + log prior(theta) ], with
    theta in unconstrained space (the prior is the density there, Jacobian included) and n = `num_rows`,
    the number of examples however they are weighted. On a batch of B examples out of the M that epochs
    choose from, the sum is estimated by M/B times the sum over the batch.

    Latent sites inside the plate belong to an example. They are parameters like others, of which a
    batch sees its own; weights do not multiply their prior, so that removing an example leaves them to
    it. Discrete ones are summed out: y_i has the density sum_z p(z) p(y_i | z, theta), exactly.
    Discrete sites that examples share are summed out by NumPyro, with funsor: weights are then powers
    inside the sum, log sum_z p(z) prod_i p(y_i | z, theta)^w_i, and per-example quantities are refused.

    A program is a pytree whose leaves are its data, so that one compilation of a function that takes it
    serves all data of the same shapes. Arguments that the model needs as values (`int(x.max()) + 1`,
    `assert (x > 0).all()`) stay NumPy arrays; with other values, functions are compiled again.

    Args:
        model: a NumPyro model with at least one observed site inside `plate`. To be trained on
            batches it must index its data by the plate's indices,
            `with numpyro.plate("data", len(x)) as i: ... x[i]`. All data are bound, whatever
            `subsample_size` the plate has: kernels choose batches.
        *args: the model's arguments, any pytrees; lists and pandas columns of numbers become arrays.
        plate: name of the plate whose elements are the examples.
        labels: one name per example, all integers, all numbers or all texts; by default positions.
        init_strategy: where `numpyro.sample` sites start, one of NumPyro's strategies.
        **kwargs: the model's keyword arguments.

    Attributes:
        num_data: number of examples N, the size of the plate.
        num_rows: number of examples n that an epoch visits; less than N after `drop`.
        initial_weights: the weights of the data as they are: 1 each, and 0 for the rows that `relabel`
            and `add` append.
        slots: the position of each row in the order that an epoch visits: its own, and for a copy the
            original's.
        precision: the type in which the objective is evaluated, None for the parameters' own.
        num_slots: number of slots.
        labels: one name per weight: of each example, then of the numbers of settings.
        settings: what varies beside the weights of examples, see `dtda_prob.vary`; nothing at first.
        observed: names of the observed sites inside the plate.
        local: for each latent site inside the plate, the axis of its value that runs over examples.
        has_prior: whether anything but the observations enters the objective.
        structure: what is known of the model whatever the values of its data.
        follows_indices: whether the model indexes its data by the plate's indices.

    Raises:
        ValueError: if the plate is missing or holds no observation, if observations or labels do not
            fit it, or if the log density is not finite at initialisation.
        NotImplementedError: for mutable state, and discrete latent sites that cannot be summed out.
        ImportError: if examples share discrete latent sites and funsor is not installed.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model(x, y):
    ...     slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("data", len(x)) as i:
    ...         numpyro.sample("y", dist.Normal(slope * x[i], 1.0), obs=y[i])
    >>> Program(model, jnp.arange(3.0), jnp.ones(3))
    Program(model, examples=3, observed=['y'], parameters=1, prior=True)
    """

    model: Callable = eqx.field(static=True)
    plate: str = eqx.field(static=True)
    data: Data
    structure: Structure = eqx.field(static=True)
    follows_indices: bool = eqx.field(static=True)
    num_rows: int = eqx.field(static=True)
    initial_weights: np.ndarray
    slots: np.ndarray
    num_slots: int = eqx.field(static=True)
    settings: tuple[Setting, ...] = eqx.field(static=True)
    names: Named = eqx.field(static=True)
    precision: DTypeLike | None = eqx.field(static=True)

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
        self.data, self.structure = binding.bind(model, args, kwargs, plate, init_strategy)
        self.follows_indices = binding.follows_indices(self._model, plate, self.data, self.structure)
        self.num_rows = self.num_slots = size = self.structure.num_data
        self.initial_weights, self.slots = np.ones(size), np.arange(size)
        self.settings, self.precision = (), None
        self.names = Named(check_unique(check_labels(labels, size)))
        binding.check_binding(self)

    def __repr__(self) -> str:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.shapes))
        facts = {
            "examples": self.num_data,
            "rows": self.num_rows,
            "observed": [*self.observed],
            "parameters": parameters,
            "prior": self.has_prior,
            "settings": [each.name for each in self.settings],
        }
        hidden = {"rows": self.num_rows == self.num_data, "settings": not self.settings}
        return call("Program", self.model, **{k: v for k, v in facts.items() if not hidden.get(k)})

    @property
    def args(self) -> tuple:
        """The model's positional arguments, as it sees them."""
        return unbound(self.data.args)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The model's keyword arguments, as it sees them."""
        return unbound(self.data.kwargs)

    @property
    def num_data(self) -> int:
        """Number of examples, the size of the plate."""
        return self.structure.num_data

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the observed sites inside the plate."""
        return self.structure.observed

    @property
    def local(self) -> dict[str, int]:
        """The axis over examples of each latent site inside the plate."""
        return dict(self.structure.local)

    @property
    def has_prior(self) -> bool:
        """Whether anything but the observations enters the objective."""
        return self.structure.has_prior

    @property
    def labels(self) -> np.ndarray:
        """One name per weight."""
        return self.names.names

    @property
    def joint(self) -> Callable:
        """The model, all elements of its plate visited."""
        return whole(self.model, plate=self.plate)

    @property
    def _model(self) -> Callable:
        """The model without the discrete latent sites of examples."""
        sizes = dict(self.structure.sizes)
        return marginal(self.joint, sizes, self.observed) if sizes else self.joint

    @property
    def shapes(self) -> Params:
        """The shapes and types of the parameters."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def init(self, key: PRNGKey) -> Params:
        """Draw initial parameters, in unconstrained space."""
        sites = binding.trace(self.model, self.plate, unbound(self.data), key)
        latents = {k: v for k, v in sites.items() if is_latent(v) and not is_summed(v)}
        params = {k: v for k, v in sites.items() if v["type"] == "param"}
        return {
            **{k: biject_to(v["fn"].support).inv(v["value"]) for k, v in latents.items()},
            **{k: jax.tree.map(_param_transform(v).inv, v["value"]) for k, v in params.items()},
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
            weights: one per example.
            indices: positions of a batch; all examples if None.
            key: randomness for models that ask for it with `numpyro.prng_key()`; a fixed key if
                None.
        """
        program, rows = self.at(weights)
        if self.precision is None:
            return program._objective(params, rows, indices, key)
        rounded = jax.tree.map(partial(_cast, self.precision), params)
        return program._objective(rounded, rows, indices, key).astype(weights.dtype)

    def _objective(
        self, params: Params, weights: Weights, indices: Indices | None, key: PRNGKey | None
    ) -> Float[Array, ""]:
        key = jax.random.key(0) if key is None else key
        model = handlers.seed(self.reweighted(weights, indices), key)
        params = params if indices is None else self._at(params, indices)
        shared = bool(self.structure.shared)
        if shared:
            model = enumerated(model, self.structure.depth)
        if self.structure.params:
            model = _ConstrainParams(model, self.structure.params)
        return potential_energy(model, self.args, self.kwargs, params, enum=shared) / self.num_rows

    def losses(self, params: Params) -> Float[Array, " datum"]:
        """Compute -log p(y_i | theta) of each example.

        The objective is linear in the weights, so this is its derivative with respect to them.

        Raises:
            NotImplementedError: if examples share discrete latent sites.
        """
        self._refuse_shared("losses of single examples are not defined")
        ones = jnp.ones(self.num_data, _dtype(params))
        return self.num_rows * jax.grad(self.objective, argnums=1)(params, ones)

    def log_prior(self, params: Params) -> dict[str, Float[Array, ""]]:
        """Compute the log density of each site that is no example's observation.

        Densities are on the sites' own supports, without the Jacobians that the objective has, and
        whatever the weights: latent sites, and observations outside the plate.

        Raises:
            ValueError: if there is no such site.
            NotImplementedError: if examples share discrete latent sites.
        """
        self._refuse_shared("the prior densities of single sites are not defined")
        if not self.has_prior:
            raise ValueError("log_prior: the program has no site with a prior; leave it out")
        model, values = handlers.seed(self._model, jax.random.key(0)), self.constrain(params)
        densities, _ = compute_log_probs(model, self.args, self.kwargs, values)
        return {name: density for name, density in densities.items() if name not in self.observed}

    def gradients(self, params: Params, batch_size: int = 64) -> Params:
        """Compute the gradient of each example's loss: the parameters' tree with a leading axis.

        Examples are taken `batch_size` at a time, one by one through the plate's indices.

        Raises:
            ValueError: if the model ignores the plate's indices.
        """
        gradient = self._gradient(params)
        return jax.lax.map(gradient, jnp.arange(self.num_data), batch_size=batch_size)

    def gradient_norms(self, params: Params, batch_size: int = 64) -> Float[Array, " datum"]:
        """Compute the norm of the gradient of each example's loss; see `gradients`."""
        gradient = self._gradient(params)

        def norm(index: Int[Array, ""]) -> Float[Array, ""]:
            return optax.tree.norm(gradient(index))

        return jax.lax.map(norm, jnp.arange(self.num_data), batch_size=batch_size)

    def _gradient(self, params: Params) -> Callable[[Int[Array, ""]], Params]:
        """Return the gradient of one example's loss as a function of its position."""
        self.check_batches(1)
        ones = jnp.ones(self.num_data, _dtype(params))

        def loss(params: Params, index: Int[Array, ""]) -> Float[Array, ""]:
            alone = partial(self.objective, params, indices=index[None])
            return jax.jvp(alone, (ones,), (ones,))[1] * (self.num_rows / self._num_visited(ones))

        return partial(jax.grad(loss), params)

    def at(self, weights: Weights) -> tuple["Program", Weights]:
        """Return the program with settings moved by the weights, and the examples' weights."""
        if weights.shape[-1] == self.num_data:
            return self, weights
        args, kwargs = moved(self.model, self.args, self.kwargs, self.settings, weights)
        return self.with_data(args, kwargs), weights[: self.num_data]

    def with_data(self, args: tuple, kwargs: dict) -> "Program":
        """Return the program with other arguments of the same shapes, which are not checked."""
        data = like((args, kwargs), (self.data.args, self.data.kwargs))
        return self._with(data=Data(*data, self.data.start))

    def cast(self, dtype: DTypeLike) -> "Program":
        """Return the program whose objective is evaluated in another precision.

        Floating data are cast, and so are parameters before the model sees them; the objective has the
        precision of the weights.
        """
        data = jax.tree.map(partial(_cast, dtype), (self.args, self.kwargs))
        return self.with_data(*data)._with(precision=jnp.dtype(dtype))

    def vary(self, names: Sequence[str]) -> "Program":
        """Return the program whose weights hold settings behind the examples; see `dtda_prob.vary`."""
        if self.settings:
            raise ValueError(
                f"names={[*names]}: settings {[each.name for each in self.settings]} vary already; "
                "name all of them at once"
            )
        settings = lay_out(self.arguments.arguments, names, self.num_data)
        numbers = [label for each in settings for label in each.labels()]
        return self._with(
            settings=settings,
            initial_weights=np.concatenate([self.initial_weights, np.zeros(len(numbers))]),
            names=Named(_with_settings(self.labels, numbers)),
        )

    @property
    def arguments(self) -> inspect.BoundArguments:
        """The arguments by the names that the model's signature gives them."""
        return inspect.signature(self.model).bind(*self.args, **self.kwargs)

    def factor(self, weights: Weights, name: str) -> Float[Array, ""] | float:
        """Return the factor of a hyper-parameter of the kernel: 1 where it does not vary."""
        varying = [each for each in self.settings if each.name == name and not each.is_argument]
        return 1 + varying[0].of(weights) if varying else 1.0

    @property
    def hyperparameters(self) -> list[str]:
        """Names of the hyper-parameters of the kernel that vary."""
        return [each.name for each in self.settings if not each.is_argument]

    def slopes(self, params: Params, weights: Weights) -> Weights:
        """Compute the derivative of n L with respect to all weights, those of settings included."""
        return self.num_rows * jax.grad(self.objective, argnums=1)(params, weights)

    def reweighted(self, weights: Weights, indices: Indices | None = None) -> Callable:
        """Return the reweighted model, of all examples or a batch, for NumPyro's own inference."""
        weights, share = jnp.asarray(weights)[: self.num_data], None
        if indices is not None and self.num_rows < self.num_data:
            share = self._num_visited(weights) / self.num_data
        model = reweight(self._model, weights=weights, plate=self.plate, share=share)
        return model if indices is None else handlers.substitute(model, data={self.plate: indices})

    def constrain(self, params: Params) -> Params:
        """Carry parameters from unconstrained space to the supports of their sites."""
        model = handlers.seed(self.joint, jax.random.key(0))
        return constrain_fn(model, self.args, self.kwargs, params)

    def predictive(
        self, params: Params, *args: Any, **kwargs: Any
    ) -> dict[str, tuple[Distribution, Any, int]]:
        """Return the distribution of each observed site for other inputs.

        Args:
            params: parameters in unconstrained space.
            *args: the model's arguments, bound to other data.
            **kwargs: the model's keyword arguments.

        Returns:
            Per observed site its distribution, its value (None where the arguments observe nothing)
            and the dimension of the plate, a negative integer. Latent sites inside the plate are
            the program's own, discrete ones are summed out.

        Raises:
            ValueError: if the program has latent sites inside the plate and the arguments hold another
                number of examples.
        """
        sites = self.predictive_sites(params, args, kwargs)
        return {name: describe(sites[name], self.plate) for name in self.observed}

    def predictive_sites(self, params: Params, args: tuple, kwargs: dict) -> Sites:
        """Trace the model for other inputs; see `predictive`."""
        args, kwargs = unbound(bound((args, kwargs)))
        self._refuse_shared("the predictive distribution of an example is not defined")
        values = self.constrain(params)
        if self.structure.local or self.structure.local_params:
            self._check_queries(values, args, kwargs)
        return self._sites(handlers.substitute(self._model, data=values), args, kwargs)

    def observations(
        self, params: Params, indices: Indices
    ) -> dict[str, tuple[Distribution, Any, int]]:
        """Return the distribution of each observed site for some examples; see `predictive`."""
        self._refuse_shared("the distribution of an example is not defined")
        values = self._at(self.constrain(params), indices) | {self.plate: indices}
        sites = self._sites(handlers.substitute(self._model, data=values), self.args, self.kwargs)
        return {name: describe(sites[name], self.plate) for name in self.observed}

    def full_weights(self) -> Weights:
        """Return equal weights that add up to the rows left: 1 each where none is dropped."""
        weights = jnp.asarray(self.initial_weights, jnp.result_type(float))
        return weights * jnp.minimum(1.0, self.num_rows / weights.sum())

    def with_rows(self, args: tuple, kwargs: dict, labels: np.ndarray, slots: np.ndarray) -> "Program":
        """Bind the model to these data and more rows, of initial weight 0.

        Kernels visit the slots that there were and the new ones. A row in the slot of another is its
        counterfactual copy: kernels visit the one of non-zero weight.

        Args:
            args: the model's arguments, the new rows after the data's own.
            kwargs: the model's keyword arguments.
            labels: one name per row.
            slots: the slot of each new row; new slots are the next numbers.

        Raises:
            ValueError: if the plate does not hold that many rows more; see `Program`.
        """
        if self.settings:
            raise ValueError("settings vary already: add or relabel rows first, and `vary` then")
        start = unbound(self.data.start)
        strategy = partial(start.function, *start.args, **start.kwargs)
        program = Program(
            self.model, *args, plate=self.plate, labels=labels, init_strategy=strategy, **kwargs
        )
        slots = np.concatenate([self.slots, slots])
        num_slots = len(np.unique(slots))
        return program._with(
            initial_weights=np.concatenate(
                [self.initial_weights, np.zeros(len(labels) - self.num_data)]
            ),
            slots=slots,
            num_slots=num_slots,
            num_rows=self.num_rows + num_slots - self.num_slots,
        )

    def drop(self, num_removed: int) -> "Program":
        """Return the program whose epochs visit `num_data - num_removed` rows.

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
        return self._with(num_rows=self.num_data - num_removed)

    def check_batches(self, batch_size: int) -> None:
        """Refuse a batch size that the data or the model cannot serve.

        Raises:
            ValueError: if the batch does not fit, or the model ignores the plate's indices.
            NotImplementedError: if examples share discrete latent sites.
        """
        self._refuse_shared(f"batch_size={batch_size}: batches do not estimate the objective")
        if not 1 <= batch_size <= self.num_rows:
            raise ValueError(f"batch_size={batch_size} must lie between 1 and {self.num_rows} rows")
        if not self.follows_indices:
            raise ValueError(
                f"batch_size={batch_size}: the model cannot be trained on batches, since it does not "
                f"index its data by the indices of plate {self.plate!r}; write `with "
                f"numpyro.plate({self.plate!r}, len(x)) as i:` and use x[i] and y[i] inside, or "
                "leave batch_size out to train on all data at every step"
            )

    def _refuse_shared(self, what: str) -> None:
        refuse_shared(self.structure.shared, what)

    def _with(self, **fields: Any) -> "Program":
        """Return a copy with other fields, which are not checked."""
        copy = object.__new__(type(self))
        for name in type(self).__dataclass_fields__:
            object.__setattr__(copy, name, fields.get(name, getattr(self, name)))
        return copy

    def _num_visited(self, weights: Weights) -> int | Int[Array, ""]:
        """Count the rows that batches are chosen from: those of non-zero weight, where rows go."""
        if self.num_rows == self.num_data:
            return self.num_data
        return jnp.maximum(jnp.count_nonzero(weights), self.num_rows)

    def _sites(self, model: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
        return handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(*args, **kwargs)

    def _at(self, params: Params, indices: Indices) -> Params:
        """Take the latent values of a batch; NumPyro takes parameters itself, unless all are there."""
        everything = len(indices) == self.num_data
        local_params = dict(self.structure.local_params) if everything else {}
        return gather(params, self.local | local_params, indices)

    def _check_queries(self, values: Params, args: tuple, kwargs: dict) -> None:
        local = [*self.local, *dict(self.structure.local_params)]
        shared = {name: value for name, value in values.items() if name not in local}
        model = handlers.substitute(self._model, data=shared)
        size = plate_size(self._sites(model, args, kwargs), self.plate)
        if size != self.num_data:
            raise ValueError(
                f"the queries hold {size} data where the program has {self.num_data}, and its sites "
                f"{local} have a value for each example and none for others; ask about the data "
                "themselves, or about the parameters with measures.function"
            )


class _ConstrainParams(Messenger):
    """Carry parameters that are substituted in unconstrained space to their constraints."""

    def __init__(self, fn: Callable, names: tuple[str, ...]):
        super().__init__(fn)
        self.names = names

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "param" and msg["name"] in self.names:
            msg["value"] = jax.tree.map(_param_transform(msg), msg["value"])


def _param_transform(site: Any) -> Any:
    return biject_to(site["kwargs"].get("constraint", constraints.real))


def _cast(dtype: DTypeLike, leaf: Any) -> Any:
    floating = isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(dtype) if floating else leaf


def _dtype(params: Params) -> Any:
    return jnp.result_type(*jax.tree.leaves(params))


def _with_settings(labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Label settings by their names, or by the next numbers where examples are labelled by numbers."""
    if np.issubdtype(labels.dtype, np.integer):
        return np.concatenate([labels, labels.max() + 1 + np.arange(len(names))])
    return check_unique(np.concatenate([labels, names]))

"""The objective of a model at its data: per-example losses and gradients, predictions, reweighting."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from numpyro import handlers
from numpyro.infer.util import compute_log_probs, constrain_fn, potential_energy

from dtda_prob.module import Module
from dtda_prob.program import binding, rows
from dtda_prob.program.abstraction import per_structure
from dtda_prob.program.binding import Data
from dtda_prob.program.data import Named, bound, like, unbound
from dtda_prob.program.discrete import refuse_shared
from dtda_prob.program.enumeration import enumerated
from dtda_prob.program.evaluation import in_evaluation
from dtda_prob.program.layout import Described, Layout, laid_out
from dtda_prob.program.mixture import marginal
from dtda_prob.program.plates import Indices, Sites, gather, is_latent
from dtda_prob.program.reweight import reweight
from dtda_prob.program.settings import Setting, moved
from dtda_prob.program.state import numbers, stateful, with_state
from dtda_prob.program.structure import Structure, is_summed
from dtda_prob.program.supports import constrained, transform
from dtda_prob.typing import Params, PRNGKey, Weights


class Objective(Module):
    """A model at its data, as `Program` binds it; see there for the attributes."""

    model: Callable = eqx.field(static=True)
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
    evaluation: dict[str, Any]

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
        """Number of examples."""
        return self.layout.size

    @property
    def layout(self) -> Layout:
        """Where the examples lie."""
        return self.structure.layout

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the observed sites of examples."""
        return self.structure.observed

    @property
    def local(self) -> dict[str, int]:
        """The axis over examples of each latent site of examples."""
        return dict(self.structure.local)

    @property
    def has_prior(self) -> bool:
        """Whether anything but the observations enters the objective."""
        return self.structure.has_prior

    @property
    def is_linear(self) -> bool:
        """Whether the objective is linear in the weights."""
        return not (self.settings or self.structure.shared)

    @property
    def joint(self) -> Callable:
        """The model, all examples visited."""
        is_noted = isinstance(self.model, stateful)
        return laid_out(self.model if is_noted else stateful(self.model), layout=self.layout)

    @property
    def summed(self) -> Callable:
        """The model without the discrete latent sites of examples."""
        discrete = self.structure.discrete
        return marginal(self.joint, discrete, self.layout) if discrete else self.joint

    @property
    def shapes(self) -> Params:
        """The shapes and types of the parameters."""
        return _shapes(self)

    def init(self, key: PRNGKey) -> Params:
        """Draw initial parameters, in unconstrained space."""
        sites = binding.trace(self.model, self.layout, unbound(self.data), key)
        latents = {k: v for k, v in sites.items() if is_latent(v) and not is_summed(v)}
        params = {k: v for k, v in sites.items() if v["type"] == "param"}
        return {
            **{k: transform(v).inv(v["value"]) for k, v in latents.items()},
            **{k: jax.tree.map(transform(v).inv, v["value"]) for k, v in params.items()},
            **{k: numbers(sites[k]["value"]) for k in self.structure.state},
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
        rounded = params | jax.tree.map(partial(cast, self.precision), self.trained(params))
        return program._objective(rounded, rows, indices, key).astype(weights.dtype)

    def value_and_grad(
        self,
        params: Params,
        weights: Weights,
        indices: Indices | None = None,
        key: PRNGKey | None = None,
    ) -> tuple[Float[Array, ""], Params, Params]:
        """Evaluate the objective for a step of training; see `objective` for the arguments.

        Returns:
            Its value, its gradient with respect to the parameters that are trained, and the state that
            layers leave (running statistics), which takes the place of theirs in the parameters.
        """
        state = {name: params[name] for name in self.structure.state}

        def noted(params: Params, left: Params) -> Float[Array, ""]:
            program = self._with(model=stateful(self.model, left))
            return program.objective(params, weights, indices, key)

        def objective(trained: Params) -> tuple[Float[Array, ""], Params]:
            if not state:
                return self.objective(trained, weights, indices, key), {}
            return with_state(noted, trained | state, state)

        own = self.trained(params)
        (value, left), gradient = jax.value_and_grad(objective, has_aux=True)(own)
        return value, gradient, left

    def trained(self, params: Params) -> Params:
        """Return the parameters without the state of layers, which no gradient moves."""
        return {name: value for name, value in params.items() if name not in self.structure.state}

    @property
    def evaluated(self) -> Self:
        """The program as it is measured: with the arguments that its model has in evaluation."""
        if not self.evaluation:
            return self
        args, kwargs = in_evaluation(self.model, *self.data[:2], self.evaluation)
        return self._with(data=Data(args, kwargs, self.data.start), evaluation={})

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
            model = constrained(model, self.structure.params)
        return potential_energy(model, self.args, self.kwargs, params, enum=shared) / self.num_rows

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
            raise ValueError("log_prior: the program has no site with a prior; omit log_prior")
        model, values = handlers.seed(self.summed, jax.random.key(0)), self.constrain(params)
        densities, _ = compute_log_probs(model, self.args, self.kwargs, values)
        return {name: density for name, density in densities.items() if name not in self.observed}

    def at(self, weights: Weights) -> tuple[Self, Weights]:
        """Return the program with settings moved by the weights, and the examples' weights."""
        if weights.shape[-1] == self.num_data:
            return self, weights
        args, kwargs = moved(self.model, self.args, self.kwargs, self.settings, weights)
        return self.with_data(args, kwargs), weights[: self.num_data]

    def with_data(self, args: tuple, kwargs: dict) -> Self:
        """Return the program with other arguments of the same shapes, which are not checked."""
        data = like((args, kwargs), (self.data.args, self.data.kwargs))
        return self._with(data=Data(*data, self.data.start))

    def factor(self, weights: Weights, name: str) -> Float[Array, ""] | float:
        """Return the factor of a hyper-parameter of the kernel: 1 where it does not vary."""
        varying = [each for each in self.settings if each.name == name and not each.is_argument]
        return 1 + varying[0].of(weights) if varying else 1.0

    def slopes(self, params: Params, weights: Weights) -> Weights:
        """Compute the derivative of n L with respect to all weights, settings included."""
        return self.num_rows * jax.grad(self.objective, argnums=1)(params, weights)

    def reweighted(self, weights: Weights, indices: Indices | None = None) -> Callable:
        """Return the reweighted model, of all examples or a batch, for NumPyro's own inference."""
        weights = jnp.asarray(weights)[: self.num_data]
        if indices is None:
            return reweight(self.summed, weights=weights, layout=self.layout)
        if not self.follows_indices:
            of_batch = jnp.zeros_like(weights).at[indices].add(weights[indices])
            factor = self.num_visited(weights) / len(indices)
            return reweight(self.summed, weights=factor * of_batch, layout=self.layout)
        return self.of_batch(self.summed, weights, indices)

    def of_batch(self, model: Callable, weights: Weights, indices: Indices) -> Callable:
        """Return a model, or a guide of it, whose plates visit the examples of a batch alone."""
        dropped = self.num_rows < self.num_data
        share = self.num_visited(weights) / self.num_data if dropped else None
        model = reweight(model, weights=weights, layout=self.layout, share=share)
        return handlers.substitute(model, data=dict.fromkeys(self.layout.plates, indices))

    def constrain(self, params: Params) -> Params:
        """Carry parameters from unconstrained space to the supports of their sites."""
        if self.structure.on_real_line:
            return params
        model = handlers.seed(self.joint, jax.random.key(0))
        return constrain_fn(model, self.args, self.kwargs, params)

    def sites(self, params: Params) -> Params:
        """Return the value of each site on its support, deterministic sites included."""
        if not _has_deterministic(self):
            return self.constrain(params)
        own = self.evaluated
        model = handlers.seed(own.joint, jax.random.key(0))
        return constrain_fn(model, own.args, own.kwargs, params, return_deterministic=True)

    def predictive(self, params: Params, *args: Any, **kwargs: Any) -> dict[str, Described]:
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
        return {name: self.layout.describe(sites[name]) for name in self.observed}

    def predictive_sites(self, params: Params, args: tuple, kwargs: dict) -> Sites:
        """Trace the model for other inputs; see `predictive`."""
        given = bound((args, kwargs))
        args, kwargs = unbound(in_evaluation(self.model, *given, self.evaluation, instead=False))
        self._refuse_shared("the predictive distribution of an example is not defined")
        values = self.constrain(params)
        if self.structure.local or self.structure.local_params:
            self._check_queries(values, args, kwargs)
        return self._sites(handlers.substitute(self.summed, data=values), args, kwargs)

    def observations(
        self, params: Params, indices: Indices, key: PRNGKey | None = None
    ) -> dict[str, Described]:
        """Return the distribution of each observed site for some examples; see `predictive`.

        With a key it is the model as a step of training runs it, without one as it is measured.
        """
        sites = self._visited(params, indices, key)
        if self.follows_indices:
            return {name: self.layout.describe(sites[name]) for name in self.observed}
        return {name: rows.of_site(sites[name], self.layout, indices) for name in self.observed}

    def scales(self, params: Params, indices: Indices) -> dict[str, Array | float]:
        """Return the factors of observed sites' log densities inside the model (`handlers.scale`)."""
        sites, by_plate = self._visited(params, indices), self.num_data / len(indices)
        if not self.follows_indices:
            return {k: rows.of_scale(sites[k], self.layout, indices) for k in self.observed}
        scales = {name: sites[name]["scale"] for name in self.observed}
        return {name: 1.0 if scale is None else scale / by_plate for name, scale in scales.items()}

    def _visited(self, params: Params, indices: Indices, key: PRNGKey | None = None) -> Sites:
        """Trace the model for some examples, or for all if it does not index its data.

        Handlers lie in the order that they have in the objective, so that the key draws the same there.
        """
        self._refuse_shared("the distribution of an example is not defined")
        own = self.evaluated if key is None else self
        values, model = self._at(self.constrain(params), indices), own.summed
        if self.follows_indices:
            model = handlers.substitute(model, data=dict.fromkeys(self.layout.plates, indices))
        seeded = handlers.seed(model, jax.random.key(0) if key is None else key)
        given = handlers.substitute(seeded, data=values)
        return handlers.trace(given).get_trace(*own.args, **own.kwargs)

    def check_batches(self, batch_size: int) -> None:
        """Refuse a batch size that does not fit the data.

        Raises:
            ValueError: if it does not.
            NotImplementedError: if examples share discrete latent sites.
        """
        self._refuse_shared(f"batch_size={batch_size}: batches do not estimate the objective")
        if not 1 <= batch_size <= self.num_rows:
            raise ValueError(f"batch_size={batch_size} must lie between 1 and {self.num_rows} rows")

    def _refuse_shared(self, what: str) -> None:
        refuse_shared(self.structure.shared, what)

    def num_visited(self, weights: Weights) -> int | Int[Array, ""]:
        """Count the rows that batches are chosen from: of non-zero weight, where rows are dropped."""
        if self.num_rows == self.num_data:
            return self.num_data
        return jnp.maximum(jnp.count_nonzero(weights), self.num_rows)

    def _sites(self, model: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
        return handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(*args, **kwargs)

    def _at(self, params: Params, indices: Indices) -> Params:
        """Take the latent values of a batch; NumPyro takes parameters itself, unless all are there."""
        if not self.follows_indices:
            return params
        everything = len(indices) == self.num_data
        local_params = dict(self.structure.local_params) if everything else {}
        return gather(params, self.local | local_params, indices)

    def _check_queries(self, values: Params, args: tuple, kwargs: dict) -> None:
        local = [*self.local, *dict(self.structure.local_params)]
        shared = {name: value for name, value in values.items() if name not in local}
        model = handlers.substitute(self.summed, data=shared)
        size = self.layout.count(self._sites(model, args, kwargs))
        if size != self.num_data:
            raise ValueError(
                f"the queries hold {size} data where the program has {self.num_data}, and its sites "
                f"{local} have a value for each example and none for others; ask about the data "
                "themselves, or about the parameters with measures.function"
            )


def cast(dtype: DTypeLike, leaf: Any) -> Any:
    """Return a floating array in another precision, and anything else as it is."""
    floating = isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(dtype) if floating else leaf


@per_structure
def _shapes(program: Objective) -> Params:
    return jax.eval_shape(program.init, jax.random.key(0))


@per_structure
def _has_deterministic(program: Objective) -> bool:
    sites = binding.trace(program.model, program.layout, unbound(program.data), jax.random.key(0))
    return any(site["type"] == "deterministic" for site in sites.values())


def dtype_of(params: Params) -> Any:
    """Return the floating type of parameters."""
    return jnp.result_type(*jax.tree.leaves(params))

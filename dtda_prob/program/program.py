"""A NumPyro model bound to its data, and the programs that are made of one."""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from numpyro.infer import init_to_uniform

from dtda_prob.blocks import map_blocks
from dtda_prob.compiling import compiled
from dtda_prob.module import call
from dtda_prob.program import binding
from dtda_prob.program.data import Named, unbound
from dtda_prob.program.evaluation import as_evaluation
from dtda_prob.program.labels import check_labels, check_unique, next_labels
from dtda_prob.program.layout import Choice, as_choice
from dtda_prob.program.objective import Objective, cast, dtype_of
from dtda_prob.program.reweight import observe
from dtda_prob.program.settings import lay_out
from dtda_prob.program.whole import in_blocks
from dtda_prob.typing import Params, Weights, check_kind


class Program(Objective):
    """Bind a NumPyro model to its data.

    The objective is L(theta, w) = -(1/n) [ sum_i w_i log p(y_i | theta) + log prior(theta) ], with
    theta in unconstrained space (the prior is the density there, Jacobian included) and n = `num_rows`,
    the number of examples however they are weighted. On a batch of B examples out of the M that epochs
    choose from, the sum is estimated by M/B times the sum over the batch.

    Latent sites inside an example's plate belong to it. They are parameters like others, of which a
    batch sees its own; weights do not multiply their prior, so that removing an example leaves them to
    it. Discrete ones are summed out: y_i has the density sum_z p(z) p(y_i | z, theta), exactly.
    Discrete sites that examples share are summed out by NumPyro, with funsor: weights are then powers
    inside the sum, log sum_z p(z) prod_i p(y_i | z, theta)^w_i, and per-example quantities are refused.

    A program is a pytree whose leaves are its data, so that one compilation of a function that takes it
    serves all data of the same shapes. Arguments that the model needs as values (`int(x.max()) + 1`,
    `assert (x > 0).all()`) stay NumPy arrays; with other values, functions are compiled again.

    Args:
        model: a NumPyro model with at least one observed site. A model that indexes its data by the
            plate's indices, `with numpyro.plate("data", len(x)) as i: ... x[i]`, is evaluated on each
            batch alone, others on all data. All data are bound, whatever `subsample_size` a plate has:
            kernels choose batches.
        *args: the model's arguments, any pytrees; lists and pandas columns of numbers become arrays.
        data: where the examples lie: a plate; an observed site, whose leading axis is over examples; or
            a list of them. Plates of one size share their examples, plates of different sizes follow
            one another. By default the plate "data", else the one plate that holds all observations,
            else the one observed site. An argument of the model that is called `data` goes by position.
        labels: one name per example, all integers, numbers, dates or texts; by default positions.
        init_strategy: where `numpyro.sample` sites start, one of NumPyro's strategies.
        evaluation: arguments of the model in evaluation, such as `{"train": False}`: dropout is off
            and running statistics normalise. Training takes the model's arguments as they are;
            measures, losses of single examples and curvature take these instead.
        **kwargs: the model's keyword arguments.

    Attributes:
        num_data: number of examples N.
        num_rows: number of examples n that an epoch visits; less than N after `drop`.
        initial_weights: the weights of the data as they are: 1 each, and 0 for the rows that `relabel`
            and `add` append.
        slots: the position of each row in the order that an epoch visits: its own, and for a copy the
            original's.
        precision: the type in which the objective is evaluated, None for the parameters' own.
        num_slots: number of slots.
        labels: one name per weight: of each example, then of the numbers of settings.
        settings: what varies beside the weights of examples, see `dtda_prob.vary`; nothing at first.
        observed: names of the observed sites of examples.
        layout: the plates and sites where the examples lie.
        local: for each latent site of examples, the axis of its value that runs over examples.
        has_prior: whether anything but the observations enters the objective.
        evaluated: the program with the arguments of `evaluation`, as it is measured.
        structure: what is known of the model whatever the values of its data.
        follows_indices: whether the model indexes its data by the plate's indices.

    Raises:
        ValueError: if no examples are found or they can lie in several places, if observations or
            labels do not fit, if the model has no argument of `evaluation`, or if the log density is
            not finite at initialisation.
        NotImplementedError: for discrete latent sites that cannot be summed out.
        ImportError: if examples share discrete latent sites and funsor is not installed.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model(x, y):
    ...     slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("data", len(x)) as i:
    ...         numpyro.sample("y", dist.Normal(slope * x[i], 1.0), obs=y[i])
    >>> Program(model, jnp.arange(3.0), jnp.ones(3))
    Program(model, examples=3, observed=['y'], parameters=1, prior=True)
    """

    def __init__(
        self,
        model: Callable,
        *args: Any,
        data: Choice = None,
        labels: Sequence[Hashable] | np.ndarray | None = None,
        init_strategy: Callable = init_to_uniform,
        evaluation: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        check_kind("model", model, Callable, "a model itself, as in Program(model, x, y=y)")
        self.model = model
        self.evaluation = as_evaluation(model, evaluation)
        chosen = as_choice(data)
        self.data, self.structure = binding.bind(model, args, kwargs, chosen, init_strategy)
        self.num_rows = self.num_slots = size = self.num_data
        self.initial_weights, self.slots = np.ones(size), np.arange(size)
        self.settings, self.precision = (), None
        self.names = Named(check_unique(check_labels(labels, size)))
        self.follows_indices = False
        self.follows_indices = binding.follows_indices(self)
        binding.check_binding(self)

    def __repr__(self) -> str:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.trained(self.shapes)))
        facts = {
            "examples": self.num_data,
            "rows": self.num_rows,
            "observed": [*self.observed],
            "unweighted": [*self.structure.outside],
            "parameters": parameters,
            "prior": self.has_prior,
            "settings": [each.name for each in self.settings],
        }
        hidden = {
            "rows": self.num_rows == self.num_data,
            "unweighted": not self.structure.outside,
            "settings": not self.settings,
        }
        return call("Program", self.model, **{k: v for k, v in facts.items() if not hidden.get(k)})

    @property
    def labels(self) -> np.ndarray:
        """One name per weight."""
        return self.names.names

    def cast(self, dtype: DTypeLike) -> "Program":
        """Return the program whose objective is evaluated in another precision.

        Floating data are cast, and so are parameters before the model sees them; the objective has the
        precision of the weights.
        """
        data = jax.tree.map(partial(cast, dtype), (self.args, self.kwargs))
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

    @property
    def hyperparameters(self) -> list[str]:
        """Names of the hyper-parameters of the kernel that vary."""
        return [each.name for each in self.settings if not each.is_argument]

    def full_weights(self) -> Weights:
        """Return equal weights that add up to the rows left: 1 each where none is dropped."""
        array = np if isinstance(self.initial_weights, np.ndarray) else jnp  # else op by op
        weights = array.asarray(self.initial_weights, jnp.result_type(float))
        return jnp.asarray(weights * array.minimum(1.0, self.num_rows / weights.sum()))

    def losses(self, params: Params) -> Float[Array, " example"]:
        """Compute -log p(y_i | theta) of each example.

        The objective is linear in the weights, so this is its derivative with respect to them.

        Raises:
            NotImplementedError: if examples share discrete latent sites.
        """
        self._refuse_shared("losses of single examples are not defined")
        return _losses(self.evaluated, params)

    def gradients(self, params: Params, batch_size: int = 64) -> Params:
        """Compute the gradient of each example's loss, `batch_size` at a time, along a leading axis."""
        gradient = self._gradient(params)
        return map_blocks(gradient, self.num_data, batch_size)

    def gradient_norms(
        self, params: Params, batch_size: int = 64, part: Callable[[Params], Params] | None = None
    ) -> Float[Array, " example"]:
        """Compute the norm of each example's gradient, or of a part of it; see `gradients`."""
        gradient = self._gradient(params)

        def norm(index: Int[Array, ""]) -> Float[Array, ""]:
            whole = gradient(index)
            return optax.tree.norm(whole if part is None else part(whole))

        return map_blocks(norm, self.num_data, batch_size)

    def _gradient(self, params: Params) -> Callable[[Int[Array, ""]], Params]:
        """Return the gradient of one example's loss as a function of its position."""
        self.check_batches(1)
        ones = jnp.ones(self.num_data, dtype_of(params))

        def loss(params: Params, index: Int[Array, ""]) -> Float[Array, ""]:
            alone = partial(self.evaluated.objective, params, indices=index[None])
            return jax.jvp(alone, (ones,), (ones,))[1] * (self.num_rows / self.num_visited(ones))

        return partial(jax.grad(loss), params)

    def observing(self, values: Mapping[str, Any]) -> "Program":
        """Return the program with other observations at some sites, of the same shapes.

        Values may be tracers: use it inside compiled code. Sites whose value is None are drawn.
        """
        return self._with(model=observe(self.model, values=values))

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
            ValueError: if the model does not observe that many rows more; see `Program`.
        """
        if self.settings:
            raise ValueError("settings vary already: add or relabel rows first, and `vary` then")
        start = unbound(self.data.start)
        strategy = partial(start.function, *start.args, **start.kwargs)
        program = Program(
            self.model,
            *args,
            data=self.layout.plates,
            labels=labels,
            init_strategy=strategy,
            evaluation=unbound(self.evaluation),
            **kwargs,
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


def _with_settings(labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Label settings by their names, or by the next numbers where examples are labelled by numbers."""
    return check_unique(np.concatenate([labels, next_labels(labels, names)]))


@compiled
def _losses(program: Program, params: Params) -> Float[Array, " example"]:
    ones = jnp.ones(program.num_data, dtype_of(params))
    return program.num_rows * jax.grad(in_blocks, argnums=2)(program, params, ones)

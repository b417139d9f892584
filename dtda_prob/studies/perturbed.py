"""Sets of perturbed datasets, which apply a response to the change of weights."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.perturbations import check_weights, labelled, num_removed
from dtda_prob.program import Program
from dtda_prob.studies.digests import of_array, of_weights
from dtda_prob.typing import Weights

Response = Float[np.ndarray, "... example"]
Change = Float[np.ndarray, "... perturbation"]


class Perturbed(ABC):
    """A set of perturbed datasets."""

    @property
    @abstractmethod
    def dim(self) -> str:
        """Return the name of the dimension along which the datasets lie."""

    @property
    @abstractmethod
    def labels(self) -> np.ndarray:
        """Return the label of each dataset."""

    @abstractmethod
    def change(self, response: Response, start: Weights | np.ndarray) -> Change:
        """Return what a response, d value / d weights, predicts of each dataset: its last axis."""

    @abstractmethod
    def squares(self, values: Response, start: Weights | np.ndarray) -> Change:
        """Return the sum over the examples of a value times the square of the change of weight."""

    @abstractmethod
    def weights(self, chosen: np.ndarray | slice = slice(None)) -> xr.DataArray:
        """Return the weights of some of the datasets, `(perturbation, example)`."""

    @abstractmethod
    def centre(self, start: Weights | np.ndarray) -> Weights | None:
        """Return the mean of the weights, or halfway to the only ones; None where it is the start."""

    @abstractmethod
    def num_removed(self) -> np.ndarray:
        """Return the numbers of rows that retraining drops, each number once."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what identifies the set, as JSON can hold it."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class LeaveOneOut(Perturbed):
    """Each example removed in turn. Weights are laid out for those datasets alone that are asked for.

    Settings that vary beside the examples, and copies that have no weight, are not removed.
    """

    program: Program

    @property
    def dim(self) -> str:
        """Return the dimension of the examples."""
        return "example"

    @property
    def positions(self) -> np.ndarray:
        """Return the positions of the examples among the weights."""
        return np.flatnonzero(self.program.initial_weights[: self.program.num_data] > 0)

    @property
    def labels(self) -> np.ndarray:
        """Return the labels of the examples."""
        return self.program.labels[self.positions]

    def change(self, response: Response, start: Weights | np.ndarray) -> Change:
        """Return minus the response times the weight that each example has."""
        chosen = self.positions
        return -response[..., chosen] * np.asarray(start)[chosen]

    def squares(self, values: Response, start: Weights | np.ndarray) -> Change:
        """Return each value times the square of the weight that its example has."""
        chosen = self.positions
        return values[..., chosen] * np.asarray(start)[chosen] ** 2

    def weights(self, chosen: np.ndarray | slice = slice(None)) -> xr.DataArray:
        """Return weights that remove some of the examples, one at a time."""
        positions = self.positions[chosen]
        rows = np.tile(np.asarray(self.program.initial_weights, float), (len(positions), 1))
        rows[np.arange(len(positions)), positions] = 0.0
        return labelled(self.program, rows, "reweight", self.program.labels[positions])

    def centre(self, start: Weights | np.ndarray) -> Weights | None:
        """Return None: the mean over single removals is next to the start."""
        return None

    def num_removed(self) -> np.ndarray:
        """Return zero: weights change, and rows stay."""
        return np.zeros(1, int)

    @property
    def identity(self) -> dict[str, Any]:
        """Return that each example is removed in turn, from which weights."""
        present = np.asarray(self.program.initial_weights, float)
        return {"perturbations": of_array(present), "names": "each in turn", "removal": "reweight"}


@dataclass(frozen=True, eq=False)
class Rows(Perturbed):
    """Perturbed datasets given by their weights, `(perturbation, example)`."""

    rows: xr.DataArray

    @property
    def dim(self) -> str:
        """Return the name of the first dimension of the weights."""
        return str(self.rows.dims[0])

    @property
    def labels(self) -> np.ndarray:
        """Return the names of the perturbations."""
        return self.rows[self.dim].values

    def change(self, response: Response, start: Weights | np.ndarray) -> Change:
        """Return the response times each change of weights."""
        return response @ (self.rows.values - np.asarray(start)).T.astype(response.dtype)

    def squares(self, values: Response, start: Weights | np.ndarray) -> Change:
        """Return the values times the squares of each change of weights."""
        return values @ (self.rows.values - np.asarray(start)).T.astype(values.dtype) ** 2

    def weights(self, chosen: np.ndarray | slice = slice(None)) -> xr.DataArray:
        """Return the weights of some perturbations."""
        return self.rows[chosen]

    def centre(self, start: Weights | np.ndarray) -> Weights | None:
        """Return the mean of several weights, or halfway to a single perturbation."""
        if len(self.rows) == 1:
            return (start + jnp.asarray(self.rows.values[0])) / 2
        return jnp.asarray(self.rows.values.mean(0))

    def num_removed(self) -> np.ndarray:
        """Return the numbers of rows that the perturbations drop."""
        return np.unique(num_removed(self.rows))

    @property
    def identity(self) -> dict[str, Any]:
        """Return digests of the weights and names."""
        return of_weights(self.rows)


def perturbed(program: Program, perturbations: Any) -> Perturbed:
    """Return a set of perturbed datasets.

    Args:
        program: whose examples are weighted.
        perturbations: a set already; weights `(perturbation, example)`, or `(example,)` for a single
            dataset; None for each example removed in turn.

    Raises:
        ValueError: for weights that do not fit, or no perturbation at all.
    """
    if isinstance(perturbations, Perturbed):
        return perturbations
    if perturbations is None:
        return LeaveOneOut(program)
    weights = check_weights(program, perturbations)
    return Rows(weights if weights.ndim == 2 else weights.expand_dims(perturbation=[0]))

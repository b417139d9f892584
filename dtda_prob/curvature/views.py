"""Parameters on their way through a function, and the products that they enter."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jaxtyping import Array, Float

from dtda_prob.compiling import evaluated

MAPPED = "mapped"
"""Stands among the steps of a parameter where a loop takes it row by row."""


class Stack(NamedTuple):
    """A step that arranges an array as matrices, by the axes of each group."""

    counting: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def __call__(self, x: Array) -> Float[Array, "matrix row column"]:
        groups = self.counting, self.rows, self.columns
        shape = [size_of(x, axes) for axes in groups]
        return jnp.transpose(x, [axis for axes in groups for axis in axes]).reshape(shape)


class Move(NamedTuple):
    """A step that reshapes or transposes, and leaves every number what it is."""

    primitive: Primitive
    settings: tuple[tuple[str, Any], ...]

    @property
    def params(self) -> dict[str, Any]:
        """The settings by name."""
        return dict(self.settings)

    def __call__(self, x: Array) -> Array:
        return evaluated(self, [x])[0]


class Row(NamedTuple):
    """A step that arranges an array as matrices of one row."""

    matrices: int

    def __call__(self, x: Array) -> Float[Array, "matrix row column"]:
        return x.reshape(self.matrices, 1, -1)


Step = Stack | Move | Row | str


class View(NamedTuple):
    """A parameter on its way to a product.

    Attributes:
        leaf: its position among the parameters.
        steps: what has been done to it.
        loops: for each loop around, outermost first, whether it takes the parameter row by row.
        value: the array that it has become.
    """

    leaf: int
    steps: tuple[Step, ...]
    loops: tuple[bool, ...]
    value: Array


class Result(NamedTuple):
    """What a product of a parameter becomes.

    Attributes:
        use: the position of the product on the tape.
        columns: for each element, the matrix and column that it comes from, as one number.
        value: the array.
    """

    use: int
    columns: np.ndarray
    value: Array


class Use(NamedTuple):
    """A product of a parameter: see `View`.

    Attributes:
        rows: the number of rows of the parameter, which are summed over.
        columns: the number of its columns.
        other: what multiplies it, shape `(*loops, matrix, position, row)`; the positions of rows
            `(*loops, matrix, position, 1)`, integers, where rows are looked up.
    """

    leaf: int
    steps: tuple[Step, ...]
    loops: tuple[bool, ...]
    rows: int
    columns: int
    other: Any

    @property
    def looks_up(self) -> bool:
        """Whether it is a look-up of rows."""
        return jnp.issubdtype(self.other.dtype, jnp.integer)

    @property
    def positions(self) -> int:
        """The number of positions at which an example uses each matrix."""
        return size_of(self.other, self._axes[1])

    def abstract(self) -> "Use":
        """Return the product with the shape of its array alone."""
        return self._replace(other=jax.ShapeDtypeStruct(self.other.shape, self.other.dtype))

    def by_position(self, x: Array) -> Float[Array, "matrix feature position side"]:
        """Return a side of a product, the axes of loops merged with matrices or positions."""
        matrices, positions = ([1 + axis for axis in axes] for axes in self._axes)
        shape = size_of(x, matrices), len(x), size_of(x, positions), x.shape[-1]
        return jnp.transpose(x, [*matrices, 0, *positions, x.ndim - 1]).reshape(shape)

    @property
    def _axes(self) -> tuple[list[int], list[int]]:
        """The axes that count matrices, and those that count positions."""
        last = len(self.loops)
        matrices = [axis for axis, mapped in enumerate(self.loops) if mapped]
        positions = [axis for axis, mapped in enumerate(self.loops) if not mapped]
        return [*matrices, last], [*positions, last + 1]


class Tape:
    """The products of parameters, in the order in which they are evaluated.

    Attributes:
        uses: the products.
        biases: parameters that have an element for each matrix and column of a product, and are added
            to its result; with the position of the product.
        spread: positions of products whose result enters anything but a sum with such a parameter.
        shapes: of what is added to them, `(matrix, position, column)`; a list for each loop.
        plain: parameters that enter anything else.
    """

    def __init__(self, plain: set[int], added: Any = None):
        self.uses: list[Use] = []
        self.biases: list[tuple[int, View]] = []
        self.spread: set[int] = set()
        self.shapes: list[Any] = []
        self.plain = plain
        self.added: Iterator | None = None if added is None else iter(added)

    def value(self, x: Any) -> Any:
        """Return an array for an operation that is not followed."""
        if isinstance(x, View):
            self.plain.add(x.leaf)
        if isinstance(x, Result):
            self.spread.add(x.use)
        return value_of(x)

    def product(self, view: View, step: Stack, other: Array, columns: int, dtype: Any) -> Array:
        """Note a product, and return what is added to it, shape `(matrix, position, column)`."""
        rows = view.value.size // (len(other) * columns)
        self.uses.append(Use(view.leaf, (*view.steps, step), view.loops, rows, columns, other))
        shape = (*other.shape[:2], columns)
        self.shapes.append(jax.ShapeDtypeStruct(shape, dtype))
        return jnp.zeros(shape, dtype) if self.added is None else next(self.added)


def arranged(leaf: Array, steps: Sequence[Step]) -> Float[Array, "matrix row column"]:
    """Return a parameter as the stack of matrices that it is at the end of these steps."""
    if not steps:
        return leaf
    first, *rest = steps
    if isinstance(first, str):
        stacked = jax.vmap(lambda row: arranged(row, rest))(leaf)
        return stacked.reshape(-1, *stacked.shape[-2:])
    return arranged(first(leaf), rest)


def value_of(x: Any) -> Any:
    """Return the array of a parameter or product on its way, and anything else as it is."""
    return x.value if isinstance(x, View | Result) else x


def size_of(x: Any, axes: Sequence[int]) -> int:
    """Return the number of elements along some axes."""
    return math.prod(x.shape[axis] for axis in axes)

"""A small Swin transformer (Liu et al., 2021, arXiv 2103.14030): attention in shifted windows."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from numpyro.contrib.module import nnx_module


@dataclass(frozen=True)
class Swin:
    """A classifier of square images, `Program(Swin(...), images, y=labels)`.

    Attributes:
        patch: side of a patch in pixels; each patch is a token.
        window: side of a window in tokens. Tokens attend to the tokens of their window; every other
            block shifts the windows by half a side, where there are several.
        width: features of a token in the first stage.
        depths: blocks of each stage. Between stages four neighbouring tokens become one, and the width
            doubles.
        heads: attention heads of the first stage; the number doubles with the width.
    """

    patch: int
    window: int
    width: int
    depths: tuple[int, ...]
    heads: int = 2

    def __call__(self, x, y=None):
        """Run the program on images `(image, side, side[, channel])`."""
        network = nnx_module("net", Network(self, x.shape[1:], nnx.Rngs(numpyro.prng_key())))
        with numpyro.plate("data", len(x)) as i:
            logits = network(x[i])
            numpyro.sample("y", dist.Categorical(logits=logits), obs=None if y is None else y[i])


class Network(nnx.Module):
    """Patch embedding, stages of blocks, and a linear readout of the mean token."""

    def __init__(self, settings: Swin, shape: tuple[int, ...], rngs: nnx.Rngs):
        self.patch, side, width = settings.patch, shape[0] // settings.patch, settings.width
        self.embed = nnx.Linear(int(np.prod(shape[2:])) * self.patch**2, width, rngs=rngs)
        self.first, parts = nnx.LayerNorm(width, rngs=rngs), []
        for stage, depth in enumerate(settings.depths):
            if stage:
                parts.append(Merge(width, rngs))
                side, width = side // 2, 2 * width
            window = min(settings.window, side)
            for place in range(depth):
                shift = window // 2 if place % 2 and window < side else 0
                parts.append(Block(width, settings.heads * 2**stage, window, shift, rngs))
        self.parts = nnx.List(parts)
        self.last, self.read = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        x = x if x.ndim > 3 else x[..., None]
        x = self.first(self.embed(grouped(x, self.patch)))
        for part in self.parts:
            x = part(x)
        return self.read(self.last(x).mean(axis=(-3, -2)))


class Merge(nnx.Module):
    """Make one token of four neighbours."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(4 * width, rngs=rngs)
        self.join = nnx.Linear(4 * width, 2 * width, rngs=rngs)

    def __call__(self, x):
        return self.join(self.norm(grouped(x, 2)))


class Block(nnx.Module):
    """Attention in windows and a perceptron, each after a layer norm and beside a residual."""

    def __init__(self, width: int, heads: int, window: int, shift: int, rngs: nnx.Rngs):
        self.heads, self.window, self.shift = heads, window, shift
        self.before, self.after = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.mix = nnx.Linear(width, 3 * width, rngs=rngs)
        self.bias = nnx.Param(0.02 * rngs.params.normal((heads, (2 * window - 1) ** 2)))
        self.join = nnx.Linear(width, width, rngs=rngs)
        self.widen = nnx.Linear(width, 2 * width, rngs=rngs)
        self.narrow = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attend(self.before(x))
        return x + self.narrow(nnx.gelu(self.widen(self.after(x))))

    def attend(self, x):
        """Attend within windows; shifted ones wrap around, and tokens across an edge are masked."""
        side, width = x.shape[-2:]
        rolled = jnp.roll(x, (-self.shift, -self.shift), (-3, -2))
        tokens = self.mix(in_windows(rolled, self.window))
        tokens = tokens.reshape(*tokens.shape[:-1], 3, self.heads, width // self.heads)
        query, key, value = (tokens[..., k, :, :] for k in range(3))
        logits = jnp.einsum("...qhd,...khd->...hqk", query, key) * (width // self.heads) ** -0.5
        logits = logits + self.bias[...][:, offsets(self.window)]
        if self.shift:
            logits = jnp.where(neighbours(side, self.window, self.shift)[:, None], logits, -1e9)
        mixed = jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(logits), value)
        mixed = self.join(mixed.reshape(*mixed.shape[:-2], width))
        return jnp.roll(out_of_windows(mixed, side), (self.shift, self.shift), (-3, -2))


def grouped(x, size):
    """Join squares of tokens: (..., side, side, d) to (..., side / size, side / size, size^2 d)."""
    side = x.shape[-2] // size
    x = x.reshape(*x.shape[:-3], side, size, side, size, x.shape[-1])
    return x.swapaxes(-4, -3).reshape(*x.shape[:-5], side, side, -1)


def in_windows(x, window):
    """Cut into windows: (..., side, side, d) to (..., window, token, d)."""
    width = x.shape[-1]
    return grouped(x, window).reshape(*x.shape[:-3], -1, window**2, width)


def out_of_windows(x, side):
    """Undo `in_windows`."""
    width, window = x.shape[-1], round(x.shape[-2] ** 0.5)
    x = x.reshape(*x.shape[:-3], side // window, side // window, window, window, width)
    return x.swapaxes(-4, -3).reshape(*x.shape[:-5], side, side, width)


def offsets(window):
    """Return which relative position each pair of tokens of a window has."""
    place = np.stack(np.meshgrid(*[np.arange(window)] * 2, indexing="ij"), -1).reshape(-1, 2)
    apart = place[:, None] - place + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


def neighbours(side, window, shift):
    """Return which pairs of tokens of shifted windows lie on one side: (window, token, token)."""
    part = np.digitize(np.arange(side), [side - window, side - shift])
    part = in_windows((3 * part[:, None] + part)[..., None], window)[..., 0]
    return part[:, :, None] == part[:, None]

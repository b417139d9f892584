"""Networks as people train them, at a size for two cores, with their data: text and Fashion-MNIST."""

import gzip
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from numpyro.contrib.module import eqx_module, nnx_module

import dtda_prob as dtda
from dtda_prob import kernels
from dtda_prob.training import Training

SEED = 0
FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where `apt-get install dataset-fashion-mnist` puts Fashion-MNIST (MIT licence)."""
WIDTH, LENGTH, LETTERS = 16, 16, 27
"""Sizes of the language model: features, characters of a sequence, and letters with the space."""


def strength() -> Training:
    """Return a perceptron 128-128-128 on 896 rows of Concrete, by SGD at one rate; 40 test rows."""
    split = dtda.zoo.concrete()
    program = dtda.Program(
        dtda.zoo.regressor([128] * 3, noise=0.5**0.5), split.x_train, y=split.y_train
    )
    optimizer = optax.chain(optax.add_decayed_weights(1e-5), optax.sgd(0.01, momentum=0.9))
    kernel = kernels.sgd(optimizer, num_epochs=20, batch_size=32)
    measure = dtda.measures.squared_error(split.x_test[:40], y=split.y_test[:40])
    return Training(program, kernel, measure)


class Block(eqx.Module):
    """Attention and a perceptron, each with its norm and added to what it receives."""

    attention: eqx.nn.MultiheadAttention
    norms: list[eqx.nn.LayerNorm]
    perceptron: eqx.nn.MLP

    def __init__(self, key: Array, width: int = WIDTH, heads: int = 2, ratio: int = 2):
        one, two = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(heads, width, key=one)
        self.norms = [eqx.nn.LayerNorm(width) for _ in range(2)]
        self.perceptron = eqx.nn.MLP(width, width, ratio * width, 1, jax.nn.gelu, key=two)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        normed = jax.vmap(self.norms[0])(x)
        x = x + self.attention(normed, normed, normed, mask)
        return x + jax.vmap(self.perceptron)(jax.vmap(self.norms[1])(x))


class Language(eqx.Module):
    """A decoder-only transformer that predicts each character from those before it."""

    letters: eqx.nn.Embedding
    places: eqx.nn.Embedding
    block: Block
    norm: eqx.nn.LayerNorm
    out: eqx.nn.Linear

    def __init__(self, key: Array):
        keys = jax.random.split(key, 4)
        self.letters = eqx.nn.Embedding(LETTERS + 1, WIDTH, key=keys[0])
        self.places = eqx.nn.Embedding(LENGTH, WIDTH, key=keys[1])
        self.block, self.norm = Block(keys[2]), eqx.nn.LayerNorm(WIDTH)
        self.out = eqx.nn.Linear(WIDTH, LETTERS, key=keys[3])

    def __call__(self, tokens: Int[Array, " place"]) -> Float[Array, "place letter"]:
        before = jnp.pad(tokens[:-1], (1, 0), constant_values=LETTERS)
        x = jax.vmap(self.letters)(before) + self.places.weight
        x = self.block(x, jnp.tril(jnp.ones((LENGTH, LENGTH), bool)))
        return jax.vmap(self.out)(jax.vmap(self.norm)(x))


class ViT(eqx.Module):
    """A vision transformer of 16 patches."""

    patches: eqx.nn.Linear
    places: Array
    block: Block
    norm: eqx.nn.LayerNorm
    out: eqx.nn.Linear

    def __init__(self, key: Array):
        keys = jax.random.split(key, 4)
        self.patches = eqx.nn.Linear(49, WIDTH, key=keys[0])
        self.places = 0.1 * jax.random.normal(keys[1], (16, WIDTH))
        self.block, self.norm = Block(keys[2]), eqx.nn.LayerNorm(WIDTH)
        self.out = eqx.nn.Linear(WIDTH, 10, key=keys[3])

    def __call__(self, image: Float[Array, "28 28"]) -> Float[Array, " label"]:
        patches = image.reshape(4, 7, 4, 7).transpose(0, 2, 1, 3).reshape(16, 49)
        x = self.block(jax.vmap(self.patches)(patches) + self.places)
        return self.out(jax.vmap(self.norm)(x).mean(0))


class ResNet(nnx.Module):
    """A stem and a residual block of convolutions with batch normalisation."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        def convolution(channels: int, stride: int) -> nnx.Conv:
            return nnx.Conv(channels, width, (3, 3), strides=stride, use_bias=False, rngs=rngs)

        self.convolutions = nnx.List([convolution(c, s) for c, s in ((1, 2), (width, 1), (width, 1))])
        self.norms = nnx.List([nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for _ in range(3)])
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, images: Float[Array, "image height width"]) -> Float[Array, "image label"]:
        stem, first, second = zip(self.convolutions, self.norms, strict=True)
        apply = lambda layer, x: layer[1](layer[0](x))  # noqa: E731
        x = nnx.relu(apply(stem, images[..., None]))
        x = nnx.relu(x + apply(second, nnx.relu(apply(first, x))))
        return self.out(x.mean((1, 2)))


def language(tokens: Array) -> None:
    speak(eqx_module("net", Language(numpyro.prng_key())), tokens)


def speak(network: Language, tokens: Array) -> None:
    with numpyro.plate("data", len(tokens)) as i:
        logits = jax.vmap(network)(tokens[i])
        numpyro.sample("next", dist.Categorical(logits=logits).to_event(1), obs=tokens[i])


def adapters(tokens: Array, base: Language, rank: int = 2) -> None:
    """Speak by a frozen base, each of whose matrices has a trained product of low rank added."""
    leaves, tree = jax.tree.flatten(base)
    for k, leaf in enumerate(leaves):
        if isinstance(leaf, jax.Array) and leaf.ndim == 2:
            rows, columns = leaf.shape
            shape = rank, columns
            down = numpyro.param(
                f"down{k}", lambda key, s=shape: jax.random.normal(key, s) / s[1] ** 0.5
            )
            leaves[k] = leaf + numpyro.param(f"up{k}", jnp.zeros((rows, rank))) @ down
    speak(jax.tree.unflatten(tree, leaves), tokens)


def transformer_on_images(images: Array, y: Array | None = None) -> None:
    network = eqx_module("net", ViT(numpyro.prng_key()))
    with numpyro.plate("data", len(images)) as i:
        logits = jax.vmap(network)(images[i])
        numpyro.sample("y", dist.Categorical(logits=logits), obs=None if y is None else y[i])


def residual(images: Array, y: Array | None = None, train: bool = True) -> None:
    """Classify by a ResNet, in training of images that are shifted and mirrored anew at each step."""
    network = ResNet(8, nnx.Rngs(numpyro.prng_key()))
    network.train() if train else network.eval()
    network = nnx_module("net", network)
    shift_key, mirror_key = jax.random.split(numpyro.prng_key())
    shifts = jax.random.randint(shift_key, (len(images), 2), 0, 3)
    mirrored = jax.random.bernoulli(mirror_key, 0.5, (len(images),))
    with numpyro.plate("data", len(images)) as i:
        batch = jax.vmap(augmented)(images[i], shifts[i], mirrored[i]) if train else images[i]
        numpyro.sample("y", dist.Categorical(logits=network(batch)), obs=None if y is None else y[i])


def augmented(image: Array, shift: Array, mirrored: Array) -> Array:
    moved = jax.lax.dynamic_slice(jnp.pad(image, 1), shift, image.shape)
    return jnp.where(mirrored, moved[:, ::-1], moved)


def adamw(rate: float) -> Callable[[int], optax.GradientTransformation]:
    """Return AdamW with warm-up over a tenth of the steps, cosine decay, clipped at norm 1."""

    def optimizer(num_steps: int) -> optax.GradientTransformation:
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, num_steps // 10, num_steps)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2))

    return optimizer


def reference() -> str:
    """Return the language reference that Python ships (PSF licence)."""
    return " ".join(topics.topics.values())


def characters(num_train: int, num_queries: int) -> Training:
    """Return the language model on the language reference."""
    train, queries = sequences(reference(), num_train, num_queries)
    kernel = kernels.sgd(adamw(0.01), num_epochs=6, batch_size=16)
    return Training(dtda.Program(language, train), kernel, dtda.measures.loss(queries))


def low_rank(num_train: int, num_queries: int) -> Training:
    """Return adapters of a frozen language model, on the source of Python's argparse (PSF licence)."""
    import argparse

    old, pretraining = (
        characters(1024, 8).program,
        kernels.sgd(adamw(0.01), num_steps=400, batch_size=64),
    )
    run = jax.jit(lambda key: pretraining.run(key, old, old.full_weights()).params)
    arrays = jax.tree.map(lambda leaf: leaf[-1], run(jax.random.key(SEED))["net$params"])
    base = eqx.combine(arrays, Language(jax.random.key(SEED)))
    train, queries = sequences(inspect.getsource(argparse), num_train, num_queries)
    kernel = kernels.sgd(adamw(0.01), num_epochs=6, batch_size=16)
    return Training(dtda.Program(adapters, train, base), kernel, dtda.measures.loss(queries, base))


def sequences(
    text: str, *numbers: int, length: int = LENGTH
) -> list[Int[np.ndarray, "sequence place"]]:
    """Return some random sequences of a text's letters and spaces, in parts that do not overlap."""
    letters = re.sub("[^a-z]+", " ", text.lower()).encode()
    tokens = np.frombuffer(letters, np.uint8).astype(np.int32)
    tokens = np.where(tokens == 32, 26, tokens - 97)
    whole = tokens[: len(tokens) // length * length].reshape(-1, length)
    order = np.random.default_rng(SEED).permutation(len(whole))
    ends = np.cumsum(numbers)
    return [whole[order[end - number : end]] for number, end in zip(numbers, ends, strict=True)]


def fashion(num_train: int, num_test: int) -> list[np.ndarray]:
    """Return images and labels to train on, and others, of Fashion-MNIST."""
    rng, parts = np.random.default_rng(SEED), []
    for part, number in (("train", num_train), ("t10k", num_test)):
        pixels, labels = (_read(f"{part}-{kind}", n) for kind, n in (("images", 16), ("labels", 8)))
        pixels = pixels.reshape(-1, 784)
        some = rng.choice(len(pixels), number, replace=False)
        parts += [(pixels[some] / 255).astype(np.float32), labels[some].astype(np.int32)]
    return parts


def _read(name: str, header: int) -> np.ndarray:
    path = next(FASHION.glob(f"{name}*"))
    data = path.read_bytes()
    return np.frombuffer(
        gzip.decompress(data) if path.suffix == ".gz" else data, np.uint8, offset=header
    )

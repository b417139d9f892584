"""Train models in torch, many at once by `torch.func`, and retrain on perturbed data: one truth.

Run as `python train.py FOLDER`. A model is kept at five points of its training, as TracIn asks for.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from task import Task
from torch import Tensor
from torch.func import functional_call, grad, vmap

AT_ONCE = 64
"""Models that are trained together."""
NUM_POINTS = 5
TRUTH_SEED = 1000


def initial(task: Task, seeds: list[int]) -> dict[str, Tensor]:
    """Return the initial parameters of models of some seeds, stacked."""
    states = []
    for seed in seeds:
        torch.manual_seed(seed)
        states.append(dict(task.network().named_parameters()))
    return {name: torch.stack([s[name].detach() for s in states]) for name in states[0]}


def order_of(task: Task, seed: int, rows: np.ndarray) -> np.ndarray:
    """Return the rows of each step, `(step, batch)`: each epoch in fresh order, by whole batches."""
    rng, batch = np.random.default_rng(seed), task.about["batch_size"]
    per_epoch = len(rows) // batch
    epochs = [rng.permutation(rows)[: per_epoch * batch] for _ in range(task.about["epochs"])]
    return np.concatenate(epochs).reshape(-1, batch)


def rate(task: Task, step: int, number: int) -> float:
    """Return the learning rate: cosine, after warm-up over a tenth of the steps where AdamW trains."""
    warm = 0 if task.about["optimizer"] == "sgd" else number // 10
    if step < warm:
        return task.about["rate"] * step / warm
    return task.about["rate"] * 0.5 * (1 + math.cos(math.pi * (step - warm) / (number - warm)))


def update(task: Task, params: dict, grads: dict, memory: dict, step: int, number: int) -> None:
    """Take one step of SGD with momentum 0.9, or of AdamW with gradients clipped at norm 1."""
    lr = rate(task, step, number)
    if task.about["optimizer"] == "sgd":
        for name, g in grads.items():
            memory[name] = g if step == 0 else 0.9 * memory[name] + g
            params[name] = params[name] - lr * memory[name]
        return
    norm = sum(g.flatten(1).square().sum(1) for g in grads.values()).sqrt().clamp(min=1.0)
    for name, g in grads.items():
        g = g / norm.view(-1, *[1] * (g.ndim - 1))
        first, second = memory.get(name, (torch.zeros_like(g), torch.zeros_like(g)))
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        memory[name] = first, second
        scaled = first / (1 - 0.9 ** (step + 1))
        scaled = scaled / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        params[name] = params[name] - lr * (scaled + 1e-2 * params[name])


def train(task: Task, seeds: list[int], orders: np.ndarray, weights: np.ndarray, keep=False):
    """Train one model for each seed, order of rows and weights of examples; all at once.

    Returns:
        The parameters, stacked, or at `NUM_POINTS` points of training.
    """
    x, y = task.examples("train")
    network, params, memory = task.network(), initial(task, seeds), {}

    def loss(p: dict, inputs: Tensor, targets: Tensor, w: Tensor) -> Tensor:
        return (w * task.losses(functional_call(network, p, (inputs,)), targets)).mean()

    gradient, number = vmap(grad(loss)), orders.shape[1]
    orders, weights = torch.as_tensor(orders), torch.as_tensor(weights).float()
    points, kept = {number * (i + 1) // NUM_POINTS for i in range(NUM_POINTS)}, []
    for step in range(number):
        rows = orders[:, step]
        grads = gradient(params, x[rows], y[rows], weights.gather(1, rows))
        update(task, params, grads, memory, step, number)
        if keep and step + 1 in points:
            kept.append((rate(task, step, number), dict(params)))
    return kept if keep else params


def measured(task: Task, params: dict[str, Tensor]) -> np.ndarray:
    """Return the loss of each query under each model."""
    x, y = task.examples("query")
    network = task.network()
    with torch.no_grad():
        each = vmap(lambda p: task.losses(functional_call(network, p, (x,)), y))(params)
    return each.numpy()


def retrained(task: Task, weights: np.ndarray, number: int, drop: bool) -> np.ndarray:
    """Retrain on datasets without some examples, dropped or at weight 0; by seed and dataset.

    Trainings on all datasets share their seeds.
    """
    runs = [(TRUTH_SEED + i, w) for i in range(number) for w in weights]
    found = []
    for start in range(0, len(runs), AT_ONCE):
        some = runs[start : start + AT_ONCE]
        seeds = [seed for seed, _ in some]
        rows = [np.flatnonzero(w) if drop else np.arange(len(w)) for _, w in some]
        orders = np.stack([order_of(task, s, r) for s, r in zip(seeds, rows, strict=True)])
        found.append(measured(task, train(task, seeds, orders, np.stack([w for _, w in some]))))
    return np.concatenate(found).reshape(number, len(weights), -1)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    task = Task.load(folder)
    whole = np.ones((1, len(task.arrays["x_train"])))
    if not (folder / "models.pt").exists():
        start = time.process_time()
        seeds = list(range(task.about["models"]))
        orders = np.stack([order_of(task, seed, np.arange(whole.size)) for seed in seeds])
        points = train(task, seeds, orders, np.tile(whole, (len(seeds), 1)), keep=True)
        states = [{n: p[i] for n, p in points[-1][1].items()} for i in range(len(seeds))]
        seconds = (time.process_time() - start) / len(seeds)
        some = [(r, {n: p[:4] for n, p in params.items()}) for r, params in points]
        torch.save(some, folder / "points.pt")
        torch.save(states, folder / "models.pt")
        (folder / "models.json").write_text(json.dumps({"seconds": seconds}))
    for name, (number, drop) in task.about["truths"].items():
        path = folder / f"torch-{name}.npz"
        if not path.exists():
            start = time.process_time()
            full = retrained(task, whole, number, drop=False)[:, 0]
            each = retrained(task, task.arrays[name], number, drop)
            seconds = time.process_time() - start
            np.savez(path, full=full, perturbed=each, seconds=seconds)
            print(name, seconds, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

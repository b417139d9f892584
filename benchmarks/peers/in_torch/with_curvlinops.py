"""curvlinops: a curvature and its inverse, as its examples build them; gradients are ours."""

import numpy as np
import torch
from curvlinops import EKFACLinearOperator, GGNLinearOperator, KFACInverseLinearOperator
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import cg as solve
from torch import nn
from torch.func import functional_call, grad, vmap


def gradients(task, model, part, names):
    """Return the gradient of each example's loss, `(example, parameter)`."""
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p, x, y):
        return task.losses(functional_call(model, p, (x[None],)), y[None])[0]

    each = vmap(grad(loss), (None, 0, 0))(params, *task.examples(part))
    return torch.cat([each[name].flatten(1) for name in names], 1)


class Rows(nn.Module):
    """A model whose outputs are a row for each target: each character of each text is one."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).flatten(0, -2)


def parts(task, model, names):
    """Return what an operator is made of: model, loss, parameters and data."""
    params, (x, y) = dict(model.named_parameters()), task.examples("train")
    return Rows(model), nn.CrossEntropyLoss(), [params[name] for name in names], [(x, y.flatten())]


def of_linear_layers(model):
    """Name the parameters of linear layers: others have no Kronecker factors there."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    return [f"{layer}.{name}" for layer, m in layers.items() for name, _ in m.named_parameters()]


def ekfac(task, state, seed, damping=1e-3):
    model = task.model(state)
    names = of_linear_layers(model)
    matrix = EKFACLinearOperator(
        *parts(task, model, names), check_deterministic=False, separate_weight_and_bias=False
    )
    solve = KFACInverseLinearOperator(matrix, damping=damping, use_exact_damping=True)
    query, train = (gradients(task, model, part, names) for part in ("query", "train"))
    return ((solve @ query.T).T @ train.T).detach().numpy()


def cg(task, state, seed, damping=1e-2, steps=50):
    model = task.model(state)
    names = [name for name, _ in model.named_parameters()]
    matrix = GGNLinearOperator(*parts(task, model, names), check_deterministic=False).to_scipy()
    query, train = (gradients(task, model, part, names).numpy() for part in ("query", "train"))
    damped = LinearOperator(matrix.shape, lambda v: matrix @ v + damping * v, dtype=np.float32)
    solved = np.stack([solve(damped, q, maxiter=steps)[0] for q in query])
    return solved @ train.T


SETTINGS = {
    "EK-FAC, damping 0.001": (ekfac, (gradients, parts, of_linear_layers)),
    "Gauss-Newton by 50 conjugate gradients, damping 0.01": (cg, (gradients, parts)),
}

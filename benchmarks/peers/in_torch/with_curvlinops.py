"""curvlinops: a curvature and its inverse, as its examples build them; gradients are ours."""

import numpy as np
import torch
from curvlinops import EKFACLinearOperator, GGNLinearOperator, KFACInverseLinearOperator
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import cg as solve
from torch import nn
from torch.func import functional_call, grad, vmap


def gradients(task, model, part):
    """Return the gradient of each example's loss, `(example, parameter)`."""
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p, x, y):
        return task.losses(functional_call(model, p, (x[None],)), y[None])[0]

    each = vmap(grad(loss), (None, 0, 0))(params, *task.examples(part))
    return torch.cat([each[name].flatten(1) for name in params], 1)


def ekfac(task, state, seed, damping=1e-3):
    model = task.model(state)
    x, y = task.examples("train")
    matrix = EKFACLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)], check_deterministic=False,
        separate_weight_and_bias=False,
    )  # fmt: skip
    solve = KFACInverseLinearOperator(matrix, damping=damping, use_exact_damping=True)
    query = gradients(task, model, "query")
    return ((solve @ query.T).T @ gradients(task, model, "train").T).detach().numpy()


def cg(task, state, seed, damping=1e-2, steps=50):
    model = task.model(state)
    x, y = task.examples("train")
    matrix = GGNLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)], check_deterministic=False
    ).to_scipy()
    query = gradients(task, model, "query").numpy()
    damped = LinearOperator(matrix.shape, lambda v: matrix @ v + damping * v, dtype=np.float32)
    solved = np.stack([solve(damped, q, maxiter=steps)[0] for q in query])
    return solved @ gradients(task, model, "train").numpy().T


SETTINGS = {
    "EK-FAC, damping 0.001": (ekfac, (gradients,)),
    "Gauss-Newton by 50 conjugate gradients, damping 0.01": (cg, (gradients,)),
}

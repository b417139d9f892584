"""pyDVL, as its documentation uses it."""

import warnings

from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
from pydvl.influence.torch import (  # noqa: E402
    CgInfluence,
    EkfacInfluence,
    NystroemSketchInfluence,
)


def loss(outputs, targets):
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def influences(task, state, method, *arguments, **options):
    fitted = method(task.model(state), *arguments, **options)
    x, y = task.examples("train")
    fitted = fitted.fit(DataLoader(TensorDataset(x, y), batch_size=256))
    return fitted.influences(*task.examples("query"), x, y).detach().numpy()


def nystroem(task, state, seed):
    sketch = NystroemSketchInfluence
    return influences(task, state, sketch, loss, regularization=1e-2, rank=100)


def cg(task, state, seed):
    options = {"regularization": 1e-2, "maxiter": 10, "warn_on_max_iteration": False}
    return influences(task, state, CgInfluence, loss, **options)


def ekfac(task, state, seed):
    options = {"update_diagonal": True, "hessian_regularization": 1e-2}
    return influences(task, state, EkfacInfluence, **options)


SETTINGS = {
    "EK-FAC, regularization 0.01": (ekfac, (influences,)),
    "Nystroem 100, regularization 0.01": (nystroem, (influences, loss)),
    "conjugate gradients 10, regularization 0.01": (cg, (influences, loss)),
}

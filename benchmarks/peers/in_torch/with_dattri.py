"""dattri, as its documentation uses it."""

import torch
from dattri.algorithm import IFAttributorCG
from dattri.task import AttributionTask
from torch.utils.data import DataLoader, TensorDataset


def loaders(task):
    """Return loaders of one batch each: scores depend on the size of batches."""
    data = [TensorDataset(*task.examples(part)) for part in ("train", "query")]
    return [DataLoader(each, batch_size=len(each)) for each in data]


def attribute(task, state, method, **options):
    model = task.model(state)

    def loss(params, data):
        inputs, targets = data
        outputs = torch.func.functional_call(model, params, inputs.unsqueeze(0))
        return task.losses(outputs, targets.unsqueeze(0)).mean()

    described = AttributionTask(loss_func=loss, model=model, checkpoints=state)
    attributor = method(task=described, **options)
    train, query = loaders(task)
    attributor.cache(train)
    with torch.no_grad():
        return attributor.attribute(train, query).T.numpy()


def cg(task, state, seed, **options):
    return attribute(task, state, IFAttributorCG, **options)


def regularized(task, state, seed):
    return cg(task, state, seed, max_iter=10, regularization=1e-2)


def convex(task, state, seed):
    return cg(task, state, seed, max_iter=10, regularization=1.0)


SETTINGS = {
    "conjugate gradients, default": (cg, (loaders, attribute)),
    "conjugate gradients, regularization 0.01": (regularized, (loaders, attribute, cg)),
    "conjugate gradients, regularization 1": (convex, (loaders, attribute, cg)),
}

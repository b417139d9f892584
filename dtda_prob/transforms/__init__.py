"""Push-forwards: transforms that carry samples of the outcome to other weights."""

from dtda_prob.transforms.influence import influence as influence
from dtda_prob.transforms.response import PushForward as PushForward
from dtda_prob.transforms.retrain import retrain as retrain
from dtda_prob.transforms.unroll import unroll as unroll

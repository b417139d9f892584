"""Push-forwards: transforms that carry samples of the outcome to other weights."""

from dtda_prob.transforms.push_forward import PushForward as PushForward

"""Push-forwards: transforms that carry samples of the outcome to other weights."""

from dtda_prob.transforms.covariance import covariance as covariance
from dtda_prob.transforms.importance import importance as importance
from dtda_prob.transforms.influence import influence as influence
from dtda_prob.transforms.influence import newton as newton
from dtda_prob.transforms.push_forward import PushForward as PushForward
from dtda_prob.transforms.retrain import finetune as finetune
from dtda_prob.transforms.retrain import retrain as retrain
from dtda_prob.transforms.segments import segments as segments
from dtda_prob.transforms.trajectory import cosine as cosine
from dtda_prob.transforms.trajectory import trajectory as trajectory
from dtda_prob.transforms.unroll import unroll as unroll

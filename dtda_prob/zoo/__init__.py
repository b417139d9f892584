"""Small ready-made programs, and data sets for them."""

from dtda_prob.zoo.datasets import Radon as Radon
from dtda_prob.zoo.datasets import Split as Split
from dtda_prob.zoo.datasets import concrete as concrete
from dtda_prob.zoo.datasets import digits as digits
from dtda_prob.zoo.datasets import radon as radon
from dtda_prob.zoo.programs import classifier as classifier
from dtda_prob.zoo.programs import linear_regression as linear_regression
from dtda_prob.zoo.programs import regressor as regressor

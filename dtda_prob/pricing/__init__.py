"""What a study, or a step of one, will cost before it starts."""

from dtda_prob.pricing.plan import Plan as Plan
from dtda_prob.pricing.plan import plan as plan
from dtda_prob.pricing.price import Price as Price
from dtda_prob.pricing.price import price_attribution as price_attribution
from dtda_prob.pricing.price import price_draws as price_draws
from dtda_prob.pricing.price import together as together

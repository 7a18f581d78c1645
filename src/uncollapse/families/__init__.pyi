"""Public names and the modules that define them; type checkers read the same table."""

from uncollapse.families.base import Family as Family
from uncollapse.families.continuous import Beta as Beta
from uncollapse.families.continuous import ContinuousBernoulli as ContinuousBernoulli
from uncollapse.families.continuous import Exponential as Exponential
from uncollapse.families.discrete import Bernoulli as Bernoulli
from uncollapse.families.discrete import Categorical as Categorical
from uncollapse.families.discrete import NegativeBinomial as NegativeBinomial
from uncollapse.families.discrete import Poisson as Poisson
from uncollapse.families.gaussian import Gaussian as Gaussian
from uncollapse.families.gaussian import HeteroscedasticGaussian as HeteroscedasticGaussian
from uncollapse.families.registry import FAMILIES as FAMILIES
from uncollapse.families.registry import get_family as get_family

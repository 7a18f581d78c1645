"""Public names and the modules that define them; type checkers read the same table."""

from uncollapse.strategies.base import Joint as Joint
from uncollapse.strategies.base import Strategy as Strategy
from uncollapse.strategies.base import TrainingState as TrainingState
from uncollapse.strategies.lagging import Lagging as Lagging
from uncollapse.strategies.registry import STRATEGIES as STRATEGIES
from uncollapse.strategies.registry import get_strategy as get_strategy
from uncollapse.strategies.semi_amortized import RefinedPosterior as RefinedPosterior
from uncollapse.strategies.semi_amortized import SemiAmortized as SemiAmortized

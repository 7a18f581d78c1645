"""Public names and the modules that define them; type checkers read the same table."""

from uncollapse.objectives.elbo import CyclicalElbo as CyclicalElbo
from uncollapse.objectives.elbo import Elbo as Elbo
from uncollapse.objectives.elbo import FreeBits as FreeBits
from uncollapse.objectives.elbo import ImportanceWeighted as ImportanceWeighted
from uncollapse.objectives.elbo import Loss as Loss
from uncollapse.objectives.elbo import Objective as Objective
from uncollapse.objectives.elbo import negative_elbo as negative_elbo
from uncollapse.objectives.elbo import score_term as score_term
from uncollapse.objectives.penalties import GradientPenalty as GradientPenalty
from uncollapse.objectives.penalties import LatentReconstruction as LatentReconstruction
from uncollapse.objectives.penalties import QuotientPenalty as QuotientPenalty
from uncollapse.objectives.registry import OBJECTIVES as OBJECTIVES
from uncollapse.objectives.registry import get_objective as get_objective

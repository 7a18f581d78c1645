"""Classical models with collapsing posteriors, by Markov chain Monte Carlo (W21 section 4.2,
appendix A)."""

from uncollapse.classical.gmm import MixtureWeight
from uncollapse.classical.nuts import Draws, sample
from uncollapse.classical.ppca import PPCA

__all__ = ["PPCA", "Draws", "MixtureWeight", "sample"]

"""The scikit-learn face: estimators that fit, transform, sample, score, save and load."""

from uncollapse.estimators.base import Estimator
from uncollapse.estimators.loading import load
from uncollapse.estimators.mixture import MixtureVAE
from uncollapse.estimators.sequence import SequenceVAE
from uncollapse.estimators.vae import VAE

__all__ = ["VAE", "Estimator", "MixtureVAE", "SequenceVAE", "load"]

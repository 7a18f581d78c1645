"""The VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uncollapse import models
from uncollapse.estimators.base import Estimator
from uncollapse.estimators.building import build_decoder, build_family, encoder_widths
from uncollapse.estimators.settings import VAESettings
from uncollapse.latent import POSTERIORS, StandardNormal


class VAE(Estimator, VAESettings):
    """A variational autoencoder whose latents cannot collapse, as a scikit-learn transformer.

    With `inverse_lipschitz` a number or several, the decoder is made of Brenier maps and moves its
    natural parameters at least that much when z moves: IL-LIDVAE (K23 definition 4.1), and LIDVAE
    (W21 definition 3) at 0. With None it is a multilayer perceptron: the ordinary VAE (Kingma &
    Welling 2014).

    Attributes:
        model_: the trained `uncollapse.models.VAE`.
        history_: the training, a row for each epoch: epoch, loss, reconstruction and kl in nats per
            example, and, since the start, seconds and evaluations of the decoder.
        n_features_in_: number of features seen in `fit`.
        feature_names_in_: their names, where X had some.
        seed_: the seed that was used.
        inverse_lipschitz_: the constants in force, one for each map; None for an ordinary decoder.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(500, 5))
    >>> vae = uc.VAE(latent_dim=2, inverse_lipschitz=1.0, max_epochs=2, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.sample(3).shape
    ((500, 2), (3, 5))
    """

    @staticmethod
    def _build(parameters: Mapping[str, Any], n_features: int) -> models.VAE:
        """An untrained model from checked parameters.

        Raises:
            InputError: if the parameters do not suit the number of features.
        """
        latent_dim = parameters["latent_dim"]
        family = build_family(parameters, n_features)
        decoder = build_decoder(parameters, family, n_features)
        posterior = POSTERIORS[parameters["posterior"]].from_perceptron(
            n_features, latent_dim, encoder_widths(parameters), family.features
        )
        return models.VAE(StandardNormal(latent_dim), posterior, decoder, family)

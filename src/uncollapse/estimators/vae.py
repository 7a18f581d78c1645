"""The VAE."""

from __future__ import annotations

from uncollapse import families, latent, models
from uncollapse.estimators.rows import RowEstimator
from uncollapse.estimators.settings import VAESettings


class VAE(RowEstimator["models.VAEModel", VAESettings], VAESettings):
    """A variational autoencoder, by default one with an injective decoder, as a scikit-learn
    transformer.

    With positive constants in `inverse_lipschitz`, the decoder consists of Brenier maps, and its
    natural parameters move at least by the product of the constants times the move of z: IL-LIDVAE
    (K23 definition 4.1). At 0 it is only injective: LIDVAE (W21 definition 3). With None it is a
    multilayer perceptron: the ordinary VAE (Kingma & Welling 2014).

    Attributes:
        model_: the trained `uncollapse.models.VAEModel`.
        history_: table with a row for each epoch: epoch, loss, reconstruction and kl in nats per
            example, and seconds and decoder evaluations since the start.
        settings_: the validated settings of the fit.
        n_features_in_: number of features seen in `fit`.
        feature_names_in_: names of the features, if X had some.
        seed_: the seed that the fit used.
        inverse_lipschitz_: constants after training, one per map; None for an ordinary decoder.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(500, 5))
    >>> vae = uc.VAE(latent_dim=2, inverse_lipschitz=1.0, max_epochs=2, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.sample(3).shape
    ((500, 2), (3, 5))
    """

    settings_type = VAESettings

    @staticmethod
    def _build(settings: VAESettings, size: int) -> models.VAEModel:
        from uncollapse.estimators.building import row_decoder

        family = families.get_family(settings.family).for_features(size)
        decoder = row_decoder(settings, family, size)
        widths = settings.encoder_hidden or settings.hidden
        posterior = latent.POSTERIORS[settings.posterior].from_perceptron(
            size, settings.latent_dim, widths, family.features
        )
        prior = latent.StandardNormal(settings.latent_dim)
        return models.VAEModel(prior, posterior, decoder, family)

"""The mixture VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from uncollapse import families, latent, models
from uncollapse._utils.errors import ParameterError
from uncollapse._utils.progress import spinner
from uncollapse._utils.random import derived_seed, random_indices
from uncollapse.estimators.rows import RowEstimator
from uncollapse.estimators.settings import MixtureSettings

if TYPE_CHECKING:
    from uncollapse.estimators.plan import Plan
    from uncollapse.measures.posteriors import Posteriors

MAX_CLUSTERED_ROWS = 10_000


class MixtureVAE(RowEstimator["models.MixtureModel", MixtureSettings], MixtureSettings):
    """A VAE with a mixture prior: y uniform over c components, z|y Gaussian, then x|z (W21 example
    1, K23 definition 4.2).

    With an injective decoder and learned components it is LIDMVAE (LIDGMVAE) at `inverse_lipschitz`
    0 and IL-LIDMVAE above; with `inverse_lipschitz` None the GMVAE (Dilokthanakul et al. 2016);
    with family "bernoulli" W21's Bernoulli mixture.

    From a random start mixtures get stuck. So training begins with a standard normal prior, finds
    components by spectral clustering of the posterior means, and continues with the mixture prior.

    Attributes:
        model_: the trained `uncollapse.models.MarginalMixtureModel`.
        history_: table with a row for each epoch: epoch, loss, reconstruction and kl in nats per
            example, and seconds and decoder evaluations since the start.
        means_: means of the components, shape (c, latent_dim).
        scales_: standard deviations of the components, shape (c, latent_dim).
        settings_: the validated settings of the fit.
        n_features_in_: number of features seen in `fit`.
        feature_names_in_: names of the features, if X had some.
        seed_: the seed that the fit used.
        inverse_lipschitz_: constants after training, one per map; None for an ordinary decoder.

    >>> import numpy as np, uncollapse as uc
    >>> labels = np.repeat([0, 1], 200)
    >>> X = np.random.default_rng(0).normal(size=(400, 3)) + 8 * labels[:, None]
    >>> mixture = uc.MixtureVAE(n_components=2, hidden=(16, 16), learning_rate=5e-3,
    ...                         max_epochs=20, random_state=0)
    >>> clusters = mixture.fit_predict(X)
    >>> agreement = (clusters == labels).mean()
    >>> bool(max(agreement, 1 - agreement) > 0.99)
    True
    """

    settings_type = MixtureSettings

    @staticmethod
    def _build(settings: MixtureSettings, size: int) -> models.MixtureModel:
        from uncollapse.estimators.building import row_decoder

        family = families.get_family(settings.family).for_features(size)
        decoder = row_decoder(settings, family, size)
        prior = _build_prior(settings)
        _warmup_epochs(settings)  # raises for epochs that do not suit, before training is lost
        widths = settings.encoder_hidden or settings.hidden
        if settings.inference == "marginal":
            posterior = latent.POSTERIORS[settings.posterior].from_perceptron(
                size, prior.latent_dim, widths, family.features
            )
            return models.MarginalMixtureModel(prior, posterior, decoder, family)
        is_flow = settings.posterior == "realnvp"
        by_component = latent.ComponentPosterior.from_perceptron(
            size, prior, widths, family.features, flow=is_flow
        )
        return models.EnumeratedMixtureModel(prior, by_component, decoder, family)

    def predict(self, X: object) -> np.ndarray:
        """Return the most probable component of each row, shape (n,)."""
        return np.asarray(self.predict_proba(X).argmax(1))

    def predict_proba(self, X: object) -> np.ndarray:
        """Return q(y|x), shape (n, c), float32: E_q(z|x) p(y|z) at 64 draws that belong to the row,
        or the learned q(y|x) under "enumerate"."""
        from uncollapse.measures.posteriors import infer

        model = self._fitted
        return self._map_rows(X, lambda rows: np.asarray(infer(model, rows).components))

    def fit_predict(self, X: object, y: object = None) -> np.ndarray:
        """Fit, then return `predict` of the same rows."""
        return self.fit(X, y).predict(X)

    def sample(
        self, n_samples: int = 1, random_state: object = None, component: int | None = None
    ) -> np.ndarray:
        """Draw x from the model, shape (n_samples, n_features), float32.

        Args:
            n_samples: number of draws.
            random_state: a seed or a RandomState; None draws anew at each call.
            component: component to draw from; all of them alike if not given.

        Raises:
            ParameterError: if `n_samples` is not positive, or there is no such component.
        """
        prior = self._fitted.prior
        is_integer = isinstance(component, int | np.integer) and not isinstance(component, bool)
        if component is not None and not (is_integer and 0 <= component < prior.n_components):
            raise ParameterError(
                f"component expects an integer from 0 to {prior.n_components - 1}, got "
                f"{component!r}."
            )
        with self._sampling(n_samples, random_state):
            if component is None:
                return self._draw_rows(self.model_.draw_prior(n_samples))
            return self._draw_rows(prior.components().sample((n_samples,))[:, component])

    @property
    def means_(self) -> np.ndarray:
        """Means of the components, shape (c, latent_dim)."""
        return self._fitted.prior.components().mean.cpu().numpy()

    @property
    def scales_(self) -> np.ndarray:
        """Standard deviations of the components, shape (c, latent_dim)."""
        return self._fitted.prior.components().stddev.cpu().numpy()

    def _learn(self, model: models.MixtureModel, plan: Plan) -> None:
        settings, n_warmup = self.settings_, _warmup_epochs(self.settings_)
        if n_warmup:
            plain = model.without_components()
            seed = derived_seed(plan.seed, "warm-up")
            try:
                plan.train(plain, range(n_warmup), seed, phase="warm-up")
            finally:  # after an interruption too, so that what has been learned is a mixture
                # The prior had no part in the warm-up, and follows to the device of the training.
                model.to(next(plain.parameters()).device)
                with spinner("looking for clusters", settings.verbose):
                    _start_components(model, plain, plan.data.rows, plan.seed)
        plan.train(model, range(n_warmup, settings.max_epochs), plan.seed)


def _build_prior(settings: MixtureSettings) -> latent.GaussianMixture:
    kind, sizes = latent.PRIORS[settings.prior], (settings.n_components, settings.latent_dim)
    if kind is latent.SeparatedComponents:
        return latent.SeparatedComponents(*sizes, settings.separation)
    return kind(*sizes)


def _warmup_epochs(settings: MixtureSettings) -> int:
    n_epochs, asked = settings.max_epochs, settings.warmup_epochs
    if asked == "auto":
        return 0 if settings.prior == "unit" else min(n_epochs - 1, max(1, n_epochs // 4))
    if asked >= n_epochs:
        raise ParameterError(
            f"warmup_epochs expects less than max_epochs={n_epochs}, got {asked}. Leave epochs for "
            "the mixture."
        )
    return asked


def _start_components(
    model: models.MixtureModel, plain: models.VAEModel, rows: np.ndarray, seed: int
) -> None:
    """Start the components at clusters of posterior means, with the spread of their posteriors."""
    import torch

    from uncollapse.estimators.clusters import find_clusters
    from uncollapse.measures.posteriors import infer

    some = rows[random_indices(len(rows), MAX_CLUSTERED_ROWS, derived_seed(seed, "rows"))]
    posteriors = infer(plain.eval(), some)
    model.train()  # eval() above has reached the networks that both models share
    n_components = model.prior.n_components
    clusters = find_clusters(posteriors.means, n_components, derived_seed(seed, "clusters"))
    moments = [_moments(posteriors, clusters, k) for k in range(n_components)]
    device = next(plain.parameters()).device
    means, covariances = (
        torch.as_tensor(np.stack(part), device=device) for part in zip(*moments, strict=True)
    )
    model.prior.start_at(means.float(), covariances)


def _moments(
    posteriors: Posteriors, clusters: np.ndarray, cluster: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of z over the posteriors of a cluster. The covariance is that of
    all posteriors where the cluster has too few."""
    members, n_needed = clusters == cluster, 2 * posteriors.means.shape[1]
    many = members if members.sum() > n_needed else np.ones_like(members)
    within = posteriors.means[many].astype(np.float64)
    noise = posteriors.variances[many].mean(0, dtype=np.float64)
    covariance = np.atleast_2d(np.cov(within.T)) + np.diag(noise)
    if members.any():
        return posteriors.means[members].mean(0), covariance
    generator = np.random.default_rng(cluster)  # equal components would stay equal
    return generator.multivariate_normal(within.mean(0), covariance), covariance

"""The mixture VAE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from uncollapse import models
from uncollapse._utils.errors import ParameterError
from uncollapse._utils.progress import spinner
from uncollapse._utils.random import derived_seed
from uncollapse.estimators.base import Estimator, Plan
from uncollapse.estimators.building import build_decoder, build_family, encoder_widths
from uncollapse.estimators.clusters import find_clusters
from uncollapse.estimators.settings import MixtureSettings
from uncollapse.latent import (
    POSTERIORS,
    PRIORS,
    ComponentPosterior,
    GaussianMixture,
    SeparatedComponents,
)
from uncollapse.measures.posteriors import Posteriors, infer

MAX_CLUSTERED_ROWS = 10_000


class MixtureVAE(Estimator, MixtureSettings):
    """A VAE whose latents fall into components: y uniform over c, z|y Gaussian, then x|z (W21
    example 1, K23 definition 4.2).

    With an injective decoder and learned components it is LIDMVAE (LIDGMVAE) at `inverse_lipschitz`
    0 and IL-LIDMVAE above; with `inverse_lipschitz` None the GMVAE (Dilokthanakul et al. 2016);
    with family "bernoulli" W21's Bernoulli mixture.

    Training begins without components, with a standard normal prior, finds them by spectral
    clustering of the posterior means, and goes on with the mixture prior: from a random start
    mixtures get stuck.

    Attributes:
        model_: the trained `uncollapse.models.MixtureVAE`.
        history_: the training, a row for each epoch: epoch, loss, reconstruction and kl in nats per
            example, and, since the start, seconds and evaluations of the decoder.
        means_: of the components, shape (c, latent_dim).
        scales_: of the components, shape (c, latent_dim).
        n_features_in_: number of features seen in `fit`.
        feature_names_in_: their names, where X had some.
        seed_: the seed that was used.
        inverse_lipschitz_: the constants in force, one for each map; None for an ordinary decoder.

    >>> import numpy as np, uncollapse as uc
    >>> labels = np.repeat([0, 1], 200)
    >>> X = np.random.default_rng(0).normal(size=(400, 3)) + 8 * labels[:, None]
    >>> mixture = uc.MixtureVAE(n_components=2, max_epochs=20, random_state=0)
    >>> clusters = mixture.fit_predict(X)
    >>> agreement = (clusters == labels).mean()
    >>> bool(max(agreement, 1 - agreement) > 0.99)
    True
    """

    @staticmethod
    def _build(parameters: Mapping[str, Any], n_features: int) -> models.MixtureVAE:
        """An untrained model from checked parameters.

        Raises:
            InputError: if the parameters do not suit each other or the number of features.
        """
        family = build_family(parameters, n_features)
        decoder = build_decoder(parameters, family, n_features)
        prior = _build_prior(parameters)
        _warmup_epochs(parameters)  # whether they suit, before there is a training to lose
        widths = encoder_widths(parameters)
        if parameters["inference"] == "marginal":
            posterior = POSTERIORS[parameters["posterior"]].from_perceptron(
                n_features, prior.latent_dim, widths, family.features
            )
            return models.MixtureVAE(prior, posterior, decoder, family)
        each = ComponentPosterior.from_perceptron(
            n_features, prior, widths, family.features, flow=parameters["posterior"] == "realnvp"
        )
        return models.EnumeratedMixtureVAE(prior, each, decoder, family)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row, shape (n,)."""
        return np.asarray(self.predict_proba(X).argmax(1))

    def predict_proba(self, X: Any) -> np.ndarray:
        """q(y|x), shape (n, c), float32: E_q(z|x) p(y|z) at 64 draws that belong to the row, or
        what "enumerate" has learned."""

        def components(rows: np.ndarray) -> np.ndarray:
            found: np.ndarray | None = infer(self._model, rows).components
            assert found is not None
            return found

        return self._row_by_row(X, components)

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """`fit`, then `predict` on the same rows."""
        return self.fit(X, y).predict(X)

    def sample(
        self, n_samples: int = 1, random_state: Any = None, component: int | None = None
    ) -> np.ndarray:
        """Draws of x from the model, shape (n_samples, n_features), float32.

        Args:
            n_samples: how many.
            random_state: a seed or a RandomState; None draws anew at each call.
            component: the one to draw from; all alike if not given.

        Raises:
            InputError: if `n_samples` is not positive, or there is no such component.
        """
        draw = self._prior_draws if component is None else self._draws_of(component)
        return self._sample(draw, self._likelihood_draws, n_samples, random_state)

    def _draws_of(self, component: int) -> Callable[[int], torch.Tensor]:
        n_components = self._model.prior.n_components
        if (
            not isinstance(component, int | np.integer)
            or isinstance(component, bool)
            or not 0 <= component < n_components
        ):
            raise ParameterError(
                f"component expects an integer from 0 to {n_components - 1}, got {component!r}."
            )
        return lambda n: self._model.prior.components().sample((n,))[:, component]

    @property
    def means_(self) -> np.ndarray:
        """Means of the components, shape (c, latent_dim)."""
        return self._model.prior.components().mean.cpu().numpy()

    @property
    def scales_(self) -> np.ndarray:
        """Standard deviations of the components, shape (c, latent_dim)."""
        return self._model.prior.components().stddev.cpu().numpy()

    @property
    def _model(self) -> models.MixtureModel:
        check_is_fitted(self, "model_")
        assert isinstance(self.model_, models.MixtureModel)
        return self.model_

    def _learn(self, model: models.VAE, plan: Plan) -> None:
        assert isinstance(model, models.MixtureModel)
        n_warmup, n_epochs = _warmup_epochs(plan.parameters), plan.parameters["max_epochs"]
        if n_warmup:
            plain = model.without_components()
            try:
                self._minimise(
                    plain,
                    plan,
                    range(n_warmup),
                    derived_seed(plan.seed, "warm-up"),
                    phase="warm-up",
                )
            # the prior, which had no part in it, follows to the device that the rest was trained on
            finally:
                model.to(next(plain.parameters()).device)
            with spinner("looking for clusters", plan.parameters["verbose"]):
                _start_components(model, plain, plan.rows, plan.seed)
        self._minimise(model, plan, range(n_warmup, n_epochs), plan.seed)


def _build_prior(parameters: Mapping[str, Any]) -> GaussianMixture:
    kind, sizes = (
        PRIORS[parameters["prior"]],
        (parameters["n_components"], parameters["latent_dim"]),
    )
    return kind(*sizes, parameters["separation"]) if kind is SeparatedComponents else kind(*sizes)


def _warmup_epochs(parameters: Mapping[str, Any]) -> int:
    n_epochs, asked = parameters["max_epochs"], parameters["warmup_epochs"]
    if asked == "auto":
        return 0 if parameters["prior"] == "unit" else min(n_epochs - 1, max(1, n_epochs // 4))
    if asked >= n_epochs:
        raise ParameterError(
            f"warmup_epochs expects less than max_epochs={n_epochs}, got {asked}: leave epochs for "
            "the mixture."
        )
    return int(asked)


def _start_components(
    model: models.MixtureVAE, plain: models.VAE, rows: np.ndarray, seed: int
) -> None:
    """Put the components where clusters of posterior means are, as wide as the posteriors of their
    clusters."""
    some = rows[
        np.random.default_rng(derived_seed(seed, "rows")).permutation(len(rows))[
            :MAX_CLUSTERED_ROWS
        ]
    ]
    posteriors = infer(plain.eval(), some)
    model.train()  # what both share
    clusters = find_clusters(
        posteriors.means, model.prior.n_components, derived_seed(seed, "clusters")
    )
    moments = [_moments(posteriors, clusters, k) for k in range(model.prior.n_components)]
    device = next(plain.parameters()).device
    means, covariances = (
        torch.as_tensor(np.stack(part), device=device) for part in zip(*moments, strict=True)
    )
    model.prior.start_at(means.float(), covariances)


def _moments(
    posteriors: Posteriors, clusters: np.ndarray, cluster: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of z over the posteriors of a cluster, or of all where a cluster has too
    few for a covariance."""
    members, n_needed = clusters == cluster, 2 * posteriors.means.shape[1]
    many = members if members.sum() > n_needed else np.ones_like(members)
    within = posteriors.means[many].astype(np.float64)
    covariance = np.atleast_2d(np.cov(within.T)) + np.diag(
        posteriors.variances[many].mean(0, dtype=np.float64)
    )
    if members.any():
        return posteriors.means[members].mean(0), covariance
    chance = np.random.default_rng(cluster)  # components at one place would stay together
    return chance.multivariate_normal(within.mean(0), covariance), covariance

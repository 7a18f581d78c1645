"""Classical models: closed forms, and W21's theorem 1, that a posterior is the prior where and only
where z is not identifiable."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch.distributions import MultivariateNormal, Normal

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.classical import PPCA, MixtureWeight

TRUE = PPCA(np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2)))[0] * [1.4, 0.8], 0.3)


def test_a_posterior_of_ppca_is_bayes_rule():
    x, z = torch.as_tensor(TRUE.sample(7, seed=0)), torch.randn(7, 2, dtype=torch.double)
    joint = TRUE.prior().log_prob(z).sum(-1) + TRUE.likelihood(z).log_prob(x).sum(-1)
    assert torch.allclose(joint, TRUE.marginal().log_prob(x) + TRUE.posterior(x).log_prob(z))


def test_draws_of_ppca_have_its_covariance():
    rows = TRUE.sample(200_000, seed=0)
    assert np.allclose(
        rows.T @ rows / len(rows), TRUE.marginal().covariance_matrix.numpy(), atol=0.03
    )


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0, 1.5])
def test_maximum_likelihood_is_a_maximum_and_collapses_below_the_noise(sigma):
    rows = TRUE.sample(2000, seed=1)
    eigenvalues = np.linalg.eigvalsh(rows.T @ rows / len(rows))[::-1]
    model = PPCA.fit(rows, 2, sigma)
    lengths = np.square(model.weight).sum(0)
    assert np.allclose(lengths, np.maximum(eigenvalues[:2] - sigma**2, 0))
    assert (lengths == 0).tolist() == (eigenvalues[:2] <= sigma**2).tolist()
    best = model.marginal().log_prob(torch.as_tensor(rows)).sum()
    for seed in range(20):
        moved = PPCA(model.weight + 0.02 * np.random.default_rng(seed).normal(size=(5, 2)), sigma)
        assert moved.marginal().log_prob(torch.as_tensor(rows)).sum() < best


def test_the_noise_of_maximum_likelihood_is_the_mean_of_what_is_left():
    rows = TRUE.sample(2000, seed=1)
    eigenvalues = np.linalg.eigvalsh(rows.T @ rows / len(rows))
    assert PPCA.fit(rows, 2).sigma == pytest.approx(math.sqrt(eigenvalues[:3].mean()))


def test_what_ppca_cannot_be_fitted_to_is_refused():
    with pytest.raises(InputError, match="more than latent_dim=5 columns"):
        PPCA.fit(TRUE.sample(10, seed=0), 5)
    with pytest.raises(InputError, match="sigma expects"):
        PPCA.fit(TRUE.sample(10, seed=0), 2, sigma=-1.0)


@pytest.mark.parametrize("means", [(-10.0, 10.0), (-0.5, 0.5), (-1.0, -1.0)])
def test_the_posterior_of_a_weight_is_that_of_quadrature(means):
    model = MixtureWeight(means)
    generator = np.random.default_rng(0)
    x = np.array(means)[(generator.random(300) > 0.15).astype(int)] + generator.normal(size=300)
    alpha, probability = model.posterior(x)

    def density(a):
        p = a * norm(means[0], 1).pdf(x) + (1 - a) * norm(means[1], 1).pdf(x)
        return math.exp(np.log(p).sum() - shift) * a**4 * (1 - a) ** 4

    shift = model.log_likelihood(x, alpha).max()
    moments = [
        quad(lambda a, k=k: a**k * density(a), 0, 1, points=[0.15], limit=500)[0] for k in range(3)
    ]
    mean = moments[1] / moments[0]
    assert alpha @ probability == pytest.approx(mean, abs=1e-4)
    variance = np.square(alpha - mean) @ probability
    assert variance == pytest.approx(moments[2] / moments[0] - mean**2, rel=0.01)


def test_identifiability_of_a_line_has_a_closed_form():
    """log p(x|z) = -(x - z)^2 / 2: its deviation over z is sqrt(x^2 + 1/2)."""
    model = uc.from_functions(
        lambda x: (x, x), lambda z: z, likelihood=lambda mean: Normal(mean, 1.0), latent_dim=1
    )
    X = np.linspace(-2, 2, 64)[:, None]
    found = uc.is_identifiable(model, X)
    assert found
    assert found.spread_nats.value == pytest.approx(np.sqrt(X**2 + 0.5).mean(), rel=0.2)
    assert found.units["spread_nats"][0] == pytest.approx(math.sqrt((X**2 + 0.5).mean()), rel=0.2)
    assert "Identifiable: the likelihood of the data moves by" in repr(found)


def test_a_decoder_that_ignores_z_is_not_identifiable_whatever_its_encoder_says(linear_gaussian):
    linear_gaussian.weight = 0 * linear_gaussian.weight
    estimator = linear_gaussian.fitted()  # its encoder still moves with x
    found = uc.is_identifiable(estimator, linear_gaussian.data.numpy())
    assert not found
    assert found.units["identifiable"].tolist() == [False] * 3
    assert "constant in z" in repr(found)


def test_an_injective_decoder_is_identifiable_and_a_dead_column_is_found(linear_gaussian):
    assert (
        uc.is_identifiable(linear_gaussian.fitted(), linear_gaussian.data.numpy())
        .units["identifiable"]
        .all()
    )
    linear_gaussian.weight = linear_gaussian.weight * torch.tensor([1.0, 0.0, 1.0])
    found = uc.is_identifiable(linear_gaussian.fitted(), linear_gaussian.data.numpy())
    assert found.units["identifiable"].tolist() == [True, False, True]
    assert "but not with unit 1" in repr(found)


def test_identifiability_needs_rows():
    with pytest.raises(InputError, match="at least one row"):
        uc.is_identifiable(TRUE, np.zeros((0, 5)))


def test_ppca_is_diagnosed_as_it_is():
    report = uc.diagnose(TRUE, TRUE.sample(2000, seed=0), verbose=False, thorough=False)
    exact = TRUE.marginal().entropy().item()
    nll = report.estimates["nll_nats"]
    assert abs(nll.value - exact) < 4 * nll.standard_error
    assert report.verdict == "healthy"


needs_numpyro = pytest.mark.extra


@needs_numpyro
@pytest.mark.parametrize(("sigma", "n_collapsed"), [(0.3, 0), (1.0, 1), (1.5, 2)])
def test_posteriors_of_ppca_are_the_prior_where_and_only_where_a_latent_is_not_identifiable(
    sigma, n_collapsed
):
    """W21's theorem 1 by exact inference, at the global maximum of the likelihood: nothing of it is
    variational."""
    pytest.importorskip("numpyro", reason="needs the extra 'mcmc'")
    rows = TRUE.sample(60, seed=0) if sigma < 1 else TRUE.sample(2000, seed=0)[:60]
    model = PPCA.fit(TRUE.sample(2000, seed=0), 2, sigma)
    draws = model.draw_posterior(rows, n_draws=500)
    assert draws.n_divergences == 0
    assert draws.r_hat.max() < 1.05
    exact = model.posterior(torch.as_tensor(rows))
    errors = draws.pooled.mean(0).reshape(60, 2) - exact.mean.numpy()
    assert (
        np.abs(errors).max()
        < 5 * (draws.pooled.std(0) / np.sqrt(draws.effective_sample_size)).max()
    )
    at_prior = (draws.distance_to(norm.cdf) < draws.sampling_error).reshape(60, 2).mean(0)
    identifiable = uc.is_identifiable(model, rows).units["identifiable"].to_numpy()
    assert (~identifiable).sum() == n_collapsed
    assert (at_prior[~identifiable] > 0.9).all()
    assert (at_prior[identifiable] < 0.5).all()


@needs_numpyro
@pytest.mark.parametrize(
    ("means", "identifiable"), [((-10.0, 10.0), True), ((-0.5, 0.5), True), ((-1.0, -1.0), False)]
)
def test_the_posterior_of_a_weight_is_the_prior_where_and_only_where_clusters_are_one(
    means, identifiable
):
    pytest.importorskip("numpyro", reason="needs the extra 'mcmc'")
    model, generator = MixtureWeight(means), np.random.default_rng(0)
    x = np.array(means)[(generator.random(2000) > 0.15).astype(int)] + generator.normal(size=2000)
    surface = model.log_likelihood(x, np.array([0.1, 0.3, 0.5, 0.9]))
    assert (np.ptp(surface) > 1e-6) == identifiable
    draws = model.draw_posterior(x, n_draws=500)
    assert draws.n_divergences == 0
    assert draws.r_hat.max() < 1.05
    assert (draws.distance_to(model.prior().cdf)[0] > draws.sampling_error[0]) == identifiable
    alpha, probability = model.posterior(x)
    mean = alpha @ probability
    error = draws.pooled.std() / math.sqrt(draws.effective_sample_size[0])
    assert abs(draws.pooled.mean() - mean) < 5 * error


@needs_numpyro
def test_chains_that_disagree_are_not_sound():
    pytest.importorskip("numpyro", reason="needs the extra 'mcmc'")
    draws = TRUE.draw_posterior(TRUE.sample(3, seed=0), n_draws=500)
    assert "4 chains of 500, 6 latents" in repr(draws)
    assert draws.are_sound == (draws.r_hat.max() < 1.01)
    assert isinstance(TRUE.posterior(torch.zeros(1, 5)), MultivariateNormal)

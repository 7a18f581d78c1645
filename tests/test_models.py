"""The terms of the bound, where the truth is known: a linear Gaussian model with its exact
posterior."""

import numpy as np
import pytest
import torch

from uncollapse._utils.random import RowNoise
from uncollapse.measures.likelihood import importance_log_likelihood_per_row, importance_log_weights
from uncollapse.objectives import Elbo


def test_every_draw_of_the_exact_posterior_gives_the_exact_likelihood(linear_gaussian):
    """log p(x, z) - log q(z|x) = log p(x) for all z, so a wrong constant in any term would show."""
    x = linear_gaussian.data[:50]
    noise = 3 * torch.randn(7, 50, 3, dtype=torch.double)
    weights = importance_log_weights(linear_gaussian.model(), x, noise)
    assert torch.allclose(weights, linear_gaussian.marginal.log_prob(x).expand(7, 50), atol=1e-10)


def test_elbo_with_the_exact_posterior_is_the_exact_likelihood(linear_gaussian):
    model, x = linear_gaussian.model(), linear_gaussian.data[:20].repeat(5000, 1)
    torch.manual_seed(0)
    terms = model(x)
    draws = -terms.elbo
    exact = -linear_gaussian.marginal.log_prob(linear_gaussian.data[:20]).mean()
    assert (draws.mean() - exact).abs() < 4 * draws.std() / len(draws) ** 0.5
    torch.manual_seed(0)
    assert Elbo()(model, x, 0).value == draws.mean()


def test_elbo_with_a_wide_posterior_lies_below_by_its_divergence(linear_gaussian):
    x, widened = linear_gaussian.data[:20].repeat(5000, 1), 1.5
    torch.manual_seed(0)
    loss = Elbo()(linear_gaussian.model(widened), x, 0).value
    exact = -linear_gaussian.marginal.log_prob(linear_gaussian.data[:20]).mean()
    divergence = 3 * (
        -np.log(widened) + widened**2 / 2 - 0.5
    )  # KL between Gaussians of equal mean, three units
    assert (loss - exact).item() == pytest.approx(divergence, abs=0.03)


def test_kl_is_that_of_two_gaussians(linear_gaussian):
    model, x = linear_gaussian.model(), linear_gaussian.data[:4]
    q = model.posterior(x)
    expected = q.mean.square() / 2 + q.variance / 2 - 0.5 - q.variance.log() / 2
    assert torch.allclose(model.infer(x).kl, expected.sum(-1), atol=1e-12)


def test_importance_weighting_reaches_the_exact_likelihood_from_a_wrong_posterior(linear_gaussian):
    rows = linear_gaussian.data.numpy()
    exact = linear_gaussian.marginal.log_prob(linear_gaussian.data).mean().item()
    few = importance_log_likelihood_per_row(
        linear_gaussian.model(widened=1.5), rows, n_samples=1
    ).mean()
    many = importance_log_likelihood_per_row(
        linear_gaussian.model(widened=1.5), rows, n_samples=2000
    ).mean()
    assert many == pytest.approx(exact, abs=0.005)
    assert few < exact - 0.2


def test_importance_weights_are_averaged_and_not_their_logarithms(linear_gaussian):
    model, rows = linear_gaussian.model(widened=1.5), linear_gaussian.data[:5]
    noise = np.stack(
        [
            RowNoise(rows.numpy()[i : i + 1], "importance sampling").normal((7, 3))[0]
            for i in range(5)
        ],
        axis=1,
    )
    weights = importance_log_weights(model, rows, torch.as_tensor(noise, dtype=torch.double))
    estimate = importance_log_likelihood_per_row(model, rows.numpy(), n_samples=7)
    assert np.allclose(np.exp(estimate), np.exp(weights.numpy()).mean(0), rtol=1e-9)

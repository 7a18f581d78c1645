"""Mixture priors and the two bounds, where the truth is known: linear Gaussian mixtures, and
integrals in one dimension."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn
from torch.distributions import MultivariateNormal, Normal

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.families import Gaussian
from uncollapse.latent import (
    PRIORS,
    ComponentPosterior,
    DiagonalGaussian,
    FullComponents,
    LearnedComponents,
    SeparatedComponents,
    UnitComponents,
)
from uncollapse.measures.fisher import _posterior_scores
from uncollapse.measures.likelihood import importance_log_likelihood_per_row
from uncollapse.measures.posteriors import infer
from uncollapse.models import EnumeratedMixtureModel, MarginalMixtureModel, component_kl
from uncollapse.networks import MLPDecoder


def least_distance(prior):
    return float(torch.pdist(prior.means.detach()).min())


def log_density(prior, z):
    return float(prior().log_prob(torch.tensor([z], dtype=torch.double)))


def integrated(function):
    return quad(function, -60, 60, limit=2000, points=[-40, -20, -10, -5, 0, 5, 10, 20, 40])[0]


def mixture_1d(means, scales):
    prior = LearnedComponents(len(means), 1).double()
    prior.start_at(
        torch.tensor(means, dtype=torch.double)[:, None],
        torch.tensor(scales, dtype=torch.double)[:, None, None] ** 2,
    )
    return prior.requires_grad_(False)


def information_1d(prior):
    """I(y; z) = h(z) - E h(z|y), by integration."""
    entropy = integrated(lambda z: -math.exp(log_density(prior, z)) * log_density(prior, z))
    return entropy - prior.entropy_bound()


STARTS = {
    "random": lambda c, d: None,
    "coinciding": lambda c, d: (torch.ones(c, d), torch.ones(c, d)),
    "two coinciding": lambda c, d: (
        torch.cat([torch.zeros(1, d), 9.0 * torch.arange(c)[:-1, None].expand(-1, d)]),
        torch.ones(c, d),
    ),
    "close": lambda c, d: (
        1e-3 * torch.arange(c)[:, None].expand(-1, d).contiguous(),
        torch.ones(c, d),
    ),
    "narrow": lambda c, d: (torch.randn(c, d), torch.full((c, d), 1e-3)),
    "far": lambda c, d: (1e9 * torch.ones(c, d), torch.ones(c, d)),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("n_components", "latent_dim", "separation"),
    [(2, 2, math.sqrt(2)), (3, 2, 4.0), (7, 2, 1.0), (5, 1, 2.0)],
)
def test_no_training_brings_separated_components_together(
    n_components, latent_dim, separation, start
):
    torch.manual_seed(0)
    prior = SeparatedComponents(n_components, latent_dim, separation)
    given = STARTS[start](n_components, latent_dim)
    if given is not None:
        means, scales = given
        prior.start_at(means, torch.diag_embed(scales**2))
    assert prior.check_invariants()
    assert least_distance(prior) >= separation * (1 - 1e-4)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        torch.pdist(prior.means).sum().backward()
        optimizer.step()
    assert least_distance(prior) >= separation * (1 - 1e-4)
    for size in (1e3, 1e8, 1e18):
        nn.init.normal_(prior.moves, std=size)
        assert least_distance(prior) >= separation * (1 - 1e-4)


def test_training_can_bring_separated_components_close_to_their_separation():
    torch.manual_seed(0)
    prior = SeparatedComponents(2, 2, 3.0)
    before = least_distance(prior)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        torch.pdist(prior.means).sum().backward()
        optimizer.step()
    assert before > 4
    assert least_distance(prior) == pytest.approx(3.0, abs=0.02)


def test_separated_components_begin_where_they_are_put_in_units_of_their_scale():
    prior = SeparatedComponents(2, 2, 1.0)
    prior.start_at(
        torch.tensor([[0.0, 0.0], [6.0, 8.0]]), torch.diag_embed(torch.full((2, 2), 4.0))
    )
    assert torch.equal(prior.means.detach(), torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    assert torch.equal(prior.scales, torch.ones(2, 2))


def test_components_that_coincide_at_the_start_leave_the_others_where_they_are():
    prior = SeparatedComponents(3, 2, 1.0)
    prior.start_at(
        torch.tensor([[0.0, 0.0], [0.0, 0.0], [20.0, 0.0]]), torch.eye(2).expand(3, 2, 2)
    )
    assert least_distance(prior) >= 1
    assert prior.means.detach().abs().max() == 20


@pytest.mark.parametrize(("name", "factor"), [("anchors", 0.1), ("radii", 10.0), ("radii", -10.0)])
def test_separated_components_that_were_tampered_with_are_not_sound(name, factor, blobs, tmp_path):
    mixture = uc.MixtureVAE(
        n_components=3, hidden=(8,), max_epochs=2, warmup_epochs=0, random_state=0
    ).fit(blobs[0])
    assert mixture.model_.prior.check_invariants()
    getattr(mixture.model_.prior, name).mul_(factor)
    assert not mixture.model_.prior.check_invariants()
    with pytest.raises(InputError, match="not as far apart as they were set to be") as caught:
        uc.load(mixture.save(tmp_path / "run"))
    assert "\n" not in str(caught.value)


def test_unit_components_are_the_unit_vectors_and_nothing_moves_them():
    prior = UnitComponents(3, 4)
    prior.start_at(torch.randn(3, 4), torch.diag_embed(torch.rand(3, 4)))
    assert torch.equal(prior.means, torch.eye(4)[:3])
    assert torch.equal(prior.scales, torch.ones(3, 4))
    assert list(prior.parameters()) == []
    with pytest.raises(InputError, match=r"latent_dim, got 5 and 4\. Use prior 'separated'"):
        UnitComponents(5, 4)


@pytest.mark.parametrize("kind", [LearnedComponents, FullComponents])
def test_learned_components_may_coincide(kind):
    prior = kind(3, 2).requires_grad_(False)
    covariance = torch.diag(torch.tensor([0.25, 4.0]))
    prior.start_at(torch.ones(3, 2), covariance.expand(3, 2, 2))
    assert torch.equal(prior.components().mean, torch.ones(3, 2))
    assert torch.allclose(prior.components().stddev, torch.tensor([0.5, 2.0]))
    assert prior.check_invariants()
    assert prior.component_information_bound() == pytest.approx(0, abs=1e-6)


def test_full_components_begin_at_the_covariances_they_are_given():
    torch.manual_seed(0)
    factor = torch.randn(3, 4, 4, dtype=torch.double)
    covariances = factor @ factor.mT + torch.eye(4)
    prior = FullComponents(3, 4).double().requires_grad_(False)
    prior.start_at(torch.randn(3, 4, dtype=torch.double), covariances)
    assert torch.allclose(prior.components().covariance_matrix, covariances)
    expected = (
        torch.linalg.slogdet(covariances)[1] / 2 + 2 * math.log(2 * math.pi * math.e)
    ).mean()
    assert prior.entropy_bound() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", PRIORS)
def test_a_mixture_is_the_mean_of_its_components(name):
    torch.manual_seed(0)
    prior = PRIORS[name](3, 3).double().requires_grad_(False)
    factor = torch.randn(3, 3, 3, dtype=torch.double)
    prior.start_at(torch.randn(3, 3, dtype=torch.double), factor @ factor.mT + torch.eye(3))
    components = prior.components()
    covariances = (
        components.covariance_matrix if name == "full" else torch.diag_embed(components.variance)
    )
    each = [
        MultivariateNormal(m, covariance)
        for m, covariance in zip(components.mean, covariances, strict=True)
    ]
    z = torch.randn(50, 3, dtype=torch.double)
    expected = torch.stack([component.log_prob(z) for component in each], dim=-1)
    assert torch.allclose(prior().log_prob(z), expected.logsumexp(-1) - math.log(3), atol=1e-12)
    assert torch.allclose(prior.log_joint(z), expected - math.log(3), atol=1e-12)
    assert torch.allclose(prior.responsibilities(z), expected.softmax(-1), atol=1e-12)
    own = torch.randn(50, 3, 3, dtype=torch.double)
    expected = torch.stack(
        [component.log_prob(own[:, y]) for y, component in enumerate(each)], dim=-1
    )
    assert torch.allclose(prior.log_given_component(own), expected, atol=1e-12)


@pytest.mark.parametrize("distance", [0.0, 0.5, 2.0, 5.0, 16.0])
@pytest.mark.parametrize("scales", [[1.0, 1.0, 1.0], [0.3, 1.0, 2.0]])
def test_bounds_of_a_mixture_in_one_dimension(distance, scales):
    """h(z) = E h(z|y) + I(y; z), by integration, with I(y; z) between its bound and log c."""
    prior = mixture_1d([-distance, 0.0, distance], scales)
    assert prior.entropy_bound() == pytest.approx(
        np.mean([0.5 * math.log(2 * math.pi * math.e * s**2) for s in scales])
    )
    exact = information_1d(prior)
    assert -1e-8 <= exact <= math.log(3) + 1e-8
    assert prior.component_information_bound() <= exact + 1e-8
    if distance == 16:
        assert prior.component_information_bound() == pytest.approx(math.log(3), abs=1e-3)
        assert exact == pytest.approx(math.log(3), abs=1e-3)


def test_component_information_bound_of_two_unit_components_by_hand():
    """-(1/c) sum_i log (1/c) sum_j exp(-|m_i - m_j|^2 / 8)."""
    prior = mixture_1d([0.0, 2.0], [1.0, 1.0])
    assert prior.component_information_bound() == pytest.approx(-math.log((1 + math.exp(-0.5)) / 2))
    assert mixture_1d([1.0, 1.0], [1.0, 1.0]).component_information_bound() == pytest.approx(
        0, abs=1e-12
    )


KINDS = [MarginalMixtureModel, EnumeratedMixtureModel]


def noise_for(model, n_draws, n_rows):
    return torch.randn(
        n_draws,
        n_rows,
        model.latent_dim,
        dtype=torch.double,
        generator=torch.Generator().manual_seed(0),
    )


def test_the_enumerated_bound_is_tight_at_the_exact_posterior(linear_mixture):
    """log p(x, z) - log q(z|x) = log p(x) wherever z is, so that every draw of every component is
    exact but for the KL's mean."""
    model, x = linear_mixture.model(EnumeratedMixtureModel), linear_mixture.data[:6]
    exact = linear_mixture.marginal.log_prob(x)
    bound = model(x, noise_for(model, 20_000, 6)).elbo
    assert ((bound.mean(0) - exact).abs() < 5 * bound.std(0) / 20_000**0.5).all()
    assert (bound.std(0) / 20_000**0.5 < 0.02).all()


def test_every_proposal_from_the_exact_posterior_carries_its_component(linear_mixture):
    """p(x|z) p(z|y) / q(z|x, y) = p(x|y) for all z, and their mean over y is p(x)."""
    model, x = linear_mixture.model(EnumeratedMixtureModel), linear_mixture.data
    z, log_ratio = model.propose(x, noise_for(model, 5, 30))
    weights = model.likelihood(z).log_prob(x) + log_ratio
    assert weights.shape == (15, 30)
    expected = linear_mixture.given_y.log_prob(x[:, None]).T
    assert torch.allclose(weights.reshape(5, 3, 30), expected.expand(5, 3, 30), atol=1e-9)
    averaged = importance_log_likelihood_per_row(model, x.numpy(), n_samples=1)
    assert np.allclose(averaged, linear_mixture.marginal.log_prob(x), atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_importance_weighting_of_a_mixture_reaches_the_exact_likelihood(linear_mixture, kind):
    x = linear_mixture.data
    model = linear_mixture.model(kind, widened=1.3, flattened=2.0)
    exact = linear_mixture.marginal.log_prob(x).numpy()
    assert np.allclose(
        importance_log_likelihood_per_row(model, x.numpy(), n_samples=4000), exact, atol=0.1
    )
    assert importance_log_likelihood_per_row(
        model, x.numpy(), n_samples=4000
    ).mean() == pytest.approx(exact.mean(), abs=0.015)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("widened", [0.7, 1.0, 1.5])
def test_the_bound_of_a_mixture_is_below_its_likelihood(linear_mixture, kind, widened):
    model, x = linear_mixture.model(kind, widened, flattened=2.0), linear_mixture.data
    bound = model(x, noise_for(model, 4000, 30)).elbo
    exact = linear_mixture.marginal.log_prob(x)
    assert (bound.mean(0) < exact + 5 * bound.std(0) / 4000**0.5).all()
    assert bound.mean() < exact.mean() - 0.02


def test_the_marginal_bound_is_what_it_says_at_each_draw(linear_mixture):
    """log p(x|z) + log sum_y p(z, y) - log q(z|x)."""
    model, x = linear_mixture.model(MarginalMixtureModel), linear_mixture.data
    noise = noise_for(model, 3, 30)
    terms, q = model(x, noise), model.posterior(x)
    z = q.base_dist.loc + q.base_dist.scale * noise
    assert torch.allclose(terms.latents.z, z)
    likelihood = Normal(model.decoder(z) * 0.7, 0.7).log_prob(x).sum(-1)
    assert torch.allclose(terms.log_px_z, likelihood, atol=1e-10)
    assert torch.allclose(
        terms.latents.kl, q.log_prob(z) - linear_mixture.prior().log_prob(z), atol=1e-10
    )
    expected = linear_mixture.prior.responsibilities(z).mean(0)
    assert torch.allclose(terms.latents.components, expected, atol=1e-12)
    assert torch.allclose(
        model(x, noise[0]).latents.components,
        linear_mixture.prior.responsibilities(z[0]),
        atol=1e-12,
    )


def test_the_enumerated_bound_is_the_papers_formula(linear_mixture):
    """sum_y q(y|x) [log p(x|z_y) - KL(q(z|x, y) || p(z|y))] - KL(q(y|x) || 1/2), by hand for two
    components."""
    mixture = type(linear_mixture)(n_components=2)
    model, x = mixture.model(EnumeratedMixtureModel, widened=1.4, flattened=3.0), mixture.data
    noise = noise_for(model, 1, 30)[0]
    terms, q = model(x, noise), model.posterior(x)
    weights = q.mixture_distribution.probs
    expected = 0.0
    for y in range(2):
        mean, scale = q.component_distribution.mean[:, y], q.component_distribution.stddev[:, y]
        m, s = mixture.prior.means[y], mixture.prior.scales[y]
        kl = (torch.log(s / scale) + (scale**2 + (mean - m) ** 2) / (2 * s**2) - 0.5).sum(-1)
        eta = (mean + scale * noise) @ mixture.weight.T + mixture.bias
        log_px = (
            -0.5 * ((x / 0.7 - eta) ** 2).sum(-1) - 4 * math.log(0.7) - 2 * math.log(2 * math.pi)
        )
        expected = expected + weights[:, y] * (log_px - kl)
    expected = expected - (weights * (weights.log() + math.log(2))).sum(-1)
    assert torch.allclose(terms.elbo, expected, atol=1e-9)


def test_the_marginal_bound_with_the_same_posterior_is_the_tighter_one(linear_mixture):
    """log p(x, z) - log q(z|x) at z from the sum of the components, against the enumerated
    bound."""
    enumerated = linear_mixture.model(EnumeratedMixtureModel, widened=1.5, flattened=3.0)
    x, q = linear_mixture.data, enumerated.posterior(linear_mixture.data)
    torch.manual_seed(0)
    z = q.sample((4000,))
    marginal = (
        enumerated.likelihood(z).log_prob(x) + linear_mixture.prior().log_prob(z) - q.log_prob(z)
    )
    loose = enumerated(x, noise_for(enumerated, 4000, 30)).elbo
    error = (marginal.var(0) / 4000 + loose.var(0) / 4000).sqrt()
    assert (marginal.mean(0) > loose.mean(0) - 4 * error).all()
    assert marginal.mean() > loose.mean() + 0.01
    assert (marginal.mean(0) < linear_mixture.marginal.log_prob(x) + 4 * error).all()


def test_component_kl_knows_its_extremes():
    assert component_kl(torch.full((5, 4), 0.25)).abs().max() < 1e-6
    certain = torch.eye(4, dtype=torch.double).requires_grad_()
    assert torch.allclose(component_kl(certain), torch.tensor(math.log(4), dtype=torch.double))
    component_kl(certain).sum().backward()
    assert certain.grad.isfinite().all()
    assert component_kl(torch.tensor([0.75, 0.25])).item() == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    )


def test_the_kl_of_the_enumerated_posterior_is_that_of_its_component_and_of_its_units(
    linear_mixture,
):
    model, x = (
        linear_mixture.model(EnumeratedMixtureModel, widened=1.5, flattened=3.0),
        linear_mixture.data,
    )
    latents = model.infer(x)
    assert torch.allclose(latents.components.sum(-1), torch.ones(30, dtype=torch.double))
    assert torch.allclose(
        latents.kl,
        component_kl(latents.components) + model.kl_per_unit(latents).sum(-1),
        atol=1e-12,
    )


def test_the_kl_of_the_marginal_posterior_is_that_of_its_component_and_more(linear_mixture):
    """KL(q(z|x) || p(z)) = KL(q(y|x) || 1/c) + E_q(y|x) KL(q(z|x, y) || p(z|y)), the second part
    not below 0."""
    model, x = linear_mixture.model(MarginalMixtureModel), linear_mixture.data
    latents = model.infer(x, noise_for(model, 20_000, 30))
    assert torch.allclose(latents.components.sum(-1), torch.ones(30, dtype=torch.double))
    posterior = latents.components[:, None]
    z = latents.z
    log_given_y = linear_mixture.prior.log_joint(z) + math.log(3)
    responsibilities = linear_mixture.prior.responsibilities(z)
    log_q_given_y = (
        model.posterior(x).log_prob(z)[..., None]
        + responsibilities.log()
        - posterior.squeeze(1).log()
    )
    rest = (responsibilities * (log_q_given_y - log_given_y)).sum(-1).mean(0)
    assert torch.allclose(latents.kl.mean(0), component_kl(latents.components) + rest, atol=1e-9)
    assert (rest > 0).all()


def test_a_new_component_posterior_is_the_gaussian_with_the_priors_own_weights():
    torch.manual_seed(0)
    prior = LearnedComponents(3, 2)
    posterior = ComponentPosterior.from_perceptron(4, prior, (8,)).double()
    prior.double()
    x = torch.randn(20, 4, dtype=torch.double)
    q, plain = posterior(x), posterior.without_components(x)
    assert torch.allclose(q.component_distribution.mean, plain.mean[:, None].expand(-1, 3, -1))
    assert torch.allclose(q.component_distribution.stddev, plain.stddev[:, None].expand(-1, 3, -1))
    assert torch.allclose(q.mixture_distribution.probs, prior.responsibilities(plain.mean))
    names = {name for name, _ in posterior.named_parameters()}
    assert not any("loc" in name or "prior" in name for name in names)


@pytest.mark.parametrize(("n_components", "latent_dim"), [(50, 2), (200, 2), (200, 1), (3, 64)])
def test_many_components_start_near_each_other(n_components, latent_dim):
    torch.manual_seed(0)
    prior = SeparatedComponents(n_components, latent_dim)
    assert least_distance(prior) >= prior.separation
    assert prior.anchors.abs().max() < 30 * prior.separation * n_components


def test_fixed_components_that_were_moved_are_found_out():
    prior = UnitComponents(2, 3)
    assert prior.check_invariants()
    prior.eye.zero_()
    assert not prior.check_invariants()


def test_a_component_that_tells_nothing_has_no_kl():
    """Three hard components that q(z|x) meets alike, whatever x: a mean over draws alone would show
    0.016 nats."""
    prior = SeparatedComponents(3, 1)
    prior.start_at(torch.tensor([[-100.0], [0.0], [100.0]]), torch.ones(3, 1, 1))
    posterior = DiagonalGaussian.from_perceptron(
        2, 1
    )  # a third of its mass beyond 50 on either side
    nn.init.zeros_(posterior.encoder.net[-1].weight)
    with torch.no_grad():
        posterior.encoder.net[-1].bias.copy_(torch.tensor([0.0, 116.1]))
    model = MarginalMixtureModel(prior, posterior, MLPDecoder(1, 2), Gaussian()).eval()
    rows = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    kl_y = infer(model, rows).kl_y
    assert kl_y.mean() == pytest.approx(0, abs=0.004)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_posterior_scores_are_their_spread_over_draws(linear_mixture, kind):
    """Draws of all components by the same noise depend on each other."""
    model = linear_mixture.model(kind, widened=1.3, flattened=2.0)
    found = []
    for seed in range(600):
        torch.manual_seed(seed)
        found.append(
            _posterior_scores(
                model,
                linear_mixture.data[:4],
                torch.randn(60, 4, model.latent_dim, dtype=torch.double),
            )
        )
    draws = {name: torch.stack([each[name] for each in found]).numpy() for name in found[0]}
    assert draws["divergence"].std(0) == pytest.approx(draws["divergence_error"].mean(0), rel=0.15)
    assert draws["kl_nats"].std(0) == pytest.approx(draws["kl_error"].mean(0), rel=0.15)

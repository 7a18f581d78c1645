"""Flows: densities against automatic differentiation, and that every dimension takes part."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MixtureSameFamily, Normal

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.latent import ComponentPosterior, LearnedComponents, RealNVP, draw
from uncollapse.latent.flows import Couplings


def randomised(module, seed=0, size=0.5):
    """With weights that are not those of the start, where couplings are the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return module.double().requires_grad_(False)


def standard(latent_dim, *batch):
    zeros = torch.zeros(*batch, latent_dim, dtype=torch.double)
    return Independent(Normal(zeros, torch.ones_like(zeros)), 1)


def jacobian_of(latent_dim, couplings, seed=0):
    """Of z with respect to what enters the couplings."""
    generator = torch.Generator().manual_seed(seed)
    context, noise = (
        torch.randn(n, dtype=torch.double, generator=generator) for n in (3, latent_dim)
    )
    flow = couplings(standard(latent_dim), context)
    return torch.autograd.functional.jacobian(
        lambda noise: flow.rsample_with_log_prob(noise)[0], noise
    )


@pytest.mark.parametrize("latent_dim", [2, 3, 5, 64])
def test_every_dimension_is_transformed(latent_dim):
    """No dimension of the output is one of the input as it was."""
    rows = jacobian_of(latent_dim, randomised(Couplings(latent_dim, 3, 8)))
    untouched = ((rows != 0).sum(1) == 1) & torch.isclose(
        rows.abs().sum(1), torch.ones(latent_dim, dtype=torch.double)
    )
    assert not untouched.any()
    assert (torch.linalg.svdvals(rows) > 0).all()


@pytest.mark.parametrize("latent_dim", [2, 3, 5, 64])
def test_couplings_begin_as_the_identity_up_to_the_order_of_dimensions(latent_dim):
    torch.manual_seed(0)
    rows = jacobian_of(latent_dim, Couplings(latent_dim, 3, 8).double())
    assert torch.allclose(rows @ rows.T, torch.eye(latent_dim, dtype=torch.double), atol=1e-12)
    assert set(rows.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("latent_dim", [2, 3, 5, 64])
def test_the_density_of_a_flow_is_the_change_of_volume(latent_dim):
    posterior = randomised(RealNVP.from_perceptron(4, latent_dim, (8,)), size=0.3)
    x = torch.randn(4, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(latent_dim, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    q = posterior(x)
    z, log_q = q.rsample_with_log_prob(noise)
    rows = torch.autograd.functional.jacobian(
        lambda noise: q.rsample_with_log_prob(noise)[0], noise
    )
    expected = Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(rows)[1]
    assert torch.allclose(log_q, expected, atol=1e-9)
    assert torch.allclose(q.log_prob(z), expected, atol=1e-9)


@pytest.mark.parametrize("batch", [(), (256,)])
def test_draws_and_their_densities_belong_together(batch):
    posterior = randomised(RealNVP.from_perceptron(4, 3, (8, 8)), size=0.3)
    torch.manual_seed(0)
    x, noise = (
        torch.randn(*batch, 4, dtype=torch.double),
        torch.randn(7, *batch, 3, dtype=torch.double),
    )
    q = posterior(x)
    z, log_q = draw(q, noise)
    assert (z.shape, log_q.shape, q.mean.shape) == ((7, *batch, 3), (7, *batch), (*batch, 3))
    assert torch.allclose(q.log_prob(z), log_q, atol=1e-9)
    assert q.sample((5,)).shape == (5, *batch, 3)
    if batch:
        alone = posterior(x[3])
        assert torch.allclose(alone.log_prob(z[:, 3]), log_q[:, 3], atol=1e-9)
        assert torch.allclose(alone.mean, q.mean[3], atol=1e-12)


def test_the_density_of_a_flow_integrates_to_one():
    q = randomised(RealNVP.from_perceptron(4, 2, (8,)), size=0.3)(torch.ones(4, dtype=torch.double))
    center, spread = q.mean, q.variance.sqrt()
    line = torch.linspace(-10, 10, 1001, dtype=torch.double)
    grid = torch.cartesian_prod(center[0] + spread[0] * line, center[1] + spread[1] * line)
    area = spread.prod() * (line[1] - line[0]) ** 2
    assert float(q.log_prob(grid).exp().sum() * area) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("latent_dim", [2, 5, 64])
def test_moments_of_a_flow_are_those_of_many_draws(latent_dim):
    posterior = randomised(RealNVP.from_perceptron(4, latent_dim, (8,)), size=0.2)
    q = posterior(torch.randn(3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1)))
    torch.manual_seed(0)
    draws = q.sample((50_000,))
    assert ((q.mean - draws.mean(0)) / draws.std(0)).square().mean().sqrt() < 0.12
    assert ((q.variance / draws.var(0)).log().abs().mean(-1) < 0.25).all()


def test_moments_of_a_flow_that_is_still_the_identity_are_the_gaussians():
    torch.manual_seed(0)
    posterior, x = (
        RealNVP.from_perceptron(4, 2, (8,)).double(),
        torch.randn(5, 4, dtype=torch.double),
    )
    q = posterior(x)
    assert torch.allclose(
        q.mean, q.normal.loc, atol=1e-9
    )  # two steps to the right are a whole turn
    assert torch.allclose(q.variance, q.normal.variance, rtol=0.2)
    assert torch.equal(q.mean, posterior(x).mean)


def test_moments_do_not_touch_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    posterior = randomised(RealNVP.from_perceptron(4, 2, (8,)))
    torch.manual_seed(5)
    assert posterior(torch.ones(4, dtype=torch.double)).variance.isfinite().all()
    assert torch.equal(torch.rand(3), expected)


def test_one_dimension_has_no_halves():
    for build in (
        lambda: RealNVP.from_perceptron(4, 1),
        lambda: ComponentPosterior.from_perceptron(4, LearnedComponents(2, 1), flow=True),
        lambda: uc.VAE(latent_dim=1, posterior="realnvp", max_epochs=1).fit(
            np.random.default_rng(0).normal(size=(20, 3))
        ),
    ):
        with pytest.raises(
            InputError, match=r"expects latent_dim >= 2, got 1\. Use posterior 'gaussian'\.$"
        ) as caught:
            build()
        assert "\n" not in str(caught.value)


def test_each_component_of_a_flow_has_its_own_density():
    torch.manual_seed(0)
    prior = LearnedComponents(3, 2).double()
    posterior = randomised(ComponentPosterior.from_perceptron(4, prior, (8,), flow=True), size=0.3)
    x, noise = torch.randn(6, 4, dtype=torch.double), torch.randn(6, 1, 2, dtype=torch.double)
    q = posterior(x)
    assert isinstance(q, MixtureSameFamily)
    z, log_q = draw(q.component_distribution, noise)
    assert torch.allclose(q.component_distribution.log_prob(z), log_q, atol=1e-9)
    assert torch.pdist(z[0]).min() > 1e-3
    weights = q.mixture_distribution.probs
    at = torch.randn(6, 2, dtype=torch.double)
    each = q.component_distribution.log_prob(at[:, None])
    assert torch.allclose(q.log_prob(at).exp(), (weights * each.exp()).sum(-1), rtol=1e-9)
    plain = posterior.without_components(x)
    z, log_q = draw(plain, noise[:, 0])
    assert torch.allclose(plain.log_prob(z), log_q, atol=1e-9)

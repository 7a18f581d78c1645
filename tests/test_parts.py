"""Parts that a user writes, composed with those of the package."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import (
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
)

from uncollapse._utils.errors import InputError
from uncollapse.families import Gaussian
from uncollapse.latent import (
    ComponentPosterior,
    DiagonalGaussian,
    LearnedComponents,
    Posterior,
    RealNVP,
    StandardNormal,
    draw,
)
from uncollapse.maps import Decoder, InverseLipschitzDecoder
from uncollapse.models import EnumeratedMixtureModel, VAEModel
from uncollapse.networks import LSTMEncoder, PerceptronEncoder
from uncollapse.training import fit

WIDTH, LATENT = 6, 2


class Convolutions(nn.Module):
    """An encoder of a user's own."""

    def __init__(self, out_dim):
        super().__init__()
        self.convolution, self.linear = nn.Conv1d(1, 4, 3, padding=1), nn.Linear(4 * WIDTH, out_dim)

    def forward(self, x):
        return self.linear(self.convolution(x.unsqueeze(-2)).relu().flatten(-2))


class OwnPosterior(Posterior):
    """A posterior of a user's own, which has nothing but a forward pass."""

    def __init__(self, distribution):
        super().__init__()
        self.net, self.distribution = nn.Linear(WIDTH, 2 * LATENT), distribution

    def forward(self, x):
        mean, raw = self.net(x).chunk(2, -1)
        return self.distribution(mean, nn.functional.softplus(raw))


class OwnDecoder(Decoder):
    """A decoder of a user's own, which has nothing but a forward pass."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(LATENT, 8), nn.Tanh(), nn.Linear(8, WIDTH))

    def forward(self, z):
        return self.net(z)


def independent(kind):
    return lambda loc, scale: Independent(kind(loc, scale), 1)


def full(loc, scale):
    return MultivariateNormal(loc, scale_tril=torch.diag_embed(scale))


def student(loc, scale):
    return Independent(StudentT(5.0, loc, scale), 1)


def rows(n=64, width=WIDTH):
    return torch.as_tensor(np.random.default_rng(0).normal(size=(n, width)), dtype=torch.float32)


def train(model, x):
    """Return whether all parameters moved, and the ELBO at the same noise before and after."""
    start, noise = copy.deepcopy(model), torch.zeros(len(x), LATENT)
    history = fit(model, x, max_epochs=15, batch_size=32, learning_rate=0.01, verbose=False)
    assert len(history) == 15
    moved = [
        not torch.equal(old, new)
        for old, new in zip(start.parameters(), model.parameters(), strict=True)
    ]
    return all(moved), start(x, noise).elbo.mean(), model(x, noise).elbo.mean()


POSTERIORS = {
    "Gaussian on an own encoder": lambda: DiagonalGaussian(Convolutions(2 * LATENT)),
    "flow on an own encoder": lambda: RealNVP(Convolutions(2 * LATENT + 5), LATENT, 5),
    "own, Normal": lambda: OwnPosterior(independent(Normal)),
    "own, Laplace": lambda: OwnPosterior(independent(Laplace)),
    "own, Student's t": lambda: OwnPosterior(student),
    "own, full covariance": lambda: OwnPosterior(full),
}


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("own_decoder", [False, True])
def test_own_parts_are_trained_in_a_vae(name, own_decoder):
    torch.manual_seed(0)
    decoder = OwnDecoder() if own_decoder else InverseLipschitzDecoder(LATENT, WIDTH, (8,), 0.5)
    model = VAEModel(StandardNormal(LATENT), POSTERIORS[name](), decoder, Gaussian(1.0))
    moved, before, after = train(model, rows())
    assert moved
    assert after > before


def test_an_own_encoder_is_trained_under_components():
    torch.manual_seed(0)
    prior = LearnedComponents(3, LATENT)
    posterior = ComponentPosterior(Convolutions(2 * LATENT + 3 + 2 * LATENT * 3), prior)
    moved, before, after = train(
        EnumeratedMixtureModel(prior, posterior, OwnDecoder(), Gaussian(1.0)), rows()
    )
    assert moved
    assert after > before


@pytest.mark.parametrize("name", POSTERIORS)
def test_parts_that_cannot_start_at_the_data_are_left_alone(name):
    posterior = POSTERIORS[name]()
    before = copy.deepcopy(posterior.state_dict())
    posterior.initialize_from_data(rows().numpy(), 0.5)
    after = posterior.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_an_encoder_with_a_head_starts_narrow():
    posterior = DiagonalGaussian(LSTMEncoder(4, 2 * LATENT, 3, 5)).double()
    x = torch.zeros(3, 4, dtype=torch.double)
    before = posterior(x)
    posterior.initialize_from_data(x.numpy(), 0.25)
    assert torch.allclose(posterior(x).mean, 0.25 * before.mean, rtol=1e-9)


def test_a_perceptron_starts_at_the_moments_of_the_data():
    encoder, x = PerceptronEncoder(WIDTH, 3, (4,)), 5 + 3 * rows()
    encoder.initialize_from_data(x.numpy())
    seen = (x - encoder.shift) / encoder.unit
    assert torch.allclose(seen.mean(0), torch.zeros(WIDTH), atol=1e-5)
    assert seen.square().mean().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["own, Laplace", "own, Student's t", "own, full covariance"])
def test_draws_are_decided_by_the_noise_and_follow_the_distribution(name):
    torch.manual_seed(0)
    q = POSTERIORS[name]()(rows(3))
    noise = torch.randn(20_000, 3, LATENT)
    z, log_q = draw(q, noise)
    again, _ = draw(q, noise)
    assert torch.equal(z, again)
    assert z.shape == noise.shape
    assert torch.equal(log_q, q.log_prob(z))
    error = (q.variance / len(noise)).sqrt()
    assert ((z.mean(0) - q.mean).abs() < 5 * error).all()
    assert torch.allclose(z.var(0), q.variance, rtol=0.15)


def test_draws_without_a_gradient_are_refused():
    def mixture(loc, scale):
        each = Independent(Normal(torch.stack([loc, -loc], -2), scale.unsqueeze(-2)), 1)
        return MixtureSameFamily(Categorical(torch.ones(2)), each)

    model = VAEModel(StandardNormal(LATENT), OwnPosterior(mixture), OwnDecoder(), Gaussian(1.0))
    with pytest.raises(InputError, match="a MixtureSameFamily, which has no rsample"):
        model(rows())


def test_noise_that_rounding_takes_to_the_end_of_the_line_gives_finite_draws():
    """The distribution function of a standard normal rounds to 1 in float32 beyond 5.4."""
    q = Independent(Laplace(torch.zeros(1, 2), torch.ones(1, 2)), 1)
    z, log_q = draw(q, torch.tensor([[6.0, -40.0]]))
    assert z.isfinite().all()
    assert log_q.isfinite().all()
    assert z[0, 0] > 14  # the true quantile is 20

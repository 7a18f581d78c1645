"""Shared pieces of the tests."""

import functools
import importlib.metadata
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

import uncollapse as uc
from uncollapse import cli
from uncollapse._utils.signals import INTERRUPTS
from uncollapse.families import Gaussian
from uncollapse.latent import LearnedComponents, Posterior, StandardNormal
from uncollapse.maps import Decoder
from uncollapse.measures import ais, amortization_gap
from uncollapse.models import EnumeratedMixtureModel, VAEModel
from uncollapse.objectives import Objective

torch.set_num_threads(1)  # the tests themselves run in parallel
# Lightning reads the metadata of all installed packages in each fit.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)


class LinearDecoder(Decoder):
    """eta = W z + b, of which everything is known."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    @property
    def constant(self):
        return float(torch.linalg.svdvals(self.weight.detach()).min())

    @property
    def information_constant(self):
        return self.constant

    def forward(self, z):
        return z @ self.weight.T + self.bias

    def start_at(self, eta):
        self.bias.copy_(eta)


class LinearPosterior(Posterior):
    """q(z|x) = N(M (x - c), diag(s^2)), widened by a factor where one is given."""

    def __init__(self, matrix, center, scale, widened=1.0):
        super().__init__()
        self.matrix, self.center, self.scale = (
            nn.Parameter(matrix),
            nn.Parameter(center),
            nn.Parameter(scale * widened),
        )

    def forward(self, x):
        mean = (x - self.center) @ self.matrix.T
        return Independent(Normal(mean, self.scale.expand_as(mean)), 1)


class LinearGaussian:
    """x = s (W z + b) + s noise with orthogonal columns in W, so that the exact posterior is a
    diagonal Gaussian."""

    def __init__(self, latent_dim=3, data_dim=5, scale=0.7, seed=0):
        generator = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(
            torch.randn(data_dim, latent_dim, dtype=torch.double, generator=generator)
        )[0]
        self.gains = torch.linspace(0.5, 2.0, latent_dim, dtype=torch.double)
        self.weight = basis * self.gains
        self.bias = torch.randn(data_dim, dtype=torch.double, generator=generator)
        self.scale = scale
        covariance = scale**2 * (
            self.weight @ self.weight.T + torch.eye(data_dim, dtype=torch.double)
        )
        self.marginal = MultivariateNormal(scale * self.bias, covariance)
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            self.data = self.marginal.sample((400,))

    @property
    def information(self):
        """I(x; z) in nats."""
        return 0.5 * float(torch.log1p(self.gains.square()).sum())

    def posterior(self, widened=1.0):
        precision = 1 + self.gains.square()
        matrix = self.weight.T / precision[:, None] / self.scale
        return LinearPosterior(matrix, self.scale * self.bias, precision.rsqrt(), widened)

    def model(self, widened=1.0):
        decoder = LinearDecoder(self.weight, self.bias)
        vae = VAEModel(
            StandardNormal(len(self.gains)), self.posterior(widened), decoder, Gaussian(self.scale)
        )
        return vae.double().requires_grad_(False)

    def fitted(self):
        return Fitted(self.model())


class ExactComponents(Posterior):
    """q(y|x) and q(z|x, y) of a linear Gaussian mixture: the true ones, widened and flattened by
    factors."""

    def __init__(self, mixture, widened, flattened):
        super().__init__()
        self.mixture, self.widened, self.flattened = mixture, widened, flattened

    def forward(self, x):
        logits, means, scales = self.mixture.posterior(x)
        each = Independent(Normal(means, (self.widened * scales).expand_as(means)), 1)
        return MixtureSameFamily(Categorical(logits=logits / self.flattened), each)


class LinearMixture:
    """x = s (W z + b) + s noise with orthogonal columns in W, and z from a mixture: its posterior
    is one of diagonal Gaussians."""

    def __init__(self, n_components=3, latent_dim=2, data_dim=4, scale=0.7, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, dtype=torch.double, generator=generator)

        self.gains = torch.linspace(0.5, 2.0, latent_dim, dtype=torch.double)
        self.weight = torch.linalg.qr(randn(data_dim, latent_dim))[0] * self.gains
        self.bias, self.scale = randn(data_dim), scale
        self.prior = LearnedComponents(n_components, latent_dim).double()
        self.prior.start_at(
            1.5 * randn(n_components, latent_dim),
            torch.diag_embed(randn(n_components, latent_dim).exp()),
        )
        self.prior.requires_grad_(False)
        means = scale * (self.prior.means @ self.weight.T + self.bias)
        signal = self.weight * self.prior.scales.square()[:, None] @ self.weight.T
        self.given_y = MultivariateNormal(
            means, scale**2 * (signal + torch.eye(data_dim, dtype=torch.double))
        )
        self.marginal = MixtureSameFamily(
            Categorical(logits=torch.zeros(n_components, dtype=torch.double)), self.given_y
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            self.data = self.marginal.sample((30,))

    def posterior(self, x):
        """Logits of p(y|x), and means and scales of p(z|x, y)."""
        precision = self.prior.scales.square().reciprocal() + self.gains.square()
        projected = (x / self.scale - self.bias) @ self.weight
        means = (
            self.prior.means / self.prior.scales.square() + projected.unsqueeze(-2)
        ) / precision
        return self.given_y.log_prob(x.unsqueeze(-2)), means, precision.rsqrt()

    def model(self, kind, widened=1.0, flattened=1.0):
        if kind is EnumeratedMixtureModel:
            posterior = ExactComponents(self, widened, flattened)
        else:
            least_squares = torch.linalg.pinv(self.weight) / self.scale
            posterior = LinearPosterior(
                least_squares, self.scale * self.bias, 1.5 / self.gains, widened
            )
        decoder = LinearDecoder(self.weight, self.bias)
        return (
            kind(self.prior, posterior, decoder, Gaussian(self.scale))
            .double()
            .requires_grad_(False)
        )


class Fitted:
    """What `uc.diagnose` needs of an estimator, around a model whose parameters are given."""

    def __init__(self, model):
        self.model_ = model
        self.history_ = pd.DataFrame(
            {
                "epoch": [0],
                "loss": [1.0],
                "reconstruction": [1.0],
                "kl": [0.0],
                "seconds": [0.1],
                "evaluations": [1],
            }
        )

    def check_rows(self, rows):
        return np.asarray(rows)


@pytest.fixture
def linear_gaussian():
    return LinearGaussian()


@pytest.fixture
def flat_linear_gaussian():
    """Few enough latents to integrate over."""
    return LinearGaussian(latent_dim=2, data_dim=4)


@pytest.fixture
def linear_mixture():
    return LinearMixture()


@pytest.fixture
def linear_decoder():
    """Makes a decoder of a matrix and an offset."""
    return LinearDecoder


@pytest.fixture(scope="session")
def linear_report():
    """The report on a linear Gaussian and its own data."""
    setting = LinearGaussian()
    return uc.diagnose(setting.fitted(), setting.data.numpy(), verbose=False)


@pytest.fixture
def fitted():
    """Makes an estimator, as far as diagnoses need one, of a model."""
    return Fitted


@pytest.fixture(scope="session")
def blobs():
    """Three clusters in four dimensions, as rows and labels."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 60)
    centers = np.array([[4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 4.0, 0]])
    return centers[labels] + generator.normal(size=(180, 4)), labels


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Runs a command; returns its exit code and what it printed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["uncollapse", *map(str, arguments)])
        code, handlers = 0, {number: signal.getsignal(number) for number in INTERRUPTS}
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        for number, handler in handlers.items():  # which the end of a process leaves as they are
            signal.signal(number, handler)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="session")
def shorten_diagnoses():
    """Return a function that lets thorough diagnoses take few steps while a patch lasts."""
    few = functools.partial(ais.ais_log_likelihood_per_row, n_temperatures=5)

    def shorten(patch):
        patch.setattr(ais, "ais_log_likelihood_per_row", few)
        patch.setattr(amortization_gap, "N_STEPS", 10)

    return shorten


@pytest.fixture
def short_diagnoses(monkeypatch, shorten_diagnoses):
    """Let thorough diagnoses take few steps, for tests that ask nothing of their numbers."""
    shorten_diagnoses(monkeypatch)


class Function(Objective):
    """An objective that is a function of the model, a batch and the step."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, model, x, step):
        return self.function(model, x, step)


@pytest.fixture
def minimize(monkeypatch):
    """Have estimators minimize a function, whatever objective they are asked for."""
    return lambda function: monkeypatch.setattr(
        "uncollapse.estimators.plan.get_objective", lambda spec: Function(function)
    )

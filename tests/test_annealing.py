"""Constants that are adjusted during training: when the rule fires, where the ascent ends, and what
is refused."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.families import Gaussian
from uncollapse.latent import DiagonalGaussian, StandardNormal
from uncollapse.maps import MAX_CONSTANT, InverseLipschitzDecoder
from uncollapse.models import VAEModel
from uncollapse.training.constants import (
    ASCENT_RATE,
    MIN_CONSTANT,
    Annealing,
    RateTarget,
    empirical_constant,
)
from uncollapse.training.observers import Step

SMALL = {"latent_dim": 2, "hidden": (8, 8), "max_epochs": 3, "random_state": 0, "verbose": False}


def straight(constants=(0.5, 2.0), slope=0.0):
    """A decoder whose first map is (L + slope) z, exactly up to rounding."""
    torch.manual_seed(0)
    decoder = InverseLipschitzDecoder(2, 4, (6,), constants).double()
    for parameter in decoder.maps[0].parameters():
        nn.init.zeros_(parameter)
    gradient = decoder.maps[0].convex.gradient
    decoder.maps[0].convex.gradient = lambda u, basis, constant: (
        gradient(u, basis, constant) + slope * u
    )
    return decoder


def observe(observer, z, steps_done=10, rate_share=1.0, kl=0.0):
    """Let an observer see one step of a training in one process."""
    one = SimpleNamespace(world_size=1)
    training = SimpleNamespace(steps_done=steps_done, rate_share=rate_share, fabric=one)
    observer.after_step(training, Step(torch.tensor(0.0), torch.tensor(kl), z))


@pytest.fixture
def z():
    return torch.randn(50, 2, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def test_the_empirical_constant_of_a_linear_map_is_its_slope(z):
    assert empirical_constant(straight((0.7, 1.0)), z) == pytest.approx(0.7, rel=1e-9)
    assert empirical_constant(
        straight((0.7, 1.0), slope=0.4), z.reshape(5, 10, 2)
    ) == pytest.approx(1.1, rel=1e-9)


def test_the_empirical_constant_is_the_least_over_pairs():
    decoder = straight((0.5, 1.0))
    decoder.first = lambda z: z @ torch.diag(torch.tensor([3.0, 0.5], dtype=torch.double))
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.double)
    assert empirical_constant(decoder, z) == pytest.approx(0.5)
    assert empirical_constant(decoder, z[:2]) == pytest.approx(3.0)
    assert empirical_constant(decoder, z[[0, 0, 1]]) == pytest.approx(3.0)
    assert empirical_constant(decoder, z[[0, 0]]) == math.inf


def test_the_empirical_constant_is_never_below_the_bound(z):
    torch.manual_seed(0)
    decoder = InverseLipschitzDecoder(2, 4, (6,), (0.7, 1.0)).double()
    assert empirical_constant(decoder, z) >= 0.7


@pytest.mark.parametrize(
    ("above", "fires"), [(0.0, True), (0.099, True), (0.101, False), (1.0, False)]
)
def test_annealing_lowers_constants_by_15_percent_within_10_percent_of_the_bound(z, above, fires):
    decoder = straight((0.5, 2.0), slope=0.5 * above)
    observe(Annealing(decoder), z)
    assert decoder.constants == pytest.approx((0.425, 1.7) if fires else (0.5, 2.0))


def test_annealing_looks_at_one_step_in_ten(z):
    decoder = straight((0.5, 2.0))
    annealing = Annealing(decoder)
    for step in range(1, 31):
        observe(annealing, z, step)
    assert decoder.constants == pytest.approx((0.5 * 0.85**3, 2 * 0.85**3))


def test_annealed_constants_reach_the_map_itself(z):
    decoder = straight((0.5, 2.0))
    observe(Annealing(decoder), z)
    assert torch.allclose(decoder.first(z), 0.425 * z)


@pytest.mark.parametrize("pace", [1.0, 0.25])
@pytest.mark.parametrize(
    ("kl", "gap"), [(0.0, 1.0), (1.0, 0.5), (2.0, 0.0), (3.0, -0.5), (99.0, -1.0)]
)
def test_constants_rise_below_the_wanted_kl_and_fall_above_it_at_the_pace_of_training(
    z, kl, gap, pace
):
    decoder = straight((0.5, 2.0))
    observe(RateTarget(decoder, 2.0), z, 1, pace, kl)
    factor = math.exp(ASCENT_RATE * pace * gap)
    assert decoder.constants == pytest.approx((0.5 * factor, 2 * factor))


def test_constants_stay_within_limits(z):
    decoder = straight((MIN_CONSTANT, MAX_CONSTANT))
    observe(RateTarget(decoder, 2.0), z, 1, kl=99.0)
    factor = math.exp(-ASCENT_RATE)
    assert decoder.constants == pytest.approx((MIN_CONSTANT, factor * MAX_CONSTANT))
    for step in (2, 3):
        observe(RateTarget(decoder, 2.0), z, step)
    assert decoder.constants == pytest.approx((MIN_CONSTANT / factor**2, MAX_CONSTANT))


def noisy_data(n=500):
    """Of so little variance beside the decoder's noise that latents do not pay for themselves: the
    KL is the constants' doing."""
    return np.random.default_rng(0).normal(size=(n, 6)) * [1.5, 1.2, 1.0, 0.8, 0.5, 0.3]


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [1.0, 4.0])
def test_the_kl_comes_to_what_is_wanted(wanted):
    settings = {
        "hidden": (16, 16),
        "max_epochs": 200,
        "batch_size": 50,
        "learning_rate": 3e-3,
        "random_state": 0,
    }
    vae = uc.VAE(**settings, target_kl=wanted, family=Gaussian(2.0)).fit(noisy_data())
    assert vae.history_["kl"].iloc[-20:].mean() == pytest.approx(wanted, rel=0.05)
    assert uc.diagnose(vae, noisy_data(), n_importance=2, thorough=False).estimates[
        "kl_nats"
    ].value == pytest.approx(wanted, rel=0.1)


def test_the_kl_moves_towards_what_is_wanted():
    settings = {**SMALL, "max_epochs": 10, "batch_size": 50, "family": Gaussian(2.0)}
    low, high = (uc.VAE(**settings, target_kl=wanted).fit(noisy_data()) for wanted in (0.01, 50.0))
    assert max(low.inverse_lipschitz_) < 0.5 < min(high.inverse_lipschitz_)
    assert low.history_["kl"].iloc[-1] < high.history_["kl"].iloc[-1]
    assert high.inverse_lipschitz_[0] == high.inverse_lipschitz_[1]


@pytest.mark.parametrize(
    "asked", [{"annealing": True, "inverse_lipschitz": (3.0, 2.0)}, {"target_kl": 3.0}]
)
@pytest.mark.parametrize("kind", [uc.VAE, uc.MixtureVAE])
def test_adjusted_constants_survive_saving(asked, kind, blobs, tmp_path, monkeypatch):
    monkeypatch.setattr("uncollapse.training.constants.MARGIN", math.inf)
    X = blobs[0].astype(np.float32)
    estimator = kind(**{**SMALL, "max_epochs": 6, "batch_size": 20}, **asked).fit(X)
    restored = uc.load(estimator.save(tmp_path / "run"))
    start = asked.get("inverse_lipschitz", (0.5, 0.5))
    assert estimator.inverse_lipschitz_ != start
    assert restored.inverse_lipschitz_ == estimator.inverse_lipschitz_
    assert restored.get_params()["inverse_lipschitz"] == asked.get("inverse_lipschitz", "auto")
    assert np.array_equal(restored.transform(X), estimator.transform(X))
    assert np.array_equal(restored.score_samples(X, 4), estimator.score_samples(X, 4))
    again = kind(**{**SMALL, "max_epochs": 6, "batch_size": 20}, **asked).fit(X)
    assert again.inverse_lipschitz_ == estimator.inverse_lipschitz_


def test_a_fit_begins_with_the_constants_that_were_given(blobs, monkeypatch):
    monkeypatch.setattr("uncollapse.training.constants.MARGIN", math.inf)
    estimator = uc.VAE(**{**SMALL, "batch_size": 20}, annealing=True, inverse_lipschitz=3.0)
    first = estimator.fit(blobs[0]).inverse_lipschitz_
    assert max(first) < 3
    assert estimator.fit(blobs[0]).inverse_lipschitz_ == first


@pytest.mark.slow
def test_a_constraint_that_presses_is_relaxed():
    settings = {
        "hidden": (16,),
        "max_epochs": 100,
        "batch_size": 50,
        "learning_rate": 3e-3,
        "random_state": 0,
    }
    vae = uc.VAE(**settings, annealing=True, family=Gaussian(2.0)).fit(noisy_data())
    assert max(vae.inverse_lipschitz_) < 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"annealing": True, "inverse_lipschitz": 0},
            "annealing adjusts positive inverse Lipschitz constants, got inverse_lipschitz=0",
        ),
        (
            {"annealing": True, "inverse_lipschitz": (1.0, 0.0)},
            r"got inverse_lipschitz=\(1\.0, 0\.0\)",
        ),
        ({"annealing": True, "inverse_lipschitz": None}, "got inverse_lipschitz=None"),
        ({"target_kl": 3.0, "inverse_lipschitz": 0}, "target_kl adjusts positive"),
        ({"target_kl": 3.0, "inverse_lipschitz": None}, "target_kl adjusts positive"),
        (
            {"annealing": True, "min_information": 2.0},
            "annealing and min_information each determine",
        ),
        (
            {"target_kl": 3.0, "min_information": 2.0},
            "target_kl and min_information each determine",
        ),
        ({"annealing": True, "target_kl": 3.0}, "annealing and target_kl each determine"),
        (
            {"annealing": True, "lipschitz": 9.0, "potential": "ridge"},
            "annealing and lipschitz each determine",
        ),
        ({"annealing": True, "family": "exponential"}, "with family 'exponential'"),
        (
            {"target_kl": 3.0, "family": "heteroscedastic_gaussian"},
            "with family 'heteroscedastic_gaussian'",
        ),
        ({"target_kl": 0.0}, "target_kl expects a positive number of nats, or None"),
        ({"target_kl": math.inf}, "target_kl expects a positive number of nats"),
        ({"annealing": 1}, "annealing expects true or false"),
    ],
)
@pytest.mark.parametrize("kind", [uc.VAE, uc.MixtureVAE])
def test_what_cannot_be_adjusted_is_refused_in_a_sentence(kind, arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        kind(**{**SMALL, **arguments}).fit(np.random.default_rng(0).exponential(size=(20, 4)))
    assert "\n" not in str(caught.value)


def test_observers_see_each_step(blobs, monkeypatch):
    steps = []
    monkeypatch.setattr(
        Annealing,
        "after_step",
        lambda self, training, step: steps.append((training.steps_done, len(step.z))),
    )
    uc.VAE(**{**SMALL, "batch_size": 50, "max_epochs": 2}, annealing=True).fit(blobs[0])
    assert steps == [(step, 30 if step % 4 == 0 else 50) for step in range(1, 9)]


def test_a_certificate_uses_the_constants_in_force(blobs):
    vae = uc.VAE(**{**SMALL, "latent_dim": 4}, annealing=True, inverse_lipschitz=3.0).fit(blobs[0])
    vae.model_.decoder.set_constants([1.25])
    certificate = uc.certify(vae, blobs[0][:5], n_samples=4, n_importance=64)
    assert certificate.estimates["total_inverse_lipschitz"].value == 1.25
    assert certificate.holds


def test_constants_of_a_model_are_part_of_its_information_floor():
    decoder = InverseLipschitzDecoder(2, 5, (4,), 1.0)
    model = VAEModel(
        StandardNormal(2), DiagonalGaussian.from_perceptron(5, 2), decoder, Gaussian(1.0)
    )
    from uncollapse.certificates.information_floor import model_information_floor

    assert model_information_floor(model).value == pytest.approx(math.log(2))
    decoder.set_constants((2.0, 3.0))
    assert model_information_floor(model).value == pytest.approx(math.log(37))

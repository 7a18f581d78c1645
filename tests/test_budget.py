"""Budgets: what they count, when they end a training, and that schedules follow them."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import uncollapse as uc

SMALL = {
    "latent_dim": 2,
    "hidden": (8, 8),
    "batch_size": 45,
    "random_state": 0,
    "verbose": False,
}  # 180 rows: four steps in an epoch


def weights(estimator):
    return torch.cat([value.flatten().float() for value in estimator.model_.state_dict().values()])


def test_a_budget_of_so_many_epochs_is_so_many_epochs(blobs):
    by_epochs = uc.VAE(**SMALL, max_epochs=5).fit(blobs[0])
    by_budget = uc.VAE(**SMALL, max_epochs=5).fit(blobs[0], budget=uc.Budget(evaluations=5 * 180))
    assert torch.allclose(weights(by_epochs), weights(by_budget), atol=1e-6)
    assert by_budget.history_["evaluations"].tolist() == [180, 360, 540, 720, 900]
    columns = ["epoch", "loss", "kl", "evaluations"]
    assert np.allclose(by_epochs.history_[columns], by_budget.history_[columns], atol=1e-4)


@pytest.mark.parametrize("max_epochs", [1, 40])
def test_evaluations_end_a_training_within_an_epoch_and_the_learning_rate_with_it(
    blobs, max_epochs, monkeypatch
):
    shares = []
    from uncollapse.training import loop

    original = loop.learning_rate_share
    monkeypatch.setattr(
        loop, "learning_rate_share", lambda *place: shares.append(original(*place)) or shares[-1]
    )
    vae = uc.VAE(**SMALL, max_epochs=max_epochs).fit(blobs[0], budget=uc.Budget(evaluations=450))
    assert vae.history_["evaluations"].tolist() == [180, 360, 450]
    assert shares[-1] == pytest.approx(0, abs=1e-6)
    assert max(shares) > 0.9


@pytest.mark.parametrize(
    ("arguments", "each"),
    [
        ({"objective": {"importance_weighted": {"n_samples": 5}}}, 5),
        (
            {"strategy": {"semi_amortized": {"n_steps": 3}}},
            1 + 2 * 3,
        ),  # a step is taken once more on the way back
    ],
)
def test_every_evaluation_counts(blobs, arguments, each):
    vae = uc.VAE(**SMALL, **arguments, inverse_lipschitz=None).fit(
        blobs[0], budget=uc.Budget(evaluations=3 * 45 * each)
    )
    assert vae.history_["evaluations"].iloc[-1] == 3 * 45 * each


def test_an_encoder_ahead_does_not_run_beyond_the_budget(blobs):
    arguments = {**SMALL, "strategy": "lagging", "inverse_lipschitz": None, "batch_size": 20}
    vae = uc.VAE(**arguments).fit(blobs[0], budget=uc.Budget(evaluations=300))
    assert (
        300 <= vae.history_["evaluations"].iloc[-1] < 300 + 2 * 20
    )  # its last step, and that of the decoder


def test_seconds_end_a_training(blobs, monkeypatch):
    """By a clock that shows a hundredth of a second more each time that it is read."""
    readings = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(readings) / 100)
    monkeypatch.setattr("uncollapse.training.budget.time", clock)
    vae = uc.VAE(**SMALL).fit(blobs[0], budget=uc.Budget(seconds=1.5))
    assert 1.4 < vae.history_["seconds"].iloc[-1] < 1.6
    assert len(vae.history_) > 3


def test_the_phases_of_a_mixture_share_a_budget(blobs):
    arguments = {**SMALL, "n_components": 3, "max_epochs": 4, "warmup_epochs": 1}
    mixture = uc.MixtureVAE(**arguments).fit(blobs[0], budget=uc.Budget(evaluations=1800))
    assert mixture.history_["evaluations"].iloc[-1] == 1800
    assert mixture.history_["epoch"].tolist() == list(range(len(mixture.history_)))
    assert mixture.history_["evaluations"].is_monotonic_increasing


def test_symbols_are_counted_and_the_best_epoch_is_kept():
    documents = ["the cat sat", "the dog sat down", "a dog ran"] * 20
    vae = uc.SequenceVAE(
        latent_dim=2, hidden=(8,), hidden_dim=8, batch_size=6, random_state=0, verbose=False
    )
    vae.fit(documents, validation=documents[:3], budget=uc.Budget(evaluations=2 * 20 * (4 + 5 + 4)))
    assert vae.history_["evaluations"].tolist() == [260, 520]
    assert vae.history_["validation"].notna().all()


def test_a_number_is_no_budget(blobs):
    with pytest.raises(uc.InputError, match=r"budget expects a uc\.Budget, got 60"):
        uc.VAE(**SMALL).fit(blobs[0], budget=60)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, "much"])
@pytest.mark.parametrize("name", ["evaluations", "seconds"])
def test_wrong_budgets(name, wrong):
    with pytest.raises(uc.InputError, match=f"{name} expects"):
        uc.Budget(**{name: wrong})

"""The training loop: what it changes, what it leaves alone, and how it stops."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import uncollapse as uc
from uncollapse._utils.errors import NonFiniteLossError
from uncollapse.objectives import Elbo, Loss
from uncollapse.training import loop
from uncollapse.training.batches import BatchesInMemory

SMALL = {"latent_dim": 2, "hidden": (8, 8), "max_epochs": 3, "batch_size": 50, "random_state": 0}


def state_of(estimator):
    return {name: value.clone() for name, value in estimator.model_.state_dict().items()}


@pytest.mark.parametrize(
    "arguments", [{"inverse_lipschitz": 0.5}, {"inverse_lipschitz": None}, {"latent_dim": 4}]
)
def test_every_parameter_moves_and_comes_back(blobs, tmp_path, arguments, monkeypatch):
    start = {}
    monkeypatch.setattr(
        loop, "train", lambda training: start.update(training.model.named_parameters())
    )
    uc.VAE(**{**SMALL, **arguments}).fit(blobs[0])
    monkeypatch.undo()
    estimator = uc.VAE(**{**SMALL, **arguments}).fit(blobs[0])
    trained = dict(estimator.model_.named_parameters())
    assert start.keys() == trained.keys()
    for name, value in trained.items():
        assert not torch.equal(value, start[name]), f"{name} did not move"
    restored = uc.load(estimator.save(tmp_path / "run"))
    for name, value in estimator.model_.state_dict().items():
        assert torch.equal(value, restored.model_.state_dict()[name]), name


def test_training_lowers_the_loss(blobs):
    history = uc.VAE(**{**SMALL, "max_epochs": 30}).fit(blobs[0]).history_
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] - 1
    assert np.allclose(history["loss"], history["reconstruction"] + history["kl"], atol=1e-4)
    assert history["epoch"].tolist() == list(range(30))
    assert (history["seconds"].diff().dropna() > 0).all()


def test_the_seed_decides_everything(blobs):
    torch.manual_seed(1)
    first = state_of(uc.VAE(**SMALL).fit(blobs[0]))
    torch.manual_seed(2)
    again = state_of(uc.VAE(**SMALL).fit(blobs[0]))
    other = state_of(uc.VAE(**{**SMALL, "random_state": 1}).fit(blobs[0]))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["posterior.encoder.net.0.weight"], other["posterior.encoder.net.0.weight"]
    )


def test_the_global_generator_is_left_alone(blobs, short_diagnoses):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    estimator = uc.VAE(**SMALL).fit(blobs[0])
    estimator.sample(3)
    uc.diagnose(estimator, blobs[0][::9])
    assert torch.equal(torch.rand(3), expected)


def test_seeds_and_epochs_share_no_noise(blobs, minimize):
    """Neither between runs, nor between epochs, nor with the initial weights."""
    seen = {}

    def noting(model, x, step):
        state = torch.get_rng_state()
        seen.setdefault(seed, []).append(torch.randn(20))
        torch.set_rng_state(state)
        return Elbo()(model, x, step)

    minimize(noting)
    for seed in (0, 1):
        uc.VAE(**{**SMALL, "batch_size": 180, "random_state": seed}).fit(blobs[0])
    draws = torch.stack(seen[0] + seen[1])
    assert len(draws.unique(dim=0)) == 8  # three steps and the last look, twice
    torch.manual_seed(0)
    assert not any(torch.allclose(draw, torch.randn(20)) for draw in draws)


def test_grey_levels_are_binarized_anew_in_every_step(minimize):
    batches = []

    def noting(model, x, step):
        batches.append(x.clone())
        return Elbo()(model, x, step)

    minimize(noting)
    with pytest.warns(UserWarning, match="binarization"):
        uc.VAE(**{**SMALL, "batch_size": 50}, family="bernoulli").fit(np.full((50, 4), 0.5))
    assert set(torch.cat(batches).unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(batches[0], batches[1])


def test_the_learning_rate_is_the_size_of_the_first_step(blobs, monkeypatch):
    """Adam's first step moves every parameter that has a gradient by the learning rate."""
    start = {}
    train = loop.train

    def noting(training):
        named = training.model.named_parameters()
        start.update({name: value.detach().clone() for name, value in named})
        train(training)

    monkeypatch.setattr(loop, "train", noting)
    estimator = uc.VAE(**{**SMALL, "max_epochs": 1, "batch_size": 180, "learning_rate": 0.003}).fit(
        blobs[0]
    )
    moved = (
        estimator.model_.posterior.encoder.net[-1].bias - start["posterior.encoder.net.4.bias"]
    ).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.003), rtol=1e-3)


def test_each_epoch_sees_every_row_once_in_another_order():
    rows = BatchesInMemory(torch.arange(10.0)[:, None], batch_size=4, seed=0)
    orders = []
    for epoch in range(2):
        batches = list(rows.batches(epoch))
        rest = list(rows.batches(epoch, start=1))
        assert torch.equal(torch.cat(rest), torch.cat(batches[1:]))
        assert [len(batch) for batch in batches] == [4, 4, 2]
        orders.append(torch.cat(batches).flatten().tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


def test_a_non_finite_loss_stops_with_the_step_and_keeps_the_last_good_state(blobs, minimize):
    expected = {}

    def failing(model, x, step):
        if step == 4:
            expected.update({name: value.clone() for name, value in model.state_dict().items()})
        loss, terms = Elbo()(model, x, step)
        return Loss(loss * float("nan") if step == 6 else loss, terms)

    minimize(failing)
    estimator = uc.VAE(**SMALL)  # 180 rows in batches of 50: four steps in an epoch
    with pytest.raises(
        NonFiniteLossError,
        match=r"nan at step 6, batch 2 of epoch 1.*after 1 whole epochs.*learning_rate",
    ):
        estimator.fit(blobs[0])
    assert all(torch.equal(value, expected[name]) for name, value in state_of(estimator).items())
    assert len(estimator.history_) == 1


def test_a_learning_rate_that_explodes_ends_in_a_sentence_and_finite_parameters(blobs):
    estimator = uc.VAE(**{**SMALL, "learning_rate": 1e30})
    with pytest.raises(NonFiniteLossError, match="Lower learning_rate"):
        estimator.fit(blobs[0])
    assert all(value.isfinite().all() for value in state_of(estimator).values())


def test_ctrl_c_ends_after_the_step_and_keeps_what_was_learned(blobs, minimize):
    def interrupting(model, x, step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return Elbo()(model, x, step)

    minimize(interrupting)
    before = signal.getsignal(signal.SIGINT)
    estimator = uc.VAE(**{**SMALL, "max_epochs": 100})
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(blobs[0])
    assert signal.getsignal(signal.SIGINT) is before
    assert len(estimator.history_) == 2
    assert np.isfinite(estimator.score(blobs[0]))


def test_training_works_outside_the_main_thread(blobs):
    estimator = uc.VAE(**SMALL)
    thread = threading.Thread(target=estimator.fit, args=(blobs[0],))
    thread.start()
    thread.join()
    assert len(estimator.history_) == 3


@pytest.mark.slow
def test_a_fresh_process_imports_little_and_trains_without_files_and_words(tmp_path):
    """An estimator is imported without what only fits and reports need."""
    unneeded = {"lightning", "matplotlib", "plotly", "ray", "jax", "torch._dynamo"}
    unneeded |= {"sklearn.decomposition", "sklearn.cluster", "sklearn.linear_model", "jinja2"}
    code = f"""
import sys, numpy as np, uncollapse as uc
uc.VAE
assert not {unneeded} & set(sys.modules), {unneeded} & set(sys.modules)
uc.VAE(hidden=(8,), max_epochs=1).fit(np.random.default_rng(0).normal(size=(50, 3)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_decoder_is_laid_along_the_principal_directions_of_the_training_data():
    X = np.random.default_rng(0).normal(size=(3000, 4)) * [1.0, 5.0, 1.0, 3.0]
    settings = {**SMALL, "max_epochs": 1, "batch_size": 500}
    decoder = uc.VAE(**settings).fit(X).model_.decoder
    assert np.allclose(decoder.embedding.basis.abs(), np.eye(4)[:, [1, 3]], atol=0.1)
    padded = uc.VAE(**settings, embedding="padding").fit(X).model_.decoder
    assert np.array_equal(padded.embedding(torch.eye(2)), np.eye(2, 4))


@pytest.mark.parametrize("kind", [uc.VAE, uc.MixtureVAE])
def test_bfloat16_learns_as_well_and_leaves_parameters_in_float32(kind, blobs):
    settings = {**SMALL, "hidden": (32, 32), "max_epochs": 10}
    exact, rounded = (
        kind(**settings, precision=precision).fit(blobs[0]) for precision in ("float32", "bfloat16")
    )
    assert {value.dtype for value in rounded.model_.parameters()} == {torch.float32}
    assert not torch.equal(
        rounded.model_.posterior.encoder.net[0].weight, exact.model_.posterior.encoder.net[0].weight
    )
    assert rounded.score(blobs[0]) == pytest.approx(exact.score(blobs[0]), abs=0.15)


@pytest.mark.parametrize(
    ("family", "constant"), [("poisson", 5.0), ("poisson", 20.0), ("gaussian", 20.0)]
)
def test_large_constants_begin_with_posteriors_as_narrow_as_they_are_to_be(family, constant):
    """With wide ones, exp(eta) of counts overflowed before the first step at a constant of 20 * 20,
    and ended at 1e27 at 5 * 5."""
    counts = np.random.default_rng(0).poisson(3.0, (200, 10))
    vae = uc.VAE(
        latent_dim=2,
        family=family,
        inverse_lipschitz=constant,
        hidden=(32, 32),
        max_epochs=20,
        random_state=0,
    ).fit(counts)
    losses = vae.history_["loss"]
    assert losses.iloc[0] < 60
    assert losses.iloc[-1] < losses.iloc[0]


def test_a_loss_that_is_not_finite_before_the_first_step_is_not_blamed_on_the_learning_rate(
    blobs, minimize
):
    minimize(
        lambda model, x, step: Loss(
            Elbo()(model, x, step).value * float("inf"), Elbo()(model, x, step).terms
        )
    )
    with pytest.raises(
        NonFiniteLossError,
        match=r"at step 0, batch 0 of epoch 0.*Lower inverse_lipschitz, or look for extreme",
    ):
        uc.VAE(**SMALL).fit(blobs[0])


def test_a_last_step_that_explodes_is_noticed(blobs):
    estimator = uc.VAE(**{**SMALL, "learning_rate": 1e30, "max_epochs": 1, "batch_size": 180})
    with pytest.raises(NonFiniteLossError, match="after step 0, the last"):
        estimator.fit(blobs[0])
    assert np.isfinite(estimator.score(blobs[0]))

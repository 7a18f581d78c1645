"""The scikit-learn face: its contract, its files, and its answers to bad input."""

import functools
import json
import os
import pickle
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import uncollapse as uc
from tests import behaviour
from uncollapse._utils.errors import InputError
from uncollapse.estimators import Estimator, settings
from uncollapse.latent import DEFAULT_SEPARATION, POSTERIORS, PRIORS
from uncollapse.maps import EMBEDDINGS, MAX_CONSTANT, POTENTIALS

SMALL = {"latent_dim": 2, "hidden": (8, 8), "max_epochs": 3, "random_state": 0}


@pytest.fixture(scope="module")
def vae():
    X = np.random.default_rng(0).normal(size=(200, 4))
    return uc.VAE(**SMALL).fit(X), X


# These set n_components=1, which is no mixture.
WITH_ONE_COMPONENT = [
    "check_dont_overwrite_parameters",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit2d_predict1d",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
]


@parametrize_with_checks(
    [
        uc.VAE(hidden=(8, 8), max_epochs=2),
        uc.MixtureVAE(hidden=(8, 8), max_epochs=4, inverse_lipschitz=None),
    ],
    expected_failed_checks=lambda estimator: (
        dict.fromkeys(WITH_ONE_COMPONENT, "sets n_components=1")
        if isinstance(estimator, uc.MixtureVAE)
        else {}
    ),
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([uc.VAE(inverse_lipschitz=None, hidden=(8, 8), max_epochs=2)])
def test_scikit_learn_contract_of_an_ordinary_vae(estimator, check):
    check(estimator)


def test_transform_and_back(vae):
    estimator, X = vae
    codes = estimator.transform(X)
    assert codes.shape == (200, 2)
    assert codes.dtype == np.float32
    assert np.array_equal(estimator.reconstruct(X), estimator.inverse_transform(codes))
    assert estimator.get_feature_names_out().tolist() == ["vae0", "vae1"]


def test_a_trained_model_reconstructs_better_than_the_mean(blobs):
    X, _ = blobs
    estimator = uc.VAE(
        latent_dim=2, hidden=(32, 32), max_epochs=60, learning_rate=1e-2, random_state=0
    ).fit(X)
    error = np.square(estimator.reconstruct(X) - X).mean()
    assert error < 0.5 * X.var(axis=0).mean()


@pytest.mark.parametrize(
    "kind", [uc.VAE, functools.partial(uc.MixtureVAE, inference="enumerate"), uc.MixtureVAE]
)
def test_the_encoder_can_have_widths_of_its_own(kind, blobs, tmp_path):
    X, _ = blobs
    estimator = kind(**SMALL, encoder_hidden=(5, 7, 6)).fit(X)
    shapes = {
        name: [tuple(p.shape) for p in part.parameters() if p.dim() == 2]
        for name, part in estimator.model_.named_children()
    }
    assert {(5, X.shape[1]), (7, 5), (6, 7)} <= set(shapes["posterior"])
    assert not {5, 6, 7} & {n for shape in shapes["decoder"] for n in shape}
    restored = uc.load(estimator.save(tmp_path / "run"))
    assert restored.encoder_hidden == (5, 7, 6)
    assert np.array_equal(restored.transform(X), estimator.transform(X))


def test_scores_belong_to_the_row(vae):
    estimator, X = vae
    together = estimator.score_samples(X)
    assert np.allclose(estimator.score_samples(X[::-1]), together[::-1], rtol=1e-4)
    assert np.allclose(
        [estimator.score_samples(row[None])[0] for row in X[:5]], together[:5], rtol=1e-4
    )
    assert estimator.score(X) == pytest.approx(together.mean(), rel=1e-5)


def test_samples_follow_the_seed(vae):
    estimator, _ = vae
    assert np.array_equal(estimator.sample(5, random_state=1), estimator.sample(5, random_state=1))
    assert not np.array_equal(estimator.sample(5), estimator.sample(5))
    assert estimator.sample().shape == (1, 4)


def test_samples_have_the_noise_of_the_likelihood(vae):
    estimator, _ = vae
    draws = estimator.sample(20_000, random_state=0)
    spread = estimator.inverse_transform(np.random.default_rng(0).normal(size=(20_000, 2))).var(
        axis=0
    )
    noise = float(estimator.model_.family.scale) ** 2
    assert np.allclose(draws.var(axis=0), spread + noise, rtol=0.05)


def test_rows_give_the_same_bits_wherever_they_lie_in_memory(blobs):
    X = blobs[0].astype("float32")
    vae, memory = uc.VAE(**SMALL).fit(X), np.empty(X.size + 16, np.float32)
    means, log_p = vae.transform(X), vae.score_samples(X)
    for offset in range(1, 16, 2):
        moved = memory[offset : offset + X.size].reshape(X.shape)
        moved[:] = X
        assert np.array_equal(vae.transform(moved), means)
    assert np.array_equal(vae.score_samples(moved), log_p)


@pytest.fixture(scope="module")
def plane():
    """Rows near a plane, settings, and what they are fitted to."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(300, 2)) @ generator.normal(size=(2, 4)) + 0.1 * generator.normal(
        size=(300, 4)
    )
    settings = {**SMALL, "max_epochs": 30, "learning_rate": 3e-3}
    return X, settings, uc.VAE(**settings).fit(X)


@pytest.mark.parametrize(("size", "offset"), [(1e-25, 300.0), (1.0, 300.0), (1e15, 0.0)])
def test_neither_place_nor_unit_of_the_data_matters(plane, size, offset):
    X, settings, plain = plane
    moved = uc.VAE(**settings).fit(size * (X + offset))
    assert moved.score(size * (X + offset)) + 4 * np.log(size) == pytest.approx(
        plain.score(X), abs=0.05
    )
    assert float(moved.model_.family.scale) / size == pytest.approx(
        float(plain.model_.family.scale), rel=0.02
    )


def test_the_learned_scale_starts_at_the_data_and_finds_their_noise():
    generator = np.random.default_rng(0)
    X = 50 * (
        generator.normal(size=(1000, 1)) @ generator.normal(size=(1, 6))
        + 0.2 * generator.normal(size=(1000, 6))
    )
    estimator = uc.VAE(
        latent_dim=1, hidden=(16, 16), max_epochs=60, learning_rate=1e-2, random_state=0
    ).fit(X)
    assert float(estimator.model_.family.scale) == pytest.approx(10, rel=0.15)


def test_a_model_starts_at_the_data(blobs, monkeypatch):
    monkeypatch.setattr("uncollapse.training.loop.train", lambda *args, **kwargs: None)
    X = 7 * blobs[0] + 100
    estimator = uc.VAE(**SMALL).fit(X)
    assert np.allclose(estimator.inverse_transform(np.zeros((1, 2)))[0], X.mean(0), atol=0.01)
    constant = estimator.model_.decoder.constant
    unexplained = (
        2 + 2 / (1 + constant**2)
    ) / 4  # z of variance 1 moves 2 of 4 outputs by the constant
    assert float(estimator.model_.family.scale) == pytest.approx(
        np.sqrt(unexplained * X.var(0).mean()), rel=1e-4
    )
    assert np.allclose(estimator.model_.family.centre, X.mean(0), rtol=1e-5)
    encoder = estimator.model_.posterior.encoder
    assert np.allclose(encoder.shift, X.mean(0), rtol=1e-5)
    assert float(encoder.unit) == pytest.approx(np.sqrt(X.var(0).mean()), rel=1e-5)


def test_estimators_do_not_share_a_family(vae):
    _, X = vae
    family = uc.families.Gaussian()
    first = uc.VAE(**SMALL, family=family).fit(X)
    score = first.score(X)
    uc.VAE(**SMALL, family=family).fit(100 * X)
    assert first.score(X) == score
    assert first.fit(X).score(X) == score
    assert float(family.scale.detach()) == 1


def test_a_family_of_the_users_own_keeps_its_arguments_and_is_not_saved(vae, tmp_path):
    class Sharper(uc.families.Bernoulli):
        def __init__(self, sharpness=1.0):
            super().__init__()
            self.sharpness = sharpness

    X = (vae[1] > 0).astype(float)
    estimator = uc.VAE(**SMALL, family=Sharper(3.0)).fit(X)
    assert estimator.model_.family.sharpness == 3.0
    with pytest.raises(InputError, match="could not be loaded again"):
        estimator.save(tmp_path / "run")


def test_a_subclass_fits_and_says_that_it_cannot_be_saved(vae, tmp_path):
    class Mine(uc.VAE):
        pass

    estimator = Mine(**SMALL).fit(vae[1])
    with pytest.raises(InputError, match="got Mine"):
        estimator.save(tmp_path / "run")


def test_numpy_scales_are_numbers(vae, tmp_path):
    estimator = uc.VAE(**SMALL, family=uc.families.Gaussian(np.float32(2))).fit(vae[1])
    assert float(uc.load(estimator.save(tmp_path / "run")).model_.family.scale) == pytest.approx(2)


def test_what_is_saved_is_what_was_fitted(tmp_path, vae):
    _, X = vae
    estimator = uc.VAE(**SMALL, inverse_lipschitz=0.5).fit(X)
    estimator.set_params(inverse_lipschitz=5, latent_dim=3)
    restored = uc.load(estimator.save(tmp_path / "run"))
    assert restored.model_.decoder.constant == 0.25
    assert restored.get_params()["latent_dim"] == 2


def test_a_fit_that_is_refused_leaves_the_estimator_as_it_was(vae):
    _, X = vae
    estimator = uc.VAE(**SMALL).fit(X)
    codes = estimator.transform(X)
    with pytest.raises(InputError):
        estimator.fit(X[:1, :3])
    assert np.array_equal(estimator.transform(X), codes)


def test_equal_rows_get_independent_draws(vae):
    estimator, X = vae
    same = estimator.score_samples(np.repeat(X[:1], 200, axis=0), n_importance=1)
    assert len(np.unique(same)) > 190


def test_transform_is_the_mean_of_the_posterior(vae):
    estimator, X = vae
    rows = torch.as_tensor(X[:7], dtype=torch.float32)
    assert np.allclose(
        estimator.transform(X[:7]), estimator.model_.posterior(rows).base_dist.loc, atol=1e-6
    )


@pytest.mark.slow
def test_grey_levels_are_drawn_for_training_and_scoring_but_not_for_the_encoder():
    X = np.full((400, 3), 0.5)
    with pytest.warns(UserWarning, match="binarization"):
        estimator = uc.VAE(**{**SMALL, "max_epochs": 40}, family="bernoulli").fit(X)
    # Fair coins cost log 2 each. Grey levels taken as they are would give the same score to every
    # row.
    scores = estimator.score_samples(X)
    assert len(np.unique(scores)) > 1
    assert scores.mean() == pytest.approx(-3 * np.log(2), abs=0.15)
    assert len(np.unique(estimator.transform(X), axis=0)) == 1
    report = uc.diagnose(estimator, X, n_importance=64, thorough=False)
    assert report.estimates["nll_nats"].value == pytest.approx(-scores.mean(), abs=1e-5)


@pytest.mark.slow
def test_posteriors_can_be_narrow():
    """A gain of 1000 needs posteriors with a deviation of .001."""
    X = 1000 * np.random.default_rng(0).normal(size=(500, 2))
    family = uc.families.Gaussian(1.0)
    estimator = uc.VAE(
        latent_dim=2,
        inverse_lipschitz=1000,
        family=family,
        hidden=(8,),
        max_epochs=300,
        learning_rate=3e-3,
        random_state=0,
    ).fit(X)
    rows = torch.as_tensor(X, dtype=torch.float32)
    assert float(estimator.model_.posterior(rows).stddev.mean()) < 0.05


def test_works_in_a_pipeline(vae):
    _, X = vae
    assert make_pipeline(StandardScaler(), uc.VAE(**SMALL)).fit_transform(X).shape == (200, 2)


@pytest.mark.parametrize(
    "family",
    ["bernoulli", "continuous_bernoulli", {"gaussian": {"scale": 0.5}}, uc.families.Gaussian(0.5)],
)
@pytest.mark.parametrize("constants", [None, 0, 0.5, (0.3, 0.6)])
def test_saved_and_loaded_is_the_same(tmp_path, family, constants):
    X = np.random.default_rng(0).integers(0, 2, size=(100, 5)).astype(float)
    estimator = uc.VAE(
        **{**SMALL, "random_state": 3}, family=family, inverse_lipschitz=constants
    ).fit(pd.DataFrame(X, columns=list("abcde")))
    restored = uc.load(estimator.save(tmp_path / "run"))
    frame = pd.DataFrame(X, columns=list("abcde"))
    assert np.array_equal(restored.transform(frame), estimator.transform(frame))
    assert np.array_equal(restored.score_samples(frame), estimator.score_samples(frame))
    pd.testing.assert_frame_equal(restored.history_, estimator.history_)
    assert restored.seed_ == estimator.seed_ == 3
    assert restored.get_params()["inverse_lipschitz"] == constants
    assert restored.feature_names_in_.tolist() == list("abcde")
    assert restored.model_.decoder.constant == estimator.model_.decoder.constant
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "history.csv",
        "model.json",
        "model.safetensors",
    ]
    assert restored.save(tmp_path / "again").is_dir()


def test_only_runs_are_overwritten_and_only_when_asked(vae, tmp_path):
    estimator, X = vae
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    estimator.save(tmp_path / "run")
    other = uc.VAE(**{**SMALL, "random_state": 7}).fit(X)
    for target, overwrite in (
        ("mine", False),
        ("mine", True),
        ("file", True),
        ("run", False),
        ("file/run", True),
    ):
        with pytest.raises(InputError, match=r"already exists|holds something else|cannot write"):
            other.save(tmp_path / target, overwrite)
    assert (
        (tmp_path / "mine" / "precious.txt").read_text()
        == (tmp_path / "file").read_text()
        == "mine"
    )
    assert uc.load(tmp_path / "run").seed_ == 0
    other.save(tmp_path / "run", overwrite=True)
    assert uc.load(tmp_path / "run").seed_ == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "run"]


def test_a_replacement_that_is_cut_short_leaves_the_old_run(vae, tmp_path, monkeypatch):
    estimator, _ = vae
    estimator.save(tmp_path / "run")
    replace = os.replace

    def cut_short(source, target):
        if str(source).endswith("new"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut_short)
    with pytest.raises(KeyboardInterrupt):
        estimator.save(tmp_path / "run", overwrite=True)
    assert uc.load(tmp_path / "run").seed_ == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_save_that_fails_loses_nothing(vae, tmp_path, monkeypatch):
    estimator, _ = vae
    estimator.save(tmp_path / "run")

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("uncollapse._utils.run_folders.save_file", full_disk)
    with pytest.raises(InputError, match="No space left"):
        estimator.save(tmp_path / "run", overwrite=True)
    assert uc.load(tmp_path / "run").seed_ == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def damaged(folder, **changes):
    settings = json.loads((folder / "model.json").read_text())
    for key, value in changes.items():
        target = settings["parameters"] if key in settings["parameters"] else settings
        target[key] = value
    (folder / "model.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda folder: damaged(folder, format=99, version="9.0"),
            r"uncollapse 9\.0 in format 99.*upgrade",
        ),
        (lambda folder: damaged(folder, latent_dim=3), "damaged"),
        (
            lambda folder: damaged(folder, latent_dim="many"),
            "latent_dim expects a positive integer",
        ),
        (lambda folder: damaged(folder, estimator="os.system"), "damaged"),
        (lambda folder: damaged(folder, hidden=[200_000, 200_000]), "damaged"),
        (lambda folder: damaged(folder, feature_names=["a"]), "1 names for 4 features"),
        (lambda folder: damaged(folder, seed="boo"), "seed"),
        (lambda folder: damaged(folder, format=-1), "format"),
        (lambda folder: (folder / "model.json").write_text("[" * 100_000), "damaged"),
        (
            lambda folder: (folder / "history.csv").write_text("a,b\n1,2\n"),
            "expected numbers in the columns epoch",
        ),
        (lambda folder: reweigh(folder, "decoder.embedding.basis", 0.0), "not isometric"),
        (lambda folder: reweigh(folder, "posterior.encoder.shift", float("nan")), "not finite"),
        (lambda folder: reweigh(folder, "family.log_scale", 1e30), "scale is not the one"),
        (
            lambda folder: reweigh(folder, "posterior.encoder.shift", 0.0, torch.float64),
            "not those that model.json describes",
        ),
        (lambda folder: damaged(folder, n_features=2**62), "n_features"),
        (lambda folder: damaged(folder, hidden=[2**31 - 1] * 3), "damaged"),
        (
            lambda folder: (folder / "model.json").write_text('{"format": ' + "9" * 5000 + "}"),
            "damaged",
        ),
        (lambda folder: (folder / "model.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "model.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "model.json").unlink(), "holds no saved model"),
        (lambda folder: (folder / "model.safetensors").unlink(), "damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 20), "damaged"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1})),
            "damaged",
        ),
        (lambda folder: (folder / "history.csv").write_bytes(b""), "damaged"),
    ],
)
def test_damaged_runs_are_refused_in_a_sentence(vae, tmp_path, damage, words):
    folder = vae[0].save(tmp_path / "run")
    damage(folder)
    with pytest.raises(InputError, match=words) as caught:
        uc.load(folder)
    assert "\n" not in str(caught.value)


def reweigh(folder, name, value, dtype=torch.float32):
    weights = load_file(folder / "model.safetensors")
    weights[name] = torch.full_like(weights[name], value, dtype=dtype)
    save_file(weights, folder / "model.safetensors")


def with_value(value):
    X = np.random.default_rng(0).normal(size=(20, 4))
    X[3, 2] = value
    return X


@pytest.mark.parametrize(
    ("arguments", "X", "words"),
    [
        ({}, with_value(np.nan), "1 NaN and 0 infinite.*row 3, column 2"),
        ({}, with_value(-np.inf), "0 NaN and 1 infinite"),
        ({}, with_value(1e300), "0 NaN and 1 infinite"),
        ({}, with_value(0)[:1], "at least 2 rows, got n_samples=1"),
        ({}, with_value(0)[:0], "0 sample"),
        ({}, [["a", "b"], ["c", "d"]], "could not convert.*encode text"),
        ({"family": "bernoulli"}, with_value(0), r"values in \[0, 1\], got values from -"),
        (
            {"latent_dim": 5},
            with_value(0),
            "latent_dim <= natural dimension, got latent_dim=5 with n_features=4",
        ),
        ({"latent_dim": 4, "inverse_lipschitz": (1, 2)}, with_value(0), "one number"),
        ({"latent_dim": 0}, with_value(0), "latent_dim expects a positive integer, got 0"),
        (
            {"inverse_lipschitz": -1},
            with_value(0),
            "inverse_lipschitz expects a number from 0 to 1e6",
        ),
        ({"inverse_lipschitz": np.nan}, with_value(0), "inverse_lipschitz expects"),
        ({"hidden": ()}, with_value(0), "hidden expects a list of one or more positive widths"),
        ({"family": "poison"}, with_value(0), "family expects one of"),
        ({"learning_rate": 0}, with_value(0), "learning_rate expects a positive finite number"),
        ({"latent_dim": True}, with_value(0), "latent_dim expects a positive integer, got True"),
        ({"hidden": [10**9, 10**9]}, with_value(0), "GiB, and this machine has"),
        (
            {"encoder_hidden": [10**9, 10**9]},
            with_value(0),
            r"encoder_hidden=\(1000000000, 1000000000\) takes",
        ),
        (
            {"encoder_hidden": ()},
            with_value(0),
            "encoder_hidden expects a list of one or more positive widths, at most 100, or None",
        ),
        (
            {"family": {"gaussian": {"scale": "wide"}}},
            with_value(0),
            "scale expects a positive finite number",
        ),
        ({}, with_value(0) * 1e-9 + 1, "float32 can tell apart.*subtract the mean"),
        ({}, with_value(0)[0], "Expected 2D array"),
        ({"random_state": -1}, with_value(0), "random_state expects a seed"),
        ({"device": "abacus"}, with_value(0), "device expects one of auto, cpu, cuda, mps"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(arguments, X, words):
    with pytest.raises(InputError, match=words) as caught:
        uc.VAE(**{**SMALL, **arguments}).fit(X)
    assert "\n" not in str(caught.value)


def test_values_too_small_for_float32_are_not_said_to_need_another_mean():
    with pytest.raises(
        InputError,
        match=r"float32 can tell apart.*in column 0: give that column in a smaller unit, or drop "
        r"it",
    ):
        uc.VAE(**SMALL).fit(with_value(0) * 1e-47)


def test_a_device_that_is_not_there_is_refused(vae, monkeypatch):
    monkeypatch.setattr("uncollapse.estimators.building.available_devices", lambda: ["cpu"])
    with pytest.raises(InputError, match=r"device expects one of cpu on this machine, got 'cuda'"):
        uc.VAE(**SMALL, device="cuda").fit(vae[1])


@pytest.mark.parametrize(
    "method",
    ["transform", "score_samples", "score", "reconstruct", "inverse_transform", "save", "sample"],
)
def test_methods_ask_for_fit_first(method):
    with pytest.raises(NotFittedError):
        getattr(uc.VAE(), method)(2)


def test_columns_in_another_order_are_refused(vae):
    frame = pd.DataFrame(vae[1], columns=list("abcd"))
    estimator = uc.VAE(**SMALL).fit(frame)
    with pytest.raises(InputError, match="in the same order") as caught:
        estimator.transform(frame[list("dcba")])
    assert "\n" not in str(caught.value)


def test_other_columns_than_in_fit_are_refused(vae):
    estimator, X = vae
    with pytest.raises(InputError, match=r"X has 3 features, but VAE is expecting 4.*same columns"):
        estimator.transform(X[:, :3])
    with pytest.raises(InputError, match=r"Z expects 2 columns.*got 3"):
        estimator.inverse_transform(X[:, :3])
    with pytest.raises(InputError, match="positive integer, got 0"):
        estimator.sample(0)
    with pytest.raises(InputError, match=r"positive integer, got 2.5"):
        estimator.sample(2.5)
    with pytest.raises(InputError, match="n_importance expects a positive integer"):
        estimator.score_samples(X, n_importance=0)


def test_more_latents_than_features_are_allowed_without_the_constraint():
    assert uc.VAE(**{**SMALL, "latent_dim": 6}, inverse_lipschitz=None).fit(
        with_value(0)
    ).transform(with_value(0)).shape == (20, 6)


def test_grey_levels_are_announced_and_binarized():
    X = np.random.default_rng(0).uniform(size=(50, 4))
    with pytest.warns(UserWarning, match="dynamic binarization"):
        estimator = uc.VAE(**SMALL, family="bernoulli").fit(X)
    assert np.array_equal(estimator.score_samples(X), estimator.score_samples(X))
    assert set(np.unique(estimator.sample(50, random_state=0))) == {0.0, 1.0}


def test_constant_data_train(tmp_path):
    estimator = uc.VAE(**SMALL).fit(np.ones((20, 3)))
    assert np.isfinite(estimator.score(np.ones((20, 3))))


@pytest.mark.slow
def test_a_strong_noise_collapses_an_ordinary_vae_and_not_an_inverse_lipschitz_one():
    """The decoder's variance exceeds every eigenvalue of the covariance, so that the latents do not
    pay for themselves."""
    X = np.random.default_rng(0).normal(size=(1000, 6)) * [1.5, 1.2, 1.0, 0.8, 0.5, 0.3]
    settings = {
        **SMALL,
        "family": uc.families.Gaussian(2.0),
        "max_epochs": 40,
        "learning_rate": 3e-3,
    }
    ordinary, constrained = (
        uc.diagnose(uc.VAE(**settings, inverse_lipschitz=constant).fit(X), X[:200])
        for constant in (None, 0.8)
    )
    assert ordinary.verdict == "collapsed in the model"
    assert ordinary.estimates["kl_nats"].value < 0.01
    assert ordinary.estimates["supported_units"].value == 0
    assert constrained.verdict == "healthy"
    assert constrained.estimates["kl_nats"].value > 0.1


def test_settings_agree_with_the_rooms_that_they_do_not_import():
    hints = typing.get_type_hints(settings.MixtureSettings)
    tables = {
        "embedding": EMBEDDINGS,
        "potential": POTENTIALS,
        "prior": PRIORS,
        "posterior": POSTERIORS,
    }
    for name, table in tables.items():
        assert set(typing.get_args(hints[name])) == set(table)
    assert settings.MAX_CONSTANT == MAX_CONSTANT
    assert settings.MixtureSettings.separation == DEFAULT_SEPARATION


def test_estimators_are_registered_by_name_with_their_settings():
    assert set(Estimator.registry) == set(settings.SETTINGS)
    for name, kind in Estimator.registry.items():
        assert set(kind().get_params()) == {each.name for each in settings.list_settings(name)}


@pytest.mark.parametrize("name", settings.SETTINGS)
def test_every_argument_is_documented_once_in_the_help_of_its_estimator(name):
    help_text = Estimator.registry[name].__doc__
    for setting in settings.list_settings(name):
        assert setting.help.endswith(".")
        assert help_text.count(f"\n    {setting.name}: ") == 1
        assert setting.accepts


def test_settings_are_checked_without_heavy_imports():
    code = """
import sys
from uncollapse.estimators.settings import check_settings
assert check_settings("SequenceVAE", {"hidden": [3]}).hidden == (3,)
heavy = {"torch", "lightning", "sklearn", "pandas", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_are_refused_in_a_sentence():
    with pytest.raises(InputError, match="did you mean 'hidden'"):
        settings.check_settings("VAE", {"hiden": [3]})
    with pytest.raises(InputError, match="model expects one of VAE, MixtureVAE, SequenceVAE"):
        settings.check_settings("VAEs", {})
    with pytest.raises(InputError, match="devices expects a positive integer, or 'auto', got 0"):
        settings.check_settings("VAE", {"devices": 0})


def test_a_ridge_sum_too_large_for_memory_is_refused():
    with pytest.raises(InputError, match="Use fewer or narrower layers"):
        uc.VAE(hidden=(1_000_000,), potential="ridge", lipschitz=2.0).fit(
            np.random.default_rng(0).normal(size=(10, 3))
        )


def test_a_run_that_an_earlier_version_saved_is_loaded():
    folder = Path(__file__).parent / "saved_before" / "mixture"
    estimator = uc.load(folder)
    assert estimator.intermediate_dims == ()  # then called `between`
    expected = [[-0.3555, 0.5396], [-0.5577, 0.5763], [-0.0869, 0.3572]]  # as it gave then
    assert np.allclose(estimator.transform(behaviour.rows()[:3]), expected, atol=1e-3)

"""uc.MixtureVAE: its clusters, its files, its warm-up, its reports, and its answers to bad
input."""

import itertools
import json
import math
import os
import signal

import numpy as np
import pytest
import sklearn
import torch

import uncollapse as uc
from uncollapse import models
from uncollapse._utils.errors import InputError
from uncollapse.latent import PRIORS
from uncollapse.objectives import Elbo
from uncollapse.training import loop

SMALL = {"n_components": 3, "latent_dim": 3, "hidden": (8, 8), "max_epochs": 4, "random_state": 0}
KINDS = list(itertools.product(["marginal", "enumerate"], ["gaussian", "realnvp"], PRIORS))


@pytest.fixture(scope="module")
def separated():
    """Three clusters that no-one can miss, and a mixture that has found them."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 100)
    X = 12 * np.eye(4)[labels] + generator.normal(size=(300, 4))
    mixture = uc.MixtureVAE(
        n_components=3,
        hidden=(16, 16),
        max_epochs=40,
        batch_size=30,
        learning_rate=6e-3,
        random_state=0,
    )
    return mixture, mixture.fit_predict(X), X, labels


def test_clusters_are_found(separated):
    mixture, clusters, X, labels = separated
    assert len(set(zip(clusters.tolist(), labels.tolist(), strict=True))) == 3
    confidence = mixture.predict_proba(X)
    assert np.allclose(confidence.sum(1), 1, atol=1e-5)
    assert np.array_equal(confidence.argmax(1), clusters)
    assert np.array_equal(mixture.predict(X), clusters)
    assert confidence.max(1).mean() > 0.9


def test_predictions_belong_to_the_row(separated):
    mixture, _, X, _ = separated
    assert np.allclose(mixture.predict_proba(X[::-1])[::-1], mixture.predict_proba(X), atol=1e-5)
    assert np.allclose(mixture.predict_proba(X[7:8])[0], mixture.predict_proba(X)[7], atol=1e-5)


def test_samples_of_a_component_belong_to_it(separated):
    mixture, clusters, X, _ = separated
    for component in range(3):
        draws = mixture.sample(200, random_state=0, component=component)
        assert (mixture.predict(draws) == component).mean() > 0.8
        assert (
            np.linalg.norm(draws.mean(0) - X[clusters == component].mean(0)) < 5
        )  # clusters are 17 apart
    assert np.array_equal(
        mixture.sample(5, 1, component=np.int64(2)), mixture.sample(5, 1, component=2)
    )
    everything = mixture.predict(mixture.sample(600, random_state=0))
    assert (np.bincount(everything, minlength=3) > 140).all()


def test_means_and_scales_are_those_of_the_prior(separated):
    mixture = separated[0]
    assert np.array_equal(mixture.means_, mixture.model_.prior().component_distribution.mean)
    assert np.array_equal(mixture.scales_, np.ones((3, 2)))
    distances = np.linalg.norm(mixture.means_[:, None] - mixture.means_, axis=-1)[
        ~np.eye(3, dtype=bool)
    ]
    assert distances.min() >= math.sqrt(2) * (1 - 1e-4)


@pytest.mark.slow
def test_the_report_of_clusters_that_were_found(separated):
    mixture, _, X, labels = separated
    estimates = uc.diagnose(mixture, X, labels, thorough=False).estimates
    assert estimates["matched_accuracy"].value == estimates["majority_accuracy"].value == 1
    assert estimates["live_components"].value == 3
    assert estimates["component_information_nats"].value == pytest.approx(math.log(3), abs=0.15)
    assert 0 < estimates["component_floor_nats"].value <= math.log(3)
    assert estimates["kl_y_nats"].value + estimates["kl_z_nats"].value == pytest.approx(
        estimates["kl_nats"].value
    )
    assert estimates["kl_z_nats"].value > 0


@pytest.mark.parametrize(("inference", "posterior", "prior"), KINDS)
def test_every_kind_of_mixture_is_saved_and_loaded_the_same(
    inference, posterior, prior, blobs, tmp_path
):
    X = blobs[0].astype(np.float32)
    mixture = uc.MixtureVAE(**SMALL, inference=inference, posterior=posterior, prior=prior).fit(X)
    restored = uc.load(mixture.save(tmp_path / "run"))
    assert type(restored) is uc.MixtureVAE
    assert restored.get_params() == mixture.get_params() | {"device": restored.device}
    for method in ("transform", "predict_proba", "score_samples"):
        assert np.array_equal(getattr(restored, method)(X), getattr(mixture, method)(X)), method
    for name in ("means_", "scales_"):
        assert np.array_equal(getattr(restored, name), getattr(mixture, name)), name
    assert np.array_equal(restored.sample(5, 0, component=1), mixture.sample(5, 0, component=1))
    assert mixture.history_["epoch"].tolist() == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inference", "posterior"),
    list(itertools.product(["marginal", "enumerate"], ["gaussian", "realnvp"])),
)
def test_every_kind_of_mixture_is_diagnosed_and_certified(
    inference, posterior, blobs, tmp_path, short_diagnoses
):
    X, labels = blobs
    mixture = uc.MixtureVAE(**SMALL, inference=inference, posterior=posterior, prior="unit").fit(X)
    report = uc.diagnose(mixture, X, labels, n_importance=8)
    estimates = report.estimates
    assert estimates["kl_y_nats"].value + estimates["kl_z_nats"].value == pytest.approx(
        estimates["kl_nats"].value
    )
    assert estimates["kl_y_nats"].value >= 0
    assert 0 <= estimates["component_information_nats"].value <= estimates["kl_y_nats"].value + 1e-6
    assert report.units["kl_nats"].isna().all() == (
        (inference, posterior) != ("enumerate", "gaussian")
    )
    if (inference, posterior) == ("enumerate", "gaussian"):
        assert report.units["kl_nats"].sum() == pytest.approx(
            estimates["kl_z_nats"].value, rel=1e-4
        )
    page = report.to_html(tmp_path / "report.html").read_text()
    assert "Live components" in page
    assert (
        json.loads(report.to_json(tmp_path / "report.json").read_text())["estimates"][
            "live_components"
        ]["value"]
        <= 3
    )
    certificate = uc.certify(mixture, X[:20], n_samples=8, n_importance=512)
    assert certificate.holds
    assert certificate.estimates["kl_upper_nats"] is None
    assert certificate.estimates["corollary_bound"] is None
    assert (
        certificate.estimates["fisher_bound"].value
        <= certificate.estimates["fisher_divergence"].value
    )
    assert certificate.estimates["posterior_kl_nats"].value > 0


@pytest.mark.parametrize("posterior", ["gaussian", "realnvp"])
@pytest.mark.parametrize("inference", ["marginal", "enumerate"])
def test_every_parameter_of_a_mixture_moves(inference, posterior, blobs, monkeypatch):
    start = {}
    monkeypatch.setattr(
        loop, "train", lambda training: start.update(training.model.named_parameters())
    )
    settings = {**SMALL, "warmup_epochs": 0, "inference": inference, "posterior": posterior}
    uc.MixtureVAE(**settings).fit(blobs[0])
    monkeypatch.undo()
    trained = dict(uc.MixtureVAE(**settings).fit(blobs[0]).model_.named_parameters())
    assert start.keys() == trained.keys()
    for name, value in trained.items():
        assert not torch.equal(value, start[name]), f"{name} did not move"


def test_the_seed_decides_everything_of_a_mixture_and_leaves_the_global_generator_alone(
    blobs, tmp_path
):
    X, settings = blobs[0], {**SMALL, "inference": "enumerate", "posterior": "realnvp"}
    torch.manual_seed(1)
    first = uc.MixtureVAE(**settings).fit(X)
    uc.load(first.save(tmp_path / "run"))
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    again, other = (uc.MixtureVAE(**{**settings, "random_state": seed}).fit(X) for seed in (0, 1))
    assert np.array_equal(first.transform(X), again.transform(X))
    assert np.array_equal(first.means_, again.means_)
    assert not np.array_equal(first.transform(X), other.transform(X))


@pytest.mark.parametrize("inference", ["marginal", "enumerate"])
def test_the_warm_up_is_without_components(inference, blobs, minimize):
    seen = []

    def noting(model, x, step):
        seen.append(type(model))
        return Elbo()(model, x, step)

    minimize(noting)
    mixture = uc.MixtureVAE(
        **{**SMALL, "max_epochs": 5, "batch_size": 180}, inference=inference, warmup_epochs=2
    ).fit(blobs[0])
    whole = {"marginal": models.MarginalMixtureModel, "enumerate": models.EnumeratedMixtureModel}[
        inference
    ]
    assert seen == [models.VAEModel] * 3 + [whole] * 4  # with a last look after each
    assert mixture.history_["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert mixture.history_["seconds"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("prior", "asked", "spent"),
    [
        ("separated", "auto", 2),
        ("learned", "auto", 2),
        ("unit", "auto", 0),
        ("unit", 3, 3),
        ("learned", 0, 0),
    ],
)
def test_a_quarter_of_the_epochs_finds_components_where_there_is_something_to_find(
    prior, asked, spent, blobs, monkeypatch
):
    kinds = []
    train = loop.train

    def noting(training):
        is_plain = type(training.model) is models.VAEModel
        kinds.append((is_plain, training.settings.max_epochs))
        train(training)

    monkeypatch.setattr(loop, "train", noting)
    uc.MixtureVAE(**{**SMALL, "max_epochs": 8}, prior=prior, warmup_epochs=asked).fit(blobs[0])
    assert kinds == ([(True, spent)] if spent else []) + [(False, 8 - spent)]


def test_components_begin_at_the_clusters_of_the_warm_up(separated, monkeypatch):
    """After the warm-up, before the mixture has learned anything, the components already are the
    clusters."""
    _, _, X, labels = separated
    train = loop.train
    monkeypatch.setattr(
        loop,
        "train",
        lambda training: train(training) if type(training.model) is models.VAEModel else None,
    )
    settings = {
        "hidden": (16, 16),
        "max_epochs": 21,
        "warmup_epochs": 20,
        "batch_size": 30,
        "learning_rate": 6e-3,
        "random_state": 0,
    }
    mixture = uc.MixtureVAE(n_components=3, prior="learned", **settings)
    clusters = mixture.fit_predict(X)
    assert len(set(zip(clusters.tolist(), labels.tolist(), strict=True))) == 3
    means = np.stack([mixture.transform(X)[clusters == k].mean(0) for k in range(3)])
    assert np.allclose(mixture.means_, means, atol=1e-3)


def test_an_interrupted_warm_up_keeps_a_usable_mixture(separated, tmp_path, minimize):
    _, _, X, _ = separated

    def interrupting(model, x, step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return Elbo()(model, x, step)

    minimize(interrupting)
    mixture = uc.MixtureVAE(**{**SMALL, "max_epochs": 100})
    with pytest.raises(KeyboardInterrupt):
        mixture.fit(X)
    assert type(mixture.model_) is models.MarginalMixtureModel
    assert len(mixture.history_) < 10
    assert np.isfinite(mixture.score(X))
    assert len(np.unique(mixture.means_, axis=0)) == 3
    restored = uc.load(mixture.save(tmp_path / "run"))
    assert np.array_equal(restored.predict(X), mixture.predict(X))


def test_fewer_distinct_rows_than_components_train(tmp_path):
    """k-means then finds fewer clusters than it was asked for."""
    X = np.repeat([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], 10, axis=0)
    mixture = uc.MixtureVAE(**{**SMALL, "n_components": 4}).fit(X)
    distances = np.linalg.norm(mixture.means_[:, None] - mixture.means_, axis=-1)[
        ~np.eye(4, dtype=bool)
    ]
    assert distances.min() >= math.sqrt(2) * (1 - 1e-4)
    assert np.isfinite(mixture.score(X))
    uc.load(mixture.save(tmp_path / "run"))


@pytest.mark.parametrize("prior", PRIORS)
def test_constant_data_train_with_components(prior):
    mixture = uc.MixtureVAE(**SMALL, prior=prior).fit(np.ones((20, 3)))
    assert np.isfinite(mixture.score(np.ones((20, 3))))


def test_discrete_data_have_clusters_too():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 150)
    X = (
        generator.random((300, 8)) < np.where(np.eye(2)[labels].repeat(4, 1) > 0, 0.95, 0.05)
    ).astype(float)
    mixture = uc.MixtureVAE(
        n_components=2,
        family="bernoulli",
        hidden=(16,),
        max_epochs=30,
        learning_rate=6e-3,
        random_state=0,
    )
    agreement = (mixture.fit_predict(X) == labels).mean()
    assert max(agreement, 1 - agreement) > 0.95


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_components": 1}, "n_components expects an integer from 2 to 10,000, got 1"),
        ({"n_components": 2.5}, "n_components expects an integer from 2 to 10,000"),
        ({"n_components": True}, "n_components expects an integer from 2 to 10,000"),
        ({"n_components": 50}, "at least 50 rows, got n_samples=20"),
        (
            {"prior": "unit", "n_components": 4, "latent_dim": 3},
            "prior 'unit' expects n_components <= latent_dim",
        ),
        (
            {"prior": "vamp"},
            "prior expects one of separated, unit, learned, full, got 'vamp'",
        ),
        ({"separation": 0}, "separation expects a positive finite number"),
        ({"inference": "gibbs"}, "inference expects one of marginal, enumerate"),
        ({"warmup_epochs": 4}, "warmup_epochs expects less than max_epochs=4, got 4"),
        ({"warmup_epochs": -1}, "warmup_epochs expects an integer >= 0, or 'auto'"),
        ({"warmup_epochs": "never"}, "warmup_epochs expects an integer >= 0, or 'auto'"),
        ({"posterior": "realnvp", "latent_dim": 1}, "posterior 'realnvp' expects latent_dim >= 2"),
        (
            {"posterior": "realnvp", "latent_dim": 1, "inference": "enumerate"},
            "posterior 'realnvp' expects latent_dim >= 2",
        ),
        ({"posterior": "flow"}, "posterior expects one of gaussian, realnvp"),
        (
            {"min_information": 2.0, "prior": "learned"},
            "min_information expects a prior with fixed scales, got prior 'learned'",
        ),
        ({"latent_dim": 9}, "latent_dim <= natural dimension"),
        ({"posterior": "realnvp", "hidden": [200_000, 200_000]}, "GiB, and this machine has"),
    ],
)
def test_bad_input_to_a_mixture_is_refused_in_a_sentence(arguments, words):
    X = np.random.default_rng(0).normal(size=(20, 4))
    mixture = uc.MixtureVAE(**{**SMALL, **arguments})
    with pytest.raises(InputError, match=words) as caught:
        mixture.fit(X)
    assert "\n" not in str(caught.value)
    assert not hasattr(mixture, "model_")


@pytest.mark.parametrize("component", [7, 3, -1, 1.0, "1", True])
def test_there_is_no_such_component(separated, component):
    with pytest.raises(InputError, match="component expects an integer from 0 to 2, got"):
        separated[0].sample(3, component=component)


@pytest.mark.slow
def test_a_guarantee_of_information_holds_for_mixtures_of_fixed_scales(blobs):
    for prior in ("separated", "unit"):
        mixture = uc.MixtureVAE(**SMALL, prior=prior, min_information=2.0).fit(blobs[0])
        report = uc.diagnose(mixture, blobs[0], n_importance=2, thorough=False)
        assert report.estimates["information_floor_nats"].value == pytest.approx(2.0)


def test_a_mixture_that_is_interrupted_in_its_warm_up_has_found_components(separated):
    """Components start at the clusters of what has been learned, not at random."""
    mixture, _, X, labels = separated

    def interrupt(epoch):
        if epoch.number == 20:
            raise KeyboardInterrupt

    cut = sklearn.base.clone(mixture).set_params(warmup_epochs=30)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(X, callbacks=[interrupt])
    assert len(cut.history_) == 21
    pairs = np.unique(np.stack([cut.predict(X), labels]), axis=1, return_counts=True)[1]
    assert np.sort(pairs)[-3:].sum() > 0.9 * len(X)

"""Comparisons: probes, curves of rate and distortion, and models on one budget."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import uncollapse as uc
from uncollapse.diagnostics.comparison import Comparison, excess_distortion, lower_edge
from uncollapse.experiments.compare import build_estimators
from uncollapse.measures.components import probe_accuracy
from uncollapse.measures.tempering import SHARES, rate_distortion_of_rows
from uncollapse.models import EnumeratedMixtureModel, MarginalMixtureModel

SETTINGS = {"latent_dim": 2, "hidden": (8, 8), "max_epochs": 4, "batch_size": 45, "verbose": False}


@pytest.fixture(scope="module")
def found(blobs):
    """Compare a VAE, a rival and an injective model on one budget."""
    X, labels = blobs
    return uc.compare(
        X, X, labels, models=["VAE", "SA-VAE", "il-lidvae"], inverse_lipschitz=0.7, **SETTINGS
    )


def probe(means, labels, deviation=0.1):
    return probe_accuracy(means / np.sqrt(means.var(0) + deviation**2), labels)


def test_probe_accuracy_of_clear_absent_and_collapsed_classes():
    chance = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 200)
    means = np.where(labels == "a", 1.0, -1.0)[:, None] + chance.normal(0, 0.1, (400, 3))
    assert probe(means, labels).value == 1
    assert probe(means, chance.permutation(labels)).value == pytest.approx(0.5, abs=0.1)
    # Units with a posterior of deviation 1 are collapsed at any scale of their means.
    assert probe(1e-6 * means, np.repeat(["a", "b"], [300, 100]), deviation=1.0).value == 0.75
    # A large constant shrinks means and posteriors alike, which is no collapse.
    assert probe(1e-3 * means, labels, deviation=1e-4).value == 1


def test_probe_of_rare_labels():
    means = np.linspace(-1, 1, 9)[:, None]
    assert probe(means, np.array(["a"] * 9)) is None
    assert probe(means, np.array(["a"] * 8 + ["b"])) is None
    found = probe(means, np.array(["a"] * 6 + ["b"] * 2 + ["c"]))
    assert found.value * 8 == pytest.approx(round(found.value * 8))


def test_curve_of_a_linear_gaussian_model(linear_gaussian):
    curve = rate_distortion_of_rows(linear_gaussian.model(), linear_gaussian.data.numpy())
    assert curve["share"].tolist() == list(SHARES)
    gains, scale = linear_gaussian.gains, linear_gaussian.scale
    projected = (linear_gaussian.data / scale - linear_gaussian.bias) @ linear_gaussian.weight
    for share, rate, distortion in curve.to_numpy():
        precision = 1 + share * gains.square()
        mean = share * projected / precision
        exact = 0.5 * (1 / precision + mean.square() - 1 + precision.log()).sum(-1).mean()
        assert rate == pytest.approx(float(exact), abs=1e-9)
        missed = (
            linear_gaussian.data / scale - linear_gaussian.bias - mean @ linear_gaussian.weight.T
        )
        lost = 0.5 * (missed.square().sum(-1) + (gains.square() / precision).sum()) + len(
            linear_gaussian.bias
        ) * (0.5 * math.log(2 * math.pi) + math.log(scale))
        assert distortion == pytest.approx(
            float(lost.mean()), abs=0.3 if share == 1 else 0.75
        )  # The model makes one draw for each example.
    sums = curve["rate"] + curve["distortion"]
    assert sums.iloc[-1] == pytest.approx(
        -float(linear_gaussian.marginal.log_prob(linear_gaussian.data).mean()), abs=0.25
    )
    assert (sums.diff().dropna() < 0).all()


@pytest.mark.parametrize("kind", [MarginalMixtureModel, EnumeratedMixtureModel])
def test_curve_of_a_mixture_starts_at_its_prior_and_ends_at_the_model(linear_mixture, kind):
    model, rows = linear_mixture.model(kind), linear_mixture.data.numpy()
    curve = rate_distortion_of_rows(model, rows)
    assert len(curve) == len(SHARES)
    if kind is EnumeratedMixtureModel:  # Its posterior is exact.
        assert curve["rate"].iloc[0] == pytest.approx(0, abs=1e-9)
        exact = -float(linear_mixture.marginal.log_prob(linear_mixture.data).mean())
        assert curve["rate"].iloc[-1] + curve["distortion"].iloc[-1] == pytest.approx(
            exact, abs=0.5
        )
    assert (curve["distortion"].diff().dropna() < 0).all()


def test_curve_of_a_flow_is_a_point(blobs):
    vae = uc.VAE(**SETTINGS, posterior="realnvp", random_state=0).fit(blobs[0])
    curve = rate_distortion_of_rows(vae.model_, blobs[0].astype(np.float32))
    assert curve["share"].tolist() == [1.0]


def test_excess_is_distortion_above_the_lowest_curve():
    low = pd.DataFrame({"rate": [0.0, 2.0, 4.0], "distortion": [10.0, 4.0, 2.0]})
    high = pd.DataFrame({"rate": [0.0, 3.0], "distortion": [12.0, 5.0]})
    beyond = pd.DataFrame({"rate": [0.0, 8.0], "distortion": [20.0, 2.5]})
    late = pd.DataFrame({"rate": [3.5, 5.0], "distortion": [-1.0, -2.0]})
    assert excess_distortion(low, [low, high]) == 0
    assert excess_distortion(high, [low, high]) == 5 - 3
    assert excess_distortion(beyond, [low, beyond]) == 0.5
    assert excess_distortion(high, [high, late]) == 0  # The curve starts at a higher rate.
    assert excess_distortion(low, [low, late]) == pytest.approx(2 - (-1 - 1 / 3))
    # The lower edge counts where the rates of a curve fall before they rise.
    falls = pd.DataFrame({"rate": [6.0, 2.0, 1.0, 1.5], "distortion": [9.0, 8.0, 7.5, 7.0]})
    assert lower_edge(falls)[["rate", "distortion"]].to_numpy().tolist() == [[1.0, 7.5], [1.5, 7.0]]
    rival = pd.DataFrame({"rate": [0.0, 1.25], "distortion": [12.0, 9.0]})
    assert excess_distortion(rival, [falls, rival]) == 9.0 - 7.25
    assert excess_distortion(falls, [falls, rival]) == 0


def test_all_models_have_the_same_budget(found):
    table = found.table().set_index(["budget", "model"])
    assert table.index.tolist() == [
        (budget, model)
        for budget in ("evaluations", "seconds")
        for model in ("VAE", "SA-VAE", "IL-LIDVAE")
    ]
    assert table.loc[("evaluations", "VAE"), "evaluations"] == 4 * 180
    assert table.loc[("evaluations", "IL-LIDVAE"), "evaluations"] == 4 * 180
    assert 0 <= table.loc[("evaluations", "SA-VAE"), "evaluations"] - 4 * 180 < 45 * (1 + 2 * 20)
    seconds = table.loc["seconds", "seconds"]
    assert (seconds[1:] >= seconds.iloc[0]).all()
    first = table.drop(columns="excess_nats")  # The excess depends on the other models.
    assert first.loc[("seconds", "VAE")].equals(first.loc[("evaluations", "VAE")])
    assert table["probe_accuracy"].between(0, 1).all()
    assert table["nll_nats"].notna().all()
    assert table["nll_nats_standard_error"].gt(0).all()
    assert (table["excess_nats"] >= 0).all()
    assert table.groupby("budget")["excess_nats"].min().eq(0).all()


def test_settings_do_not_override_fixed_arguments_of_presets():
    made = build_estimators(
        ["VAE", "LIDVAE", "IL-LIDVAE", "GMVAE"],
        "table",
        {"inverse_lipschitz": 0.7, "n_components": 3},
    )
    assert [estimator.inverse_lipschitz for estimator in made.values()] == [None, 0.0, 0.7, None]
    assert made["GMVAE"].n_components == 3
    assert {estimator.random_state for estimator in made.values()} == {0}
    made = build_estimators(
        ["VAE", "LIDVAE", "IL-LIDVAE"], "table", {"target_kl": 2.0, "min_information": None}
    )
    assert [estimator.target_kl for estimator in made.values()] == [None, None, 2.0]


def test_page_and_table_are_written(found, tmp_path):
    page, table = found.to_html(tmp_path / "page.html"), found.to_csv(tmp_path / "table.csv")
    text = page.read_text(encoding="utf-8")
    for word in (
        "3 models, one budget",
        "With the same number of decoder evaluations",
        "With the same training time",
        "Rate and distortion",
    ):
        assert word in text
    assert pd.read_csv(table)["model"].tolist() == found.table()["model"].tolist()
    assert "IL-LIDVAE" in repr(found)
    assert len(found.curves()) == 6 * len(SHARES)
    with pytest.raises(uc.InputError, match="already exists"):
        found.to_html(tmp_path / "page.html")


def test_failed_model_becomes_an_entry(blobs, tmp_path):
    X, _ = blobs
    found = uc.compare(X, X, models=["VAE", "SA-VAE", "beta-VAE"], posterior="realnvp", **SETTINGS)
    failed = found.table().query("model == 'SA-VAE'")
    assert failed["error"].str.contains("Use posterior='gaussian'").all()
    assert failed["nll_nats"].isna().all()
    assert found.table().query("model != 'SA-VAE'")["nll_nats"].notna().all()
    assert "Use posterior=&#39;gaussian&#39;" in found.to_html(tmp_path / "page.html").read_text(
        encoding="utf-8"
    )
    assert "probe_accuracy" not in found.table()
    with pytest.raises(uc.InputError, match="Use posterior='gaussian'"):
        uc.compare(X, X, models=["SA-VAE", "VAE"], posterior="realnvp", **SETTINGS)


@pytest.mark.parametrize(
    ("models", "settings", "message"),
    [
        (["VAE"], {}, "two or more distinct models"),
        (["VAE", "vae"], {}, "two or more distinct models"),
        (["VAE", "IL-LIDVEA"], {}, "did you mean 'IL-LIDVAE'"),
        (
            ["VAE", "LIDVAE"],
            {"inverse_lipschitz": 1.0},
            "inverse_lipschitz apply to none of VAE, LIDVAE",
        ),
        (["VAE", "LIDVAE"], {"n_components": 3}, "n_components apply to none"),
        (["VAE", "GMVAE"], {"n_components": 0}, "n_components expects"),
        (["VAE", "LIDSVAE"], {}, "there is no preset 'LIDSVAE'"),
    ],
)
def test_invalid_models_and_settings_are_refused(blobs, models, settings, message):
    with pytest.raises(uc.InputError, match=message):
        uc.compare(blobs[0], blobs[0], models=models, **{**SETTINGS, **settings})


@pytest.mark.parametrize("wrong", ["labels", "image", "rows", "columns", "values"])
def test_invalid_test_data_are_refused_before_the_training(blobs, wrong, monkeypatch):
    X = blobs[0]
    test = {"rows": X[:1], "columns": X[:, :1], "values": np.full_like(X, np.nan)}.get(wrong, X)
    given = {"labels": {"labels": ["a"]}, "image": {"image_shape": (7, 7)}}.get(wrong, {})
    lasted = []
    fit = uc.VAE.fit
    monkeypatch.setattr(
        uc.VAE,
        "fit",
        lambda self, *args, **kwargs: (
            lasted.append(len(fit(self, *args, **kwargs).history_)) or self
        ),
    )
    with pytest.raises(uc.InputError):
        uc.compare(X, test, models=["VAE", "IL-LIDVAE"], **given, **SETTINGS)
    assert lasted == [1]


@pytest.mark.slow
def test_sequences_of_one_length_are_text_if_told_so():
    tokens = [[1, 2, 3], [2, 3, 1], [3, 1, 2]] * 10
    settings = {
        "latent_dim": 2,
        "hidden": (8,),
        "hidden_dim": 8,
        "embedding_dim": 4,
        "max_epochs": 1,
        "verbose": False,
    }
    found = uc.compare(tokens, tokens, models=["VAE", "LIDSVAE"], data="text", **settings)
    assert found.table()["nll_nats"].between(0, 20).all()


def test_documents_are_compared():
    documents = ["the cat sat", "the dog sat down", "a dog ran"] * 20
    settings = {
        "latent_dim": 2,
        "hidden": (8,),
        "hidden_dim": 8,
        "embedding_dim": 4,
        "max_epochs": 2,
        "verbose": False,
    }
    found = uc.compare(
        documents, documents[:6], ["x", "y", "z"] * 2, models=["VAE", "LIDSVAE"], **settings
    )
    assert found.table()["nll_nats"].between(0, 30).all()
    assert isinstance(found, Comparison)
    assert torch.tensor(found.curves()["rate"].to_numpy()).isfinite().all()

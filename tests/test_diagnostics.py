"""Estimators and guarantees against exact values; verdicts on models of known state."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import simpson
from scipy.stats import chisquare, norm
from torch.distributions import Independent, Normal

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.certificates.information_floor import model_information_floor
from uncollapse.diagnostics import render_page
from uncollapse.families import Bernoulli, Gaussian
from uncollapse.latent import DiagonalGaussian, StandardNormal
from uncollapse.maps import BrenierMap, InverseLipschitzDecoder
from uncollapse.measures.ais import ais_log_likelihood_per_row
from uncollapse.measures.amortization_gap import refine
from uncollapse.measures.batches import Reservoir
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.fisher import fisher_divergence_of_rows
from uncollapse.measures.information import information_densities, remove_bias
from uncollapse.measures.likelihood import importance_log_likelihood_per_row, mean_log_likelihood
from uncollapse.measures.posteriors import Posteriors, explained_share, infer
from uncollapse.measures.sums import RunningCovariance, UnitSums
from uncollapse.measures.units import supported_units
from uncollapse.models import VAEModel

positive = st.floats(0.05, 20)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), positive, positive, positive)
def test_floor_is_the_exact_information_of_a_scaled_embedding(
    latent_dim, extra, constant, scale, prior_scale
):
    """For f = L B z and prior N(0, s^2 I), I(x; z) = log det(I + (L s / sigma)^2 B B') / 2."""
    data_dim = latent_dim + extra
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(data_dim, latent_dim)))[0]
    signal = (constant * prior_scale / scale) ** 2 * basis @ basis.T
    exact = np.linalg.slogdet(np.eye(data_dim) + signal)[1] / 2
    entropy = latent_dim * (0.5 * math.log(2 * math.pi * math.e) + math.log(prior_scale))
    assert uc.information_floor(latent_dim, constant, scale, entropy) == pytest.approx(
        exact, rel=1e-6, abs=1e-9
    )


def test_floor_of_a_standard_normal_prior():
    assert uc.information_floor(16, 2.25) == pytest.approx(8 * math.log1p(2.25**2))
    assert uc.information_floor(16, 0.0) == 0
    assert uc.information_floor(2, 1e-300, scale=1e300) == 0
    assert uc.information_floor(2, 1e300, scale=1e-300) == pytest.approx(1200 * math.log(10))
    assert uc.information_floor(3, 2.0, scale=4.0) == uc.information_floor(3, 0.5)


@pytest.mark.parametrize("constant", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_floor_holds_for_a_nonlinear_map(constant, seed):
    """I(x; z) = h(x) - h(noise) of x = f(z) + noise, by integration in one dimension."""
    torch.manual_seed(seed)
    f = BrenierMap(1, (6, 6), constant).double()
    z = torch.linspace(-6, 6, 1001, dtype=torch.double)
    centers = f(z[:, None]).detach().squeeze().numpy()
    x = np.linspace(centers.min() - 6, centers.max() + 6, 1001)
    density = simpson(norm.pdf(x[:, None] - centers) * norm.pdf(z.numpy()), x=z.numpy(), axis=1)
    entropy = simpson(-density * np.log(density), x=x)
    assert entropy - norm.entropy() >= uc.information_floor(1, constant)


@given(st.floats(0, 200), st.integers(1, 100), positive)
def test_constant_for_a_rate_inverts_the_floor(nats, latent_dim, scale):
    if 2 * nats / latent_dim < 700:
        constant = uc.inverse_lipschitz_for(nats, latent_dim, scale)
        assert uc.information_floor(latent_dim, constant, scale) == pytest.approx(
            nats, rel=1e-9, abs=1e-9
        )


@pytest.mark.parametrize(
    "call",
    [
        lambda: uc.information_floor(0, 1.0),
        lambda: uc.information_floor(2.5, 1.0),
        lambda: uc.information_floor(2, -1.0),
        lambda: uc.information_floor(2, 1.0, scale=0.0),
        lambda: uc.information_floor(2, 1.0, prior_entropy=math.inf),
        lambda: uc.inverse_lipschitz_for(-1.0, 2),
        lambda: uc.inverse_lipschitz_for(1e6, 1),
    ],
)
def test_impossible_guarantees_are_refused(call):
    with pytest.raises(InputError):
        call()


def test_floor_of_a_model_follows_its_decoder_and_family():
    def model(family):
        decoder = InverseLipschitzDecoder(2, 5, (4,), (0.5, 3.0))
        return VAEModel(StandardNormal(2), DiagonalGaussian.from_perceptron(5, 2), decoder, family)

    assert model_information_floor(model(Gaussian(7.0))).value == pytest.approx(math.log1p(1.5**2))
    assert model_information_floor(model(Bernoulli())) is None


def test_mutual_information_of_a_gaussian_channel():
    """q(z|x) = N(a x, 1 - a^2) with x ~ N(0, 1) has I = -log(1 - a^2) / 2 for each unit."""
    generator = np.random.default_rng(0)
    gains = np.array([0.3, 0.8])
    x, noise = generator.normal(size=(2, 4000, 2))
    estimate = Estimate.mean_of(
        information_densities(gains * x, np.broadcast_to(1 - gains**2, x.shape), noise)[0]
    )
    exact = -np.log(1 - gains**2).sum() / 2
    assert abs(estimate.value - exact) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.03


def test_mutual_information_of_separated_posteriors_is_its_cap():
    means = 1000.0 * np.arange(700)[:, None]
    density = information_densities(means, np.ones_like(means), np.zeros_like(means))
    assert np.allclose(density[0], math.log(700))


@pytest.mark.parametrize(("n", "units", "exact"), [(500, 3, 1.0), (500, 16, 2.3), (1000, 32, 3.0)])
def test_the_bias_of_the_information_goes_out(n, units, exact):
    """Of a Gaussian channel with many units, the plain mean is several errors too low, and without
    its bias it is not."""
    share = -math.expm1(-2 * exact / units)
    errors, plain = [], []
    for seed in range(10):
        draws = np.random.default_rng(seed)
        means = math.sqrt(share) * draws.normal(size=(n, units))
        densities = information_densities(
            means, np.full_like(means, 1 - share), draws.normal(size=means.shape)
        )
        told = remove_bias(densities)
        assert not told.is_lower_bound
        errors.append((told.value - exact) / told.standard_error)
        plain.append(densities[0].mean() - exact)
    assert abs(np.mean(errors)) < 1.0
    assert np.abs(errors).max() < 3.5
    assert np.mean(plain) < 0


def told_of_a_channel(n, units, exact, seed):
    """What n rows tell of a Gaussian channel that carries so much, and the plain mean."""
    draws, share = np.random.default_rng(seed), -math.expm1(-2 * exact / units)
    means = math.sqrt(share) * draws.normal(size=(n, units))
    densities = information_densities(
        means, np.full_like(means, 1 - share), draws.normal(size=means.shape)
    )
    return remove_bias(densities), densities[0].mean()


def test_a_large_bias_goes_out_nearly_whole():
    told, plain = zip(*(told_of_a_channel(2000, 32, 5.0, seed) for seed in range(4)), strict=True)
    assert np.mean(plain) < 4.8
    assert abs(np.mean([each.value for each in told]) - 5.0) < 0.25 * (5.0 - np.mean(plain))


def test_a_bias_that_is_large_makes_an_information_uncertain_far_from_the_cap():
    told, _ = told_of_a_channel(2000, 32, 6.5, seed=0)
    assert told.density.mean() < told.cap - 0.6
    assert told.correction > 0.5
    assert told.is_lower_bound
    assert not told_of_a_channel(2000, 32, 3.0, seed=0)[0].is_lower_bound


def test_an_information_that_rows_cannot_tell_is_lower_bound():
    draws = np.random.default_rng(0)
    means = math.sqrt(-math.expm1(-12 / 32)) * draws.normal(size=(500, 32))
    told = remove_bias(
        information_densities(
            means, np.full_like(means, math.exp(-12 / 32)), draws.normal(size=means.shape)
        )
    )
    assert told.is_lower_bound
    assert told.value <= math.log(500)
    assert abs(told.value - 6.0) < 3 * told.standard_error


def test_kl_is_information_plus_aggregate(linear_gaussian):
    """With the exact posterior on the model's own data q(z) is the prior, so that KL = I(x; z) and
    the aggregate KL is 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = linear_gaussian.marginal.sample((3000,)).numpy()
    estimates = uc.diagnose(linear_gaussian.fitted(), rows, thorough=False).estimates
    for name, exact in (
        ("kl_nats", linear_gaussian.information),
        ("mutual_information_nats", linear_gaussian.information),
        ("aggregate_kl_nats", 0),
    ):
        assert abs(estimates[name].value - exact) < 4 * estimates[name].standard_error, name
        assert estimates[name].standard_error < 0.05, name
    assert estimates["information_cap_nats"].value == pytest.approx(math.log(3000))


def test_the_aggregate_is_unknown_where_the_information_is_at_its_cap(linear_gaussian):
    rows = linear_gaussian.data[:3].numpy()
    report = uc.diagnose(linear_gaussian.fitted(), rows, thorough=False)
    assert report.estimates["aggregate_kl_nats"] is None
    assert report.summary().loc["aggregate_kl_nats"].isna()["value"]


def test_fisher_divergence_of_a_linear_gaussian(linear_gaussian):
    """grad_z log p(x|z) = W'(x / s - b - W z), whose square has a closed expectation over z ~ N(0,
    I)."""
    rows = linear_gaussian.data[:30]
    projected = (rows / linear_gaussian.scale - linear_gaussian.bias) @ linear_gaussian.weight
    gram = linear_gaussian.weight.T @ linear_gaussian.weight
    exact = (projected.square().sum(1).mean() + (gram @ gram).trace()).item()
    estimate = fisher_divergence_of_rows(linear_gaussian.model(), rows.numpy(), n_samples=4000)
    assert abs(estimate.value - exact) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.05 * exact


def table_of(means, variances):
    """The table of units with these posterior means and variances under a standard normal prior."""
    n, latent_dim = means.shape
    sums = UnitSums(
        SimpleNamespace(latent_dim=latent_dim, n_places=1, prior=StandardNormal(latent_dim))
    )
    kl_units = np.zeros_like(means)
    sums.add(Posteriors(means, variances, np.zeros(n), kl_units, None, None), means)
    return sums.table()


def test_active_units_follow_burdas_threshold():
    spread = np.array([[-1.0], [1.0]])
    means = spread * np.sqrt([0.0, 0.0099, 0.0101, 4.0])
    active = table_of(means, np.ones_like(means))["active"]
    assert active.tolist() == [False, False, True, True]


def test_scale_free_rule_sees_units_that_the_absolute_rule_calls_dead():
    generator = np.random.default_rng(0)
    means, variances = generator.normal(size=(500, 2)) * [1.0, 0.0], np.full((500, 2), 0.5)
    shrunk = table_of(means / 50, variances / 50**2)
    assert table_of(means, variances)["informative"].tolist() == [True, False]
    assert shrunk["active"].tolist() == [False, False]
    assert shrunk["informative"].tolist() == [True, False]
    assert np.allclose(
        explained_share(means, variances), explained_share(means / 50, variances / 50**2)
    )


def test_a_model_that_ignores_its_latents_is_called_collapsed(linear_gaussian):
    linear_gaussian.weight, linear_gaussian.gains = (
        0 * linear_gaussian.weight,
        0 * linear_gaussian.gains,
    )
    report = uc.diagnose(linear_gaussian.fitted(), linear_gaussian.data.numpy())
    assert report.verdict == "collapsed in the model"
    assert abs(report.estimates["recovered_nats"].value) < 1e-3
    assert report.estimates["kl_nats"].value == pytest.approx(0, abs=1e-12)
    assert report.estimates["fisher_divergence"].value == 0
    assert report.estimates["informative_units"].value == 0


def test_a_model_that_ignores_some_latents_is_called_partly_collapsed(linear_gaussian):
    alive = torch.tensor([1.0, 0.0, 1.0], dtype=torch.double)
    linear_gaussian.weight, linear_gaussian.gains = (
        linear_gaussian.weight * alive,
        linear_gaussian.gains * alive,
    )
    report = uc.diagnose(linear_gaussian.fitted(), linear_gaussian.data.numpy())
    assert report.verdict == "partly collapsed"
    assert report.units["informative"].tolist() == [True, False, True]
    assert "1 of 3 latent units is uninformative (1)" in report.advice


def test_a_live_model_is_called_healthy_and_its_numbers_are_right(linear_gaussian, linear_report):
    report = linear_report
    exact = -linear_gaussian.marginal.log_prob(linear_gaussian.data).mean().item()
    assert report.verdict == "healthy"
    assert report.estimates["nll_nats"].value == pytest.approx(exact, abs=1e-6)
    assert report.estimates["information_floor_nats"].value == pytest.approx(1.5 * math.log1p(0.25))
    assert report.units["kl_nats"].sum() == pytest.approx(report.estimates["kl_nats"].value)


def test_report_exports_its_numbers(linear_report, tmp_path):
    report = replace(linear_report, name="linear")
    written = json.loads(report.to_json(tmp_path / "report.json").read_text())
    assert written["estimates"]["kl_nats"]["value"] == report.estimates["kl_nats"].value
    assert written["estimates"]["active_units"]["standard_error"] is None
    assert len(written["units"]) == 3
    table = report.summary()
    assert table.loc["nll_nats", "value"] == report.estimates["nll_nats"].value
    assert "Report on linear" in repr(report)
    assert "± " in repr(report)
    with pytest.raises(InputError, match="already exists"):
        report.to_json(tmp_path / "report.json")
    report.to_json(tmp_path / "report.json", overwrite=True)


def test_page_escapes_what_it_is_given(linear_gaussian, tmp_path):
    labels = ["<script>alert(1)</script>"] * 400
    rows = linear_gaussian.data.numpy()
    report = uc.diagnose(linear_gaussian.fitted(), rows, labels, name="<b>&", thorough=False)
    page = report.to_html(tmp_path / "report.html").read_text()
    assert "<script>alert(1)" not in page
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labels": [1, 2]}, r"one value for each of the 400 rows, got \(2,\)"),
        ({"image_shape": (2, 3)}, "5 pixels"),
        ({"image_shape": (5,)}, "a height and a width"),
        ({"labels": np.zeros((400, 2))}, r"got \(400, 2\)"),
        (
            {"labels": [None, "a"] * 200},
            "got 200 missing, the first in row 0: drop those rows, or give them a class of their "
            "own",
        ),
    ],
)
def test_mismatched_arguments_are_refused(linear_gaussian, arguments, words):
    with pytest.raises(InputError, match=words):
        uc.diagnose(linear_gaussian.fitted(), linear_gaussian.data.numpy(), **arguments)


@pytest.mark.parametrize(
    "kind",
    [
        list("ab") * 200,
        ["", "a"] * 200,
        [f"class {i}" for i in range(400)],
        np.linspace(0, 1, 400),
        [1, 2] * 200,
    ],
)
def test_labels_of_every_kind_can_be_drawn(linear_gaussian, tmp_path, kind):
    rows = linear_gaussian.data.numpy()
    report = uc.diagnose(linear_gaussian.fitted(), rows, kind, thorough=False)
    report.to_html(tmp_path / "report.html")


def with_a_dead_encoder(linear_gaussian):
    """The linear Gaussian whose q(z|x) is the prior."""
    estimator = linear_gaussian.fitted()
    for parameter in estimator.model_.posterior.parameters():
        parameter.zero_()
    estimator.model_.posterior.scale.fill_(1.0)
    return estimator


def test_a_dead_encoder_of_a_live_decoder_is_collapsed_in_inference(linear_gaussian):
    """Refined posteriors must then recover KL(q || p(z|x)), of which the diagonal Gaussians that
    are fitted leave little."""
    report = uc.diagnose(with_a_dead_encoder(linear_gaussian), linear_gaussian.data.numpy())
    assert report.verdict == "collapsed in inference"
    assert "train longer" in report.advice
    assert "lagging" in report.advice
    recovered, log_p = (
        report.estimates["recovered_nats"],
        linear_gaussian.marginal.log_prob(linear_gaussian.data).mean().item(),
    )
    with torch.no_grad():
        z = torch.randn(4000, 1, 3, dtype=torch.double)
        elbo = (
            linear_gaussian.model()
            .log_likelihood(linear_gaussian.data, z.expand(-1, 400, -1))
            .mean()
            .item()
        )
    assert recovered.value < log_p - elbo + 4 * recovered.standard_error
    assert recovered.value > 0.9 * (log_p - elbo) - 4 * recovered.standard_error


def test_without_refinement_nobody_is_blamed(linear_gaussian):
    report = uc.diagnose(
        with_a_dead_encoder(linear_gaussian), linear_gaussian.data.numpy(), thorough=False
    )
    assert report.verdict == "collapsed"
    assert "refined" not in report.advice
    assert report.certificate is None


def test_draws_are_doubled_until_the_likelihood_settles(linear_gaussian):
    """At posteriors that are too wide, 64 draws say too little. What more draws gain on some rows
    goes to the mean of all."""
    model, rows = linear_gaussian.model(widened=4.0), linear_gaussian.data.numpy()
    exact = linear_gaussian.marginal.log_prob(linear_gaussian.data).mean().item()
    at_64 = importance_log_likelihood_per_row(model, rows, 64).mean()
    found = mean_log_likelihood(model, rows)
    assert found.has_settled
    # What 128 rows gain is known to about 0.05, a quarter of what 64 draws miss.
    assert abs(found.value - exact) < 0.5 * abs(at_64 - exact)
    assert 1 < found.effective_sample_size < found.n_samples
    assert mean_log_likelihood(model, rows, 64).value == pytest.approx(at_64)
    exactly = mean_log_likelihood(linear_gaussian.model(), rows)
    assert exactly.value == pytest.approx(exact, abs=1e-9)
    assert exactly.effective_sample_size == pytest.approx(exactly.n_samples)


def test_likelihoods_that_have_settled_miss_no_more_than_their_rule_allows(linear_gaussian):
    """The bias of a settled mean is about a tenth of its standard error, whatever the data."""
    biases, errors = [], []
    for seed in range(8):
        setting = type(linear_gaussian)(seed=seed)
        data = setting.data[:64]
        found = mean_log_likelihood(setting.model(widened=4.0), data.numpy())
        assert found.has_settled
        assert found.n_samples >= 512  # at 256 draws, a doubling still gains twice as much
        biases.append(found.value - setting.marginal.log_prob(data).mean().item())
        errors.append(found.standard_error)
    assert abs(np.mean(biases)) < 0.2 * np.mean(errors)


def test_annealing_goes_where_weights_do_not(linear_gaussian):
    """From q(z|x) = p(z), sixteen weights miss much of log p(x), and sixteen annealed chains hardly
    any."""
    model, rows = with_a_dead_encoder(linear_gaussian).model_, linear_gaussian.data[:64].numpy()
    exact = linear_gaussian.marginal.log_prob(linear_gaussian.data[:64]).numpy()
    weights, annealed = (
        importance_log_likelihood_per_row(model, rows, 16),
        ais_log_likelihood_per_row(model, rows),
    )
    assert (exact - weights).mean() > 0.2
    assert abs((exact - annealed).mean()) < 0.05
    plain = ais_log_likelihood_per_row(linear_gaussian.model(), rows, n_chains=2, n_temperatures=1)
    assert np.allclose(plain, exact)  # of the exact posterior, weights are constant


def test_refined_posteriors_are_the_exact_ones(linear_gaussian):
    rows = linear_gaussian.data[:20]
    found = refine(with_a_dead_encoder(linear_gaussian).model_, rows.numpy())
    exact = linear_gaussian.posterior()(rows)
    assert (
        np.abs((found.means - exact.mean.detach().numpy()) / exact.stddev.detach().numpy()).max()
        < 0.25
    )
    assert np.allclose(found.variances / exact.variance.detach().numpy(), 1, atol=0.4)
    assert (
        np.abs(refine(linear_gaussian.model(), rows.numpy()).recovered.mean()) < 2e-3
    )  # nothing is to be had


def test_units_that_data_support_are_counted_above_the_noise(linear_gaussian):
    """Eigenvalues of the covariance are s^2 (1 + gain^2): all three are above the noise, and of
    noise alone none is."""
    rows = linear_gaussian.marginal.sample((5000,)).numpy()
    assert supported_units(linear_gaussian.model(), rows).value == 3
    noise = linear_gaussian.scale * np.random.default_rng(0).normal(size=(5000, 5))
    assert supported_units(linear_gaussian.model(), noise).value == 0


def test_curves_of_collapse_are_shares_of_the_data(linear_gaussian):
    rows = linear_gaussian.data.numpy()
    report = uc.diagnose(linear_gaussian.fitted(), rows, verbose=False, thorough=False)
    kl = infer(linear_gaussian.model(), rows).kl_units
    for epsilon, deltas in report.collapse_curves.iterrows():
        assert np.allclose(deltas, (kl >= epsilon).mean(0))


def test_the_gaussian_part_of_the_aggregate_has_a_closed_form(linear_gaussian):
    """Of posteriors N(b, 1 - g^2) around means of variance g^2, shifted by b: q(z) is N(b, I), and
    the KL b^2 / 2 for each unit."""
    units = UnitSums(linear_gaussian.model())
    generator = np.random.default_rng(0)
    means = 0.6 * generator.normal(size=(20_000, 3)) + [0.0, 1.0, 2.0]
    for part in np.array_split(means, 7):
        units.add(
            Posteriors(
                part, np.full_like(part, 0.64), np.zeros(len(part)), np.zeros_like(part), None, None
            ),
            part,
        )
    assert units.aggregate_gaussian_kl(linear_gaussian.model().prior()).value == pytest.approx(
        2.5, abs=0.05
    )
    assert np.allclose(units.table()["mean"], [0, 1, 2], atol=0.02)
    assert np.allclose(units.table()["explained_share"], 0.36, atol=0.01)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_gaussian_part_of_the_aggregate_is_without_bias(share):
    """Of few rows: only means scatter, so that a dead encoder has no bias, and one that tells all
    has that of a fit to draws."""
    found, n, k = [], 100, 10
    for seed in range(100):
        covariance = RunningCovariance(k)
        means = 0.5 + math.sqrt(share) * np.random.default_rng(seed).normal(size=(n, k))
        covariance.add(means, np.full((n, k), 1 - share))
        found.append(
            covariance.kl_to_normal(Independent(Normal(torch.zeros(k), torch.ones(k)), 1)).value
        )
    # By n draws of 10 units, k (k + 3) / 4 n = 0.325 nats too much; what is left is of the second
    # order.
    assert abs(np.mean(found) - 0.5 * k * 0.25) < 4 * np.std(found) / math.sqrt(100) + 0.04


def test_a_sample_holds_all_rows_alike(monkeypatch):
    monkeypatch.setattr("uncollapse.measures.batches.MAX_SAMPLED_ROWS", 500)
    sample, rows = Reservoir(), np.arange(10_000.0)[:, None]
    for batch in np.array_split(rows, 13):
        sample.add(batch, batch[:, 0])
    assert sample.n_seen == 10_000
    assert len(np.unique(sample.rows)) == 500
    assert sample.rows[:, 0].tolist() == sample.labels
    counts = np.histogram(sample.rows, bins=10, range=(0, 10_000))[0]
    assert chisquare(counts).pvalue > 0.001


def test_reports_stand_side_by_side(linear_gaussian, linear_report, tmp_path):
    rows = linear_gaussian.data.numpy()
    quick = uc.diagnose(linear_gaussian.fitted(), rows, verbose=False, thorough=False)
    reports = [linear_report, quick]
    table = uc.compare_reports(reports, tmp_path / "both.html")
    assert table.index.tolist() == ["Fitted (1)", "Fitted (2)"]
    assert table.loc["Fitted (1)", "kl_nats"] == reports[0].estimates["kl_nats"].value
    assert np.isnan(table.loc["Fitted (2)", "recovered_nats"])
    page = (tmp_path / "both.html").read_text()
    assert page.count('<table class="sortable">') == 2
    with pytest.raises(InputError, match="already exists"):
        uc.compare_reports(reports, tmp_path / "both.html")
    with pytest.raises(InputError, match="at least one"):
        uc.compare_reports([])


def test_the_page_holds_every_report(linear_report):
    page = render_page([linear_report] * 12, "Twelve")
    assert page.count('"type":"bar"') == 12


def test_sorted_rows_do_not_mislead_what_looks_at_some_of_them(linear_gaussian, monkeypatch):
    monkeypatch.setattr("uncollapse.measures.information.MAX_ROWS", 200)
    rows = linear_gaussian.data.numpy()
    ordered = rows[np.argsort(rows[:, 0])]
    report = uc.diagnose(linear_gaussian.fitted(), ordered, thorough=False)
    estimate = report.estimates["mutual_information_nats"]
    assert abs(estimate.value - linear_gaussian.information) < 4 * estimate.standard_error


def test_history_may_be_empty(linear_gaussian, tmp_path):
    estimator = linear_gaussian.fitted()
    estimator.history_ = pd.DataFrame(columns=estimator.history_.columns)
    report = uc.diagnose(estimator, linear_gaussian.data.numpy(), thorough=False)
    report.to_html(tmp_path / "report.html")


# Each number of a report, as a function of the model and its data.
MEASURES = {
    "nll_nats": lambda *data: uc.measures.importance_log_likelihood(*data, n_samples=64),
    "annealing_gain_nats": lambda *data: uc.measures.ais_gain(*data),
    "kl_nats": uc.measures.kl,
    "mutual_information_nats": uc.measures.mutual_information,
    "aggregate_kl_nats": uc.measures.aggregate_kl,
    "aggregate_gaussian_kl_nats": uc.measures.aggregate_gaussian_kl,
    "fisher_divergence": uc.measures.fisher_divergence,
    "active_units": uc.measures.active_units,
    "informative_units": uc.measures.informative_units,
    "supported_units": uc.measures.supported_units,
    "recovered_nats": lambda *data: uc.measures.refinement(*data).recovered_nats,
    "kl_y_nats": lambda *data: uc.measures.component_measures(*data).kl_y,
    "kl_z_nats": lambda *data: uc.measures.component_measures(*data).kl_z,
    "component_information_nats": lambda *data: uc.measures.component_measures(*data).information,
    "component_floor_nats": lambda *data: uc.measures.component_measures(*data).floor,
    "live_components": lambda *data: uc.measures.component_measures(*data).n_live,
    "majority_accuracy": lambda *data: uc.measures.clustering_accuracy(*data, LABELS).majority,
    "matched_accuracy": lambda *data: uc.measures.clustering_accuracy(*data, LABELS).matched,
    "probe_accuracy": lambda *data: uc.measures.linear_probe(*data, LABELS),
    "information_floor_nats": lambda *data: model_information_floor(data[0]),
}
LABELS = list("ab") * 100


@pytest.fixture(scope="module")
def fitted_mixture(shorten_diagnoses):
    """An estimator, its data and its report."""
    X = np.random.default_rng(0).normal(size=(200, 4)) * [3, 2, 1, 0.1]
    settings = {"latent_dim": 2, "hidden": (8, 8), "max_epochs": 2, "verbose": False}
    model = uc.MixtureVAE(n_components=3, random_state=0, **settings).fit(X)
    with pytest.MonkeyPatch.context() as patch:
        shorten_diagnoses(patch)
        return model, X, uc.diagnose(model, X, LABELS, n_importance=64, verbose=False)


@pytest.mark.parametrize("name", MEASURES)
def test_each_number_of_a_report_is_a_function(fitted_mixture, name, short_diagnoses):
    model, X, report = fitted_mixture
    found, told = MEASURES[name](model, X), report.estimates[name]
    if told is None:
        assert found is None
        return
    sign = -1 if name == "nll_nats" else 1
    assert isinstance(found, Estimate)
    assert sign * found.value == told.value
    np.testing.assert_equal(found.standard_error, told.standard_error)


def test_all_numbers_of_a_report_have_a_function(fitted_mixture):
    belong_to_others = {"importance_draws", "effective_sample_size", "information_cap_nats"}
    assert {*fitted_mixture[2].estimates} - belong_to_others == MEASURES.keys()


def test_measures_of_other_kinds_share_what_has_been_read(linear_gaussian):
    model, rows = linear_gaussian.fitted(), linear_gaussian.data.numpy()
    exact = linear_gaussian.marginal.log_prob(linear_gaussian.data)[:64].mean().item()
    with uc.measures.evaluate(model, rows[:64]) as data:
        assert uc.measures.evaluate(data).__enter__() is data
        assert uc.measures.kl_per_unit(data).sum() == pytest.approx(uc.measures.kl(data).value)
        assert uc.measures.unit_table(data)["unit"].tolist() == [0, 1, 2]
        assert uc.measures.collapse_curves(data).shape == (61, 3)
        assert uc.measures.importance_log_likelihood(data).value == pytest.approx(exact)
        assert uc.measures.ais_log_likelihood(data).standard_error > 0
        assert uc.measures.rate_distortion(data)["share"].iloc[-1] == 1
        assert uc.measures.component_measures(data) is None
        assert uc.measures.clustering_accuracy(data) is None
        assert uc.measures.linear_probe(data) is None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        uc.measures.nothing  # noqa: B018


def test_measures_that_need_a_gradient_are_unknown_without_one(linear_gaussian):
    class Rounded(type(linear_gaussian.model().decoder)):
        def forward(self, z):
            return super().forward(z).round().detach()

    model = linear_gaussian.model()
    model.decoder.__class__ = Rounded
    data = model, linear_gaussian.data.numpy()
    assert uc.measures.fisher_divergence(*data) is None
    assert uc.measures.refinement(*data) is None
    assert uc.measures.ais_gain(*data) is None
    assert uc.measures.ais_log_likelihood(*data) is None

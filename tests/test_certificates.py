"""Certificates: theorems that must hold on every example, and values that are known in closed
form."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from scipy.integrate import trapezoid
from torch.distributions import Independent, Normal

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.certificates.certificate import least_residual
from uncollapse.certificates.smoothing import smoothed_kl_bound
from uncollapse.families import Bernoulli, Categorical, ContinuousBernoulli, Gaussian, Poisson
from uncollapse.latent import DiagonalGaussian, StandardNormal
from uncollapse.maps import EMBEDDINGS, InverseLipschitzDecoder, RidgeSum
from uncollapse.measures.fisher import posterior_scores, prior_draws, prior_scores
from uncollapse.models import VAEModel
from uncollapse.networks import MLPDecoder

# On R^t, each with a way to draw data.
FAMILIES = {
    "gaussian": (lambda d: Gaussian(0.7, d), lambda rng, n, d: 3 * rng.normal(size=(n, d))),
    "bernoulli": (lambda d: Bernoulli(), lambda rng, n, d: rng.integers(0, 2, (n, d))),
    "continuous_bernoulli": (lambda d: ContinuousBernoulli(), lambda rng, n, d: rng.random((n, d))),
    "poisson": (lambda d: Poisson(), lambda rng, n, d: rng.poisson(3.0, (n, d))),
    "categorical": (lambda d: Categorical(3), lambda rng, n, d: rng.integers(0, 3, (n, d))),
}


def stretched(module, factor):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "embedding" not in name:
                parameter.mul_(factor)
    return module


def build(name, data_dim, decoder_of):
    family = FAMILIES[name][0](data_dim)
    decoder = decoder_of(family.natural_dim(data_dim))
    posterior = DiagonalGaussian.from_perceptron(
        data_dim, decoder.latent_dim, (8,), family.features
    )
    return (
        VAEModel(StandardNormal(decoder.latent_dim), posterior, decoder, family)
        .double()
        .eval()
        .requires_grad_(False)
    )


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(list(FAMILIES)),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.lists(st.floats(-3, 2).map(lambda power: 10**power), min_size=4, max_size=4),
    st.floats(-1, 2).map(lambda power: 10**power),
    st.sampled_from(list(EMBEDDINGS)),
    st.booleans(),
    st.integers(0, 2**20),
)
def test_no_example_violates_a_bound(
    name, latent_dim, data_dim, more, hidden, constants, stretch, kind, ridges, seed
):
    """K23 theorems 3.4, 3.7 and A.7 at random families, dimensions, depths and constants, with
    weights up to 100 x."""
    torch.manual_seed(seed)
    chance = np.random.default_rng(seed)

    def decoder_of(natural_dim):
        dim = min(latent_dim, natural_dim)
        between = sorted(chance.integers(dim, natural_dim + 1, more).tolist())
        n_maps = 1 if dim == natural_dim and not between else len(between) + 2
        lipschitz = [2 * constant for constant in constants[:n_maps]] if ridges else math.inf
        kinds = {"lipschitz": lipschitz, "potential": RidgeSum} if ridges else {}
        decoder = InverseLipschitzDecoder(
            dim,
            natural_dim,
            hidden,
            constants[:n_maps],
            EMBEDDINGS[kind],
            intermediate_dims=between,
            **kinds,
        )
        decoder.initialize_from_data(chance.normal(size=(20, natural_dim)))
        return stretched(decoder, stretch)

    model = build(name, data_dim, decoder_of)
    rows = FAMILIES[name][1](chance, 12, data_dim).astype(np.float32)
    with np.errstate(over="ignore"):
        scores = prior_scores(model, rows, prior_draws(model, 5, seed))
    rounding = 1 + 1e-9
    finite = np.isfinite(scores.squared_scores)
    assert (
        finite.all() or name == "poisson"
    )  # whose mean overflows where the natural parameter passes 709
    assert (scores.squared_bounds[finite] <= rounding * scores.squared_scores[finite]).all()
    score, residual = scores.mean_scores[finite.all(1)], scores.mean_residuals[finite.all(1)]
    assert (np.square(residual).sum(1) <= rounding * np.square(score).sum(1)).all()
    with np.errstate(over="ignore", invalid="ignore"):
        posterior = posterior_scores(model, rows, 8)
    finite = np.isfinite(posterior.divergence)
    assert finite.all() or name == "poisson"
    assert (posterior.bound[finite] <= rounding * posterior.divergence[finite]).all()


@pytest.fixture
def exact(flat_linear_gaussian):
    """A linear Gaussian model, of which every quantity is known."""
    return flat_linear_gaussian


def known(exact):
    """Posterior means, shape (n, l), and variances, shape (l,)."""
    rows = exact.data[:60]
    return exact.posterior()(rows).mean.detach().numpy(), 1 / (1 + exact.gains.square().numpy())


@pytest.mark.slow
def test_divergences_kl_and_mean_score_of_a_linear_gaussian(exact):
    means, variances = known(exact)
    certificate = uc.certify(
        exact.fitted(), exact.data.numpy()[:60], n_samples=4000, n_importance=4000, verbose=False
    )
    # The score at z is m / s^2 - z (1 / s^2 - 1), and z is N(0, 1) or N(m, s^2).
    forward = (np.square(means / variances) + np.square(1 / variances - 1)).sum(1)
    reverse = (np.square(means) + np.square(1 / np.sqrt(variances) - np.sqrt(variances))).sum(1)
    kl = 0.5 * (np.square(means) + variances - 1 - np.log(variances)).sum(1)
    examples = certificate.examples
    assert (
        abs(examples["fisher_divergence"] - forward) < 5 * examples["fisher_standard_error"]
    ).all()
    assert (
        abs(examples["reverse_divergence"] - reverse) < 5 * examples["reverse_standard_error"]
    ).all()
    assert np.allclose(examples["posterior_kl_nats"], kl, rtol=0.1, atol=0.05)
    assert (examples["kl_upper_nats"] == examples["reverse_divergence"] / 2).all()
    assert (kl <= reverse / 2).all()
    assert (
        abs(examples["posterior_kl_nats"] - kl) < 6 * examples["posterior_kl_standard_error"]
    ).all()
    checked = examples["kl_lower_nats"].notna()
    assert checked.sum() == 20
    assert (examples["kl_lower_nats"][checked] <= kl[checked]).all()
    assert (examples["kl_lower_nats"][checked] > 0.3 * kl[checked]).all()
    assert certificate.estimates["information_floor_nats"].value == pytest.approx(
        uc.information_floor(2, 0.5)
    )
    assert certificate.estimates["smallest_singular_value"].value == pytest.approx(0.5)
    expected = (np.square(means.mean(0) / variances) + np.square(1 / variances - 1)).sum()
    estimate = certificate.estimates["mean_score_divergence"]
    assert abs(estimate.value - expected) < 5 * estimate.standard_error


@pytest.mark.slow
def test_weights_correct_a_posterior_that_is_too_wide(exact, fitted):
    means, variances = known(exact)
    kl = 0.5 * (np.square(means) + variances - 1 - np.log(variances)).sum(1)
    reverse = (np.square(means) + np.square(1 / np.sqrt(variances) - np.sqrt(variances))).sum(1)
    wide = fitted(exact.model(widened=1.5))
    examples = uc.certify(
        wide, exact.data.numpy()[:60], n_samples=4, n_importance=4000, verbose=False
    ).examples
    assert (
        abs(examples["posterior_kl_nats"] - kl) < 5 * examples["posterior_kl_standard_error"]
    ).all()
    assert (
        abs(examples["reverse_divergence"] - reverse) < 5 * examples["reverse_standard_error"]
    ).all()
    assert (examples["posterior_kl_standard_error"] < 0.1).all()


def test_proposition_3_9_on_gaussians(exact):
    """With q_t = N(m, s^2 + t) and p_t = N(0, 1 + t), the integral of F / 2 to infinity is the KL,
    and every part of it is less."""
    means, variances = known(exact)
    kl = 0.5 * (np.square(means) + variances - 1 - np.log(variances)).sum(1)
    for row, mean, whole in zip(exact.data.numpy()[:3], means, kl, strict=False):
        bound = smoothed_kl_bound(exact.model(), row)
        assert 0.3 * whole < bound < whole
        # The integral up to the largest t that the grid has room for.
        deviation = np.sqrt(variances)
        most = (deviation.min() / 4 * 256 / 2 / 8) ** 2 - deviation.max() ** 2
        times = np.linspace(0, most, 20_001)[:, None]
        spread = np.sqrt(variances + times)
        divergences = (
            np.square(mean / (1 + times)) + np.square(1 / spread - spread / (1 + times))
        ).sum(1)
        assert bound == pytest.approx(trapezoid(divergences, times[:, 0]) / 2, rel=0.1)


class Bumps(torch.nn.Module):
    """A likelihood of z alone: a narrow bump beside a broad one."""

    def __init__(self, where, width, height):
        super().__init__()
        self.where, self.width, self.height = where, width, height

    def log_likelihood(self, z):
        bump = -0.5 * ((z[..., 0] - self.where) / self.width).square()
        return torch.logaddexp(
            torch.log(torch.tensor(self.height, dtype=z.dtype)) + bump, torch.zeros_like(bump)
        )


@pytest.mark.parametrize("height", [1.0, 1e3, 1e5])
@pytest.mark.parametrize("q", [(4.0, 0.005), (0.0, 1.0), (-3.0, 0.1)])
def test_a_grid_that_misses_mass_gives_no_bound(height, q):
    """The posterior is a prior with a spike, and q(z|x) may see either alone."""
    model = LineModel()
    model.q, model.bumps = q, Bumps(4.0, 0.005, height)
    z = np.sort(np.concatenate([np.linspace(-9, 9, 20_001), np.linspace(3.9, 4.1, 20_001)]))
    log_likelihood = model.bumps.log_likelihood(torch.as_tensor(z)[:, None]).numpy()
    density = np.exp(log_likelihood - 0.5 * z**2) / math.sqrt(2 * math.pi)
    mass = trapezoid(density, z)
    kl = trapezoid(density / mass * (log_likelihood - math.log(mass)), z)
    bound = smoothed_kl_bound(model, np.zeros(1))
    assert math.isnan(bound) or bound <= kl * 1.01 + 1e-3
    assert not (
        height == 1.0 and q == (0.0, 1.0) and math.isnan(bound)
    )  # where the spike has next to no mass


class LineModel(torch.nn.Module):
    """One latent, a posterior and a likelihood at will."""

    def __init__(self):
        super().__init__()
        self.placement = torch.nn.Parameter(torch.zeros(1, dtype=torch.double))

    def prior(self):
        return Independent(Normal(torch.zeros(1, dtype=torch.double), 1.0), 1)

    def posterior(self, x):
        mean, deviation = (torch.full((len(x), 1), value, dtype=torch.double) for value in self.q)
        return Independent(Normal(mean, deviation), 1)

    def likelihood(self, z):
        bumps = self.bumps

        class Likelihood:
            @staticmethod
            def log_prob(x):
                return bumps.log_likelihood(z)

        return Likelihood


@pytest.mark.slow
@pytest.mark.parametrize("dims", [(3, 3), (2, 5)])
def test_bounds_are_equalities_for_a_scaled_embedding(dims, fitted):
    """f(z) = L B z uses its constant to the full."""
    latent_dim, data_dim = dims
    decoder = InverseLipschitzDecoder(latent_dim, data_dim, (4,), 1.5)
    model = fitted(build("gaussian", data_dim, lambda _: stretched(decoder, 0.0)))
    rows = np.random.default_rng(0).normal(size=(30, data_dim)).astype(np.float32)
    certificate = uc.certify(model, rows, n_samples=200, verbose=False)
    assert certificate.holds
    assert np.allclose(certificate.examples["bound_ratio"], 1)
    reverse = certificate.examples[["reverse_bound", "reverse_divergence"]].dropna()
    assert len(reverse) > 10
    assert np.allclose(reverse["reverse_bound"], reverse["reverse_divergence"])
    # Theorem 3.7 in closed form: E[T|z] = L B z, so that the mean score is L (B' mean(T) - L z).
    z = prior_draws(model.model_, 200, 0).numpy()
    constant, mean = decoder.constant, (rows / 0.7)[:, :latent_dim].mean(0)
    values = {name: estimate and estimate.value for name, estimate in certificate.estimates.items()}
    assert values["mean_score_bound"] == pytest.approx(
        np.square(constant * (mean - constant * z)).sum(1).mean(), rel=1e-5
    )
    assert values["mean_score_divergence"] == pytest.approx(values["mean_score_bound"])
    assert values["mean_score_variance"] == pytest.approx(constant**4 * z.var(0, ddof=1).sum())
    spread = constant**4 * z.var(0, ddof=1).sum()
    assert values["mean_score_bias"] == pytest.approx(values["mean_score_bound"] - spread)
    if latent_dim == data_dim:
        assert np.allclose(certificate.examples["corollary_bound"], latent_dim * 1.5**4)
    else:
        assert certificate.examples["corollary_bound"].isna().all()


@pytest.mark.parametrize("slope", [0.02, 0.3, 1.0, 4.0])
@pytest.mark.parametrize(
    ("name", "statistics"),
    [("continuous_bernoulli", [0.0, 0.02, 0.4, 0.9]), ("poisson", [0.0, 1.0, 7.0])],
)
def test_least_residual_is_below_that_of_every_affine_map(name, statistics, slope):
    family = FAMILIES[name][0](1).double()
    nodes, weights = hermegauss(80)
    least = least_residual(family, torch.tensor([statistics], dtype=torch.double), slope)[0]
    for value, statistic in zip(least.tolist(), statistics, strict=True):
        natural = family.natural(torch.tensor([statistic], dtype=torch.double)).item()
        c = natural + np.linspace(-8 * slope - 1, 8 * slope + 1, 801)[:, None]
        mean = family.expectation(torch.as_tensor(c + slope * nodes)).numpy()
        residuals = np.square(statistic - mean) @ weights / weights.sum()
        assert value <= residuals.min() * (1 + 1e-9)
        assert (value > 0.2 * residuals.min()) == (statistic > 0)


def test_least_residual_of_a_gaussian_is_attained():
    statistic = torch.tensor([[-3.0, 0.0, 2.0]], dtype=torch.double)
    assert torch.allclose(
        least_residual(Gaussian(0.7), statistic, 1.5), torch.full_like(statistic, 1.5**2)
    )


@pytest.mark.slow
def test_corollary_lies_below_the_bound_of_every_decoder(fitted):
    for seed in range(2):
        torch.manual_seed(seed)
        model = build("continuous_bernoulli", 2, lambda t: InverseLipschitzDecoder(t, t, (8,), 0.8))
        rows = np.random.default_rng(seed).random((20, 2)).astype(np.float32)
        examples = uc.certify(
            fitted(model), rows, n_samples=1000, n_importance=16, verbose=False
        ).examples
        assert (examples["corollary_bound"] > 0).all()
        assert (
            examples["corollary_bound"]
            <= examples["fisher_bound"] + 5 * examples["fisher_standard_error"]
        ).all()


def test_an_ordinary_decoder_promises_nothing(fitted):
    torch.manual_seed(0)
    model = build("bernoulli", 3, lambda t: MLPDecoder(2, t, (8,)))
    certificate = uc.certify(
        fitted(model), np.eye(3, dtype=np.float32), n_samples=8, n_importance=16, verbose=False
    )
    assert (certificate.examples["fisher_bound"] == 0).all()
    assert certificate.estimates["total_inverse_lipschitz"].value == 0
    assert "the bounds are 0" in repr(certificate)
    assert certificate.estimates["information_floor_nats"] is None


def test_a_violated_bound_is_said_aloud(fitted):
    torch.manual_seed(0)
    model = build("gaussian", 3, lambda t: InverseLipschitzDecoder(2, t, (4,), 1.0))
    rows = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    certificate = uc.certify(fitted(model), rows, n_samples=8, verbose=False)
    assert certificate.holds
    assert "The divergences are above their bounds on every example." in repr(certificate)
    certificate.examples.loc[2, "fisher_bound"] = (
        certificate.examples.loc[2, "fisher_divergence"] * 1.001
    )
    assert not certificate.holds
    assert "A BOUND IS VIOLATED" in repr(certificate)


def test_certificates_are_written(exact, tmp_path):
    certificate = uc.certify(
        exact.fitted(), exact.data.numpy()[:5], n_samples=8, n_importance=16, seed=3, verbose=False
    )
    content = json.loads(certificate.to_json(tmp_path / "c.json").read_text())
    assert (content["holds"], content["seed"], content["n_samples"]) == (True, 3, 8)
    assert (
        content["examples"]["fisher_divergence"]
        == certificate.examples["fisher_divergence"].tolist()
    )
    assert content["estimates"]["corollary_bound"] is None
    with pytest.raises(InputError, match="exists"):
        certificate.to_json(tmp_path / "c.json")


def test_what_cannot_be_certified_is_refused(exact):
    X = np.random.default_rng(0).exponential(size=(40, 3))
    linked = uc.VAE(
        latent_dim=2, family="exponential", hidden=(8,), max_epochs=1, random_state=0, verbose=False
    ).fit(X)
    with pytest.raises(InputError, match=r"fill R\^t, got 'exponential'"):
        uc.certify(linked, X)
    with pytest.raises(InputError, match="at least 2 rows"):
        uc.certify(exact.fitted(), exact.data.numpy()[:1])
    with pytest.raises(InputError, match="n_samples expects an integer >= 2"):
        uc.certify(exact.fitted(), exact.data.numpy()[:5], n_samples=1)
    with pytest.raises(InputError, match="n_importance expects an integer >= 10"):
        uc.certify(exact.fitted(), exact.data.numpy()[:5], n_importance=9)
    with pytest.raises(InputError, match="seed expects an integer from 0"):
        uc.certify(exact.fitted(), exact.data.numpy()[:5], seed=2**64)
    with pytest.raises(InputError, match="a fitted estimator"):
        uc.certify(exact.model(), exact.data.numpy()[:5])


def test_weights_that_rest_on_few_draws_are_not_believed(fitted):
    """In 32 dimensions, draws of a q(z|x) that is too wide all but miss the true posterior."""
    torch.manual_seed(0)
    model = build("gaussian", 32, lambda t: InverseLipschitzDecoder(t, t, (4,), 3.0))
    for parameter in model.posterior.parameters():
        parameter.zero_()
    rows = np.random.default_rng(0).normal(size=(10, 32)).astype(np.float32)
    certificate = uc.certify(fitted(model), rows, n_samples=4, n_importance=16, verbose=False)
    assert certificate.examples["posterior_kl_nats"].isna().all()
    assert certificate.estimates["kl_upper_nats"] is None
    assert "10 of 10 examples are left out" in repr(certificate)
    assert "raise n_importance (now 16)" in repr(certificate)
    assert certificate.holds


def test_overflow_is_a_sentence_and_no_violated_bound(fitted):
    torch.manual_seed(0)
    model = build("poisson", 2, lambda t: InverseLipschitzDecoder(2, t, (4,), 5.0))
    rows = np.array([[1e6, 2.0], [1.0, 3.0]], dtype=np.float32)
    certificate = uc.certify(fitted(model), rows, n_samples=4, n_importance=64, verbose=False)
    assert certificate.holds
    steep = build("poisson", 2, lambda t: InverseLipschitzDecoder(2, t, (4,), 1000.0))
    with pytest.raises(InputError, match="overflow float64"):
        uc.certify(fitted(steep), rows, n_samples=8, verbose=False)


def test_min_information_is_kept_by_a_trained_model():
    """I(x; z) of a nonlinear model of one latent unit, by quadrature over z and draws of x."""
    data = np.random.default_rng(0).normal(size=(200, 3)) * [2.0, 1.0, 1.0]
    vae = uc.VAE(
        latent_dim=1,
        min_information=1.5,
        hidden=(16, 16),
        max_epochs=5,
        random_state=0,
        verbose=False,
    ).fit(data)
    model = vae.model_.double()
    torch.manual_seed(0)
    z = torch.randn(2000, 1, dtype=torch.double)
    x = model.likelihood(z).sample()
    grid = torch.linspace(-7, 7, 4001, dtype=torch.double)[:, None]
    log_joint = model.likelihood(grid[:, None]).log_prob(x) + model.prior().log_prob(grid)[:, None]
    log_px = log_joint.logsumexp(0) + math.log(float(grid[1] - grid[0]))
    density = model.likelihood(z).log_prob(x) - log_px
    assert density.mean() - 4 * density.std() / math.sqrt(2000) > 1.5


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(size=(60, 5)) * [3, 2, 1, 1, 1]


SMALL = {"hidden": (8,), "max_epochs": 2, "random_state": 0, "verbose": False}


@pytest.mark.parametrize("latent_dim", [2, 5])
@pytest.mark.parametrize("family", ["gaussian", {"gaussian": {"scale": 2.0}}])
def test_min_information_sets_the_constants(data, latent_dim, family):
    vae = uc.VAE(latent_dim=latent_dim, min_information=3.0, family=family, **SMALL).fit(data)
    assert len(vae.inverse_lipschitz_) == (1 if latent_dim == 5 else 2)
    assert uc.information_floor(latent_dim, math.prod(vae.inverse_lipschitz_)) == pytest.approx(3.0)
    report = uc.diagnose(vae, data, thorough=False, verbose=False)
    assert report.estimates["information_floor_nats"].value == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"family": "continuous_bernoulli"},
            "with a known floor on .*, got 'continuous_bernoulli'. Set inverse_",
        ),
        ({"inverse_lipschitz": 1.0}, "Give one of the two"),
        ({"intermediate_dims": (3,)}, "one map or two"),
        ({"min_information": 500.0}, "Lower min_information"),
        ({"min_information": -1.0}, "min_information expects a positive number of nats"),
        (
            {"inverse_lipschitz": None, "min_information": None, "intermediate_dims": (3,)},
            "are for injective decoders",
        ),
    ],
)
def test_impossible_information_is_refused(data, arguments, words):
    between_0_and_1 = 1 / (1 + np.exp(-data))
    with pytest.raises(InputError, match=words):
        uc.VAE(**{"latent_dim": 2, "min_information": 3.0, **SMALL, **arguments}).fit(
            between_0_and_1
        )


@pytest.mark.slow
def test_every_choice_of_maps_fits_saves_and_loads(data, tmp_path):
    for index, arguments in enumerate(
        [
            {"embedding": "learned"},
            {"potential": "ridge"},
            {"potential": "ridge", "lipschitz": 4.0},
            {"intermediate_dims": (3, 4), "inverse_lipschitz": (0.5, 0.6, 0.7, 0.8)},
            {
                "intermediate_dims": (3,),
                "lipschitz": (2.0, 3.0, 4.0),
                "potential": "ridge",
                "embedding": "learned",
            },
        ]
    ):
        vae = uc.VAE(latent_dim=2, **arguments, **SMALL).fit(data)
        loaded = uc.load(vae.save(tmp_path / str(index)))
        assert np.array_equal(vae.transform(data), loaded.transform(data))
        assert np.allclose(vae.score_samples(data), loaded.score_samples(data), rtol=1e-5)
        assert loaded.inverse_lipschitz_ == vae.inverse_lipschitz_
        assert loaded.model_.decoder.upper_constant == vae.model_.decoder.upper_constant
        assert uc.certify(loaded, data[:3], n_samples=4, n_importance=16, verbose=False).holds

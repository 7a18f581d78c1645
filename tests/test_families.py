"""One contract for every family, and the values that are known."""

import copy
import itertools
import math
import pickle
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.estimators import VAE
from uncollapse.estimators.building import initialize_from_data
from uncollapse.estimators.settings import check_settings
from uncollapse.families import (
    FAMILIES,
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    Exponential,
    Family,
    Gaussian,
    HeteroscedasticGaussian,
    NegativeBinomial,
    Poisson,
    get_family,
)
from uncollapse.measures.fisher import fisher_divergence_of_rows

WIDE = [-30.0, -2.0, -1e-4, 0.0, 0.19, 0.21, 3.0, 30.0]
EXTREMES = [-1e4, -90.0, -1e-8, 0.0, 1e-8, 90.0, 1e4]


def adapted(family, *columns):
    family.initialize_from_data(np.array(columns).T)
    return family


@dataclass
class Case:
    """A family, natural parameters of single columns, and its support: all of it, or bounds that
    hold nearly all."""

    make: Callable[[], Family]
    etas: list
    support: list | Callable[..., tuple[float, float]]
    border: list  # expectations that no natural parameter has
    largest: float = 1e4  # as an output of a decoder

    def points(self):
        """Some values of the support."""
        if isinstance(self.support, list):
            return torch.tensor(self.support[:6], dtype=torch.double)[:, None]
        low, high = self.support(*self.etas[0])
        return torch.linspace(low, high, 7, dtype=torch.double)[1:-1, None]

    def columns(self):
        """All etas as the columns of one row, shape (n k,)."""
        return torch.tensor(self.etas, dtype=torch.double).flatten()

    def extremes(self):
        k = self.make().parameters_per_column
        return torch.tensor(
            list(itertools.product([min(u, self.largest) for u in EXTREMES], repeat=k)),
            dtype=torch.double,
        )


def unit_interval(*eta):
    return 0.0, 1.0


CASES = {
    "bernoulli": Case(Bernoulli, [(eta,) for eta in WIDE], [0, 1], [[0.0], [1.0]]),
    "categorical": Case(
        lambda: Categorical(4),
        [(0, 0, 0), (1, -2, 0.5), (-3, 2, 1), (0, 4, 0)],
        [0, 1, 2, 3],
        [[0.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0]],
    ),
    "poisson": Case(
        Poisson, [(-4,), (-0.5,), (0,), (1,), (2.5,)], list(range(200)), [[0.0]], largest=80.0
    ),
    "negative_binomial": Case(
        lambda: NegativeBinomial(2.5), [(-5,), (-1,), (-0.1,), (-0.02,)], list(range(4000)), [[0.0]]
    ),
    "gaussian": Case(
        lambda: Gaussian(0.5),
        [(eta,) for eta in WIDE],
        lambda eta: (eta / 2 - 25, eta / 2 + 25),
        [],
    ),
    "learned gaussian": Case(
        lambda: adapted(Gaussian(), [3.0, 7.0]),
        [(eta,) for eta in WIDE],
        lambda eta: (5 + 2 * eta - 50, 5 + 2 * eta + 50),
        [],
    ),
    "heteroscedastic_gaussian": Case(
        lambda: adapted(HeteroscedasticGaussian(), [3.0, 7.0]),  # center 5, unit 2
        [(0, -0.5), (3, -2), (-1, -0.05), (40, -40)],
        lambda first, second: (
            5 + 2 * (-first / second / 2 - 8 / math.sqrt(-2 * second)),
            5 + 2 * (-first / second / 2 + 8 / math.sqrt(-2 * second)),
        ),
        [[0.0, 0.0], [-2.0, 4.0]],
    ),
    "continuous_bernoulli": Case(
        ContinuousBernoulli, [(eta,) for eta in WIDE], unit_interval, [[0.0], [1.0]]
    ),
    "beta": Case(
        Beta,
        [(2, 3), (1, 1), (0.7, 5), (20, 9), (0.6, 0.6), (3, 60)],
        unit_interval,
        np.log([[0.3, 0.7], [1e-30, 1 - 1e-15], [0.5, 0.5]]).tolist(),
    ),
    "exponential": Case(
        lambda: adapted(Exponential(), [1.0, 3.0]),
        [(-1.0,), (-0.1,), (-30.0,)],
        lambda eta: (0.0, -80 / eta),
        [[0.0]],
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    return request.param


@pytest.fixture
def family(case):
    return case.make().double()


def test_the_contract_runs_over_every_family():
    assert {case.make().name for case in CASES.values()} == set(FAMILIES)


def test_density_sums_to_one(case, family):
    for eta in case.etas:
        distribution = family(torch.tensor(eta, dtype=torch.double))
        if isinstance(case.support, list):
            total = (
                distribution.log_prob(torch.tensor(case.support, dtype=torch.double)[:, None])
                .exp()
                .sum()
                .item()
            )
        else:

            def density(x, distribution=distribution):
                return distribution.log_prob(torch.tensor([x], dtype=torch.double)).exp().item()

            total = quad(density, *case.support(*eta), limit=500)[0]
        assert total == pytest.approx(1, abs=1e-6), eta


def test_log_prob_is_linear_in_the_statistic_minus_the_log_partition(case, family):
    """log p(x|eta) - log p(x|eta') = T(x)·(eta - eta') - A(eta) + A(eta') for all x, so that h(x)
    does not know eta."""
    x = case.points()
    etas = torch.tensor(case.etas, dtype=torch.double)
    for eta, other in zip(etas, etas.roll(1, 0), strict=True):
        change = family(eta).log_prob(x) - family(other).log_prob(x)
        expected = (
            family.sufficient(x) @ (eta - other)
            - family.log_partition(eta)
            + family.log_partition(other)
        )
        assert torch.allclose(change, expected, atol=1e-9)


def test_columns_are_independent_and_their_parameters_stand_together(case, family):
    x = case.points()[:1].expand(len(case.etas), 1)
    each = family(torch.tensor(case.etas, dtype=torch.double)).log_prob(x)
    assert family(case.columns()).log_prob(x.flatten()).item() == pytest.approx(
        each.sum().item(), abs=1e-9
    )
    assert family.natural_dim(len(case.etas)) == len(case.columns())
    assert (
        family.log_partition(case.columns()).shape
        == family(case.columns()).mean.shape
        == (len(case.etas),)
    )
    assert (
        family.sufficient(x.flatten()).shape
        == family.expectation(case.columns()).shape
        == case.columns().shape
    )


@pytest.mark.parametrize(
    ("family", "eta", "x"), [(Categorical(3), [0.5, -1.0], 1.0), (Poisson(), [0.3], 2.0)]
)
def test_distributions_of_discrete_data_expand(family, eta, x):
    p, x = family(torch.tensor(eta, dtype=torch.double)), torch.tensor([x], dtype=torch.double)
    assert p.expand(torch.Size([3])).log_prob(x).tolist() == pytest.approx(
        3 * [p.log_prob(x).item()], abs=1e-12
    )


def test_expectation_is_the_gradient_of_the_log_partition(case, family):
    eta = case.columns().requires_grad_()
    (gradient,) = torch.autograd.grad(family.log_partition(eta).sum(), eta)
    assert torch.allclose(family.expectation(eta), gradient, atol=1e-9)


def test_natural_parameters_invert_the_expectation(case, family):
    eta = case.columns()
    if family.name == "bernoulli":
        eta = eta[eta.abs() < 4]  # means beyond are pulled inside
    assert torch.allclose(family.natural(family.expectation(eta)), eta, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_expectations_on_the_border_are_pulled_inside(case, dtype):
    family = case.make().to(dtype)
    for expectation in case.border:
        eta = family.natural(torch.tensor(expectation, dtype=dtype))
        assert eta.isfinite().all()
        assert eta.abs().max() < 250
        assert family.domain.check(family.by_column(eta)).all()


def test_the_link_is_a_bijection_onto_the_domain(case, family):
    u = torch.linspace(-25, 25, 60, dtype=torch.double)
    assert torch.allclose(family.inverse_link(family.link(u)), u, rtol=0, atol=1e-12)
    assert torch.allclose(
        family.link(family.inverse_link(case.columns())), case.columns(), rtol=1e-12
    )
    assert family.fills_space == torch.equal(family.link(u), u)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_outputs_land_in_the_domain_and_keep_values_and_gradients_finite(case, dtype):
    family = case.make().to(dtype)
    u = case.extremes().to(dtype).requires_grad_()
    eta = family.link(u)
    assert family.domain.check(family.by_column(eta)).all()
    for x in case.points().to(dtype):
        value = family(eta).log_prob(x)
        (gradient,) = torch.autograd.grad(value.sum(), u, retain_graph=True)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
    expectation, mean = family.expectation(eta), family(eta).mean
    (gradient,) = torch.autograd.grad(expectation.sum() + family.log_partition(eta).sum(), u)
    assert expectation.isfinite().all()
    assert mean.isfinite().all()
    assert gradient.isfinite().all()


def test_samples_have_the_expected_statistics(case, family):
    torch.manual_seed(0)
    draws = family(case.columns()).sample((40_000,))
    family.check(draws.numpy())
    statistic = family.sufficient(draws)
    error = statistic.std(0) / 200
    assert draws.dtype == torch.double
    assert (
        (statistic.mean(0) - family.expectation(case.columns())).abs() <= 4 * error + 1e-12
    ).all()


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=name) for name, case in CASES.items() if name != "categorical"]
)
def test_means_are_those_of_the_samples(case, family):
    torch.manual_seed(0)
    distribution = family(case.columns())
    draws = distribution.sample((40_000,))
    assert ((draws.mean(0) - distribution.mean).abs() <= 4 * draws.std(0) / 200 + 1e-12).all()


@pytest.mark.parametrize(
    ("family", "eta", "x", "expected"),
    [
        (Poisson(), [math.log(3.5)], 4.0, stats.poisson(3.5).logpmf(4)),
        (NegativeBinomial(2.5), [math.log(0.3)], 4.0, stats.nbinom(2.5, 0.7).logpmf(4)),
        (Beta(), [2.0, 3.5], 0.3, stats.beta(2, 3.5).logpdf(0.3)),
        (Exponential(), [-2.5], 0.3, stats.expon(scale=1 / 2.5).logpdf(0.3)),
        (adapted(Exponential(), [6.0, 2.0]), [-2.5], 0.3, stats.expon(scale=4 / 2.5).logpdf(0.3)),
        (HeteroscedasticGaussian(), [1.5 / 4, -1 / 8], 0.3, stats.norm(1.5, 2).logpdf(0.3)),
        (
            adapted(HeteroscedasticGaussian(), [3.0, 7.0]),
            [1.5 / 4, -1 / 8],
            0.3,
            stats.norm(5 + 2 * 1.5, 2 * 2).logpdf(0.3),
        ),
        (Categorical(3), [math.log(0.2 / 0.7), math.log(0.1 / 0.7)], 1.0, math.log(0.1)),
        (Categorical(3), [math.log(0.2 / 0.7), math.log(0.1 / 0.7)], 2.0, math.log(0.7)),
    ],
)
def test_densities_are_those_of_scipy(family, eta, x, expected):
    density = family.double()(torch.tensor(eta, dtype=torch.double)).log_prob(
        torch.tensor([x], dtype=torch.double)
    )
    assert density.item() == pytest.approx(expected, abs=1e-12)


def test_the_categorical_is_minimal():
    """V logits do not determine themselves, V - 1 log-odds do: the Jacobian of the mean map has
    full rank."""
    logits, x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.double), torch.arange(3)
    with_all = torch.distributions.Categorical(logits=logits).log_prob(x)
    assert torch.allclose(torch.distributions.Categorical(logits=logits + 7).log_prob(x), with_all)
    eta = logits[:2] - logits[2]
    family = Categorical(3)
    assert torch.allclose(family(eta).log_prob(x[:, None].double()), with_all)
    assert not torch.allclose(family(eta + 7).log_prob(x[:, None].double()), with_all)
    assert torch.linalg.eigvalsh(torch.func.jacrev(family.expectation)(eta)).min() > 1e-3


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (Bernoulli(), [0.0, 1.0]),
        (Poisson(), [0.0, math.log(2)]),
        (NegativeBinomial(1.0), [0.0, math.log(2)]),
        (adapted(Exponential(), [1.0, 3.0]), [0.0, math.log(1.5)]),
        (Categorical(3), [1.0, 0.0, 0.0, 1.0]),
    ],
)
def test_encoders_see_features_that_suit_the_family(family, expected):
    assert family.features(torch.tensor([[0.0, 1.0]])).tolist() == [pytest.approx(expected)]


def test_draws_of_the_beta_stay_inside_the_open_interval():
    torch.manual_seed(0)
    draws = Beta()(torch.tensor([1e-3, 1e-3])).sample((1000,))
    Beta().check(draws.numpy())
    assert draws.min() < 1e-6
    assert draws.max() > 1 - 1e-6


def test_the_categorical_gives_its_most_probable_code_for_a_mean():
    assert Categorical(3)(torch.tensor([1.0, 0.0, -1.0, -1.0])).mean.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 1.0, 40.0])
@pytest.mark.parametrize("beta", [1e-3, 0.3, 7.0, 50.0])
def test_newtons_method_finds_the_beta_parameters(alpha, beta):
    eta = torch.tensor([alpha, beta], dtype=torch.double)
    assert torch.allclose(Beta().natural(Beta().expectation(eta)), eta, rtol=1e-6)


def small_data(name):
    """80 rows and 3 columns of the support."""
    generator = np.random.default_rng(0)
    if name in ("bernoulli", "categorical"):
        return generator.integers(0, 2 if name == "bernoulli" else 4, (80, 3)).astype(float)
    if name in ("poisson", "negative_binomial"):
        return generator.poisson([0.5, 4.0, 30.0], (80, 3)).astype(float)
    if name in ("beta", "continuous_bernoulli"):
        return generator.beta(2, 3, (80, 3))
    if name == "exponential":
        return generator.exponential([0.1, 1.0, 4.0], (80, 3))
    return generator.normal([0, 5, -3], [0.5, 1, 2], (80, 3))


@pytest.mark.parametrize("constants", [None, 0])
def test_every_family_trains_scores_saves_and_loads(case, constants, tmp_path):
    family = case.make()
    X = small_data(family.name)
    vae = uc.VAE(
        family=family.spec, inverse_lipschitz=constants, hidden=(8, 8), max_epochs=2, random_state=0
    ).fit(X)
    scores = vae.score_samples(X, n_importance=4)
    assert np.isfinite(scores).all()
    assert np.isfinite(vae.history_.to_numpy()).all()
    assert vae.reconstruct(X).shape == X.shape
    draws = vae.sample(5, random_state=0)
    assert draws.dtype == np.float32
    vae.check_rows(draws)
    restored = uc.load(vae.save(tmp_path / "run"))
    assert np.array_equal(restored.score_samples(X, n_importance=4), scores)
    assert np.array_equal(restored.transform(X), vae.transform(X))
    assert repr(restored.model_.family) == repr(vae.model_.family)


def test_training_starts_at_the_mean_statistic(case):
    name = case.make().name
    rows = small_data(name).astype(np.float32)
    settings = {
        "latent_dim": 2,
        "inverse_lipschitz": 0,
        "hidden": (8,),
        "embedding": "principal",
        "family": case.make().spec,
    }
    model = VAE.build(check_settings("VAE", settings), 3)
    initialize_from_data(model, rows)
    with torch.no_grad():
        start = model.family.expectation(model.natural(torch.zeros(2)))
        statistic = model.family.sufficient(torch.as_tensor(rows))
        features = model.family.features(torch.as_tensor(rows))
    assert torch.allclose(start, statistic.mean(0), rtol=1e-3, atol=1e-4)
    assert torch.allclose(model.posterior.encoder.shift, features.mean(0), atol=1e-5)
    assert model.posterior.encoder.unit.item() == pytest.approx(
        features.var(0, correction=0).mean().sqrt().item(), rel=1e-5
    )


def test_fisher_divergence_goes_through_the_link(case):
    """The score by its closed form is the gradient of log p(x|z) that autograd takes."""
    name = case.make().name
    X = small_data(name)
    vae = uc.VAE(
        family=case.make().spec, inverse_lipschitz=0, hidden=(8,), max_epochs=1, random_state=0
    ).fit(X)
    model, rows = vae.model_.double(), torch.as_tensor(X[:5])
    with uc._utils.random.seeded(3):
        z = model.prior().sample((6,))
    points = z.expand(5, 6, 2).clone().requires_grad_()
    (score,) = torch.autograd.grad(model.likelihood(points).log_prob(rows[:, None]).sum(), points)
    estimate = fisher_divergence_of_rows(model, rows.numpy(), n_samples=6, seed=3)
    assert estimate.value == pytest.approx(score.square().sum(-1).mean().item(), rel=1e-6)


@pytest.mark.parametrize("name", ["heteroscedastic_gaussian", "exponential"])
def test_units_do_not_matter(name):
    X = small_data(name)
    shift = 0 if name == "exponential" else -512.0
    settings = {
        "family": name,
        "inverse_lipschitz": 0,
        "hidden": (8,),
        "max_epochs": 2,
        "random_state": 0,
    }
    here, there = uc.VAE(**settings).fit(X), uc.VAE(**settings).fit(1024 * (X + shift))
    assert np.allclose(here.transform(X), there.transform(1024 * (X + shift)), atol=1e-3)
    assert here.score(X) == pytest.approx(
        there.score(1024 * (X + shift)) + 3 * math.log(1024), abs=0.05
    )


@pytest.mark.parametrize("constants", [0.5, (0.3, 0.6)])
def test_a_link_keeps_no_constant(case, constants):
    family = case.make()
    vae = uc.VAE(
        family=family.spec, inverse_lipschitz=constants, hidden=(8,), max_epochs=1, random_state=0
    )
    if family.fills_space:
        assert vae.fit(small_data(family.name)).model_.decoder.constant > 0
        return
    with pytest.raises(InputError, match=r"has a link.*inverse_lipschitz=0.*bernoulli") as caught:
        vae.fit(small_data(family.name))
    assert family.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_model_have_one_family(copied):
    """The encoder's features are those of the family beside it, whose unit they share."""
    X = small_data("exponential")
    model = (
        uc.VAE(family="exponential", inverse_lipschitz=0, hidden=(8,), max_epochs=1, random_state=0)
        .fit(X)
        .model_
    )
    twin = copied(model)
    assert twin.posterior.encoder.features.__self__ is twin.family
    assert twin.family is not model.family
    assert set(twin.state_dict()) == set(model.state_dict())


def test_no_constant_is_recommended_where_none_is_kept(case):
    X = small_data(case.make().name)
    vae = uc.VAE(
        family=case.make().spec, inverse_lipschitz=None, hidden=(8,), max_epochs=1, random_state=0
    ).fit(X)
    with torch.no_grad():
        vae.model_.posterior.encoder.net[-1].weight.zero_()
    report = uc.diagnose(vae, X, n_importance=2, thorough=False)
    assert report.verdict == "collapsed"
    assert ("raise inverse_lipschitz" in report.advice) == vae.model_.family.fills_space
    assert (report.estimates["information_floor_nats"] is not None) == (
        case.make().name == "gaussian"
    )


@pytest.mark.parametrize("family", ["exponential", "heteroscedastic_gaussian"])
@pytest.mark.parametrize("unit", [0.0, -1.0])
def test_a_unit_that_is_not_positive_is_damage(family, unit, tmp_path):
    X = small_data(family)
    vae = uc.VAE(family=family, inverse_lipschitz=0, hidden=(8,), max_epochs=1, random_state=0).fit(
        X
    )
    vae.model_.family.unit.fill_(unit)
    with pytest.raises(InputError, match="scale is not the one that was set, or not positive"):
        uc.load(vae.save(tmp_path / "run"))


def test_there_may_be_as_many_latents_as_natural_parameters():
    X = small_data("heteroscedastic_gaussian")
    settings = {
        "family": "heteroscedastic_gaussian",
        "inverse_lipschitz": 0,
        "hidden": (8,),
        "max_epochs": 1,
    }
    assert uc.VAE(latent_dim=6, **settings).fit(X).transform(X).shape == (80, 6)
    with pytest.raises(
        InputError,
        match=r"latent_dim=7 with n_features=3, which are 6 natural parameters under.*latent_dim "
        r"<= 6",
    ):
        uc.VAE(latent_dim=7, **settings).fit(X)


def test_statistics_of_many_rows_are_taken_in_pieces(monkeypatch):
    """One-hot codes need not fit into memory, and the start is the mean over all rows."""
    rows = np.random.default_rng(0).integers(0, 4, (500, 3)).astype(np.float32)
    settings = {"latent_dim": 2, "inverse_lipschitz": 0, "hidden": (8,), "embedding": "principal"}
    settings["family"] = {"categorical": {"n_categories": 4}}
    monkeypatch.setattr("uncollapse._utils.moments.VALUES_AT_ONCE", 100)
    monkeypatch.setattr("uncollapse.estimators.building.MAX_PRINCIPAL_ROWS", 50)
    model = VAE.build(check_settings("VAE", settings), 3)
    initialize_from_data(model, rows)
    with torch.no_grad():
        start = model.family.expectation(model.natural(torch.zeros(2)))
    assert torch.allclose(start, model.family.sufficient(torch.as_tensor(rows)).mean(0), atol=1e-5)


def test_continuous_bernoulli_agrees_with_torch_where_torch_is_accurate():
    eta = torch.tensor([-6.0, -1.0, 1.0, 6.0], dtype=torch.double)
    theirs = torch.distributions.ContinuousBernoulli(logits=eta)
    x = torch.tensor([0.1, 0.4, 0.8, 0.9], dtype=torch.double)
    assert torch.allclose(
        ContinuousBernoulli()(eta[:, None]).log_prob(x[:, None]), theirs.log_prob(x), atol=1e-8
    )
    assert torch.allclose(ContinuousBernoulli()(eta).mean, theirs.mean, atol=1e-8)


@pytest.mark.parametrize("eta", [-0.21, -0.19, 0.05, 0.19, 0.21, 5.0])
def test_continuous_bernoulli_series_meet_the_closed_forms(eta):
    family, parameter = ContinuousBernoulli(), torch.tensor(eta, dtype=torch.double)
    assert family.log_partition(parameter).item() == pytest.approx(
        math.log(math.expm1(eta) / eta), abs=1e-13
    )
    assert family.expectation(parameter).item() == pytest.approx(
        -1 / math.expm1(-eta) - 1 / eta, abs=1e-13
    )


def test_gaussian_density_is_that_of_the_mean_and_scale():
    eta, x = torch.tensor([3.0], dtype=torch.double), torch.tensor([2.0], dtype=torch.double)
    expected = torch.distributions.Normal(6.0, 2.0).log_prob(torch.tensor(2.0))
    assert Gaussian(2.0).double()(eta).log_prob(x).item() == pytest.approx(
        expected.item(), abs=1e-6
    )


def test_binarization_follows_the_probabilities():
    x = torch.tensor([0.0, 0.25, 1.0])
    torch.manual_seed(0)
    draws = torch.stack([Bernoulli().observe(x) for _ in range(4000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(draws.mean(0), x, atol=0.03)
    assert torch.equal(
        Bernoulli().observe(x, torch.tensor([0.9, 0.2, 0.9])), torch.tensor([0.0, 1.0, 1.0])
    )


def test_only_grey_levels_need_binarization():
    assert Bernoulli().is_observed(np.array([[0.0, 1.0]]))
    assert not Bernoulli().is_observed(np.array([[0.0, 0.3]]))
    assert Gaussian().is_observed(np.array([[0.0, 0.3]]))


def test_the_variance_of_the_continuous_bernoulli_is_the_slope_of_its_mean():
    eta = torch.tensor([*WIDE, 0.1, -0.15], dtype=torch.double, requires_grad=True)
    slope = torch.autograd.grad(ContinuousBernoulli().expectation(eta).sum(), eta)[0]
    assert torch.allclose(ContinuousBernoulli()(eta).variance, slope, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli"])
@pytest.mark.parametrize("value", [-0.1, 1.1, 255.0])
def test_values_outside_the_support_are_refused(name, value):
    with pytest.raises(InputError, match=r"expects values in \[0, 1\]"):
        get_family(name).check(np.array([[0.5, value]]))


def test_learned_scale_starts_at_the_deviation_of_the_data():
    family = Gaussian(data_dim=3)
    family.initialize_from_data(np.random.default_rng(0).normal(3.0, 2.0, size=(100_000, 3)))
    assert family.scale.item() == pytest.approx(2.0, rel=0.01)
    assert list(family.parameters())


def test_fixed_scale_stays():
    family = Gaussian(0.5, data_dim=3)
    family.initialize_from_data(np.random.default_rng(0).normal(3.0, 2.0, size=(100, 3)))
    assert family.scale.item() == pytest.approx(0.5)
    assert not list(family.parameters())


@pytest.mark.parametrize(
    ("spec", "value", "words"),
    [
        (
            {"categorical": {"n_categories": 3}},
            3.0,
            "whole numbers from 0 to 2, got 3 in row 1, column 0: number the categories",
        ),
        ({"categorical": {"n_categories": 3}}, -1.0, "whole numbers from 0 to 2, got -1"),
        ({"categorical": {"n_categories": 3}}, 0.5, "whole numbers from 0 to 2, got 0.5"),
        ("poisson", 1.5, "whole numbers >= 0, got 1.5"),
        ("poisson", -1.0, "whole numbers >= 0, got -1"),
        ({"negative_binomial": {"dispersion": 1}}, 0.1, "whole numbers >= 0"),
        ("exponential", -0.1, "values >= 0, got -0.1"),
        ("beta", 0.0, "strictly between 0 and 1, in float32, got 0"),
        ("beta", 1.0, "strictly between 0 and 1"),
    ],
)
def test_values_outside_a_support_are_refused_by_their_place(spec, value, words):
    with pytest.raises(InputError, match=words) as caught:
        get_family(spec).check(
            np.array(
                [[0.0 if spec != "beta" else 0.5, 0.0 if spec != "beta" else 0.5], [value, value]]
            )
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.float32(1e-30), np.float32(1) - np.float32(1e-7)])
def test_values_inside_the_open_interval_are_accepted(value):
    Beta().check(np.array([[value]]))
    assert Beta()(torch.tensor([2.0, 2.0])).log_prob(torch.tensor([value])).isfinite()


def test_a_fresh_family_has_seen_no_data():
    for family in (Exponential(), HeteroscedasticGaussian(), Gaussian()):
        used = adapted(family, [3.0, 9.0]).for_features(1)
        assert all(
            torch.equal(value, get_family(used.spec).state_dict()[key])
            for key, value in used.state_dict().items()
        )


def test_specifications_lead_back_to_the_family(case):
    family = case.make()
    assert repr(get_family(family.spec)) == repr(family)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("poison", "one of 'bernoulli'"),
        ({"gaussian": {"sigma": 1.0}}, "no argument of family 'gaussian' 'sigma'"),
        ({"gaussian": {"scale": -1.0}}, "scale expects a positive finite number"),
        ({"gaussian": 3}, "a name or one"),
        ({"gaussian": {}, "bernoulli": {}}, "a name or one"),
        (
            "categorical",
            "n_categories expects a number of categories from 2 to 2.24 - 1, got nothing: it has "
            "no default",
        ),
        ({"categorical": {"n_categories": 1}}, "n_categories expects"),
        ({"categorical": {"n_categories": 2.5}}, "n_categories expects"),
        (
            {"negative_binomial": {"dispersion": 0}},
            "dispersion expects a positive finite number, got 0",
        ),
        ({"poisson": {"rate": 1}}, "no argument of family 'poisson' 'rate'"),
    ],
)
def test_unknown_families_are_refused(spec, words):
    with pytest.raises(InputError, match=words):
        get_family(spec)


@pytest.mark.parametrize(
    "call", [lambda: Categorical(1), lambda: Categorical(True), lambda: NegativeBinomial(math.inf)]
)
def test_impossible_arguments_are_refused(call):
    with pytest.raises(InputError):
        call()


@pytest.mark.parametrize("name", ["gaussian", "heteroscedastic_gaussian"])
def test_the_scale_of_data_is_found_without_a_copy_of_them(name):
    data = np.random.default_rng(0).normal(5.0, 3.0, (20_500, 50)).astype(np.float32)
    family = get_family(name).for_features(50)
    tracemalloc.start()
    family.initialize_from_data(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < data.nbytes / 2
    scale = family.unit if name == "heteroscedastic_gaussian" else family.scale
    assert float(scale.detach()) == pytest.approx(
        np.sqrt(data.var(0, dtype=np.float64).mean()), rel=1e-6
    )

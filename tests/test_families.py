"""One contract for every family, and the values that are known."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from uncollapse.errors import InputError
from uncollapse.families import Bernoulli, ContinuousBernoulli, Gaussian, get_family

FAMILIES = [Bernoulli(), ContinuousBernoulli(), Gaussian(0.5), Gaussian()]
SUPPORTS = {"bernoulli": (0, 1), "continuous_bernoulli": (0, 1), "gaussian": (-math.inf, math.inf)}
ETAS = [-30.0, -2.0, -1e-4, 0.0, 0.19, 0.21, 3.0, 30.0]


@pytest.fixture(params=FAMILIES, ids=repr)
def family(request):
    return request.param.double()


def points_of(family):
    return torch.tensor([0.0, 1.0] if family.name == "bernoulli" else [0.1, 0.5, 0.9], dtype=torch.double)[:, None]


@pytest.mark.parametrize("eta", ETAS)
def test_density_sums_to_one(family, eta):
    distribution = family(torch.tensor([eta], dtype=torch.double))

    def density(x):
        return distribution.log_prob(torch.tensor([x], dtype=torch.double)).exp().item()

    if family.name == "bernoulli":
        assert density(0.0) + density(1.0) == pytest.approx(1, abs=1e-12)
    else:
        low, high = SUPPORTS[family.name] if family.name != "gaussian" else (eta - 50, eta + 50)
        assert quad(density, low, high, limit=500)[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("eta", ETAS)
def test_log_prob_is_linear_in_the_statistic_minus_the_log_partition(family, eta):
    """log p(x) - log p(x') = (T(x) - T(x')) eta + a difference that does not know eta."""
    x = points_of(family)
    parameter, other = torch.full_like(x, eta), torch.full_like(x, 0.3)
    change = family(parameter).log_prob(x) - family(other).log_prob(x)
    expected = family.sufficient(x) * (parameter - other) - family.log_partition(parameter) + family.log_partition(other)
    assert torch.allclose(change, expected.squeeze(-1), atol=1e-10)


def test_expectation_is_the_gradient_of_the_log_partition(family):
    eta = torch.tensor(ETAS, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(family.log_partition(eta).sum(), eta)
    assert torch.allclose(family.expectation(eta), gradient, atol=1e-9)


def test_natural_parameter_inverts_the_mean(family):
    mean = torch.tensor([0.02, 0.3, 0.5, 0.97], dtype=torch.double)
    assert torch.allclose(family(family.natural(mean)).mean, mean, atol=1e-9)


def test_samples_have_the_mean_of_the_distribution(family):
    torch.manual_seed(0)
    distribution = family(torch.tensor([-4.0, -1e-5, 0.5, 6.0], dtype=torch.double))
    draws = distribution.sample((40_000,))
    error = draws.std(0) / 200
    assert ((draws.mean(0) - distribution.mean).abs() < 4 * error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_parameters_keep_values_and_gradients_finite(family, dtype):
    eta = torch.tensor([-1e4, -90.0, -1e-8, 0.0, 1e-8, 90.0, 1e4], dtype=dtype, requires_grad=True)
    x = torch.ones_like(eta)
    value = family.to(dtype)(eta[:, None]).log_prob(x[:, None]).sum() + family.expectation(eta).sum()
    (gradient,) = torch.autograd.grad(value, eta)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_continuous_bernoulli_agrees_with_torch_where_torch_is_accurate():
    eta = torch.tensor([-6.0, -1.0, 1.0, 6.0], dtype=torch.double)
    theirs = torch.distributions.ContinuousBernoulli(logits=eta)
    x = torch.tensor([0.1, 0.4, 0.8, 0.9], dtype=torch.double)
    assert torch.allclose(ContinuousBernoulli()(eta[:, None]).log_prob(x[:, None]), theirs.log_prob(x), atol=1e-8)
    assert torch.allclose(ContinuousBernoulli()(eta).mean, theirs.mean, atol=1e-8)


@pytest.mark.parametrize("eta", [-0.21, -0.19, 0.05, 0.19, 0.21, 5.0])
def test_continuous_bernoulli_series_meet_the_closed_forms(eta):
    family, parameter = ContinuousBernoulli(), torch.tensor(eta, dtype=torch.double)
    assert family.log_partition(parameter).item() == pytest.approx(math.log(math.expm1(eta) / eta), abs=1e-13)
    assert family.expectation(parameter).item() == pytest.approx(-1 / math.expm1(-eta) - 1 / eta, abs=1e-13)


def test_gaussian_density_is_that_of_the_mean_and_scale():
    eta, x = torch.tensor([3.0], dtype=torch.double), torch.tensor([2.0], dtype=torch.double)
    expected = torch.distributions.Normal(6.0, 2.0).log_prob(torch.tensor(2.0))
    assert Gaussian(2.0).double()(eta).log_prob(x).item() == pytest.approx(expected.item(), abs=1e-6)


def test_binarisation_follows_the_probabilities():
    x = torch.tensor([0.0, 0.25, 1.0])
    torch.manual_seed(0)
    draws = torch.stack([Bernoulli().observe(x) for _ in range(4000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(draws.mean(0), x, atol=0.03)
    assert torch.equal(Bernoulli().observe(x, torch.tensor([0.9, 0.2, 0.9])), torch.tensor([0.0, 1.0, 1.0]))


def test_only_grey_levels_need_binarisation():
    assert Bernoulli().is_observed(np.array([[0.0, 1.0]]))
    assert not Bernoulli().is_observed(np.array([[0.0, 0.3]]))
    assert Gaussian().is_observed(np.array([[0.0, 0.3]]))


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli"])
@pytest.mark.parametrize("value", [-0.1, 1.1, 255.0])
def test_values_outside_the_support_are_refused(name, value):
    with pytest.raises(InputError, match=r"expects values in \[0, 1\]"):
        get_family(name).check(np.array([[0.5, value]]))


def test_learned_scale_starts_at_the_deviation_of_the_data():
    family = Gaussian(data_dim=3)
    family.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(100_000, 3)))
    assert family.scale.item() == pytest.approx(2.0, rel=0.01)
    assert list(family.parameters())


def test_fixed_scale_stays():
    family = Gaussian(0.5, data_dim=3)
    family.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(100, 3)))
    assert family.scale.item() == pytest.approx(0.5)
    assert not list(family.parameters())


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_specifications_lead_back_to_the_family(family):
    assert repr(get_family(family.spec)) == repr(family)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("poison", "one of 'bernoulli'"),
        ({"gaussian": {"sigma": 1.0}}, "no argument of family 'gaussian' 'sigma'"),
        ({"gaussian": {"scale": -1.0}}, "scale expects a positive finite number"),
        ({"gaussian": 3}, "a name or one"),
        ({"gaussian": {}, "bernoulli": {}}, "a name or one"),
    ],
)
def test_unknown_families_are_refused(spec, words):
    with pytest.raises(InputError, match=words):
        get_family(spec)

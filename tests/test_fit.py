"""uc.fit: any model that a user has composed from parts is trained, and says what it lacks."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

import uncollapse as uc
from uncollapse._utils.errors import DataError, InputError, NonFiniteLossError, ParameterError
from uncollapse.maps import Decoder

X = np.random.default_rng(0).normal(size=(120, 4)) @ np.diag([3.0, 1.0, 1.0, 0.1])
QUICK = {"max_epochs": 3, "batch_size": 40, "verbose": False}


class OwnPosterior(nn.Module):
    """A posterior that is nothing but a module which returns a distribution."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        mean, raw = self.layer(x).chunk(2, -1)
        return Independent(Normal(mean, nn.functional.softplus(raw) + 1e-3), 1)


class OwnDecoder(Decoder):
    """A decoder that promises nothing."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 4)

    def forward(self, z):
        return self.layer(z)


def compose(**parts):
    torch.manual_seed(0)
    defaults = {
        "prior": uc.latent.StandardNormal(2),
        "posterior": OwnPosterior(),
        "decoder": uc.maps.InverseLipschitzDecoder(2, 4, (8,), 0.5),
        "family": uc.families.Gaussian(1.0),
    }
    return uc.models.VAEModel(**{**defaults, **parts})


@pytest.mark.parametrize("decoder", [None, OwnDecoder])
def test_own_parts_are_trained(decoder):
    model = compose(**({} if decoder is None else {"decoder": decoder()}))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    history = uc.fit(model, X, learning_rate=0.01, **{**QUICK, "max_epochs": 20})
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] - 0.5
    assert np.allclose(history["loss"], history["reconstruction"] + history["kl"], atol=1e-4)
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert not model.training


def test_a_whole_model_of_ones_own_is_trained_in_float64():
    """PPCA by its three methods alone: the ELBO with the exact posterior is log p(x)."""

    class Linear(uc.models.LatentModel):
        latent_dim = 1

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((4,), 0.1, dtype=torch.float64))

        def prior(self):
            zeros = torch.zeros(1, dtype=torch.float64)
            return Independent(Normal(zeros, torch.ones_like(zeros)), 1)

        def posterior(self, x):
            precision = 1 + self.weight.square().sum()
            mean = (x @ self.weight / precision).unsqueeze(-1)
            return Independent(Normal(mean, precision.rsqrt().expand_as(mean)), 1)

        def log_likelihood(self, x, z):
            return Independent(Normal(z * self.weight, 1.0), 1).log_prob(x)

    model = Linear()
    history = uc.fit(model, X, learning_rate=0.05, **{**QUICK, "max_epochs": 200})
    assert model.weight.dtype == torch.float64
    values, vectors = np.linalg.eigh(X.T @ X / len(X))
    expected = vectors[:, -1] * np.sqrt(values[-1] - 1)  # Tipping & Bishop 1999, equation 7
    found = model.weight.detach().numpy()
    assert np.allclose(np.abs(found), np.abs(expected), atol=0.05)
    assert history["evaluations"].tolist() == [0] * 200  # of a decoder, which there is not


def test_the_seed_decides_and_the_global_generator_is_restored():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again, other = (compose() for _ in range(3))
    torch.manual_seed(3)
    uc.fit(first, X, seed=1, **QUICK)
    assert torch.equal(torch.rand(2), expected)
    uc.fit(again, X, seed=1, **QUICK)
    uc.fit(other, X, seed=2, **QUICK)
    weight = "posterior.layer.weight"
    assert torch.equal(first.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])


def test_validation_rows_find_the_best_epoch():
    model = compose()
    history = uc.fit(model, X, validation=X[:30], learning_rate=0.01, **QUICK)
    again = uc.fit(compose(), X, validation=X[:30], learning_rate=0.01, **QUICK)
    assert "validation" in history
    assert history["validation"].tolist() == again["validation"].tolist()


def test_callbacks_see_each_epoch():
    seen = []
    history = uc.fit(compose(), X, callbacks=[seen.append], **QUICK)
    assert [epoch.number for epoch in seen] == [0, 1, 2]
    assert [epoch.metrics["loss"] for epoch in seen] == history["loss"].tolist()
    assert seen[0].metrics["inverse_lipschitz_1"] == 0.5


def test_a_strategy_and_an_objective_by_name():
    history = uc.fit(
        compose(decoder=OwnDecoder()),
        X,
        objective={"elbo": {"beta": 0.5}},
        strategy="lagging",
        validation=X[:30],
        **QUICK,
    )
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"X": X[:1]}, DataError, "X expects at least 2 rows"),
        ({"X": np.where(X > 2, np.nan, X)}, DataError, "X expects finite numbers"),
        ({"strategy": "lagging"}, DataError, "Give validation="),
        ({"strategy": "semi_amortized"}, ParameterError, "refines the mean and the variance"),
        ({"objective": "elbow"}, ParameterError, "objective expects one of"),
        ({"hardware": {"accelerator": "abacus"}}, ParameterError, "cannot train on this hardware"),
        ({"learning_rate": 1e30}, NonFiniteLossError, "Lower learning_rate"),
    ],
)
def test_bad_input_ends_in_one_sentence(arguments, error, message):
    given = {"X": X, **QUICK, **arguments}
    with pytest.raises(error, match=message) as caught:
        uc.fit(compose(), given.pop("X"), **given)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, (InputError, NonFiniteLossError))


def test_any_network_can_be_a_decoder():
    model = compose(decoder=nn.Linear(2, 4))
    history = uc.fit(model, X, learning_rate=0.01, **{**QUICK, "max_epochs": 20})
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] - 0.5
    assert model.decoder.constants == ()
    assert model.decoder.constant == 0


@pytest.mark.parametrize(
    ("parts", "rows", "expected"),
    [
        ({"family": uc.families.Bernoulli()}, X, "bernoulli"),
        ({}, X[:, :3], r"does not accept rows of shape \(3,\)"),
    ],
)
def test_rows_that_do_not_suit_the_model_are_refused(parts, rows, expected):
    with pytest.raises(DataError, match=expected):
        uc.fit(compose(**parts), rows, **QUICK)


def test_a_refused_fit_leaves_the_model_as_it_was():
    model = compose(posterior=uc.latent.DiagonalGaussian.from_perceptron(4, 2))
    posterior = model.posterior
    model.decoder.eval()
    with pytest.raises(DataError, match="does not accept rows"):
        uc.fit(model, X[:, :3], strategy="semi_amortized", **QUICK)
    assert model.posterior is posterior
    assert (model.training, model.decoder.training) == (True, False)


def test_a_fit_that_fails_before_training_leaves_the_posterior_as_it_was():
    class Failing(uc.objectives.Elbo):
        def prepare(self, model, x, n_steps):
            raise RuntimeError("out of order")

    model = compose(posterior=uc.latent.DiagonalGaussian.from_perceptron(4, 2))
    posterior = model.posterior
    with pytest.raises(RuntimeError, match="out of order"):
        uc.fit(model, X, objective=Failing(), strategy="semi_amortized", **QUICK)
    assert model.posterior is posterior


def test_observers_and_strategies_of_ones_own_act():
    class Count(uc.training.Observer):
        n_steps = 0

        def after_step(self, training, step):
            self.n_steps += 1

    count = Count()
    lagging = uc.strategies.get_strategy("lagging")
    uc.fit(compose(), X, validation=X[:30], strategy=lagging, observers=[count], **QUICK)
    assert count.n_steps == 9

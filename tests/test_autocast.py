"""Training in bfloat16: products are rounded, and nothing that distributions are made of."""

import numpy as np
import pytest
import torch

import uncollapse as uc
from uncollapse.estimators.building import initialize_from_data
from uncollapse.estimators.settings import check_settings
from uncollapse.families import FAMILIES
from uncollapse.maps import POTENTIALS, BrenierMap
from uncollapse.networks import BackwardLSTMEncoder, LSTMEncoder, Perceptron

ARGUMENTS = {"categorical": {"n_categories": 4}, "negative_binomial": {"dispersion": 5.0}}
BETWEEN = 1 + 1 / 1000  # which bfloat16 does not know


def data_of(family):
    chance = np.random.default_rng(0)
    if family in ("poisson", "negative_binomial"):
        return chance.poisson(2000, (100, 6)).astype("float32")
    unit = chance.uniform(0.05, 0.95, (100, 6))
    whole = {"bernoulli": 2, "categorical": 4}.get(family)
    return (unit if whole is None else np.floor(unit * whole)).astype("float32")


def terms_of(kind, family, **settings):
    """Those of a model that has begun at data, in float32 and under autocast."""
    torch.manual_seed(0)
    settings = {
        "family": {family: ARGUMENTS.get(family, {})},
        "latent_dim": 3,
        "hidden": (33, 33),
        **settings,
    }
    model, data = kind.build(check_settings(kind.__name__, settings), 6), data_of(family)
    initialize_from_data(model, data)
    x, noise = torch.as_tensor(data), torch.randn(100, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(x, noise)
    return model(x, noise), rounded


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_of_rounded_networks_are_not_rounded_themselves(family):
    """In bfloat16 log rates of 7.6 are 1/32 apart, which is 60 of 2,000 counts and cost 2 nats an
    example."""
    exact, rounded = terms_of(uc.VAE, family, inverse_lipschitz=None)
    assert (
        rounded.log_px_z.dtype
        == rounded.latents.kl.dtype
        == rounded.latents.q.mean.dtype
        == torch.float32
    )
    assert abs((rounded.log_px_z - exact.log_px_z).mean()) < 0.05
    assert abs(rounded.latents.kl - exact.latents.kl).max() < 0.01


@pytest.mark.parametrize(
    "settings", [{"inference": "marginal"}, {"inference": "enumerate"}, {"prior": "full"}]
)
@pytest.mark.parametrize("posterior", ["gaussian", "realnvp"])
def test_neither_are_components_and_flows(settings, posterior):
    exact, rounded = terms_of(
        uc.MixtureVAE, "gaussian", n_components=2, posterior=posterior, **settings
    )
    latents = rounded.latents
    assert {
        each.dtype for each in (rounded.log_px_z, latents.z, latents.kl, latents.components)
    } == {torch.float32}
    assert abs(latents.kl - exact.latents.kl).max() < 0.01
    assert abs(latents.components - exact.latents.components).max() < 0.01


@pytest.mark.parametrize("potential", POTENTIALS.values())
def test_what_is_added_last_is_added_as_it_is(potential):
    f, perceptron = BrenierMap(3, (8, 8), 0.0, potential=potential), Perceptron(3, 3, [8])
    with torch.no_grad():
        for parameter in (*f.parameters(), *perceptron.parameters()):
            parameter.zero_()
        f.convex.linear.fill_(BETWEEN)
        perceptron[-1].bias.fill_(BETWEEN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for module in (f, torch.vmap(f), perceptron):
            assert torch.equal(module(torch.randn(5, 3)), torch.full((5, 3), BETWEEN))


def test_the_last_products_of_encoders_are_exact():
    torch.manual_seed(0)
    layer, x = Perceptron(3, 2, []), torch.randn(5, 3)
    symbols = torch.tensor([[2.0, 0.0, 1.0], [1.0, -1.0, -1.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = layer(x)
        assert LSTMEncoder(3, 2, 4, 5)(symbols).dtype == torch.float32
        assert LSTMEncoder(3, 2, 4, 5, pooled=True)(symbols).dtype == torch.float32
        assert BackwardLSTMEncoder(3, 2, 4, 5, 1)(symbols).dtype == torch.float32
    assert torch.equal(rounded, layer(x))


@pytest.mark.parametrize("context", ["joint", "additive"])
def test_sequences_are_learned_in_bfloat16_with_ordinary_decoders(context):
    documents = [np.random.default_rng(row).choice(9, size=3 + row % 5) for row in range(40)]
    settings = {
        "latent_dim": 2,
        "hidden": (8,),
        "hidden_dim": 8,
        "embedding_dim": 4,
        "max_epochs": 2,
        "random_state": 0,
    }
    losses = [
        uc.SequenceVAE(**settings, inverse_lipschitz=None, context=context, precision=precision)
        .fit(documents)
        .history_["loss"]
        for precision in ("float32", "bfloat16")
    ]
    assert np.allclose(*losses, rtol=0.01)

"""Chains of latents, one for each symbol, and the delta-VAE that is made of them."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import uncollapse as uc
from uncollapse.families import Categorical
from uncollapse.latent import ChainPosterior, CommittedPrior, GaussianChain
from uncollapse.measures.posteriors import infer
from uncollapse.measures.sums import UnitSums
from uncollapse.models import HistoryLSTM, SequenceModel
from uncollapse.networks import BackwardLSTMEncoder, MLPDecoder

PLACES, UNITS, RATE = 5, 2, 0.2
V = 7
SENTENCES = torch.tensor([[0, 3, 1, 6, -1], [2, 6, -1, -1, -1], [4, 1, 1, 0, 6.0]])
DOCUMENTS = ["the cat sat", "the dog sat down", "a dog ran", "a cat ran away"] * 25
SETTINGS = {
    "latent_dim": 3,
    "hidden": (8,),
    "hidden_dim": 12,
    "embedding_dim": 6,
    "max_length": 6,
    "max_epochs": 3,
    "min_count": 1,
    "random_state": 0,
    "verbose": False,
}


def randn(*shape):
    return torch.randn(*shape, dtype=torch.double)


def some_chain(*batch):
    return GaussianChain(
        randn(*batch, PLACES, UNITS) / 2,
        randn(*batch, PLACES, UNITS),
        randn(*batch, PLACES, UNITS).exp(),
    )


def as_normal(chain):
    """The same by the inverse of I - A, as a `MultivariateNormal`."""
    size = PLACES * UNITS
    gains = chain.gains.expand(chain.offsets.shape).reshape(*chain.batch_shape, size)
    back = torch.eye(size, dtype=torch.double) - torch.diag_embed(gains[..., UNITS:], -UNITS)
    mean = torch.linalg.solve(back, chain.offsets.flatten(-2).unsqueeze(-1)).squeeze(-1)
    root = torch.linalg.solve(back, torch.diag_embed(chain.scales.flatten(-2)))
    return MultivariateNormal(mean, root @ root.mT)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def prior():
    return CommittedPrior(PLACES, UNITS, RATE).double()


def delta_vae():
    prior = CommittedPrior(PLACES, UNITS, RATE)
    history = HistoryLSTM(V, 3, 4, latent_dim=UNITS)
    posterior = ChainPosterior(BackwardLSTMEncoder(V, 2 * UNITS, 3, 4, 1), prior)
    return SequenceModel(
        prior, posterior, history, MLPDecoder(UNITS + 4, V - 1, ()), Categorical(V)
    ).double()


def test_a_chain_is_the_gaussian_that_its_steps_make():
    chain, z = some_chain(4), randn(6, 4, PLACES * UNITS)
    normal = as_normal(chain)
    assert torch.allclose(chain.log_prob(z), normal.log_prob(z))
    assert torch.allclose(chain.mean, normal.mean)
    assert torch.allclose(chain.variance, normal.variance)
    assert torch.allclose(chain.entropy(), normal.entropy())
    drawn, log_density = chain.rsample_with_log_prob(z)
    assert torch.allclose(log_density, normal.log_prob(drawn))
    some = chain.sample((20_000,))
    assert torch.allclose(some.mean(0), normal.mean, atol=0.1 * float(normal.variance.max().sqrt()))


def test_divergences_of_chains_are_those_of_the_gaussians():
    q, p = some_chain(4), some_chain()
    assert torch.allclose(q.kl_per_unit(p).sum(-1), kl_divergence(as_normal(q), as_normal(p)))


def test_on_the_way_to_another_chain_steps_are_products_of_densities():
    q, p = some_chain(), some_chain()
    z = randn(2, PLACES * UNITS)
    between = q.towards(p, 0.3)
    # log densities of the steps differ from the weighted ones by what depends on z_(t-1) alone:
    # nothing at the last z_t.
    z[1, :-UNITS] = z[0, :-UNITS]
    weighted = 0.3 * q.log_prob(z) + 0.7 * p.log_prob(z)
    assert torch.allclose(
        between.log_prob(z)[0] - between.log_prob(z)[1], weighted[0] - weighted[1]
    )
    assert torch.allclose(q.towards(p, 1).log_prob(z), q.log_prob(z))
    assert torch.allclose(q.towards(p, 0).log_prob(z), p.log_prob(z))


def test_the_prior_is_standard_normal_at_every_symbol(prior):
    normal = as_normal(prior())
    assert torch.allclose(normal.mean, torch.zeros_like(normal.mean))
    assert torch.allclose(normal.variance, torch.ones_like(normal.variance))
    gain = math.sqrt(math.exp(2 * RATE / UNITS) - 1)
    assert normal.covariance_matrix[0, UNITS].item() == pytest.approx(gain)
    assert normal.covariance_matrix[0, 2 * UNITS].item() == pytest.approx(gain**2)
    assert prior.entropy_bound() == pytest.approx(float(normal.entropy()))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_no_independent_gaussians_are_nearer_to_the_prior_than_what_is_committed(n):
    prior = CommittedPrior(PLACES, UNITS, RATE).double()
    covariance = as_normal(prior()).covariance_matrix[: n * UNITS, : n * UNITS]
    p = MultivariateNormal(torch.zeros(n * UNITS, dtype=torch.double), covariance)
    # The best of independent ones have the precisions of the prior, and its mean.
    best = MultivariateNormal(p.mean, torch.diag(1 / torch.linalg.inv(covariance).diagonal()))
    assert float(kl_divergence(best, p)) == pytest.approx(prior.committed(n))
    assert prior.committed(5) - prior.committed(4) == pytest.approx(RATE)
    for _ in range(50):
        other = MultivariateNormal(
            0.1 * randn(n * UNITS),
            torch.diag((0.2 * randn(n * UNITS)).exp() / torch.linalg.inv(covariance).diagonal()),
        )
        assert float(kl_divergence(other, p)) > prior.committed(n)


def test_a_posterior_goes_on_as_the_prior_where_a_sequence_has_ended():
    model = delta_vae()
    q = model.posterior(SENTENCES.double())
    units = model.kl_per_unit(model.infer(SENTENCES.double())).unflatten(-1, (PLACES, UNITS))
    assert q.batch_shape == (3,)
    assert torch.allclose(units[1, 2:], torch.zeros_like(units[1, 2:]), atol=1e-12)
    assert (units[2] > 0).all()
    for row, length in enumerate((4, 2, 5)):
        assert units[row].sum().item() > model.prior.committed(length) - 1e-9


def test_z_is_read_off_from_its_symbol_and_those_after_it():
    posterior = delta_vae().posterior
    one = posterior(SENTENCES.double()).offsets
    changed = SENTENCES.clone()
    changed[0, 1] = 5
    other = posterior(changed.double()).offsets
    assert not torch.isclose(one[0, :2], other[0, :2]).any()
    assert torch.equal(one[0, 2:], other[0, 2:])
    assert torch.allclose(
        one[1], posterior(SENTENCES[1:2].double()).offsets
    )  # a row does not depend on the others


def test_a_symbol_goes_by_its_own_z_and_by_those_before_it():
    model = delta_vae()
    z = randn(3, PLACES * UNITS).requires_grad_()
    x = SENTENCES.double()
    model.log_likelihood(x, z).sum().backward()
    slopes = z.grad.unflatten(-1, (PLACES, UNITS))
    assert (slopes[1, :2] != 0).all()
    assert (slopes[1, 2:] == 0).all()
    # By hand, symbol by symbol.
    state, total, before = None, 0.0, V
    for place, symbol in enumerate((0, 3, 1, 6)):
        code = z[:1].detach().unflatten(-1, (PLACES, UNITS))[:, place : place + 1]
        h, state = model.history(torch.tensor([[before]]), code, state)
        eta = model.decoder(torch.cat([code[:, 0], h[:, 0]], -1))
        total += model.family(eta).log_prob(torch.tensor([[symbol]], dtype=torch.double)).item()
        before = symbol
    assert model.log_likelihood(x, z.detach())[0].item() == pytest.approx(total)


def test_generation_draws_what_the_likelihood_says():
    model = delta_vae().eval()
    z = randn(1, PLACES * UNITS)
    (rows,) = model.generate(z, max_length=PLACES - 1, greedy=True)
    sequence = [int(symbol) for symbol in rows if symbol >= 0]
    for place in range(len(sequence) - 1):
        scores = []
        for symbol in range(V):
            guess = torch.full((1, PLACES), -1.0, dtype=torch.double)
            guess[0, : place + 1] = torch.tensor([*sequence[:place], symbol], dtype=torch.double)
            scores.append(model.log_likelihood(guess, z).item())
        assert int(np.argmax(scores)) == sequence[place]


def test_a_delta_vae_is_fitted_used_and_saved(tmp_path):
    vae = uc.preset("delta-VAE", "text", **SETTINGS).fit(DOCUMENTS)
    prior = vae.model_.prior
    assert float(prior.gain) == pytest.approx(math.sqrt(math.expm1(2 * 0.1 / 3)))
    assert vae.transform(DOCUMENTS[:4]).shape == (4, 7 * 3)
    least = np.mean([prior.committed(n) for n in (4, 5, 4, 5)])
    assert (vae.history_["kl"] > least).all()
    assert vae.score(DOCUMENTS) < 0
    assert len(vae.sample(3, random_state=0)) == 3
    assert len(vae.reconstruct(DOCUMENTS[:2])) == 2
    again = uc.load(vae.save(tmp_path / "run"))
    assert np.array_equal(again.transform(DOCUMENTS[:4]), vae.transform(DOCUMENTS[:4]))
    report = uc.diagnose(vae, DOCUMENTS, n_importance=16, verbose=False)
    assert report.estimates["kl_nats"].value > least
    assert len(report.units) == 3
    assert report.units["kl_nats"].sum() == pytest.approx(
        report.estimates["kl_nats"].value, rel=1e-4
    )


def test_units_are_judged_at_the_symbols_that_there_are():
    model, rows = (
        delta_vae().float(),
        np.array([[0, 3, 1, 6, -1], [2, 6, -1, -1, -1], [4, 1, 1, 0, 6.0]], np.float32),
    )
    wide = infer(model, rows)
    means, there = wide.means.reshape(3, PLACES, UNITS).astype(np.float64), (rows >= 0)[..., None]
    of_place = (means * there).sum(0) / np.maximum(there.sum(0), 1)
    between = (np.square(means - of_place) * there).sum((0, 1)) / (4 + 2 + 5)
    for batches in ([slice(3)], [slice(1), slice(1, 3)]):
        units = UnitSums(model)
        for batch in batches:
            units.add(infer(model, rows[batch]), rows[batch])
        table = units.table()
        assert np.allclose(table["mean_variance"], between)
        assert table["kl_nats"].sum() == pytest.approx(wide.kl.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"committed_rate": 1.04}, r"\(latent_dim / 2\) log 2 = 1.04"),
        ({"committed_rate": 0}, "committed_rate expects"),
        ({"posterior": "pooled-lstm"}, "posterior='pooled-lstm'"),
        ({"objective": "latent_reconstruction", "hidden_dim": 32}, "the z of one symbol"),
        ({"strategy": "semi_amortized"}, "leave committed_rate out"),
        ({"annealing": True, "inverse_lipschitz": 5.0}, "annealing"),
    ],
)
def test_what_a_delta_vae_cannot_be(arguments, message):
    with pytest.raises(uc.InputError, match=message):
        uc.preset("delta-VAE", "text", **{**SETTINGS, **arguments}).fit(DOCUMENTS)

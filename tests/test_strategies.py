"""Strategies, on models whose posterior is known, and in training."""

import numpy as np
import pytest
import torch
from torch import nn

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.estimators.plan import TrainingData, prepare
from uncollapse.families import Gaussian
from uncollapse.latent import DiagonalGaussian, StandardNormal
from uncollapse.maps import InverseLipschitzDecoder
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.information import mutual_information
from uncollapse.measures.posteriors import infer
from uncollapse.models import VAEModel
from uncollapse.networks import MLPDecoder
from uncollapse.objectives import Elbo, LatentReconstruction
from uncollapse.strategies import (
    STRATEGIES,
    Joint,
    Lagging,
    RefinedPosterior,
    SemiAmortized,
    get_strategy,
)
from uncollapse.training.batches import BatchesInMemory
from uncollapse.training.loop import LoopSettings, Training, train

SMALL = {"latent_dim": 2, "hidden": (16,), "max_epochs": 2, "batch_size": 50, "random_state": 0}


def linear_encoder(linear_gaussian, data_dim=5, latent_dim=3):
    """A model of known decoder, with an encoder that is linear in the mean, as the exact one, and
    knows nothing yet."""
    torch.manual_seed(0)
    posterior = DiagonalGaussian.from_perceptron(data_dim, latent_dim, hidden=(64,))
    model = linear_gaussian.model()
    model.posterior = posterior.double()
    posterior.encoder.net[-1].weight.data.zero_()
    return model


def exact_gap(linear_gaussian, model, x):
    """The mean KL of the model's posterior from the exact one, in nats."""
    with torch.no_grad():
        q, exact = model.posterior(x), linear_gaussian.model().posterior(x)
        return float(torch.distributions.kl_divergence(q.base_dist, exact.base_dist).sum(-1).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        Joint(),
        Lagging(),
        pytest.param(SemiAmortized(n_steps=5, learning_rate=0.004), marks=pytest.mark.slow),
    ],
)
def test_every_strategy_reaches_the_exact_posterior(linear_gaussian, strategy):
    model, x = linear_encoder(linear_gaussian), linear_gaussian.data
    before = exact_gap(linear_gaussian, model, x)
    strategy.modify_model(model)
    decoder = {name: value.clone() for name, value in model.decoder.state_dict().items()}
    settings = LoopSettings(max_epochs=30, learning_rate=5e-3, seed=0, verbose=False)
    strategy.validation = x[:100].numpy()
    train(Training(model, Elbo(), BatchesInMemory(x, 50, seed=0), settings, strategy))
    model.eval()
    after = exact_gap(linear_gaussian, model, x)
    assert before > 1
    assert after < 0.02
    assert all(
        torch.equal(value, decoder[name]) for name, value in model.decoder.state_dict().items()
    )


@pytest.mark.slow
def test_refinement_alone_reaches_the_exact_posterior(linear_gaussian):
    """From an encoder that knows nothing; what is left is the noise of single draws, which falls
    with the learning rate."""
    model, x = linear_encoder(linear_gaussian), linear_gaussian.data[:50]
    SemiAmortized(n_steps=2000, learning_rate=0.001).modify_model(model)
    model.eval()
    assert exact_gap(linear_gaussian, model, x) < 0.02


def nonlinear(decoder=None, seed=0):
    """A small model in float64, all of whose parts learn."""
    torch.manual_seed(seed)
    decoder = decoder or InverseLipschitzDecoder(2, 4, (8,), 0.7)
    return VAEModel(
        StandardNormal(2), DiagonalGaussian.from_perceptron(4, 2, (8,)), decoder, Gaussian(0.5)
    ).double(), torch.randn(6, 4).double()


@pytest.mark.parametrize("clip", [5.0, 1e3])
@pytest.mark.parametrize("decoder", [None, MLPDecoder(2, 4, (8,))])
def test_the_gradient_through_the_refinement_is_that_of_finite_differences(decoder, clip):
    model, x = nonlinear(decoder)
    SemiAmortized(n_steps=4, learning_rate=0.05, clip=clip).modify_model(model)
    direction = torch.randn(6, 2).double()

    def value():
        torch.manual_seed(7)
        q = model.posterior(x)
        return (direction * q.base_dist.loc).sum() + (direction.flip(0) * q.base_dist.scale).sum()

    parameters = dict(model.named_parameters())
    found = dict(
        zip(
            parameters,
            torch.autograd.grad(value(), parameters.values(), allow_unused=True),
            strict=True,
        )
    )
    for name, parameter in parameters.items():
        towards = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += 1e-5 * towards
            above = value()
            parameter -= 2e-5 * towards
            below = value()
            parameter += 1e-5 * towards
        expected = float((above - below) / 2e-5)
        # What moves natural parameters as a whole, of the start, moves no slope that is asked for
        # if it is not there.
        got = 0.0 if found[name] is None else float((found[name] * towards).sum())
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-6), name
    assert any(found[name].abs().max() > 1e-3 for name in found if name.startswith("decoder"))


def test_the_way_back_is_that_of_all_steps_in_one_graph():
    """Against the same descent, written out, through which autograd finds its own way."""
    model, x = nonlinear()
    strategy = SemiAmortized(n_steps=3, learning_rate=0.05, momentum=0.3, clip=2.0)
    plain = model.posterior
    strategy.modify_model(model)
    torch.manual_seed(3)
    seeds = torch.randint(2**62, (3,)).tolist()
    q = plain(x)
    place = torch.cat([q.mean, q.base_dist.scale.log() * 2], -1)
    velocity = torch.zeros_like(place)
    for seed in seeds:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            noise = torch.randn(6, 2).double()
        mean, log_variance = place.chunk(2, -1)
        variance = log_variance.exp()
        z = mean + variance.sqrt() * noise
        kl = 0.5 * (mean.square() + variance - 1 - log_variance).sum()
        (slope,) = torch.autograd.grad(
            kl - model.log_likelihood(x, z).sum(), place, create_graph=True
        )
        norm = slope.norm(dim=-1, keepdim=True)
        velocity = 0.3 * velocity + torch.where(norm > 2, 2 * slope / norm, slope)
        place = place - 0.05 * velocity
    torch.manual_seed(3)
    refined = model.posterior(x)
    assert torch.allclose(refined.mean, place[:, :2], atol=1e-12)
    parameters = [*plain.parameters(), *model.decoder.parameters()]
    ours, theirs = (
        torch.autograd.grad(value, parameters, allow_unused=True)
        for value in (
            (refined.mean + refined.stddev).sum(),
            (place[:, :2] + (place[:, 2:] / 2).exp()).sum(),
        )
    )
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-10)


def test_refined_posteriors_belong_to_their_rows():
    model, x = nonlinear()
    SemiAmortized().modify_model(model)
    model.eval()
    with torch.inference_mode():
        together, alone = model.posterior(x), model.posterior(x[2:3])
    assert torch.allclose(together.mean[2:3], alone.mean, atol=1e-12)
    assert not torch.allclose(together.mean, model.posterior.start(x).mean, atol=1e-3)


def test_a_mixture_refines_by_the_bound_of_the_phase_that_it_is_in():
    mixture = uc.MixtureVAE.build(
        uc.MixtureVAE(
            n_components=2, strategy="semi_amortized", inverse_lipschitz=0.5, prior="learned"
        ).check_settings(),
        4,
    )
    plain, x = mixture.without_components(), torch.randn(5, 4)
    with torch.no_grad():
        mixture.prior.loc.fill_(30.0)  # far from everything: it draws posteriors towards it
    assert plain.posterior.start is mixture.posterior.start
    mixture.eval(), plain.eval()
    with torch.no_grad():
        pulled = (mixture.posterior(x).mean - plain.posterior(x).mean).mean()
    assert float(pulled) > 0.3


def test_what_is_not_gaussian_is_not_refined():
    for arguments in ({"posterior": "realnvp"}, {"inference": "enumerate"}):
        with pytest.raises(InputError, match=r"semi_amortized.*Gaussian"):
            uc.MixtureVAE(strategy="semi_amortized", **arguments).fit(
                np.random.default_rng(0).normal(size=(50, 4))
            )


def test_specifications():
    assert list(STRATEGIES) == ["joint", "lagging", "semi_amortized"]
    assert get_strategy({"semi_amortized": {"n_steps": 3}}).n_steps == 3
    assert isinstance(get_strategy(None), Joint)
    with pytest.raises(
        InputError, match="strategy expects one of 'joint', 'lagging', 'semi_amortized', got 'wake'"
    ):
        get_strategy("wake")
    with pytest.raises(InputError, match="momentum expects a share from 0 to below 1, got 1"):
        get_strategy({"semi_amortized": {"momentum": 1}})


DOCUMENTS = [
    f"the {animal} {verb} here"
    for animal in ("cat", "dog", "cow")
    for verb in ("sat", "ran", "ate")
] * 4


@pytest.mark.parametrize(
    "strategy", [{"lagging": {"every": 2, "max_steps": 6}}, {"semi_amortized": {"n_steps": 3}}]
)
@pytest.mark.parametrize("kind", ["VAE", "MixtureVAE", "SequenceVAE", "additive"])
def test_strategies_train_and_come_back(blobs, tmp_path, strategy, kind):
    if kind in ("SequenceVAE", "additive"):
        estimator = uc.SequenceVAE(
            latent_dim=2,
            hidden=(8,),
            hidden_dim=8,
            embedding_dim=4,
            max_epochs=2,
            word_dropout=0.3,
            strategy=strategy,
            context="additive" if kind == "additive" else "joint",
            random_state=0,
        )
        X = DOCUMENTS
    else:
        estimator, X = getattr(uc, kind)(**SMALL, strategy=strategy), blobs[0][::3]
    estimator.fit(X)
    assert len(estimator.history_) == 2
    assert np.isfinite(estimator.history_.to_numpy()).all()
    restored = uc.load(estimator.save(tmp_path / "run"))
    assert np.array_equal(restored.transform(X), estimator.transform(X))
    assert np.isfinite(estimator.score_samples(X[:3])).all()
    assert isinstance(estimator.model_.posterior, RefinedPosterior) == (
        "semi_amortized" in strategy
    )
    again = type(estimator)(**estimator.get_params()).fit(X)
    assert np.array_equal(again.transform(X), estimator.transform(X))


def stretched(n=1500, seed=0):
    """Two directions of data that a linear model sees, and noise."""
    chance = np.random.default_rng(seed)
    return chance.normal(size=(n, 2)) @ chance.normal(size=(2, 8)) + 0.5 * chance.normal(
        size=(n, 8)
    )


@pytest.mark.slow
def test_refinement_beats_its_start_on_every_batch():
    """In the ELBO at many other draws than those that it was refined by."""
    X = stretched(500)
    vae = uc.VAE(
        latent_dim=2,
        inverse_lipschitz=0.5,
        hidden=(16,),
        max_epochs=3,
        random_state=0,
        strategy="semi_amortized",
    ).fit(X)
    model, rows = vae.model_, torch.as_tensor(vae.check_rows(stretched(500, seed=1)))
    torch.manual_seed(0)
    for batch in rows.split(100):
        noise = torch.randn(200, len(batch), 2)
        with torch.no_grad():
            start, refined = (
                model.terms(batch, model.latents(q, noise)).elbo.mean()
                for q in (model.posterior.start(batch), model.posterior(batch))
            )
        assert refined > start


def test_the_encoder_steps_stop_where_the_loss_rises(monkeypatch):
    """Blocks of two steps with losses 9, 7, 8: three blocks are six steps, of at most 20."""
    given = iter([5, 4, 4, 3, 4, 4, 1, 1])

    class TrainingState:
        model, learning_rate, is_spent = nonlinear()[0], 5e-4, False

        def loss(self, batch):
            seen.append(batch)
            return next(given) + 0 * next(self.model.posterior.parameters()).sum()

        def random_batch(self):
            return f"batch {len(seen)}"

    seen = []
    stage, strategy = TrainingState(), Lagging(max_steps=20, every=2)
    strategy.begin(stage)
    strategy.before_step(stage, "its own")
    assert seen == ["its own", *(f"batch {n}" for n in range(1, 6))]
    assert strategy.optimizer.param_groups[0]["lr"] == 5e-4
    limited = Lagging(max_steps=3, every=2)
    given, seen = iter([5, 4, 1]), []
    limited.begin(stage)
    limited.before_step(stage, "its own")
    assert len(seen) == 3


def test_the_encoder_is_ahead_until_the_information_stops_rising(monkeypatch):
    found = iter([0.5, 0.9, 0.905])
    monkeypatch.setattr(
        "uncollapse.strategies.lagging.information_of_rows",
        lambda model, rows, means, variances: Estimate(next(found), 0),
    )
    strategy, flags = Lagging(), []
    strategy.validation = np.zeros((4, 4))
    stage = type("TrainingState", (), {"model": nonlinear()[0]})()
    strategy.begin(stage)
    for _ in range(3):
        flags.append(strategy.is_aggressive)
        strategy.after_epoch(stage)
    assert flags == [True, True, True]
    assert not strategy.is_aggressive
    strategy.after_epoch(stage)  # asks for nothing any more


@pytest.mark.slow
def test_lagging_raises_information_where_it_stays_at_nothing():
    """An autoregressive decoder on short sequences, as He et al. have it: in the first epochs the
    plain VAE tells nothing."""
    chance = np.random.default_rng(0)
    kinds = chance.integers(0, 8, 1200)
    documents = [
        " ".join(f"w{kind}{symbol}" for symbol in chance.integers(0, 4, 12)) for kind in kinds
    ]
    common = {
        "latent_dim": 2,
        "inverse_lipschitz": None,
        "min_count": 1,
        "hidden_dim": 64,
        "embedding_dim": 24,
        "max_epochs": 1,
    }
    found = {}
    for strategy in ("joint", "lagging"):
        vae = uc.SequenceVAE(**common, strategy=strategy, random_state=0).fit(documents[:1000])
        found[strategy] = mutual_information(vae, documents[1000:]).value
    assert found["joint"] < 0.05
    assert found["lagging"] > 0.15


def test_information_is_that_of_the_linear_gaussian_model(linear_gaussian):
    found = mutual_information(linear_gaussian.model().eval(), linear_gaussian.data.numpy())
    assert found.value == pytest.approx(linear_gaussian.information, abs=4 * found.standard_error)
    assert infer(linear_gaussian.model(), linear_gaussian.data.numpy()).kl.mean() == pytest.approx(
        linear_gaussian.information, abs=0.2
    )
    assert isinstance(linear_gaussian.model().posterior, nn.Module)


def test_latent_reconstruction_does_not_learn_from_the_refinement(linear_gaussian):
    """The decoder's answers to the refinement's questions are no draws of q."""
    model, x = nonlinear()
    SemiAmortized(n_steps=3).modify_model(model)
    objective = LatentReconstruction()
    objective.prepare(model, x, 10)
    asked = []
    objective.recover.register_forward_hook(lambda module, given, output: asked.append(len(output)))
    objective(model, x, 0)
    assert asked == [6]


def test_schedules_are_made_for_the_rows_that_are_not_held_out():
    rows = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    vae = uc.VAE(
        strategy="lagging", objective="cyclical", **{**SMALL, "max_epochs": 10, "batch_size": 10}
    )
    data = TrainingData(rows, 4, "digest")
    _, plan = prepare(vae, vae.check_settings(), data, None, (), None)
    data = plan.data
    assert (len(data.rows), len(data.held_out), plan.objective.n_steps) == (90, 10, 90)
    assert len(np.unique(np.concatenate([data.rows, data.held_out]), axis=0)) == 100


def test_a_single_document_can_be_watched():
    documents = ["a b c", "b c d", "c d a a", "d a b"] * 10
    sizes = {
        "latent_dim": 2,
        "hidden": (8,),
        "hidden_dim": 8,
        "embedding_dim": 4,
        "min_count": 1,
        "max_epochs": 2,
    }
    fitted = uc.SequenceVAE(strategy="lagging", inverse_lipschitz=None, random_state=0, **sizes)
    assert len(fitted.fit(documents, validation=["a b c"]).history_) == 2

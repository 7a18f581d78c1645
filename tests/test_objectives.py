"""Losses and their gradients against known values: by hand, in closed form, by finite
differences."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import uncollapse as uc
from uncollapse.families import Gaussian
from uncollapse.models import EnumeratedMixtureModel
from uncollapse.objectives import (
    OBJECTIVES,
    CyclicalElbo,
    Elbo,
    FreeBits,
    GradientPenalty,
    ImportanceWeighted,
    LatentReconstruction,
    QuotientPenalty,
    get_objective,
)
from uncollapse.objectives.penalties import record_calls

NAMES = list(OBJECTIVES)


@pytest.fixture
def x(linear_gaussian):
    return linear_gaussian.data[:40]


def seeded_loss(objective, model, x, step=0, seed=0):
    torch.manual_seed(seed)
    return objective(model, x, step)


def value(objective, model, x):
    return float(seeded_loss(objective, model, x).value.detach())


def test_a_weight_on_the_kl_is_one_and_rises_along_a_line(linear_gaussian, x):
    model = linear_gaussian.model()
    for step, weight in ((0, 0.0), (5, 0.1), (10, 0.2), (99, 0.2)):
        loss, terms = seeded_loss(Elbo(beta=0.2, warmup_steps=10), model, x, step)
        assert float(loss) == pytest.approx(
            float((weight * terms.latents.kl - terms.log_px_z).mean()), abs=1e-12
        )
    loss, terms = seeded_loss(Elbo(), model, x)
    assert float(loss) == pytest.approx(float(-terms.elbo.mean()), abs=1e-12)


def test_cycles_rise_and_stay():
    objective = CyclicalElbo(n_cycles=4, rising=0.5, beta=2.0)
    objective.prepare(None, None, 80)
    weights = [objective.weight(step) for step in (0, 5, 10, 15, 19, 20, 25, 60, 79, 80)]
    assert weights == pytest.approx([0, 1, 2, 2, 2, 0, 1, 0, 2, 2])


def test_schedules_that_cannot_finish_say_so():
    with pytest.warns(
        UserWarning, match="rises over 100 steps, but training has 100: it never reaches beta=1"
    ):
        Elbo(warmup_steps=100).prepare(None, None, 100)
    with pytest.warns(UserWarning, match="4 cycles do not fit into 15 steps"):
        CyclicalElbo().prepare(None, None, 15)
    Elbo(warmup_steps=99).prepare(None, None, 100)
    CyclicalElbo().prepare(None, None, 16)


def test_free_bits_are_counted_after_the_mean_over_the_batch(linear_gaussian, x):
    model = linear_gaussian.model()
    units = model.kl_per_unit(model.infer(x)).mean(0)
    nats = float(units.sort().values[:2].mean())  # above the smallest, below the others
    loss, terms = seeded_loss(FreeBits(nats), model, x)
    paid = sum(max(nats, float(unit)) for unit in units)
    assert paid > float(units.sum()) + 1e-3
    assert float(loss) == pytest.approx(float(-terms.log_px_z.mean()) + paid, abs=1e-12)
    assert value(FreeBits(1e-9), model, x) == pytest.approx(value(Elbo(), model, x), abs=1e-12)


def test_free_bits_of_enumerated_components_keep_the_kl_of_the_component(linear_mixture):
    model, x = (
        linear_mixture.model(EnumeratedMixtureModel, widened=1.2, flattened=1.3),
        linear_mixture.data[:30],
    )
    assert value(FreeBits(1e-9), model, x) == pytest.approx(value(Elbo(), model, x), abs=1e-9)


def test_free_bits_want_units():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    mixture = uc.MixtureVAE(objective="free_bits", max_epochs=2, random_state=0, verbose=False)
    with pytest.raises(
        uc.InputError,
        match=r"'free_bits' expects a KL that is a sum over units.*inference='enumerate'",
    ):
        mixture.fit(rows)
    assert not hasattr(mixture, "model_")  # it was found before the training
    mixture.set_params(inference="enumerate").fit(rows)
    with pytest.raises(uc.InputError, match="'free_bits' expects a KL that is a sum over units"):
        uc.VAE(objective="free_bits", posterior="realnvp", verbose=False).fit(rows)


def test_importance_weighting_of_one_draw_is_the_bound_at_it(linear_gaussian, x):
    model = linear_gaussian.model(widened=1.5)
    torch.manual_seed(0)
    noise = torch.randn(1, len(x), 3, dtype=torch.double)
    z, log_ratio = model.propose(x, noise)
    expected = -(model.log_likelihood(x, z) + log_ratio).mean()
    assert value(ImportanceWeighted(1), model, x) == pytest.approx(float(expected), abs=1e-12)


def test_importance_weighting_closes_the_gap_of_a_wrong_posterior(linear_gaussian, x):
    model, exact = (
        linear_gaussian.model(widened=1.5),
        -float(linear_gaussian.marginal.log_prob(x).mean()),
    )
    few, many = (value(ImportanceWeighted(n), model, x) for n in (2, 4000))
    assert many == pytest.approx(exact, abs=5e-3)
    assert few > exact + 0.05
    loss, terms = seeded_loss(ImportanceWeighted(500), model, x)
    assert float(-terms.elbo.mean()) == pytest.approx(exact + 3 * (0.625 - math.log(1.5)), abs=0.02)
    assert float(loss) < float(-terms.elbo.mean())


def test_latent_reconstruction_costs_the_mean_squared_distance(linear_gaussian, x):
    model, objective = linear_gaussian.model(), LatentReconstruction(weight=0.5)
    objective.prepare(model, x, 10)
    assert [tuple(weight.shape) for weight in objective.parameters() if weight.dim() == 2] == [
        (256, 5),
        (256, 256),
        (3, 256),
    ]
    inverse = torch.linalg.pinv(linear_gaussian.weight)
    objective.recover = nn.Linear(5, 3, dtype=torch.double)
    with torch.no_grad():
        objective.recover.weight.copy_(inverse)
        objective.recover.bias.copy_(-inverse @ linear_gaussian.bias)
    plain = value(Elbo(), model, x)
    assert value(objective, model, x) == pytest.approx(plain, abs=1e-9)
    with torch.no_grad():
        objective.recover.bias += torch.tensor([1.0, 2.0, 0.0])
    assert value(objective, model, x) == pytest.approx(plain + 0.5 * 5, abs=1e-9)
    assert not model.decoder._forward_hooks


def test_what_a_decoder_is_given_is_recorded(linear_gaussian):
    model, z = linear_gaussian.model(), torch.ones(2, 3, dtype=torch.double)
    with record_calls(model.decoder) as calls:
        output = model.decoder(z)
    assert len(calls) == 1
    assert calls[0][0] is z
    assert torch.equal(calls[0][1], output)


def slopes_by_hand(linear_gaussian, x, z):
    """|grad_z log p(x|z)| of x = s (W z + b) + s noise."""
    residual = x / linear_gaussian.scale - linear_gaussian.bias - z @ linear_gaussian.weight.T
    return torch.linalg.vector_norm(residual @ linear_gaussian.weight, dim=-1)


def test_the_slope_is_the_norm_of_the_gradient(linear_gaussian, x):
    model = linear_gaussian.model()
    torch.manual_seed(3)
    found = GradientPenalty().slopes(model, x)
    torch.manual_seed(3)
    z = model.prior().sample((len(x),))
    assert torch.allclose(found, slopes_by_hand(linear_gaussian, x, z), atol=1e-10)


def test_the_quotient_is_that_of_two_draws(linear_gaussian, x):
    model = linear_gaussian.model()
    torch.manual_seed(3)
    found = QuotientPenalty().slopes(model, x)
    torch.manual_seed(3)
    a, b = model.prior().sample((len(x),)), model.prior().sample((len(x),))
    difference = model.likelihood(a).log_prob(x) - model.likelihood(b).log_prob(x)
    assert torch.allclose(found, difference.abs() / (a - b).norm(dim=-1), atol=1e-10)


@pytest.mark.parametrize("kind", [GradientPenalty, QuotientPenalty])
def test_a_penalty_is_paid_below_the_slope_that_is_wanted(kind, linear_gaussian, x):
    model = linear_gaussian.model()
    torch.manual_seed(0)
    model(x)  # moves the generator as the loss does
    slope = float(kind().slopes(model, x).mean().detach())
    plain = value(Elbo(), model, x)
    assert value(kind(slope=slope + 2, weight=3.0), model, x) == pytest.approx(
        plain + 3 * 4, abs=1e-9
    )
    assert value(kind(slope=slope - 0.1), model, x) == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("kind", [GradientPenalty, QuotientPenalty])
def test_gradients_of_penalties_agree_with_finite_differences(kind, linear_gaussian, x):
    model, objective = linear_gaussian.model(), kind(slope=20.0, weight=0.1)
    weight = model.decoder.weight.requires_grad_()
    (gradient,) = torch.autograd.grad(seeded_loss(objective, model, x).value, weight)
    for row, column in ((0, 0), (3, 2), (4, 1)):
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[row, column] += sign * 1e-5
            losses.append(value(objective, model, x))
            with torch.no_grad():
                weight[row, column] -= sign * 1e-5
        assert float(gradient[row, column]) == pytest.approx(
            (losses[0] - losses[1]) / 2e-5, rel=1e-5
        )


def test_penalties_reach_through_the_lstm_of_a_plain_sequential_vae():
    documents = [f"{who} {what}" for who in ("ann", "bob") for what in ("ran", "sat", "slept")]
    vae = uc.SequenceVAE(
        latent_dim=2,
        inverse_lipschitz=None,
        hidden_dim=4,
        embedding_dim=3,
        max_epochs=1,
        random_state=0,
        verbose=False,
    )
    vae.fit(documents * 5)
    model, rows = (
        vae.model_.train().requires_grad_(True),
        torch.as_tensor(vae.check_rows(documents)),
    )
    seeded_loss(GradientPenalty(slope=50.0), model, rows).value.backward()
    assert float(model.history.lstm.weight_ih_l0.grad.abs().sum()) > 0


def test_names_and_arguments_of_objectives():
    assert isinstance(get_objective(None), Elbo)
    assert get_objective({"cyclical": {"n_cycles": 2}}).n_cycles == 2
    for spec, message in {
        "elbow": "objective expects one of 'elbo', 'cyclical', 'free_bits', .*, got 'elbow'",
        "gaussian": "objective expects one of 'elbo'",
    }.items():
        with pytest.raises(uc.InputError, match=message):
            get_objective(spec)
    with pytest.raises(
        uc.InputError,
        match="there is no argument of objective 'free_bits' 'nat': did you mean 'nats'",
    ):
        get_objective({"free_bits": {"nat": 1}})
    with pytest.raises(uc.InputError, match="nats expects a positive finite number, got -1"):
        get_objective({"free_bits": {"nats": -1}})


ROWS = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_estimators_take_every_objective_and_save_it(name, tmp_path):
    vae = uc.VAE(
        latent_dim=2,
        inverse_lipschitz=None,
        objective=name,
        hidden=(8,),
        batch_size=30,
        max_epochs=2,
        random_state=0,
        verbose=False,
    ).fit(ROWS)
    assert len(vae.history_) == 2
    again = uc.load(vae.save(tmp_path / "run"))
    assert again.objective == name
    assert np.array_equal(again.transform(ROWS), vae.transform(ROWS))


@pytest.mark.parametrize("context", ["joint", "additive"])
@pytest.mark.parametrize("name", NAMES)
def test_sequences_take_every_objective(name, context, tmp_path):
    documents = [
        f"{who} {what} {where}"
        for who in ("ann", "bob")
        for what in ("ran", "sat")
        for where in ("here", "there")
    ] * 5
    vae = uc.SequenceVAE(
        latent_dim=2,
        context=context,
        objective=name,
        hidden=(6,),
        hidden_dim=5,
        embedding_dim=4,
        batch_size=4,
        max_epochs=3,
    )
    vae.set_params(learning_rate=2e-2, random_state=0, verbose=False).fit(documents)
    assert vae.history_["validation"].iloc[-1] < vae.history_["validation"].iloc[0]
    again = uc.load(vae.save(tmp_path / "run"))
    assert np.array_equal(again.transform(documents), vae.transform(documents))


def test_a_wrong_objective_is_found_before_there_is_a_training():
    with pytest.raises(uc.InputError, match="objective expects one of"):
        uc.VAE(objective="beta", verbose=False).fit(ROWS)
    sequences = uc.SequenceVAE(latent_dim=2, objective="beta", verbose=False)
    with pytest.raises(uc.InputError, match="objective expects one of"):
        sequences.fit(["ann ran", "bob ran"] * 5)
    assert not hasattr(sequences, "model_")


def test_where_nothing_is_to_be_told_only_a_cure_keeps_the_latents():
    """Noise of which the decoder's scale explains all: the ELBO's optimum is collapse, with 0 nats,
    and each cure has a floor."""
    options = {
        "inverse_lipschitz": None,
        "family": Gaussian(1.0),
        "hidden": (16,),
        "max_epochs": 40,
        "learning_rate": 1e-2,
    }

    def fit(objective):
        return (
            uc.VAE(latent_dim=2, objective=objective, random_state=0, verbose=False, **options)
            .fit(ROWS)
            .history_["kl"]
            .iloc[-1]
        )

    assert fit(None) < 0.05
    assert fit({"free_bits": {"nats": 0.5}}) == pytest.approx(1.0, abs=0.1)
    assert fit({"gradient_penalty": {"slope": 2.0, "weight": 10.0}}) > 0.3
    assert fit({"latent_reconstruction": {"weight": 10.0, "hidden": (16,)}}) > 0.3


def test_the_step_goes_on_from_the_warm_up_of_a_mixture(monkeypatch):
    steps = []
    monkeypatch.setattr(Elbo, "weight", lambda self, step: steps.append(step) or 1.0)
    mixture = uc.MixtureVAE(
        objective={"elbo": {"warmup_steps": 5}},
        max_epochs=4,
        warmup_epochs=2,
        hidden=(8,),
        batch_size=100,
    )
    mixture.set_params(random_state=0, verbose=False).fit(ROWS)
    assert sorted(set(steps)) == list(range(13))  # the last one looks at what the last step left


def test_importance_weighting_that_would_not_train_the_components_is_refused():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    mixture = uc.MixtureVAE(
        n_components=2, inference="enumerate", objective="importance_weighted", max_epochs=2
    )
    with pytest.raises(uc.InputError, match="would leave q\\(y\\|x\\) untrained"):
        mixture.fit(rows)

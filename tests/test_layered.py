"""Two latent layers, where the truth is known: w discrete and enumerated, or Gaussian, where the
model is a mixture VAE."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Normal

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.certificates.information_floor import model_information_floor
from uncollapse.families import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    Exponential,
    Gaussian,
    HeteroscedasticGaussian,
    NegativeBinomial,
    Poisson,
)
from uncollapse.latent import (
    CategoricalLayer,
    DiagonalGaussian,
    FamilyPosterior,
    NormalLayer,
    RealNVP,
    StandardNormal,
    UnitComponents,
    draw,
)
from uncollapse.maps import Decoder, InverseLipschitzDecoder
from uncollapse.measures.likelihood import importance_log_likelihood_per_row, importance_log_weights
from uncollapse.models import LayeredModel, MarginalMixtureModel, VAEModel
from uncollapse.networks import PerceptronEncoder
from uncollapse.objectives import Elbo, score_term
from uncollapse.training.batches import BatchesInMemory
from uncollapse.training.loop import LoopSettings, Training, train

LAYERS = {"categorical": CategoricalLayer, "normal": NormalLayer}
BITS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.double)
FAMILIES = {
    "gaussian": lambda: Gaussian(1.0),
    "bernoulli": Bernoulli,
    "cont": ContinuousBernoulli,
    "poisson": Poisson,
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    return request.param


def binary_model(layer, top_dim=2, n_draws=8):
    """w of three bits, x of four real columns."""
    torch.manual_seed(0)
    posterior = FamilyPosterior(PerceptronEncoder(4, 3, (8,)), Bernoulli(), 3)
    decoder = InverseLipschitzDecoder(3, 4, (8,), 0.8)
    return LayeredModel(
        layer(Bernoulli(), top_dim, 3), posterior, decoder, Gaussian(0.7), n_draws
    ).double()


def rows(n, dim=4, seed=1):
    return torch.randn(n, dim, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def exact_prior(model):
    """log p(w) for all w of three bits: by the definition for categorical z; 2^-3 for normal z, by
    symmetry."""
    if isinstance(model.prior, NormalLayer):
        return torch.full((8,), -3 * math.log(2), dtype=torch.double)
    probabilities = torch.sigmoid(torch.eye(model.prior.top_dim, 3, dtype=torch.double))
    each = (probabilities[:, None] ** BITS * (1 - probabilities[:, None]) ** (1 - BITS)).prod(-1)
    return each.mean(0).log()


def exact_log_joint(model, x):
    """log p(x, w) for all w, shape (8, batch)."""
    return model.likelihood(BITS[:, None]).log_prob(x) + exact_prior(model)[:, None]


def exact_elbo(model, x):
    """E_q(w|x) [log p(x, w) - log q(w|x)], shape (batch,)."""
    log_q = model.posterior(x).log_prob(BITS[:, None])
    return (log_q.exp() * (exact_log_joint(model, x) - log_q)).sum(0)


# What w is under its two layers.


@pytest.mark.parametrize(
    ("family", "w"),
    [
        (Bernoulli(), [0.0, 1.0]),
        (Poisson(), [0.0, 1.0, 7.0, 150.0, 3000.0]),
        (ContinuousBernoulli(), [0.0, 0.3, 0.5, 1.0]),
        (Gaussian(1.0), [-40.0, -1.0, 0.5, 8.0]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_normal_layer_integrates_over_z(family, w):
    """Against sums over a fine grid in the first column; the second has no z, and natural parameter
    0."""
    prior, family = NormalLayer(family, 1, 2).double(), family.double()
    for value in w:
        peak = (
            -20
            if value == -40
            else math.log(value)
            if family.name == "poisson" and value
            else value / 2
        )
        z = torch.linspace(peak - 12, peak + 12, 200_001, dtype=torch.double)[:, None]
        both = torch.tensor([value, 1.0], dtype=torch.double)
        log_joint = family(z).log_prob(both[:1]) + Normal(0, 1).log_prob(z[:, 0])
        total = log_joint.logsumexp(0) + (z[1, 0] - z[0, 0]).log()
        alone = family(torch.zeros(1, dtype=torch.double)).log_prob(both[1:])
        assert float(prior().log_prob(both)) == pytest.approx(float(total + alone), abs=1e-9)
        assert float(prior.expected(both)) == pytest.approx(
            float(log_joint.softmax(0) @ z[:, 0]), abs=1e-8
        )


def test_a_normal_layer_of_gaussians_is_a_wider_gaussian():
    prior = NormalLayer(Gaussian(1.0), 2, 3).double()
    w = 3 * rows(50, 3)
    scale = torch.tensor([2.0, 2.0, 1.0], dtype=torch.double).sqrt()
    assert torch.allclose(prior().log_prob(w), Normal(0, scale).log_prob(w).sum(-1), atol=1e-10)
    assert torch.allclose(prior.expected(w), w[:, :2] / 2, atol=1e-10)
    w.requires_grad_()
    prior().log_prob(w).sum().backward()
    assert torch.allclose(w.grad, -w.detach() / scale**2, atol=1e-10)


def test_the_categories_of_a_layer_are_found_by_bayes_rule():
    prior = CategoricalLayer(Poisson(), 2, 3).double()
    w = torch.tensor([[3.0, 0.0, 1.0], [0.0, 5.0, 2.0]], dtype=torch.double)
    rates = np.array([[math.e, 1, 1], [1, math.e, 1]])
    joint = stats.poisson.pmf(w.numpy()[:, None], rates).prod(-1) / 2
    assert np.allclose(prior().log_prob(w), np.log(joint.sum(1)), atol=1e-12)
    assert np.allclose(prior.expected(w), joint / joint.sum(1, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_from_a_layer_have_its_density(layer, family):
    """E[w] by draws and E[z] by draws of E[z|w] are what they are under the layer."""
    prior = layer(FAMILIES[family](), 2, 3).double()
    torch.manual_seed(0)
    w = prior().sample((20_000,))
    z = prior.expected(w)
    error = z.std(0) / len(z) ** 0.5
    assert (
        (z.mean(0) - (0.5 if layer is CategoricalLayer else 0.0)).abs() < 4 * error + 1e-12
    ).all()
    mean = prior.given(torch.eye(2, dtype=torch.double)).mean.mean(0)
    if layer is NormalLayer:
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        each = prior.given(torch.as_tensor(nodes)[:, None].expand(-1, 2)).mean
        mean = torch.as_tensor(weights / weights.sum()) @ each
    assert ((w.mean(0) - mean).abs() < 4 * w.std(0) / len(w) ** 0.5).all()


@pytest.mark.parametrize("layer_family", ["gaussian", "cont"])
def test_the_entropy_of_a_layer_is_not_below_its_bound(layer, layer_family):
    prior = layer(FAMILIES[layer_family](), 2, 3).double()
    torch.manual_seed(0)
    w = prior().sample((20_000,))
    surprise = -prior().log_prob(w)
    z = (
        torch.eye(2, dtype=torch.double)[torch.randint(2, (20_000,))]
        if layer is CategoricalLayer
        else rows(20_000, 2)
    )
    given = prior.given(z)
    conditional = -given.log_prob(given.sample())
    assert prior.has_density
    assert surprise.mean() > prior.entropy_bound()
    assert (conditional.mean() - prior.entropy_bound()).abs() < 4 * conditional.std() / len(
        conditional
    ) ** 0.5


def test_the_information_of_categories_is_not_below_its_bound():
    """I(z; w) of three bits by enumeration; for Gaussians the bound is that of the same mixture."""
    prior = CategoricalLayer(Bernoulli(), 3, 3).double()
    log_given = prior.family(prior.eye).log_prob(BITS[:, None])
    information = (log_given.exp() * (log_given - prior().log_prob(BITS)[:, None])).sum() / 3
    assert 0 < prior.component_information_bound() < information
    bound = CategoricalLayer(Gaussian(1.0), 3, 4).component_information_bound()
    assert bound == pytest.approx(UnitComponents(3, 4).component_information_bound(), abs=1e-12)


@pytest.mark.parametrize("eta", [-6.0, -0.5, 0.0, 1e-4, 2.0, 6.0])
def test_noise_decides_a_draw_by_the_distribution_function(eta):
    uniform = torch.linspace(1e-4, 1 - 1e-4, 4001, dtype=torch.double)[:, None]
    noise = torch.special.ndtri(uniform)
    known = [
        (Bernoulli(), stats.bernoulli(1 / (1 + math.exp(-eta)))),
        (Poisson(), stats.poisson(math.exp(eta))),
    ]
    eta = torch.full((1,), eta, dtype=torch.double, requires_grad=True)
    for family, frozen in known:
        q = family(eta)
        w, log_q = draw(q, noise)
        assert np.array_equal(w, frozen.ppf(uniform))
        assert np.allclose(log_q.detach(), frozen.logpmf(w).sum(-1), atol=1e-9)
        assert not q.has_rsample
        assert not w.requires_grad
    q = ContinuousBernoulli()(eta)
    w, _ = draw(q, noise)
    steps = torch.linspace(0, 1, 2001, dtype=torch.double)
    for value, level in zip(w[::800, 0], uniform[::800, 0], strict=True):
        below = q.log_prob((steps * value)[:, None]).exp()
        assert float(torch.trapezoid(below, steps).detach() * value.detach()) == pytest.approx(
            float(level), abs=1e-6
        )
    assert q.has_rsample
    assert w.requires_grad
    w, q = w.detach(), ContinuousBernoulli()(eta.detach())
    assert float(q.variance) == pytest.approx(float(w.var()), rel=2e-3)
    assert float(q.entropy()) == pytest.approx(float(-q.log_prob(w).mean()), abs=1e-3)


def test_extreme_noise_in_float32_gives_values_of_the_support():
    noise = torch.tensor([-40.0, -8.0, 8.0, 40.0])[:, None]
    for make in (Bernoulli, ContinuousBernoulli, Poisson):
        w, log_q = draw(make()(torch.tensor([1.5])), noise)
        make().check(w.detach().numpy())
        assert log_q.isfinite().all()
        assert w[0] < 0.5 < w[-1]


# The bound and its gradient.


def test_the_bound_lies_below_the_likelihood_by_the_divergence_of_the_posteriors(layer):
    model, x = binary_model(layer), rows(5)
    log_joint = exact_log_joint(model, x)
    log_q = model.posterior(x).log_prob(BITS[:, None])
    divergence = (log_q.exp() * (log_q - log_joint.log_softmax(0))).sum(0)
    exact = log_joint.logsumexp(0) - divergence
    assert (divergence > 0.01).all()
    torch.manual_seed(0)
    bounds = model(x, torch.randn(20_000, 5, 3, dtype=torch.double)).elbo.detach()
    assert ((bounds.mean(0) - exact).abs() < 4 * bounds.std(0) / len(bounds) ** 0.5).all()


@pytest.mark.slow
def test_importance_weighting_reaches_the_enumerated_likelihood(layer):
    model, x = binary_model(layer), rows(40)
    exact = exact_log_joint(model, x).logsumexp(0).detach().numpy()
    few, many = (
        importance_log_likelihood_per_row(model, x.numpy(), n_samples=n) for n in (1, 20_000)
    )
    assert np.allclose(many, exact, atol=0.1)
    assert many.mean() == pytest.approx(exact.mean(), abs=0.01)
    assert few.mean() < exact.mean() - 0.05


def test_draws_of_the_exact_posterior_give_the_exact_likelihood(layer, linear_decoder):
    """With bits that the decoder sees each in columns of its own, and K = 1 or no z at all in p(w),
    q can be exact."""
    weight, bias = torch.eye(4, 3, dtype=torch.double), torch.zeros(4, dtype=torch.double)
    prior = layer(Bernoulli(), 1, 3).double()
    offset = torch.tensor([1.0, 0.0, 0.0]) if layer is CategoricalLayer else torch.zeros(3)

    class Exact(FamilyPosterior):
        def forward(self, x):
            return self.family(offset + x[..., :3] - 0.5)  # log odds of x_d for means 1 and 0

    model = LayeredModel(
        prior, Exact(nn.Linear(4, 3), Bernoulli(), 3), linear_decoder(weight, bias), Gaussian(1.0)
    ).double()
    x = rows(6)
    weights = importance_log_weights(model, x, rows(60, 3).reshape(10, 6, 3))
    assert torch.allclose(weights, exact_log_joint(model, x).logsumexp(0).expand(10, 6), atol=1e-10)


def test_the_reported_loss_is_the_negative_bound(layer):
    model, x = binary_model(layer), rows(50)
    loss, terms = Elbo()(model, x, 0)
    assert loss == -terms.elbo.mean()
    assert terms.elbo.shape == (8, 50)
    log_q = model.posterior(x).log_prob(terms.latents.z)
    kl = log_q - model.prior().log_prob(terms.latents.z)
    assert torch.equal(terms.latents.kl, kl)


class Logits(FamilyPosterior):
    """q(w|x) with natural parameters of each row's own, so that a batch gives many gradients."""

    def __init__(self, logits):
        super().__init__(nn.Linear(4, 3), Bernoulli(), 3)
        self.logits = nn.Parameter(logits)

    def forward(self, x):
        return self.family(self.logits)


def gradients(model, x, logits, objective):
    """By the parameters of q, one for each of the equal rows."""
    model.posterior = Logits(logits.expand(len(x), 3).clone())
    value = objective(model, x)
    return torch.autograd.grad(value * len(x), model.posterior.logits)[0]


def without_baseline(model, x):
    terms = model(x)
    return -(terms.elbo + terms.elbo.detach() * terms.latents.log_q).mean()


@pytest.mark.slow
@pytest.mark.parametrize("n_draws", [2, 5])
def test_the_gradient_of_the_bound_is_unbiased_and_a_baseline_lowers_its_variance(layer, n_draws):
    model = binary_model(layer, n_draws=n_draws).requires_grad_(False)
    x, logits = rows(1), torch.tensor([0.8, -0.4, 0.1], dtype=torch.double)
    exact = gradients(model, x, logits, lambda model, x: -exact_elbo(model, x).mean())[0]
    torch.manual_seed(0)
    many = x.expand(40_000, 4)
    found = gradients(model, many, logits, lambda model, x: Elbo()(model, x, 0).value)
    plain = gradients(model, many, logits, without_baseline)
    for estimate in (found, plain):
        error = estimate.std(0) / len(estimate) ** 0.5
        assert ((estimate.mean(0) - exact).abs() < 4 * error).all()
        assert (exact.abs() > 8 * found.std(0) / len(found) ** 0.5).any()
    assert (found.var(0) < 0.8 * plain.var(0)).all()


def test_the_decoder_gets_the_exact_gradient_on_average(layer):
    model, x = binary_model(layer), rows(1)
    parameters = list(model.decoder.parameters())
    exact = torch.autograd.grad(-exact_elbo(model, x).mean(), parameters)
    torch.manual_seed(0)
    found = torch.autograd.grad(Elbo()(model, x.expand(20_000, 4), 0).value, parameters)
    for one, other in zip(exact, found, strict=True):
        assert torch.allclose(one, other, atol=0.02 * float(one.abs().max()) + 0.005)


def test_at_the_exact_posterior_the_score_function_has_no_variance():
    log_q = torch.tensor([[-1.0, -2.0], [-3.0, -0.5]], dtype=torch.double, requires_grad=True)
    bound = torch.tensor([[-4.0, -7.0], [-4.0, -7.0]], dtype=torch.double)
    (gradient,) = torch.autograd.grad(score_term(bound, log_q).sum(), log_q)
    assert (gradient == 0).all()


# Gaussian w.


@pytest.mark.parametrize("posterior", [DiagonalGaussian, RealNVP])
def test_a_categorical_layer_of_gaussians_is_a_mixture_vae(posterior):
    torch.manual_seed(0)
    q = posterior.from_perceptron(4, 3)
    decoder, family = InverseLipschitzDecoder(3, 4, (8,), 0.8), Gaussian(0.7)
    layered = LayeredModel(CategoricalLayer(Gaussian(1.0), 2, 3), q, decoder, family).double()
    mixture = MarginalMixtureModel(UnitComponents(2, 3), q, decoder, family).double()
    x, noise = rows(30), rows(150, 3).reshape(5, 30, 3)
    one, other = layered(x, noise), mixture(x, noise)
    assert torch.allclose(one.elbo, other.elbo, atol=1e-12)
    assert torch.allclose(one.latents.components, other.latents.components, atol=1e-12)
    assert one.latents.log_q is None
    assert torch.allclose(
        importance_log_weights(layered, x, noise),
        importance_log_weights(mixture, x, noise),
        atol=1e-12,
    )
    # So is the gradient, by the draws themselves.
    parameters = list(layered.posterior.parameters())
    for left, right in zip(
        torch.autograd.grad(one.elbo.sum(), parameters),
        torch.autograd.grad(other.elbo.sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(left, right, atol=1e-9)
    assert model_information_floor(layered).value == pytest.approx(
        model_information_floor(mixture).value, rel=1e-6
    )


def test_a_normal_layer_of_gaussians_is_an_ordinary_vae_with_wider_latents(
    linear_gaussian, linear_decoder
):
    """w ~ N(0, 2 I) seen through W is sqrt(2) z seen through W, whose likelihood is known."""
    weight, bias = linear_gaussian.weight / math.sqrt(2), linear_gaussian.bias
    decoder, family = linear_decoder(weight, bias), Gaussian(linear_gaussian.scale)
    model = LayeredModel(
        NormalLayer(Gaussian(1.0), 3, 3), DiagonalGaussian.from_perceptron(5, 3), decoder, family
    ).double()

    class Exact(nn.Module):
        def __init__(self):
            super().__init__()
            self.narrow = linear_gaussian.posterior()

        def forward(self, x):
            q = self.narrow(x)
            return torch.distributions.Independent(
                Normal(q.mean * math.sqrt(2), q.stddev * math.sqrt(2)), 1
            )

    model.posterior = Exact()
    x = linear_gaussian.data[:20]
    weights = importance_log_weights(model, x, rows(140, 3).reshape(7, 20, 3))
    assert torch.allclose(weights, linear_gaussian.marginal.log_prob(x).expand(7, 20), atol=1e-9)


# Training.


def patterns(n=300, seed=0):
    """Rows around one of three patterns of six columns."""
    chance = np.random.default_rng(seed)
    centers = np.array([[3.0, 0, 0, 3, 0, 0], [0, 3.0, 0, 0, 3, 0], [0, 0, 3.0, 0, 0, 3]])
    return torch.as_tensor(
        centers[chance.integers(3, size=n)] + 0.5 * chance.normal(size=(n, 6)), dtype=torch.float32
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_trains_layers_of_every_family(layer, family):
    torch.manual_seed(0)
    posterior = FamilyPosterior(PerceptronEncoder(6, 4, (16,)), FAMILIES[family](), 4)
    model = LayeredModel(
        layer(FAMILIES[family](), 3, 4),
        posterior,
        InverseLipschitzDecoder(4, 6, (8,), 0.5),
        Gaussian(0.5),
        4,
    )
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    data, history = patterns(), []
    settings = LoopSettings(max_epochs=15, learning_rate=0.03, seed=0, verbose=False)
    batches = BatchesInMemory(data, 100, seed=0)
    train(Training(model, Elbo(), batches, settings, history=history))
    losses = np.array(history)[:, 1]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 3
    assert np.allclose(losses, np.array(history)[:, 2:4].sum(1), rtol=1e-4)
    for name, value in model.named_parameters():
        assert not torch.equal(value, before[name]), f"{name} did not move"


@pytest.mark.slow
def test_counts_learn_by_the_score_function():
    """Without it the posterior would stay where it begins: the bound rises beyond what the decoder
    alone reaches."""
    losses = {}
    for learns in (True, False):
        torch.manual_seed(0)
        posterior = FamilyPosterior(PerceptronEncoder(6, 3, (16,)), Poisson(), 3)
        posterior.requires_grad_(learns)
        model = LayeredModel(
            CategoricalLayer(Poisson(), 3, 3),
            posterior,
            InverseLipschitzDecoder(3, 6, (8,), 0.5),
            Gaussian(0.5),
        )
        optimizer = torch.optim.Adam(
            [each for each in model.parameters() if each.requires_grad], lr=0.01
        )
        track = []
        for step in range(300):
            optimizer.zero_grad()
            loss = Elbo()(model, patterns(), step).value
            loss.backward()
            optimizer.step()
            track.append(loss.item())
        losses[learns] = np.mean(track[-20:])
        assert losses[learns] < track[0] - 1
    assert losses[True] < losses[False] - 3


# What is refused, and what is not claimed.


@pytest.mark.parametrize("top_dim", [0, 4])
def test_a_matrix_without_full_row_rank_is_refused(layer, top_dim):
    with pytest.raises(InputError, match=rf"1 <= K <= M .* got K={top_dim} and M=3\. Use fewer"):
        layer(Bernoulli(), top_dim, 3)


@pytest.mark.parametrize(
    "family",
    [
        NegativeBinomial(2.0),
        Exponential(),
        Beta(),
        HeteroscedasticGaussian(),
        Categorical(2),
        Categorical(5),
    ],
)
def test_families_whose_parameters_are_not_as_many_as_columns_or_do_not_fill_the_space_are_refused(
    layer, family
):
    with pytest.raises(
        InputError,
        match=r"in R for each column .*gaussian, bernoulli.*got "
        rf"{family.name!r}\. Use one of those\.$",
    ):
        layer(family, 2, 3)


@pytest.mark.parametrize(("scale", "got"), [(None, "a learned one"), (0.5, "0.5")])
def test_gaussian_layers_have_scale_one(layer, scale, got):
    with pytest.raises(InputError, match=f"of scale 1, got {got}. Use"):
        layer(Gaussian(scale), 2, 3)


def test_posteriors_over_other_values_than_the_prior_are_refused(layer):
    decoder = InverseLipschitzDecoder(3, 4, (8,))
    for prior, posterior, got in [
        (Bernoulli(), DiagonalGaussian.from_perceptron(4, 3), "gaussian"),
        (Bernoulli(), FamilyPosterior(PerceptronEncoder(4, 3), Poisson(), 3), "poisson"),
        (Gaussian(1.0), FamilyPosterior(PerceptronEncoder(4, 3), Poisson(), 3), "poisson"),
    ]:
        with pytest.raises(
            InputError, match=f"of family '{prior.name}', as its prior has, got one of '{got}'"
        ):
            LayeredModel(layer(prior, 2, 3), posterior, decoder, Gaussian(1.0))
    with pytest.raises(InputError, match="n_draws expects an integer >= 2, got 1"):
        binary_model(layer, n_draws=1)


def test_of_discrete_latents_nothing_is_claimed(layer, fitted):
    model, data = binary_model(layer).float(), rows(60).float().numpy()
    assert model.decoder.information_constant > 0
    assert model_information_floor(model) is None
    assert not model.prior.has_density
    assert model.prior.entropy_bound() == -math.inf
    with pytest.raises(InputError, match="expect latents with a density"):
        uc.certify(fitted(model), data)
    report = uc.diagnose(fitted(model), data, n_importance=8, verbose=False)
    assert report.estimates["information_floor_nats"] is None
    assert report.estimates["fisher_divergence"] is None
    assert np.isfinite(report.estimates["mutual_information_nats"].value)
    assert ("kl_y_nats" in report.estimates) == (layer is CategoricalLayer)
    assert StandardNormal(2).has_density


def test_the_information_of_discrete_latents_is_not_that_of_gaussians(layer, fitted):
    """I(x; w) under q of 60 rows, by enumeration of w."""
    model, x = binary_model(layer), rows(60)
    with torch.no_grad():
        model.posterior.encoder.net[-1].weight.mul_(50)
        log_q = model.posterior(x).log_prob(BITS[:, None])
        information = (
            (log_q.exp() * (log_q - log_q.logsumexp(1, keepdim=True) + math.log(60))).sum(0).mean()
        )
    found = uc.diagnose(fitted(model), x.numpy(), n_importance=1, verbose=False).estimates[
        "mutual_information_nats"
    ]
    assert 1 < information < math.log(8) < math.log(60) - 1
    assert abs(found.value - information) < 4 * found.standard_error


def test_a_layer_notices_when_its_unit_vectors_were_changed(layer):
    prior = layer(Bernoulli(), 2, 3)
    assert prior.check_invariants()
    prior.eye[0, 1] = 0.5
    assert not prior.check_invariants()
    assert not list(prior.parameters())


class Table(Decoder):
    """Natural parameters of each of eight w, all different."""

    constant = 0.0

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, z):
        return self.table[(z @ torch.tensor([4.0, 2.0, 1.0], dtype=z.dtype)).long()]

    def start_at(self, eta):
        raise NotImplementedError


@pytest.mark.parametrize("family", [Bernoulli(), Gaussian(1.0)])
def test_an_average_over_w_can_hide_z_from_binary_data_and_not_from_real_ones(family):
    """e_1 and e_2 weigh (1, 0, *) and (0, 1, *) differently; an injective decoder that sends these
    to means of the same average."""
    means = torch.tensor(
        [0.1, 0.15, 0.4, 0.6, 0.2, 0.8, 0.85, 0.9], dtype=torch.double
    )  # of (w1, w2, w3) in order
    prior = CategoricalLayer(Bernoulli(), 3, 3).double()
    decoder = Table(torch.stack([means.logit(), *torch.zeros(2, 8, dtype=torch.double)], dim=1))
    model = VAEModel(prior, FamilyPosterior(nn.Linear(3, 3), Bernoulli(), 3), decoder, family)
    x = BITS if family.name == "bernoulli" else rows(8, 3)
    given_w = model.likelihood(BITS[:, None]).log_prob(x)  # (8 of w, 8 of x)
    given_z = torch.stack(
        [(prior.given(e).log_prob(BITS)[:, None] + given_w).logsumexp(0) for e in prior.eye]
    )
    assert torch.allclose(given_z[0], given_z[1], atol=1e-12) == (family.name == "bernoulli")
    assert not torch.allclose(given_z[0], given_z[2], atol=1e-2)

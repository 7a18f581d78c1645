"""Models of any origin are diagnosed as ours are, and streams of data as arrays."""

import tracemalloc
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Dirichlet,
    Independent,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    Poisson,
    TransformedDistribution,
    constraints,
    kl_divergence,
)
from torch.distributions.transforms import SigmoidTransform
from torch.utils.data import DataLoader, Dataset, TensorDataset

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.adapters import adapt_model
from uncollapse.diagnostics.gallery import STRIDES

QUICK = {"verbose": False, "thorough": False, "n_importance": 16}


class Linear(nn.Module):
    """The exact linear Gaussian as somebody else would write it: no class of ours."""

    def __init__(self, exact, independent=False):
        super().__init__()
        self.weight, self.bias, self.scale = nn.Parameter(exact.weight), exact.bias, exact.scale
        self.q, self.independent = exact.posterior(), independent

    def prior(self):
        p = Normal(torch.zeros(3, dtype=torch.double), 1.0)
        return Independent(p, 1) if self.independent else p

    def posterior(self, x):
        q = self.q(x.double())
        return q if self.independent else q.base_dist

    def likelihood(self, z):
        return Normal(self.scale * (z @ self.weight.T + self.bias), self.scale)


def numbers(report, *names):
    return {
        name: report.estimates[name].value
        for name in names or report.estimates
        if report.estimates[name] is not None
    }


@pytest.mark.slow
@pytest.mark.parametrize("independent", [False, True])
def test_an_object_with_three_methods_gets_the_numbers_of_our_own(linear_gaussian, independent):
    ours = uc.diagnose(linear_gaussian.fitted(), linear_gaussian.data.numpy(), verbose=False)
    theirs = uc.diagnose(
        Linear(linear_gaussian, independent), linear_gaussian.data.numpy(), verbose=False
    )
    same = [
        "nll_nats",
        "kl_nats",
        "mutual_information_nats",
        "supported_units",
        "recovered_nats",
        "annealing_gain_nats",
    ]
    for name, value in numbers(theirs, *same).items():
        assert value == pytest.approx(ours.estimates[name].value, abs=1e-5), name
    assert np.allclose(theirs.units.astype(float), ours.units.astype(float), atol=1e-6)
    assert np.allclose(theirs.gallery.samples, ours.gallery.samples, atol=1e-5)
    difference = (
        theirs.estimates["fisher_divergence"].value - ours.estimates["fisher_divergence"].value
    )
    assert abs(difference) < 4 * theirs.estimates["fisher_divergence"].standard_error


def test_a_pair_of_functions_gets_the_numbers_of_our_own(linear_gaussian):
    foreign = Linear(linear_gaussian)

    def encoder(x):
        q = foreign.posterior(x)
        return q.mean, q.variance.log()

    model = uc.from_functions(
        encoder,
        lambda z: foreign.likelihood(z).mean,
        likelihood=lambda mean: Normal(mean, linear_gaussian.scale),
        prior=Normal(torch.zeros(3, dtype=torch.double), 1.0),
    )
    ours, theirs = (
        uc.diagnose(it, linear_gaussian.data.numpy(), **QUICK)
        for it in (linear_gaussian.fitted(), model)
    )
    for name in ("nll_nats", "kl_nats", "mutual_information_nats"):
        assert theirs.estimates[name].value == pytest.approx(
            ours.estimates[name].value, abs=1e-5
        ), name
    assert theirs.verdict == ours.verdict


def test_the_kl_of_correlated_posteriors_is_told_by_unit_as_matched(linear_gaussian):
    """A Gaussian with a full covariance has no KL by unit; that of its marginals is known in closed
    form."""
    covariance = torch.tensor(
        [[0.5, 0.3, 0.0], [0.3, 0.4, 0.0], [0.0, 0.0, 1.0]], dtype=torch.double
    )
    model = Linear(linear_gaussian)
    model.posterior = lambda x: MultivariateNormal(
        x[:, :3].double(), covariance.expand(len(x), 3, 3)
    )
    rows = linear_gaussian.data.float()
    report = uc.diagnose(model, rows.numpy(), **QUICK)
    squares, variances = rows[:, :3].double().square().mean(0), covariance.diagonal()
    assert report.units["kl_nats"].isna().all()
    assert np.allclose(
        report.units["matched_kl_nats"], 0.5 * (squares + variances - 1 - variances.log())
    )
    joint = 0.5 * (squares.sum() + covariance.trace() - 3 - covariance.logdet())
    kl = report.estimates["kl_nats"]
    # That of the draws, 64 for each row, beside the error over rows, is below a hundredth.
    assert kl.value == pytest.approx(joint.item(), abs=0.05)
    assert "Gaussians with the moments" in " ".join(report.notes)
    assert "matched_kl_nats" in repr(report)


def test_priors_and_posteriors_of_any_kind_are_read():
    """A logit-normal z: nothing is known of it in closed form but its density."""

    class Squeezed:
        def prior(self):
            return TransformedDistribution(Normal(torch.zeros(2), 1.0), SigmoidTransform())

        def posterior(self, x):
            return TransformedDistribution(Normal(x[:, :2] / 2, 0.5), SigmoidTransform())

        def likelihood(self, z):
            return LogNormal(torch.cat([z, z], -1), 1.0)

    rows = np.exp(np.random.default_rng(0).normal(size=(100, 4))).astype(np.float32)
    report = uc.diagnose(Squeezed(), rows, **QUICK)
    means = np.log(rows[:, :2]) * 0 + rows[:, :2] / 2
    exact = 0.5 * (means**2 + 0.25 - 1 - np.log(0.25)).sum(1).mean()  # no map of z changes the KL
    assert report.estimates["kl_nats"].value == pytest.approx(exact, rel=0.03)
    assert len(report.units) == 2


class Rows(Dataset):
    """Rows as they are asked for, with their labels."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index >= self.n:
            raise IndexError(index)
        generator = np.random.default_rng(index)
        return torch.from_numpy(generator.normal(size=5).astype(np.float32)), index % 3


@pytest.mark.parametrize("kind", ["list", "memory-map", "dataset", "loader", "frame", "tensor"])
def test_data_of_every_kind_give_the_same_numbers(linear_gaussian, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("uncollapse.measures.batches.ROWS_AT_ONCE", 64)
    X = linear_gaussian.data.float()
    np.save(tmp_path / "X.npy", X.numpy())
    labels = np.arange(400) % 3
    X_of = {
        "list": X.tolist(),
        "memory-map": np.load(tmp_path / "X.npy", mmap_mode="r"),
        "dataset": TensorDataset(X, torch.as_tensor(labels)),
        "loader": DataLoader(TensorDataset(X, torch.as_tensor(labels)), batch_size=32),
        "frame": pd.DataFrame(X.numpy()),
        "tensor": X,
    }
    of_array = uc.diagnose(Linear(linear_gaussian), X.numpy(), labels, **QUICK)
    found = uc.diagnose(
        Linear(linear_gaussian),
        X_of[kind],
        None if kind in ("dataset", "loader") else labels,
        **QUICK,
    )
    assert numbers(found) == pytest.approx(numbers(of_array), rel=1e-9)
    assert found.labels.tolist() == of_array.labels.tolist()
    assert found.n_examples == 400


def test_a_sample_is_looked_at_where_there_are_many_rows_and_all_are_counted(
    linear_gaussian, monkeypatch
):
    monkeypatch.setattr("uncollapse.measures.batches.MAX_SAMPLED_ROWS", 100)
    model, rows = Linear(linear_gaussian), linear_gaussian.data.numpy()
    report = uc.diagnose(model, rows, np.arange(400) % 3, **QUICK)
    assert report.n_examples == 400
    assert report.estimates["information_cap_nats"].value == pytest.approx(np.log(100))
    assert report.estimates["kl_nats"].value == pytest.approx(
        uc.diagnose(linear_gaussian.fitted(), rows, **QUICK).estimates["kl_nats"].value, rel=0.2
    )
    with torch.no_grad():
        means = model.posterior(torch.as_tensor(rows).float()).mean
    assert np.allclose(report.units["mean_variance"], means.var(0, unbiased=False), rtol=1e-5)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(linear_gaussian):
    def peak(n):
        tracemalloc.start()
        uc.diagnose(Linear(linear_gaussian), Rows(n), **QUICK)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(36_000) < 1.2 * peak(12_000)  # The sample has 10,000 rows.


def test_a_diagnosis_leaves_no_trace(linear_gaussian, short_diagnoses):
    model = Linear(linear_gaussian)
    model.train()
    model.q.eval()
    before = torch.random.get_rng_state()
    uc.diagnose(model, linear_gaussian.data.numpy(), verbose=False)
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.training
    assert not model.q.training
    assert model.weight.grad is None


def test_a_decoder_without_gradients_is_measured_as_far_as_it_goes(linear_gaussian):
    model = Linear(linear_gaussian)
    likelihood = model.likelihood
    model.likelihood = lambda z: likelihood(z.detach())
    model.requires_grad_(False)
    report = uc.diagnose(model, linear_gaussian.data.numpy(), verbose=False)
    assert report.estimates["fisher_divergence"] is None
    assert report.estimates["recovered_nats"] is None
    assert "has no gradient in z" in " ".join(report.notes)
    assert report.verdict == "healthy"


def test_data_where_the_prior_is_not_are_a_mismatch(linear_gaussian):
    report = uc.diagnose(
        linear_gaussian.fitted(), linear_gaussian.data.numpy() + 10.0, verbose=False
    )
    assert report.verdict == "prior mismatch"
    assert "Remedy" in report.advice


class Bad(Linear):
    def __init__(self, exact, **methods):
        super().__init__(exact)
        for name, method in methods.items():
            setattr(self, name, method)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            {"prior": lambda: torch.zeros(3)},
            r"prior\(\) expects a distribution of torch.distributions, got Tensor",
        ),
        (
            {"prior": lambda: Normal(torch.zeros(3, 3), 1.0)},
            r"one distribution over R\^latent_dim, got one over shape \(3, 3\)",
        ),
        ({"prior": lambda: Normal(0.0, 1.0)}, r"got one over shape \(\)"),
        ({"posterior": lambda x: Normal(torch.zeros(len(x), 4), 1.0)}, r"distribution over R\^3"),
        ({"posterior": lambda x: Normal(torch.zeros(3), 1.0)}, r"posterior\(x\) expects"),
        ({"likelihood": lambda z: z}, r"likelihood\(z\) expects a distribution"),
        (
            {"likelihood": lambda z: Normal(torch.zeros(len(z), 4), 1.0)},
            r"rows of shape \(4,\), got data whose rows have shape \(5,\)",
        ),
        (
            {"likelihood": lambda z: Bernoulli(torch.full((len(z), 5), 0.5))},
            "X lies outside the support of p\\(x\\|z\\)",
        ),
    ],
)
def test_what_a_model_says_wrongly_is_named(linear_gaussian, methods, message):
    with pytest.raises(InputError, match=message):
        uc.diagnose(Bad(linear_gaussian, **methods), linear_gaussian.data.numpy(), **QUICK)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(5), "at least two dimensions"),
        (np.zeros((1, 5)), "at least 2 rows, got 1"),
        (np.zeros((0, 5)), "at least 2 rows"),
        ([[1.0, 2.0, 3.0, 4.0, np.nan]] * 3, "the first in row 0"),
        ([["a"] * 5] * 3, "X expects numbers"),
        ("rows.csv", "X expects"),
        (DataLoader([{"x": 1.0}] * 3), "got dictionaries"),
    ],
)
def test_data_that_cannot_be_used_are_refused(linear_gaussian, data, message):
    with pytest.raises(InputError, match=message):
        uc.diagnose(Linear(linear_gaussian), data, **QUICK)


def test_what_is_no_model_is_refused():
    with pytest.raises(InputError, match="an object with prior"):
        uc.diagnose(3, np.zeros((5, 2)))
    with pytest.raises(InputError, match=r"Plain has no prior\(\) and no likelihood\(z\). A model"):
        uc.diagnose(triple(posterior=lambda x: Normal(x, 1.0)), np.zeros((5, 2)))
    with pytest.raises(InputError, match="VAE is not fitted"):
        uc.diagnose(uc.VAE(), np.zeros((5, 2)))
    with pytest.raises(InputError, match="latent_dim, for a standard normal prior"):
        uc.from_functions(lambda x: x, lambda z: z)
    model = uc.from_functions(lambda x: x, lambda z: z, latent_dim=2)
    with pytest.raises(InputError, match="a mean and the logarithm of a variance"):
        uc.diagnose(model, np.zeros((5, 2)), **QUICK)
    model = uc.from_functions(lambda x: (x, x), lambda z: z, latent_dim=2)
    with pytest.raises(InputError, match="give likelihood="):
        uc.diagnose(model, np.zeros((5, 2)), **QUICK)


def test_a_latent_model_of_the_user_needs_no_mean_of_x(linear_gaussian, tmp_path):
    class Own(uc.models.LatentModel):
        """The exact linear Gaussian, with nothing but what the interface asks for."""

        latent_dim = 3

        def __init__(self):
            super().__init__()
            self.exact = linear_gaussian.model()
            self.prior, self.posterior = self.exact.prior, self.exact.posterior

        def log_likelihood(self, x, z):
            return self.exact.log_likelihood(x, z)

    report = uc.diagnose(Own(), linear_gaussian.data.numpy(), **QUICK)
    assert len(report.gallery.reconstructions) == 0
    page = report.to_html(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Reconstructions</h2>" in page
    assert "<h2>Samples</h2>" not in page


def triple(prior=None, posterior=None, likelihood=None, **held):
    """An object that is no module."""
    given = {"prior": prior, "posterior": posterior, "likelihood": likelihood, **held}
    return type("Plain", (), {"__init__": lambda self: vars(self).update(given)})()


def standard_normal():
    return Normal(torch.zeros(2), 1.0)


ROWS = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)


@pytest.mark.slow
def test_a_decoder_that_does_not_use_what_its_encoder_tells_is_collapsed_in_the_model():
    """The posterior moves with x, q(z) is the prior, and p(x|z) is the same for every z: W21's own
    case."""
    alive = {"posterior": lambda x: Normal(0.9**0.5 * x, 0.1**0.5)}
    ignoring = triple(standard_normal, likelihood=lambda z: Normal(0 * z, 1.0), **alive)
    report = uc.diagnose(ignoring, ROWS, verbose=False)
    assert report.verdict == "collapsed in the model"
    assert "latent units are informative but unused by the decoder" in report.advice
    assert report.estimates["fisher_divergence"].value == 0
    half = triple(
        standard_normal, likelihood=lambda z: Normal(z * torch.tensor([2.0, 0.0]), 1.0), **alive
    )
    report = uc.diagnose(half, ROWS * [3.0, 1.0], verbose=False)
    assert report.verdict == "partly collapsed"
    assert "1 of 2 latent units is informative but unused by the decoder (1)" in report.advice


def test_a_decoder_that_is_not_connected_to_z_is_no_traceback(short_diagnoses):
    bias = nn.Parameter(torch.zeros(2))
    model = triple(
        standard_normal, lambda x: Normal(0 * x, 1.0), lambda z: Normal(bias.expand(len(z), 2), 1.0)
    )
    report = uc.diagnose(model, ROWS, verbose=False)
    assert report.verdict == "collapsed in the model"
    assert report.estimates["fisher_divergence"].value == 0
    assert not uc.is_identifiable(model, ROWS)


def test_modules_of_a_plain_object_are_looked_at_in_evaluation():
    encoder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    model = triple(
        standard_normal,
        lambda x: Normal(encoder(x), 1.0),
        lambda z: Normal(z, 1.0),
        encoder=encoder,
    )
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    first, second = (uc.diagnose(model, ROWS, **QUICK).estimates["kl_nats"] for _ in range(2))
    assert first == second
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    "prior",
    [
        torch.distributions.StudentT(torch.full((2,), 5.0)),
        torch.distributions.Laplace(torch.zeros(2), 1.0),
    ],
)
def test_a_kl_that_has_no_closed_form_is_drawn(prior):
    model = triple(lambda: prior, lambda x: Normal(x, 0.5), lambda z: Normal(z, 1.0))
    report = uc.diagnose(model, ROWS, **QUICK)
    z = torch.as_tensor(ROWS) + 0.5 * torch.randn(
        4000, *ROWS.shape, generator=torch.Generator().manual_seed(0)
    )
    exact = (Normal(torch.as_tensor(ROWS), 0.5).log_prob(z) - prior.log_prob(z)).sum(-1).mean()
    assert report.estimates["kl_nats"].value == pytest.approx(exact.item(), rel=0.02)


class Shares:
    """Counts whose means are shares z of 10."""

    def prior(self):
        return Dirichlet(torch.full((3,), 2.0))

    def posterior(self, x):
        return Dirichlet(2 + x)

    def likelihood(self, z):
        return Independent(Poisson(10 * z, validate_args=True), 1)


class Fractions(Shares):
    """Counts whose means are fractions z of 10, each its own."""

    def prior(self):
        return Beta(torch.full((3,), 0.5), 0.5)

    def posterior(self, x):
        return Beta(0.5 + x, 1.0)


@pytest.mark.parametrize(("model", "n_traversed"), [(Shares(), 0), (Fractions(), 3)])
def test_traversals_stay_where_the_prior_is(model, n_traversed):
    x = np.random.default_rng(0).poisson(1, size=(50, 3))
    report = uc.diagnose(model, x, **QUICK)
    assert len(report.gallery.traversals) == n_traversed
    for unit, rows in report.gallery.traversals.items():
        assert 1 < len(rows) < len(STRIDES)
        assert (rows[:, unit] > 0).all()
        assert (rows[:, unit] < 10).all()


@pytest.mark.parametrize(
    ("support", "expected"),
    [
        (constraints.unit_interval, [True, False]),
        (constraints.independent(constraints.unit_interval, 1), [True, False]),
        (constraints.simplex, [True, False]),
        (constraints.real_vector, [True, True]),
        (constraints.dependent, [True, True]),
        (None, [True, True]),
    ],
)
def test_the_support_of_a_prior_is_read_however_it_is_declared(support, expected, monkeypatch):
    model = adapt_model(Shares()).model
    monkeypatch.setattr(model, "prior", lambda: SimpleNamespace(support=support))
    assert model.in_support(torch.tensor([[0.5, 0.5], [0.5, 1.5]])).tolist() == expected


def test_units_that_are_no_gaussians_have_their_own_kl():
    prior = Laplace(torch.zeros(2), 1.0)
    report = uc.diagnose(
        triple(lambda: prior, lambda x: Laplace(x, 0.5), lambda z: Normal(z, 1.0)), ROWS, **QUICK
    )
    exact = kl_divergence(Laplace(torch.as_tensor(ROWS), 0.5), prior).mean(0)
    assert np.allclose(report.units["kl_nats"], exact, rtol=1e-5)


def test_models_of_double_precision_and_priors_of_single_go_together(short_diagnoses):
    decoder = nn.Linear(2, 2).double()
    model = triple(
        standard_normal,
        lambda x: Normal(x.double(), 0.5),
        lambda z: Normal(decoder(z), 1.0),
        decoder=decoder,
    )
    assert uc.diagnose(model, ROWS, verbose=False).estimates["recovered_nats"] is not None
    assert uc.is_identifiable(model, ROWS)


def test_densities_that_are_not_finite_are_said_to_be(short_diagnoses):
    report = uc.diagnose(
        triple(standard_normal, lambda x: Normal(x, 0.5), lambda z: Normal(z.log(), 1.0)),
        ROWS,
        verbose=False,
    )
    assert report.estimates["nll_nats"] is None
    assert "not finite on some rows, and so nll_nats" in " ".join(report.notes)
    within = triple(
        standard_normal,
        lambda x: Normal(x, 0.5),
        lambda z: torch.distributions.Uniform(z - 1, z + 1),
    )
    found = uc.is_identifiable(within, ROWS)
    assert found
    assert found.units["identifiable"].all()


def test_sparse_rows_are_read_and_targets_that_are_no_labels_left():
    from scipy.sparse import csr_matrix

    model = triple(standard_normal, lambda x: Normal(x, 0.5), lambda z: Normal(z, 1.0))
    dense = uc.diagnose(model, ROWS, **QUICK)
    X = torch.as_tensor(ROWS)
    for given in (csr_matrix(ROWS), DataLoader(TensorDataset(X, X), batch_size=50)):
        assert numbers(uc.diagnose(model, given, **QUICK)) == pytest.approx(
            numbers(dense), rel=1e-6
        )
    loader = DataLoader(TensorDataset(X), batch_size=50, shuffle=True)
    with pytest.raises(InputError, match="of a loader that shuffles"):
        uc.diagnose(model, loader, np.arange(300) % 2, **QUICK)
    assert uc.diagnose(model, ROWS, torch.arange(300) % 2, **QUICK).labels[0] in ("0", "1")


def test_rows_that_do_not_fit_are_named():
    encoder = nn.Linear(3, 2)
    model = triple(standard_normal, lambda x: Normal(encoder(x), 0.5), lambda z: Normal(z, 1.0))
    with pytest.raises(InputError, match=r"posterior\(x\) cannot take an input of shape"):
        uc.diagnose(model, ROWS, **QUICK)
    with pytest.raises(InputError, match="image_shape expects a height and a width"):
        uc.diagnose(
            triple(standard_normal, lambda x: Normal(x, 0.5), lambda z: Normal(z, 1.0)),
            ROWS,
            image_shape=5,
            **QUICK,
        )


def counts(n=200, n_genes=12):
    generator = np.random.default_rng(0)
    rates = np.exp(generator.normal(size=(n, 2)) @ generator.normal(size=(2, n_genes)) * 0.7 + 0.5)
    return generator.poisson(rates).astype(np.float32)


@pytest.mark.extra
@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_a_model_of_pythae(loss, tmp_path, short_diagnoses):
    models = pytest.importorskip("pythae.models", reason="needs the extra 'pythae'")
    torch.manual_seed(0)
    model = models.VAE(
        models.VAEConfig(input_dim=(1, 2, 3), latent_dim=2, reconstruction_loss=loss)
    )
    rows = np.random.default_rng(0).uniform(size=(300, 1, 2, 3)).astype(np.float32)
    report = uc.diagnose(model, rows, verbose=False)
    with torch.no_grad():
        said = [model({"data": torch.as_tensor(rows)}) for _ in range(200)]
    assert report.estimates["kl_nats"].value == pytest.approx(float(said[0].reg_loss), rel=1e-4)
    elbo = -np.mean([float(each.loss) for each in said])
    if loss == "mse":  # pythae leaves out the constant of its Gaussian
        elbo -= 3 * np.log(2 * np.pi)
    assert elbo <= -report.estimates["nll_nats"].value + 0.02
    assert -report.estimates["nll_nats"].value - elbo < report.estimates["kl_nats"].value + 0.05
    assert report.gallery.image_shape == (2, 3)
    assert report.to_html(tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.extra
def test_what_is_no_plain_vae_of_pythae_is_refused():
    models = pytest.importorskip("pythae.models", reason="needs the extra 'pythae'")
    model = models.AE(models.AEConfig(input_dim=(3,), latent_dim=2))
    with pytest.raises(
        InputError, match=r"whose posterior is the Gaussian of its encoder .*, got AE"
    ):
        uc.diagnose(model, np.zeros((5, 3)))


@pytest.mark.extra
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("SCVI", {}),
        ("SCVI", {"gene_likelihood": "poisson"}),
        ("LinearSCVI", {"use_observed_lib_size": True}),
    ],
)
def test_a_model_of_scvi_tools(kind, arguments, tmp_path, short_diagnoses):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi = pytest.importorskip("scvi", reason="needs the extra 'scvi'")
        import anndata

        data = anndata.AnnData(counts())
        data.obs["batch"] = ["a", "b"] * 100
        scvi.settings.seed = 0
        getattr(scvi.model, kind).setup_anndata(data, batch_key="batch")
        model = getattr(scvi.model, kind)(data, n_latent=3, n_hidden=8, **arguments)
        model.train(
            max_epochs=5,
            accelerator="cpu",
            enable_progress_bar=False,
            logger=False,
            enable_checkpointing=False,
        )
        report = uc.diagnose(model, data, data.obs["batch"], verbose=False)
        subject = adapt_model(model)
        with torch.no_grad():
            (tensors,) = model._make_data_loader(data, batch_size=200)
            inferred, _, losses = model.module.forward(tensors)
    rows = torch.as_tensor(subject.read(data))
    with torch.no_grad():
        log_p = subject.model.log_likelihood(rows, inferred["z"])
    assert torch.allclose(log_p, -losses.dict_sum(losses.reconstruction_loss), rtol=1e-5)
    assert report.estimates["kl_nats"].value == pytest.approx(
        float(losses.dict_sum(losses.kl_local).mean()), rel=1e-4
    )
    assert report.gallery.originals.shape == report.gallery.reconstructions.shape == (10, 12)
    assert report.to_html(tmp_path / "report.html").stat().st_size > 10_000
    with pytest.raises(InputError, match="AnnData like those of its training"):
        uc.diagnose(model, np.zeros((5, 12)))


@pytest.mark.extra
def test_a_model_of_scvi_tools_with_further_latents_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi = pytest.importorskip("scvi", reason="needs the extra 'scvi'")
        import anndata

        data = anndata.AnnData(counts())
        scvi.model.LinearSCVI.setup_anndata(data)
        model = scvi.model.LinearSCVI(data, n_latent=3)
        with pytest.raises(InputError, match="use_observed_lib_size=True"):
            uc.diagnose(model, data)

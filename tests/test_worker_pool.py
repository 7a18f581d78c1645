"""Several devices that look at rows side by side: what they find is what one finds, and all of it
ends well."""

import copy
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.utils.data import DataLoader, Dataset

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.data import load
from uncollapse.measures import batches as stream
from uncollapse.measures import evaluation, likelihood, worker_pool
from uncollapse.measures.likelihood import importance_log_likelihood_per_row
from uncollapse.measures.worker_pool import WorkerPool, devices_like

SMALL = {"latent_dim": 2, "hidden": (8, 8), "max_epochs": 1, "random_state": 0, "verbose": False}
ROWS = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32) * np.float32(
    [3, 2, 1, 1, 0.1]
)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(stream, "ROWS_AT_ONCE", 30)
    monkeypatch.setattr(worker_pool, "EVALUATIONS_AT_ONCE", 512)


class Foreign(nn.Module):
    """A model whose posterior is drawn by the global generator, and whose moments are, too."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder, self.decoder = nn.Linear(5, 8), nn.Linear(2, 5)

    def prior(self):
        return Normal(torch.zeros(2), 1.0)

    def posterior(self, x):
        mean, log_scale = self.encoder(x).reshape(len(x), 2, 4).chunk(2, -1)
        return WithoutMoments(
            Categorical(logits=torch.zeros(len(x), 2)),
            Independent(Normal(mean, log_scale.exp()), 1),
        )

    def likelihood(self, z):
        return Normal(self.decoder(z), 1.0)


class WithoutMoments(MixtureSameFamily):
    @property
    def mean(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def models():
    texts = list(load("synthetic-text").X[:100])  # three pieces at least
    tiny = {"hidden": (8,), "embedding_dim": 8, "hidden_dim": 8}
    return {
        "vae": (uc.VAE(**SMALL).fit(ROWS), ROWS),
        "mixture": (uc.MixtureVAE(n_components=3, **SMALL).fit(ROWS), ROWS),
        "enumerated": (
            uc.MixtureVAE(n_components=3, **SMALL, inference="enumerate").fit(ROWS),
            ROWS,
        ),
        "flow": (uc.VAE(**SMALL, posterior="realnvp").fit(ROWS), ROWS),
        "text": (uc.SequenceVAE(**{**SMALL, **tiny}).fit(texts), texts),
        "foreign": (Foreign(), ROWS),
    }


@pytest.mark.parametrize("kind", ["vae", "mixture", "enumerated", "flow", "text", "foreign"])
def test_the_report_is_that_of_one_device(kind, models, tmp_path, small_pieces, monkeypatch):
    """Bit for bit with one thread of torch, as `conftest` sets; workers would share several."""
    model, X = models[kind]
    X, n_importance = X[:100], None if kind == "vae" else 32  # few draws take less time
    seen = set()
    for module, name in (
        (evaluation, "_infer_batch"),
        (likelihood, "_weigh"),
    ):
        original = getattr(module, name)

        def watched(model, *args, original=original):
            seen.add((threading.get_ident(), id(model)))
            return original(model, *args)

        monkeypatch.setattr(module, name, watched)
    reports = []
    for devices in (1, 3):
        seen.clear()
        report = uc.diagnose(
            model, X, n_importance=n_importance, thorough=False, devices=devices, verbose=False
        )
        reports.append(report.to_json(tmp_path / f"{devices}.json").read_bytes())
        assert len({model for _, model in seen}) == devices
    assert threading.get_ident() not in {thread for thread, _ in seen}
    assert reports[0] == reports[1]


class Jittered(Dataset):
    """Rows to which the global generator adds noise, as crops and flips do to pictures."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return torch.as_tensor(ROWS[index]) + 0.1 * torch.randn(5)


def test_what_a_loader_draws_is_not_mixed_with_what_a_model_draws(models, small_pieces):
    model, _ = models["foreign"]
    loader = DataLoader(Jittered(), batch_size=7)
    found = [
        uc.diagnose(model, loader, devices=n, n_importance=8, thorough=False, verbose=False)
        for n in (1, 3, 3)
    ]
    assert len({report.estimates["kl_nats"].value for report in found}) == 1


def test_scores_are_those_of_one_device(models, small_pieces):
    one = models["vae"][0]
    two = copy.deepcopy(one).set_params(devices=2)
    assert np.array_equal(two.score_samples(ROWS), one.score_samples(ROWS))


def test_what_torch_keeps_for_each_thread_is_as_outside(models, small_pieces):
    """Autocast, which a new thread would not know of, and threads for one operation, which it would
    use all of."""
    model = models["vae"][0].model_
    rows = model.observe(ROWS)
    plain = importance_log_likelihood_per_row(model, rows)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with torch.autocast("cpu", torch.bfloat16), WorkerPool(model, 2) as shared:
            assert (
                list(shared.map(lambda model, piece: torch.get_num_threads(), range(5))) == [2] * 5
            )
            rounded = importance_log_likelihood_per_row(shared, rows)
            assert np.array_equal(rounded, importance_log_likelihood_per_row(model, rows))
        assert torch.get_num_threads() == 4
        with WorkerPool(model) as pool:
            assert list(pool.map(lambda model, piece: torch.get_num_threads(), [0])) == [4]
    finally:
        torch.set_num_threads(before)
    assert 1e-4 < np.abs(rounded - plain).max() < 1


def test_pieces_come_in_their_order_and_not_too_many_ahead(models):
    taken = []

    def pieces():
        for piece in range(30):
            taken.append(piece)
            yield piece

    def slowly(model, piece):
        time.sleep(0.002 * (piece % 3))
        return piece

    with WorkerPool(models["vae"][0].model_, 3) as shared:
        found = shared.map(slowly, pieces())
        assert next(found) == 0
        assert len(taken) == 7
        assert list(found) == list(range(1, 30))


@pytest.mark.parametrize("error", [InputError("a row is odd"), KeyboardInterrupt()])
def test_what_goes_wrong_in_a_thread_ends_all_of_them(error, models, small_pieces, monkeypatch):
    looked, before, weigh = [], threading.active_count(), likelihood._weigh

    def failing(model, x, noise):
        looked.append(len(x))
        if len(looked) == 4:
            raise error
        return weigh(model, x, noise)

    monkeypatch.setattr(likelihood, "_weigh", failing)
    with pytest.raises(type(error)):
        uc.diagnose(models["vae"][0], ROWS, thorough=False, devices=2, verbose=False)
    assert threading.active_count() == before
    assert len(looked) <= 10  # of 25


class Locked(Foreign):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def test_a_model_that_cannot_be_copied_is_one_sentence():
    with pytest.raises(
        InputError,
        match=r"expect a model that can be copied, got Locked \(cannot pickle .*\): give devices=1",
    ):
        uc.diagnose(Locked(), ROWS, devices=2, verbose=False)


@pytest.mark.parametrize("devices", [0, -1, True, "all", 1.5])
def test_a_number_of_devices_that_is_none_is_refused(devices, models):
    with pytest.raises(
        InputError, match="devices expects a positive number of devices, or 'auto', got"
    ):
        uc.diagnose(models["vae"][0], ROWS, devices=devices, verbose=False)


def test_the_gpus_of_the_machine_are_used_from_the_models_own_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    own = torch.device("cuda", 1)
    assert [device.index for device in devices_like(own, "auto")] == [1, 0, 2]
    assert [device.index for device in devices_like(own, 2)] == [1, 0]
    assert [device.index for device in devices_like(own, 8)] == [1, 0, 2]
    assert devices_like(torch.device("mps"), 2) == [torch.device("mps")]

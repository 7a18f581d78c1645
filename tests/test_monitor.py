"""The monitor measures what diagnoses do, leaves training as it is, and warns of collapses
alone."""

import warnings

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

import uncollapse as uc
from uncollapse._utils.errors import InputError

X = np.random.default_rng(0).normal(size=(400, 4)) @ np.diag([3.0, 2.0, 0.1, 0.1])
SETTINGS = {"latent_dim": 2, "hidden": (8,), "max_epochs": 6, "random_state": 0, "verbose": False}


class Module(pl.LightningModule):
    """A VAE that somebody else has written, with a weight of the KL for each epoch."""

    def __init__(self, weights):
        super().__init__()
        self.encoder, self.decoder, self.weights = (
            torch.nn.Linear(4, 4),
            torch.nn.Linear(2, 4),
            weights,
        )

    def prior(self):
        return Normal(torch.zeros(2), 1.0)

    def posterior(self, x):
        mean, log_scale = self.encoder(x).chunk(2, -1)
        return Normal(mean, log_scale.exp())

    def likelihood(self, z):
        return Normal(self.decoder(z), 0.5)

    def training_step(self, batch, _):
        (x,) = batch
        q = self.posterior(x)
        kl = kl_divergence(q, self.prior()).sum(-1)
        return (
            self.weights[self.current_epoch] * kl - self.likelihood(q.rsample()).log_prob(x).sum(-1)
        ).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.02)


def fit(weights, *callbacks, logger=False, dead=False, kind=Module):
    pl.seed_everything(0, verbose=False)
    module = kind(weights)
    if dead:
        torch.nn.init.zeros_(module.encoder.weight)
        module.encoder.requires_grad_(False)
    rows = TensorDataset(torch.as_tensor(X, dtype=torch.float32))
    trainer = pl.Trainer(
        max_epochs=len(weights),
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer.fit(module, DataLoader(rows, 50, shuffle=True))
    return module, trainer


def test_it_measures_what_a_diagnosis_does():
    monitor = uc.CollapseMonitor(X)
    vae = uc.VAE(**SETTINGS).fit(X, callbacks=[monitor])
    report = uc.diagnose(vae, X, verbose=False, thorough=False, n_importance=1)
    last = monitor.history.iloc[-1]
    assert monitor.history["epoch"].tolist() == list(range(6))
    assert last["kl_nats"] == pytest.approx(report.estimates["kl_nats"].value, rel=1e-5)
    assert last["active_units"] == report.estimates["active_units"].value
    information = report.estimates["mutual_information_nats"]
    assert abs(last["mi_nats"] - information.value) < 3 * information.standard_error


def test_training_takes_the_same_course_with_it():
    alone, watched = (
        uc.VAE(**SETTINGS).fit(X, callbacks=callbacks)
        for callbacks in ([], [uc.CollapseMonitor(X)])
    )
    for one, other in zip(alone.model_.parameters(), watched.model_.parameters(), strict=True):
        assert torch.equal(one, other)
    module, _ = fit([1.0] * 3)
    also, _ = fit([1.0] * 3, uc.CollapseMonitor(X))
    assert torch.equal(module.encoder.weight, also.encoder.weight)


def test_it_warns_when_a_collapse_begins():
    """The weight of the KL goes up to where latents do not pay for themselves."""
    monitor = uc.CollapseMonitor(X)
    with pytest.warns(uc.CollapseWarning, match="A collapse has begun") as caught:
        fit([0.1] * 10 + [3e3] * 20, monitor)
    assert monitor.history["informative_units"].iloc[9] == 2
    assert monitor.history["informative_units"].iloc[-1] == 0
    said = min(
        int(str(each.message).split("epoch ")[1].split(",")[0])
        for each in caught
        if each.category is uc.CollapseWarning
    )
    assert 10 < said < 29  # while it was trained


def test_it_says_that_nothing_ever_was_alive():
    with pytest.warns(
        uc.CollapseWarning, match="No latent unit has been informative up to epoch 4"
    ):
        fit([1.0] * 6, uc.CollapseMonitor(X), dead=True)


def test_it_does_not_warn_of_a_healthy_model():
    with warnings.catch_warnings():
        warnings.simplefilter("error", uc.CollapseWarning)
        fit([1.0] * 20, uc.CollapseMonitor(X))
        uc.VAE(**SETTINGS, inverse_lipschitz=1.0).fit(X, callbacks=[uc.CollapseMonitor(X)])


def test_its_numbers_are_in_the_progress_bar():
    _, trainer = fit([1.0] * 2, uc.CollapseMonitor(X))
    assert set(trainer.progress_bar_metrics) == {
        "kl_nats",
        "active_units",
        "informative_units",
        "mi_nats",
    }


def test_it_looks_as_often_as_it_is_told():
    monitor = uc.CollapseMonitor(X, every_n_epochs=2)
    fit([1.0] * 5, monitor)
    assert monitor.history["epoch"].tolist() == [1, 3]


@pytest.mark.extra
@pytest.mark.parametrize("own", [True, False])
def test_its_numbers_are_on_the_board(tmp_path, own):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the extra 'tensorboard'",
    )
    from lightning.pytorch.loggers import TensorBoardLogger

    monitor = uc.CollapseMonitor(X, log_dir=tmp_path if own else None)
    fit(
        [1.0] * 3,
        monitor,
        logger=False if own else TensorBoardLogger(tmp_path, name=None, version=""),
    )
    found = events.EventAccumulator(str(tmp_path))
    found.Reload()
    values = [event.value for event in found.Scalars("kl_nats")]
    assert values == pytest.approx(monitor.history["kl_nats"].tolist())


def test_another_training_begins_anew():
    monitor = uc.CollapseMonitor(X)
    fit([1.0] * 3, monitor)
    with warnings.catch_warnings():
        warnings.simplefilter("error", uc.CollapseWarning)
        fit([1.0] * 3, monitor, dead=True)
    assert monitor.history["epoch"].tolist() == [0, 1, 2]


def test_a_look_that_fails_does_not_end_the_training():
    monitor = uc.CollapseMonitor(X)

    class Overflowing(Module):
        def posterior(self, x):
            q = super().posterior(x)
            return q if self.training or self.current_epoch != 1 else Normal(q.mean / 0, q.stddev)

    with pytest.warns(UserWarning, match="could not measure"):
        fit([1.0] * 3, monitor, kind=Overflowing)
    assert monitor.history["kl_nats"].isna().tolist() == [False, True, False]


def test_it_takes_loaders_too():
    rows = torch.as_tensor(X, dtype=torch.float32)
    monitor, of_array = (
        uc.CollapseMonitor(DataLoader(TensorDataset(rows), 50)),
        uc.CollapseMonitor(X),
    )
    fit([1.0] * 2, monitor)
    fit([1.0] * 2, of_array)
    assert monitor.history["kl_nats"].tolist() == pytest.approx(
        of_array.history["kl_nats"].tolist()
    )


def test_unusable_rows_models_and_arguments_are_refused():
    class Without(Module):
        prior = None

    with pytest.raises(InputError, match=r"got Without\. Give model="):
        fit([1.0], uc.CollapseMonitor(X), kind=Without)
    with pytest.raises(InputError, match="at least 2 rows, got 1"):
        fit([1.0], uc.CollapseMonitor(X[:1]))
    with pytest.raises(InputError, match="every_n_epochs"):
        uc.CollapseMonitor(X, every_n_epochs=0)

"""A callback for Lightning that watches, while a model is trained, whether its latents are used."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd

from uncollapse._utils.errors import CollapseWarning, DataError, InputError, ParameterError
from uncollapse._utils.validation import check_count
from uncollapse.adapters import AdaptedModel, VAEProtocol, adapt_model, evaluating
from uncollapse.measures.batches import some_rows
from uncollapse.measures.information import infer, information
from uncollapse.measures.units import Units
from uncollapse.models import LatentModel

MAX_ROWS = 1000
NUMBERS = ("kl_nats", "active_units", "informative_units", "mi_nats")
# A collapse has begun where at most this share of the units that once responded still do, in so
# many looks in a row.
LEFT, N_LOOKS = 0.5, 2
# Looks after which a model of which no unit has ever responded is said to be collapsed from the
# start.
PATIENCE = 5


class CollapseMonitor(pl.Callback):
    """At the end of epochs, measure KL, active units and mutual information, and warn where a
    collapse begins.

    The numbers are logged as ``kl_nats``, ``active_units`` (Burda's rule), ``informative_units``
    (the scale-free rule) and ``mi_nats``: Lightning shows them in its progress bar, and gives them
    to whatever loggers the trainer has. Training takes the same course with the monitor as without.

    Args:
        X: rows to look at, best some that are not trained on; at most 1,000 of them are. Estimators
            of this package bring their own if these are not given.
        model: whatever `diagnose` takes; the LightningModule that is trained, which must then have
            `prior()`, `posterior(x)` and `likelihood(z)`, if not given.
        every_n_epochs: how often.
        log_dir: a folder for TensorBoard, for trainers without a logger, such as those of our
            estimators (extra ``tensorboard``).

    Raises:
        InputError: at once for arguments that cannot be used; when training begins, if there is no
            model or no rows.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.diag([3.0, 2.0, 0.1])
    >>> monitor = uc.CollapseMonitor()
    >>> vae = uc.VAE(latent_dim=1, max_epochs=3, random_state=0).fit(X, callbacks=[monitor])
    >>> monitor.history.columns.tolist()
    ['epoch', 'kl_nats', 'active_units', 'informative_units', 'mi_nats']
    """

    def __init__(
        self,
        X: Any = None,
        *,
        model: Any = None,
        every_n_epochs: int = 1,
        log_dir: str | Path | None = None,
    ) -> None:
        check_count("every_n_epochs", every_n_epochs)
        self.given, self.model, self.every_n_epochs, self.log_dir = (
            X,
            model,
            every_n_epochs,
            log_dir,
        )
        self.looks: list[dict[str, float]] = []
        self.most = 0.0
        self.n_low = 0
        self._board = None if log_dir is None else _board(log_dir)

    @property
    def history(self) -> pd.DataFrame:
        """What was measured, a row for each look."""
        return pd.DataFrame(self.looks)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del trainer
        self.subject = self._as_subject(pl_module)
        self.rows = self._some_rows(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = getattr(pl_module, "epoch", trainer.current_epoch)
        if (epoch + 1) % self.every_n_epochs:
            return
        found = self._measured()
        pl_module.log_dict(found, prog_bar=True)
        if self.looks and epoch <= self.looks[-1]["epoch"]:  # another training has begun
            self.looks, self.most, self.n_low = [], 0.0, 0
        self.looks.append({"epoch": epoch, **found})
        if self._board is not None:
            for name, value in found.items():
                self._board.add_scalar(name, value, epoch)
            self._board.flush()
        self._judge(epoch, found)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del trainer, pl_module
        if self._board is not None:
            self._board.close()

    def _measured(self) -> dict[str, float]:
        """The numbers, NaN where posteriors are not finite, which must not end a training."""
        try:
            return measure(self.subject.model, self.rows)
        except InputError as error:
            warnings.warn(f"CollapseMonitor could not look: {error}", UserWarning, stacklevel=2)
            return dict.fromkeys(NUMBERS, math.nan)

    def _as_subject(self, pl_module: pl.LightningModule) -> AdaptedModel:
        if self.model is not None:
            return adapt_model(self.model)
        inner = getattr(pl_module, "model", None)
        if isinstance(inner, LatentModel):
            return adapt_model(inner)
        if not isinstance(pl_module, VAEProtocol):
            raise ParameterError(
                f"CollapseMonitor expects a module with prior(), posterior(x) and likelihood(z), "
                f"got {type(pl_module).__name__}: "
                "give model=, whatever uc.diagnose takes."
            )
        return adapt_model(pl_module)

    def _some_rows(self, pl_module: pl.LightningModule) -> np.ndarray:
        own: Callable[[int], np.ndarray] | None = getattr(pl_module, "sample_rows", None)
        if self.given is not None:
            rows = some_rows(self.subject, self.given, MAX_ROWS)
        elif own is not None:
            rows = self.subject.model.observe(own(MAX_ROWS))
        else:
            raise DataError(
                "CollapseMonitor expects rows to look at, got none: give X, best some that are not "
                "trained on."
            )
        if len(rows) < 2:
            raise DataError(f"CollapseMonitor expects at least 2 rows, got {len(rows)}.")
        return rows

    def _judge(self, epoch: int, found: dict[str, float]) -> None:
        alive = found["informative_units"]
        self.n_low = self.n_low + 1 if alive <= LEFT * self.most else 0
        if self.most and self.n_low == N_LOOKS:
            _warn(
                f"a collapse has begun: {alive:.0f} of the {self.most:.0f} latent units that once "
                "responded to the data still do "
                f"in epoch {epoch}, and the KL is {found['kl_nats']:.3g} nats."
            )
            self.most, self.n_low = alive, 0
        if not self.most and not alive and len(self.looks) == PATIENCE:
            _warn(
                f"no latent unit has responded to the data up to epoch {epoch}: the KL is "
                f"{found['kl_nats']:.3g} nats."
            )
        self.most = max(self.most, alive)


def measure(model: LatentModel, rows: np.ndarray) -> dict[str, float]:
    """KL, active and informative units, and mutual information of a model that is being trained.

    Args:
        model: in any mode.
        rows: shape (n, *features), as the model observes them.
    """
    with evaluating(model):
        posteriors, units = infer(model, rows), Units(model)
        units.add(posteriors, rows)
        told = information(model, rows, posteriors, np.arange(len(rows)))
    table = units.table()
    found = (
        units.kl.estimate().value,
        table["active"].sum(),
        table["informative"].sum(),
        max(0.0, told.estimate.value),
    )
    return dict(zip(NUMBERS, map(float, found), strict=True))


def _warn(what: str) -> None:
    warnings.warn(
        f"{what[0].upper()}{what[1:]} Stop, and use inverse_lipschitz, free bits or a warm-up of "
        "the KL; uc.diagnose says more.",
        CollapseWarning,
        stacklevel=2,
    )


def _board(log_dir: str | Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "log_dir expects TensorBoard, which is not installed: pip install "
            "'uncollapse[tensorboard]'."
        ) from None
    return SummaryWriter(str(log_dir))

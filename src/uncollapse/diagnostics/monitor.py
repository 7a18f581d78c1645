"""Callback that measures latent units during training, and warns of collapse."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd

from uncollapse._utils.errors import CollapseWarning, DataError, InputError, ParameterError
from uncollapse._utils.validation import check_count
from uncollapse.adapters import VAEProtocol, adapt_model
from uncollapse.measures.batches import some_rows
from uncollapse.measures.information import information_of_rows
from uncollapse.measures.posteriors import infer
from uncollapse.measures.sums import UnitSums
from uncollapse.models import LatentModel, evaluating

if TYPE_CHECKING:
    from uncollapse.training import Epoch

MAX_ROWS = 1000
NUMBERS = ("kl_nats", "active_units", "informative_units", "mi_nats")
# A collapse begins when at most this share of the informative units is left, in this many
# consecutive measurements.
LEFT, N_LOW = 0.5, 2
# A model without any informative unit after this many measurements never had one.
PATIENCE = 5


class CollapseMonitor(pl.Callback):
    """Measure KL, active units and mutual information during training, and warn of collapse.

    Give it to a Lightning Trainer, or to `fit` of this package, as one of the ``callbacks``. The
    numbers are ``kl_nats``, ``active_units`` (Burda's rule), ``informative_units`` (scale-free
    rule) and ``mi_nats``. Lightning shows them in its progress bar and passes them to the loggers
    of the trainer. The monitor does not change the training.

    Args:
        X: rows to measure on, preferably held out; at most 1,000 are used.
        model: any model that `diagnose` accepts. By default the trained model; a LightningModule
            must then have `prior()`, `posterior(x)` and `likelihood(z)`.
        every_n_epochs: measure at the end of every n-th epoch.
        log_dir: folder for TensorBoard, if there is no other logger (extra ``tensorboard``).

    Raises:
        InputError: at once for unusable arguments; when training begins, if the rows or the model
            are unusable.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.diag([3.0, 2.0, 0.1])
    >>> monitor = uc.CollapseMonitor(X)
    >>> vae = uc.VAE(latent_dim=1, max_epochs=3, random_state=0).fit(X, callbacks=[monitor])
    >>> monitor.history.columns.tolist()
    ['epoch', 'kl_nats', 'active_units', 'informative_units', 'mi_nats']
    """

    def __init__(
        self,
        X: Any,
        *,
        model: Any = None,
        every_n_epochs: int = 1,
        log_dir: str | Path | None = None,
    ) -> None:
        check_count("every_n_epochs", every_n_epochs)
        self.X, self.model, self.every_n_epochs = X, model, every_n_epochs
        self._trained: Any = None
        self._records: list[dict[str, float]] = []
        # Most informative units so far, and the number of measurements in a row with few of them.
        self._most, self._n_low = 0.0, 0
        self._writer = None if log_dir is None else _summary_writer(log_dir)

    @property
    def history(self) -> pd.DataFrame:
        """A row for each measurement."""
        return pd.DataFrame(self._records)

    def __call__(self, epoch: Epoch) -> None:
        """Measure after an epoch of `fit`."""
        if self._trained is not epoch.model:
            self._begin(epoch.model)
        self._measure(epoch.number)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the rows before Lightning begins to train."""
        self._begin(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure after an epoch of Lightning, and log the numbers."""
        pl_module.log_dict(self._measure(trainer.current_epoch), prog_bar=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, trained: Any) -> None:
        if self.model is None and not isinstance(trained, VAEProtocol | LatentModel):
            raise ParameterError(
                "CollapseMonitor expects a module with prior(), posterior(x) and likelihood(z), "
                f"got {type(trained).__name__}. Give model= something that uc.diagnose accepts."
            )
        self._trained = trained
        self._subject = adapt_model(trained if self.model is None else self.model)
        self._rows = some_rows(self._subject, self.X, MAX_ROWS)
        if len(self._rows) < 2:
            raise DataError(f"CollapseMonitor expects at least 2 rows, got {len(self._rows)}.")

    def _measure(self, epoch: int) -> dict[str, float]:
        """Measure and record if this epoch is due; return the new numbers."""
        if (epoch + 1) % self.every_n_epochs:
            return {}
        try:
            numbers = measure(self._subject.model, self._rows)
        # Posteriors that are not finite must not end the training.
        except InputError as error:
            message = f"CollapseMonitor could not measure: {error}"
            warnings.warn(message, UserWarning, stacklevel=2)
            numbers = dict.fromkeys(NUMBERS, math.nan)
        if self._records and epoch <= self._records[-1]["epoch"]:  # another training has begun
            self._records, self._most, self._n_low = [], 0.0, 0
        self._records.append({"epoch": epoch, **numbers})
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, epoch)
            self._writer.flush()
        self._warn_of_collapse(epoch, numbers)
        return numbers

    def _warn_of_collapse(self, epoch: int, numbers: dict[str, float]) -> None:
        n_informative, kl = numbers["informative_units"], numbers["kl_nats"]
        self._n_low = self._n_low + 1 if n_informative <= LEFT * self._most else 0
        if self._most and self._n_low == N_LOW:
            _warn(
                f"A collapse has begun: {n_informative:.0f} of {self._most:.0f} informative latent "
                f"units are left in epoch {epoch}, and the KL is {kl:.3g} nats."
            )
            self._most, self._n_low = n_informative, 0
        if not self._most and not n_informative and len(self._records) == PATIENCE:
            _warn(
                f"No latent unit has been informative up to epoch {epoch}: the KL is {kl:.3g} nats."
            )
        self._most = max(self._most, n_informative)


def measure(model: LatentModel, rows: np.ndarray) -> dict[str, float]:
    """Return KL, active and informative units, and mutual information on rows as the model observes
    them."""
    with evaluating(model):
        posteriors, units = infer(model, rows), UnitSums(model)
        units.add(posteriors, rows)
        found = information_of_rows(model, rows, posteriors.means, posteriors.variances)
    table = units.table()
    return {
        "kl_nats": units.kl.estimate().value,
        "active_units": float(table["active"].sum()),
        "informative_units": float(table["informative"].sum()),
        "mi_nats": max(0.0, found.value),
    }


def _warn(sentence: str) -> None:
    remedy = "Stop, and use inverse_lipschitz, free bits or KL warm-up; see uc.diagnose."
    warnings.warn(f"{sentence} {remedy}", CollapseWarning, stacklevel=2)


def _summary_writer(log_dir: str | Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ParameterError(
            "log_dir needs TensorBoard, which is not installed: pip install "
            "'uncollapse[tensorboard]'."
        ) from None
    return SummaryWriter(str(log_dir))

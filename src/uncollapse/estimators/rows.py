"""Estimators of rows of numbers, in memory or on disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from typing_extensions import TypeVar

from uncollapse import families, models
from uncollapse._utils.errors import DataError
from uncollapse._utils.progress import progress_bar, spinner
from uncollapse._utils.random import random_indices
from uncollapse._utils.signals import deferred_interrupt
from uncollapse._utils.validation import (
    FLOATS,
    as_input_error,
    check_resolution,
    finite_floats,
    living_workers,
    rows_counted_from,
)
from uncollapse.estimators.base import PREDICTED_ROWS_AT_ONCE, Estimator
from uncollapse.estimators.settings import VAESettings

if TYPE_CHECKING:
    from torch import Tensor

    from uncollapse._utils.run_folders import SavedRun
    from uncollapse.data import RowSource
    from uncollapse.estimators.plan import TrainingData
    from uncollapse.training import Budget

RowModel = TypeVar("RowModel", bound="models.RowModel", default=Any)
RowSettings = TypeVar("RowSettings", bound=VAESettings, default=Any)


class RowEstimator(Estimator[RowModel, RowSettings]):
    """An estimator of rows of numbers, which fits arrays, tables and data on disk."""

    @living_workers()
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        budget: Budget | None = None,
        callbacks: Sequence[Any] = (),
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Train on rows.

        Args:
            X: shape (n, n_features) with n >= 2, and at least a row for each component of a
                mixture. Memory maps beyond 256 MB, a backed AnnData, and Parquet
                (`uncollapse.data.StoredParquet`) stay on disk. A PyTorch data set is read item by
                item; a loader keeps its order, its workers and its batches, whatever `batch_size`
                is.
            y: ignored.
            budget: limit of training, which overrides `max_epochs`.
            callbacks: functions that are called with each `uc.training.Epoch`.
            checkpoint: folder for the state of the training and its log, a JSON line for each
                epoch. If it holds the state of the same fit, training resumes, and ends in the
                same parameters as an uninterrupted fit.

        Raises:
            InputError: if an argument or the data cannot be used, or the folder belongs to another
                training. An earlier fit is kept.
            LostDataError: if data can no longer be read; the estimator keeps what it has learned.
            NonFiniteLossError: if a loss is not finite; the estimator keeps the last good state.
            KeyboardInterrupt: after Ctrl-C or SIGTERM; the estimator keeps what it has learned.
        """
        del y
        from uncollapse.estimators.plan import prepare

        settings = self.check_settings()
        data = self._read(X, settings)
        with spinner("preparing", settings.verbose):
            model, plan = prepare(self, settings, data, budget, callbacks, checkpoint)
        with deferred_interrupt():  # a fit must not leave features of one model and rows of another
            with as_input_error():
                seen = X if data.source is None else data.rows
                validate_data(self, seen, skip_check_array=True, reset=True)
            if data.source is not None and data.source.feature_names is not None:
                self.feature_names_in_ = np.array(data.source.feature_names, dtype=object)
            self._train(model, plan)
        return self

    def _read(self, X: Any, settings: RowSettings) -> TrainingData:
        """Check all rows, and keep them or a random sample of those that stay on disk."""
        from uncollapse.estimators.data_summary import summarize
        from uncollapse.estimators.plan import TrainingData, digest_of

        family = families.get_family(settings.family)
        at_least = getattr(settings, "n_components", 2)
        source = _source(X, settings.batch_size)
        if source is None:
            rows = self._read_array(X)
            family.check(rows)
            is_observed, digest = family.is_observed(rows), digest_of(rows)
        else:
            found = summarize(source, family, settings.verbose)
            rows, is_observed, digest = found.sample, found.is_observed, found.digest
        if len(rows) < at_least:
            raise DataError(
                f"training expects at least {at_least} rows, got n_samples={len(rows)}. Give more "
                "data."
            )
        if not is_observed:
            warnings.warn(
                f"X holds values strictly between 0 and 1: family {family.name!r} takes them as "
                "probabilities of a 1 and draws them anew at each step (dynamic binarization).",
                UserWarning,
                stacklevel=4,
            )
        return TrainingData(rows, rows.shape[1], digest, source)

    def _read_array(self, X: Any) -> np.ndarray:
        is_listed = isinstance(X, list) or (isinstance(X, np.ndarray) and X.ndim == 1)
        first = X[0] if is_listed and len(X) else None
        if isinstance(first, str):
            raise DataError(
                f"{type(self).__name__} expects rows of numbers, got documents. Use SequenceVAE."
            )
        with as_input_error():
            given = check_array(
                X, dtype=FLOATS, ensure_all_finite=False, estimator=self, input_name="X"
            )
        rows = finite_floats(given, "X")
        check_resolution(given, rows)
        return rows

    def _initialize(self, model: RowModel, settings: RowSettings, data: TrainingData) -> None:
        from uncollapse.estimators.building import initialize_from_data

        del settings
        initialize_from_data(model, data.rows)

    def inverse_transform(self, Z: Any) -> Any:
        """Return means E[x|z], shape (n, n_features), float32; under "categorical", where codes
        have no mean, the most probable codes.

        Raises:
            DataError: if Z is not of shape (n, latent_dim) or not finite.
        """
        return self._in_batches(self._check_codes(Z), lambda z: self.model_.likelihood(z).mean)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draw x from the model, shape (n_samples, n_features), float32.

        Args:
            n_samples: number of draws.
            random_state: a seed or a RandomState; None draws anew at each call.

        Raises:
            ParameterError: if `n_samples` is not positive.
        """
        with self._sampling(n_samples, random_state):
            return self._draw_rows(self.model_.draw_prior(n_samples))

    def _draw_rows(self, z: Tensor) -> np.ndarray:
        """Draw a row from p(x|z) for each z."""
        return self._in_batches(z.cpu().numpy(), lambda z: self.model_.likelihood(z).sample())

    def random_rows(self, X: Any, n: int) -> np.ndarray:
        """Return at most n random rows of X in random order, as the model observes them, shape
        (n, n_features).

        All rows are checked, and the same ones are returned at each call. If rows are not in
        memory, only the returned ones are kept.

        Raises:
            DataError: as `check_rows` does.
        """
        source = _source(X, PREDICTED_ROWS_AT_ONCE)
        if source is None or not len(source):  # the length is unknown before the rows are read
            return super().random_rows(X, n)
        order = random_indices(len(source), n)
        places, found, start = np.sort(order), [], 0
        for piece in self._checked_pieces(source):
            first, last = np.searchsorted(places, [start, start + len(piece)])
            found.append(piece[places[first:last] - start])
            start += len(piece)
        return self.model_.observe(np.concatenate(found)[np.searchsorted(places, order)])

    def _checked_pieces(self, X: Any) -> Iterator[np.ndarray]:
        """Yield checked rows, piece after piece if they are not in memory."""
        check_is_fitted(self)
        source, n = _source(X, PREDICTED_ROWS_AT_ONCE), 0
        if source is None:
            yield self._check(X)
            return
        if not source.is_ordered:
            raise DataError(
                "X expects a loader that neither shuffles nor skips rows, got one that does. "
                "Give its data set."
            )
        with progress_bar("rows", len(source) or None, self.verbose) as advance:
            for table in source.tables():
                with rows_counted_from(n):
                    rows = self._check(table)
                yield rows
                n += len(rows)
                advance("", n)

    def _check(self, X: Any) -> np.ndarray:
        with as_input_error():
            given = validate_data(self, X, reset=False, dtype=FLOATS, ensure_all_finite=False)
        rows = finite_floats(given, "X")
        self.model_.family.check(rows)
        return rows

    @property
    def _size(self) -> int:
        """Number of features or of symbols that the model was built for."""
        return int(self.n_features_in_)

    def _restore(self, run: SavedRun) -> None:
        """Restore fitted attributes, other than the model and the settings, from a saved run."""
        self.n_features_in_ = run.n_features
        if run.feature_names is not None:
            self.feature_names_in_ = np.array(run.feature_names, dtype=object)


def _source(X: Any, batch_size: int) -> RowSource | None:
    """Return a source of rows for data that stay where they are; None for data in memory."""
    if type(X) is np.ndarray:
        return None
    from uncollapse.estimators.data_summary import as_source

    return as_source(X, batch_size)

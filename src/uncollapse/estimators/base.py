"""The base of all estimators: scikit-learn's interface, and the way from data to a fitted model.

Modules of estimators load torch when they first train or use a model, not before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, cast

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted
from typing_extensions import TypeVar

from uncollapse import families, models, strategies
from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.random import one_pass, random_indices, seeded
from uncollapse._utils.validation import (
    FLOATS,
    as_input_error,
    check_count,
    finite_floats,
    living_workers,
)
from uncollapse.estimators.settings import EstimatorSettings, document_arguments, to_json, validate

if TYPE_CHECKING:
    from torch import Tensor

    from uncollapse._utils.run_folders import SavedRun, SavedVocabulary
    from uncollapse.estimators.plan import Plan, TrainingData
    from uncollapse.training import Budget

PREDICTED_ROWS_AT_ONCE = 1000
Model = TypeVar("Model", bound="models.ComposedModel", default=Any)
SettingsType = TypeVar("SettingsType", bound=EstimatorSettings, default=Any)


class Estimator(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
    ABC,
    Generic[Model, SettingsType],
):
    """A latent variable model as a scikit-learn transformer.

    A subclass inherits its arguments from a settings class, names that as `settings_type`, and
    builds a model from validated settings.

    Attributes:
        model_: the trained model.
        history_: table with a row for each epoch: epoch, loss, reconstruction and kl in nats per
            example, and seconds and decoder evaluations since the start.
        settings_: the validated settings of the fit.
        n_features_in_: number of features seen in `fit`.
        feature_names_in_: names of the features, if X had some.
        seed_: the seed that the fit used.
        inverse_lipschitz_: constants after training, one per map; None for an ordinary decoder.
    """

    registry: ClassVar[dict[str, type[Estimator[Any, Any]]]] = {}  # estimators that can be saved
    settings_type: ClassVar[type[EstimatorSettings]]
    history_columns: ClassVar[tuple[str, ...]] = (
        "epoch",
        "loss",
        "reconstruction",
        "kl",
        "seconds",
        "evaluations",
    )
    model_: Model
    settings_: SettingsType

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "settings_type" not in vars(cls):
            return
        cls.__doc__ = document_arguments(cls.__doc__ or "", cls.settings_type)
        if cls.__module__.startswith("uncollapse."):
            Estimator.registry[cls.__name__] = cls

    @classmethod
    def build(cls, settings: SettingsType, size: int) -> Model:
        """Build an untrained model.

        Args:
            settings: validated settings.
            size: number of features or of symbols.

        Raises:
            ParameterError: if the settings do not suit each other or the size.
        """
        model: Model = cls._build(settings, size)
        strategies.get_strategy(settings.strategy).modify_model(model)
        return model

    @staticmethod
    @abstractmethod
    def _build(settings: Any, size: int) -> Any:
        """Build an untrained model, before the strategy modifies it."""

    def check_settings(self) -> SettingsType:
        """Return the estimator's arguments as validated settings.

        Raises:
            ParameterError: if an argument is not accepted.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self.settings_type)}
        return cast(SettingsType, validate(self.settings_type, given))

    @abstractmethod
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        budget: Budget | None = None,
        callbacks: Sequence[Any] = (),
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Train on data."""

    def _hold_out(self, data: TrainingData, seed: int) -> TrainingData:
        """Hold out validation rows, by which the best epoch is found; none by default."""
        del seed
        return data

    @abstractmethod
    def _initialize(self, model: Model, settings: SettingsType, data: TrainingData) -> None:
        """Initialize an untrained model from the data."""

    def _train(self, model: Model, plan: Plan) -> None:
        """Train a model, and keep what it has learned even if training is interrupted."""
        import pandas as pd

        self.settings_, self.seed_ = cast(SettingsType, plan.settings), plan.seed
        try:
            if plan.checkpoint is not None:
                plan.checkpoint.begin()
            self._learn(model, plan)
        finally:
            self.model_ = model.eval().requires_grad_(False)
            history = pd.DataFrame(plan.history, columns=list(self.history_columns))
            self.history_ = history.astype({"epoch": int, "evaluations": int})

    def _learn(self, model: Model, plan: Plan) -> None:
        """Train the model in place, and extend the plan's history."""
        plan.train(model, range(self.settings_.max_epochs), plan.seed)

    @living_workers()
    def transform(self, X: Any) -> np.ndarray:
        """Return posterior means E[z|x], shape (n, latent_dim), float32.

        The encoder takes grey levels as they are, without the binarization that family
        "bernoulli" applies in training.
        """
        return joined(
            self._in_batches(rows, lambda x: self.model_.posterior(x).mean)
            for rows in self._checked_pieces(X)
        )

    @abstractmethod
    def inverse_transform(self, Z: Any) -> Any:
        """Decode latents of shape (n, latent_dim)."""

    def _check_codes(self, Z: Any) -> np.ndarray:
        check_is_fitted(self)
        with as_input_error():
            given = check_array(Z, dtype=FLOATS, ensure_all_finite=False, input_name="Z")
        codes = finite_floats(given, "Z")
        if codes.shape[1] != self._n_features_out:
            raise DataError(
                f"Z expects {self._n_features_out} columns, one for each latent unit, got "
                f"{codes.shape[1]}."
            )
        return codes

    def reconstruct(self, X: Any) -> Any:
        """Return `inverse_transform` of the posterior means of X."""
        return self.inverse_transform(self.transform(X))

    @contextmanager
    def _sampling(self, n_samples: int, random_state: Any) -> Iterator[None]:
        """Check the arguments of `sample`, and seed the generators within the block."""
        check_is_fitted(self)
        check_count("n_samples", n_samples)
        with seeded(check_random_state(random_state).randint(2**31)):
            yield

    def score_samples(self, X: Any, n_importance: int = 64) -> np.ndarray:
        """Estimate log p(x) of each row in nats by importance weighting (Burda et al. 2016), shape
        (n,), float32.

        All random draws, also those that binarize grey levels under "bernoulli", depend on the row
        alone, so that its score does not depend on other rows. `devices` share the rows.

        Args:
            X: shape (n, n_features).
            n_importance: number of draws of z for each row; the estimate rises to log p(x) with it.
        """
        from uncollapse.measures.likelihood import importance_log_likelihood_per_row
        from uncollapse.measures.worker_pool import WorkerPool

        check_count("n_importance", n_importance)
        model = self._fitted

        def score(rows: np.ndarray) -> np.ndarray:
            found = importance_log_likelihood_per_row(
                pool, model.observe(rows), n_importance, self.verbose
            )
            return found.astype(np.float32)

        with WorkerPool(model, self.devices) as pool:
            return self._map_rows(X, score)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of `score_samples`, in nats per example. y is ignored."""
        del y
        return float(self.score_samples(X).mean(dtype=np.float64))

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Save to a folder, for `uc.load`: weights as safetensors, the rest as JSON and CSV.

        Raises:
            InputError: if the folder exists and `overwrite` is False, or cannot be written.
        """
        from uncollapse._utils.run_folders import SavedRun, write_run

        check_is_fitted(self)
        if self.registry.get(type(self).__name__) is not type(self):
            raise ParameterError(
                f"saving expects one of {', '.join(self.registry)}, got {type(self).__name__}. "
                "Save its model_ with torch."
            )
        family = self.model_.family
        if type(family) is not families.FAMILIES.get(family.name):
            raise ParameterError(
                f"saving expects a family of {', '.join(families.FAMILIES)}, got {family!r}, "
                "which could not be loaded again."
            )
        names = getattr(self, "feature_names_in_", None)
        is_seed = isinstance(self.settings_.random_state, int)
        run = SavedRun(
            estimator=type(self).__name__,
            parameters={**to_json(self.settings_), **({} if is_seed else {"random_state": None})},
            n_features=self._size,
            feature_names=None if names is None else names.tolist(),
            vocabulary=self._saved_vocabulary,
            seed=self.seed_,
            constants=self.inverse_lipschitz_,
        )
        write_run(Path(folder), run, self.model_.state_dict(), self.history_, overwrite)
        return Path(folder)

    @property
    def inverse_lipschitz_(self) -> tuple[float, ...] | None:
        """Constants after training, one per map; None for an ordinary decoder."""
        return self._fitted.decoder.constants or None

    @property
    def _fitted(self) -> Model:
        """The trained model; raises NotFittedError before `fit`."""
        check_is_fitted(self, "model_")
        return self.model_

    @property
    @abstractmethod
    def _size(self) -> int:
        """Number of features or of symbols that the model was built for."""

    @property
    def _saved_vocabulary(self) -> SavedVocabulary | None:
        """The symbols of sequences, for a saved run."""
        return None

    @abstractmethod
    def _restore(self, run: SavedRun) -> None:
        """Restore fitted attributes, other than the model and the settings, from a saved run."""

    @property
    def _n_features_out(self) -> int:
        return self.model_.latent_dim

    def check_rows(self, X: Any) -> np.ndarray:
        """Return X as float32 rows that the fitted model accepts.

        Raises:
            DataError: if X has other columns than in `fit`, is not finite, or lies outside the
                family's support.
        """
        return joined(self._checked_pieces(X))

    def random_rows(self, X: Any, n: int) -> np.ndarray:
        """Return at most n random rows of X in random order, as the model observes them, shape
        (n, n_features). All rows are checked, and the same ones are returned at each call.

        Raises:
            DataError: as `check_rows` does.
        """
        rows = self.check_rows(X)
        return self.model_.observe(rows[random_indices(len(rows), n)])

    @abstractmethod
    def _checked_pieces(self, X: Any) -> Iterator[np.ndarray]:
        """Yield checked rows, piece after piece if they are not in memory."""

    @living_workers()
    def _map_rows(self, X: Any, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Apply a function to the rows of X, with noise that belongs to each row, keeping no more
        rows in memory than X does."""
        with one_pass():
            return joined(function(rows) for rows in self._checked_pieces(X))

    def _in_batches(self, rows: np.ndarray, function: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Apply a function to some rows at a time, on the model's device."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(rows), PREDICTED_ROWS_AT_ONCE):
                batch = models.to_device(self.model_, rows[start : start + PREDICTED_ROWS_AT_ONCE])
                found.append(function(batch).cpu().numpy())
        return np.concatenate(found)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def joined(pieces: Iterator[np.ndarray]) -> np.ndarray:
    """Concatenate pieces, without copying a single one."""
    first, *others = pieces
    return np.concatenate([first, *others]) if others else first

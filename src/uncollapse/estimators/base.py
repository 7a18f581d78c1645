"""What all estimators share: the scikit-learn face, and the way from data to a trained model."""

from __future__ import annotations

import hashlib
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from uncollapse import models
from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.parameters import check_parameters
from uncollapse._utils.progress import progress_bar, spinner
from uncollapse._utils.random import derived_seed, one_pass, seeded
from uncollapse._utils.run_folders import SavedVocabulary, Settings, write_run
from uncollapse._utils.signals import deferred_interrupt
from uncollapse._utils.validation import (
    FLOATS,
    as_input_error,
    check_count,
    check_resolution,
    finite_floats,
    living_workers,
    rows_counted_from,
)
from uncollapse.data.loaders import LoadedRows
from uncollapse.data.stored import RowSource, StoredRows
from uncollapse.estimators.building import (
    check_memory,
    initialize_from_data,
    lightning_arguments,
    resolve_device,
)
from uncollapse.estimators.data_summary import as_source, summarize
from uncollapse.estimators.settings import (
    RUNTIME_ARGUMENTS,
    EstimatorSettings,
    document_arguments,
)
from uncollapse.families import FAMILIES, get_family
from uncollapse.measures.likelihood import importance_log_likelihood_per_row
from uncollapse.measures.worker_pool import WorkerPool
from uncollapse.models import to_device
from uncollapse.objectives import Objective, get_objective
from uncollapse.strategies import Strategy, get_strategy
from uncollapse.training.batches import Batches, BatchesFromLoader, BatchesInMemory, BatchesOnDisk
from uncollapse.training.budget import Budget
from uncollapse.training.resume import Checkpoint

ROWS_AT_ONCE = 1000
MAX_WATCHED_ROWS = 1000
Drawn = TypeVar("Drawn")  # what draws of z are decoded to


class Estimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A latent variable model as a scikit-learn transformer.

    A subclass takes its arguments by name, annotated with what they accept, and says which model
    they make.

    Attributes:
        model_: the trained model.
        history_: the training, a row for each epoch: epoch, loss, reconstruction and kl in nats per
            example, and, since the start, seconds and evaluations of the decoder.
        n_features_in_: number of features seen in `fit`.
        feature_names_in_: their names, where X had some.
        seed_: the seed that was used.
        inverse_lipschitz_: the constants in force, one for each map; None for an ordinary decoder.
    """

    registry: ClassVar[dict[str, type[Estimator]]] = {}  # by name, those that can be saved
    history_columns: ClassVar[tuple[str, ...]] = (
        "epoch",
        "loss",
        "reconstruction",
        "kl",
        "seconds",
        "evaluations",
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("uncollapse."):
            Estimator.registry[cls.__name__] = cls
        settings = next(
            (base for base in cls.__bases__ if issubclass(base, EstimatorSettings)), None
        )
        if settings is not None and cls.__doc__:
            cls.__doc__ = document_arguments(cls.__doc__, settings)

    @classmethod
    def build(cls, parameters: Mapping[str, Any], n_features: int) -> models.VAE:
        """An untrained model from checked parameters.

        Raises:
            InputError: if the parameters do not suit the number of features.
        """
        model = cls._build(parameters, n_features)
        get_strategy(parameters["strategy"]).modify_model(model)
        return model

    @staticmethod
    @abstractmethod
    def _build(parameters: Mapping[str, Any], n_features: int) -> models.VAE:
        """The same, without what the strategy changes."""

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
            X: shape (n, n_features) with n >= 2, and a row for each component of a mixture. Memory
                maps beyond 256 MB, an AnnData that is backed, and Parquet
                (`uncollapse.data.StoredParquet`) stay on disk. A data set of PyTorch is read item
                by item; a loader keeps its order, its workers, and its batches, whatever
                `batch_size` says.
            y: ignored.
            budget: what training may use up, in place of `max_epochs`.
            callbacks: functions that are called with each `uc.training.Epoch`.
            checkpoint: a folder for the state of the training and its log, a JSON line for each
                epoch. Where it holds the state of this very training, that is taken up, and ends in
                the same parameters as if nothing had interrupted it.

        Raises:
            InputError: if a parameter or the data cannot be used, or the folder holds another
                training. What was fitted before is left as it was.
            LostDataError: an `InputError`, if data cannot be read any more; the estimator then
                holds what it has learned so far.
            NonFiniteLossError: if training meets a loss that is not finite; the estimator then
                holds the last good state.
            KeyboardInterrupt: after Ctrl-C or SIGTERM; the estimator then holds what it has learned
                so far.
        """
        del y
        parameters = check_parameters(type(self), self.get_params(deep=False))
        source = as_source(X, parameters["batch_size"])
        rows, digest = self._read_training_rows(X if source is None else source, parameters)
        X, n = (X, len(rows)) if source is None else (rows, len(source))
        with spinner("preparing", parameters["verbose"]):
            kept = None if checkpoint is None else Checkpoint(Path(checkpoint))
            data = {"shape": (n, *rows.shape[1:]), "digest": digest}
            seed = self._agree_on_seed(parameters, data, budget, kept)
            model = self._new_model(parameters, rows.shape[1], seed)
            initialize_from_data(model, rows)
            others: dict[str, Any] = {
                "callbacks": callbacks,
                "checkpoint": kept,
                "source": source,
            }
            plan = Plan.of(model, rows, parameters, seed, budget=budget, **others)
        with deferred_interrupt():  # what belongs to one fit is taken over as one
            with as_input_error():
                validate_data(self, X, skip_check_array=True, reset=True)  # takes down the features
            if source is not None and source.feature_names is not None:
                self.feature_names_in_ = np.array(source.feature_names, dtype=object)
            self._train(model, plan)
        return self

    def _agree_on_seed(
        self,
        parameters: Mapping[str, Any],
        data: Mapping[str, Any],
        budget: Budget | None,
        checkpoint: Checkpoint | None,
    ) -> int:
        """The seed that is asked for, or that of the training which is taken up."""
        random_state = parameters["random_state"]
        seed = choose_seed(random_state)
        if checkpoint is None:
            return seed
        told = {name: value for name, value in parameters.items() if name not in RUNTIME_ARGUMENTS}
        if "family" in told:
            told["family"] = get_family(told["family"]).spec
        identity = {
            "estimator": type(self).__name__,
            "parameters": told,
            "data": data,
            "seed": seed,
        }
        identity["budget"] = None if budget is None else vars(budget)
        return int(checkpoint.agree(identity, any_seed=not isinstance(random_state, int))["seed"])

    def _new_model(self, parameters: dict[str, Any], size: int, seed: int) -> Any:
        """An untrained model, of the kind that `build` makes."""
        parameters["device"] = resolve_device(parameters["device"])
        check_memory(lambda: self.build(parameters, size), parameters)
        with seeded(derived_seed(seed, "initialisation")):
            return self.build(parameters, size)

    def _read_training_rows(self, X: Any, parameters: Mapping[str, Any]) -> tuple[np.ndarray, str]:
        """All rows, or a random sample of those that stay where they are, once they have been found
        to be good; and a digest."""
        family, at_least = get_family(parameters["family"]), parameters.get("n_components", 2)
        if isinstance(X, RowSource):
            found = summarize(X, family, parameters["verbose"])
            rows, is_observed, digest = found.sample, found.is_observed, found.digest
        else:
            rows = self._read_array(X)
            family.check(rows)
            is_observed, digest = family.is_observed(rows), digest_of(rows)
        if len(rows) < at_least:
            raise DataError(
                f"training expects at least {at_least} rows, got n_samples={len(rows)}: give more "
                "data."
            )
        if not is_observed:
            warnings.warn(
                f"X holds values strictly between 0 and 1: family {family.name!r} takes them for "
                "probabilities of a 1 and draws "
                "them anew at each step (dynamic binarisation).",
                UserWarning,
                stacklevel=4,
            )
        return rows, digest

    def _read_array(self, X: Any) -> np.ndarray:
        first = (
            X[0]
            if (isinstance(X, list) or (isinstance(X, np.ndarray) and X.ndim == 1)) and len(X)
            else None
        )
        if isinstance(first, str):
            raise DataError(
                f"{type(self).__name__} expects rows of numbers, got documents: use SequenceVAE."
            )
        with as_input_error():
            given = check_array(
                X, dtype=FLOATS, ensure_all_finite=False, estimator=self, input_name="X"
            )
        rows = finite_floats(given, "X")
        check_resolution(given, rows)
        return rows

    def _train(self, model: models.VAE, plan: Plan) -> None:
        try:
            if plan.checkpoint is not None:
                plan.checkpoint.begin()
            self._learn(model, plan)
        finally:  # what has been learned is kept, whatever ended the training
            self.seed_ = plan.seed
            self.parameters_ = plan.parameters
            self.model_ = model.eval().requires_grad_(False)
            self.history_ = pd.DataFrame(plan.history, columns=list(self.history_columns)).astype(
                {"epoch": int, "evaluations": int}
            )

    def _learn(self, model: models.VAE, plan: Plan) -> None:
        """Train the model in place, and write down its history."""
        self._minimise(model, plan, range(plan.parameters["max_epochs"]), plan.seed)

    def _minimise(
        self,
        model: models.VAE,
        plan: Plan,
        epochs: range,
        seed: int,
        lengths: torch.Tensor | None = None,
        phase: str = "training",
    ) -> None:
        """Train for some of the epochs of a plan."""
        from uncollapse.training.best import Best
        from uncollapse.training.constants import Annealing, RateTarget
        from uncollapse.training.loop import LoopSettings, Training, train
        from uncollapse.training.observers import Callbacks, Observer
        from uncollapse.training.resume import Resume

        parameters = plan.parameters
        batches = plan.batches(seed, lengths)
        decoder: Any = model.decoder
        target = (
            None
            if parameters["target_kl"] is None
            else RateTarget(decoder, parameters["target_kl"])
        )
        observers: list[Observer] = [] if target is None else [target]
        if parameters["annealing"]:
            observers.append(Annealing(decoder))
        if plan.validation is not None:
            rows = torch.tensor(plan.validation)  # a copy, in aligned memory
            observers.append(Best(rows, None if target is None else target.is_settled))
        if plan.checkpoint is not None:
            observers.append(Resume(plan.checkpoint, phase))
        observers.append(Callbacks(plan.callbacks))
        if plan.watched is not None:
            plan.strategy.validation = model.observe(plan.watched[:MAX_WATCHED_ROWS])
        share = len(epochs) / parameters["max_epochs"]
        settings = LoopSettings(
            max_epochs=len(epochs),
            learning_rate=parameters["learning_rate"],
            seed=seed,
            budget=None if plan.budget is None else plan.budget.part(share),
            first_step=epochs.start * batches.n_batches,
            hardware=plan.hardware,
            verbose=parameters["verbose"],
        )
        train(
            Training(
                model, plan.objective, batches, settings, plan.strategy, observers, plan.history
            )
        )

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means E[z|x], shape (n, latent_dim), float32.

        Values that a family of discrete data would draw (grey levels under "bernoulli") go to the
        encoder as they are.
        """
        return self._row_by_row(
            X, lambda rows: self._in_batches(rows, lambda x: self.model_.posterior(x).mean)
        )

    def inverse_transform(self, Z: Any) -> Any:
        """Means E[x|z], shape (n, n_features), float32; under "categorical", whose codes have no
        mean, the most probable codes.

        Raises:
            InputError: if Z is not of shape (n, latent_dim) or not finite.
        """
        return self._in_batches(self._check_codes(Z), lambda z: self.model_.likelihood(z).mean)

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
        """`inverse_transform` at the posterior means of X, shape (n, n_features), float32."""
        return self.inverse_transform(self.transform(X))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draws of x from the model, shape (n_samples, n_features), float32.

        Args:
            n_samples: how many.
            random_state: a seed or a RandomState; None draws anew at each call.

        Raises:
            InputError: if `n_samples` is not positive.
        """
        return self._sample(self._prior_draws, self._likelihood_draws, n_samples, random_state)

    def _prior_draws(self, n: int) -> torch.Tensor:
        z: torch.Tensor = self.model_.prior().sample((n,))
        return z

    def _likelihood_draws(self, codes: np.ndarray) -> np.ndarray:
        return self._in_batches(codes, lambda z: self.model_.likelihood(z).sample())

    def _sample(
        self,
        draw: Callable[[int], torch.Tensor],
        decode: Callable[[np.ndarray], Drawn],
        n_samples: int,
        random_state: Any,
    ) -> Drawn:
        """What is decoded from so many draws of z, by chance that begins at `random_state`."""
        check_is_fitted(self)
        check_count("n_samples", n_samples)
        with seeded(check_random_state(random_state).randint(2**31)):
            return decode(draw(n_samples).cpu().numpy())

    def score_samples(self, X: Any, n_importance: int = 64) -> np.ndarray:
        """log p(x) of each row in nats, estimated by importance weighting (Burda et al. 2016),
        shape (n,), float32.

        The draws belong to the row, so that a row's score does not depend on the others. Grey
        levels under "bernoulli" are binarised once, by draws that belong to the row as well. With
        `devices`, they share the rows.

        Args:
            X: shape (n, n_features).
            n_importance: draws of z for each row; the estimate rises to log p(x) with it.
        """
        check_count("n_importance", n_importance)
        check_is_fitted(self)

        def score(rows: np.ndarray) -> np.ndarray:
            observed = self.model_.observe(rows)
            return importance_log_likelihood_per_row(
                pool, observed, n_importance, self.verbose
            ).astype(np.float32)

        with WorkerPool(self.model_, self.devices) as pool:
            return self._row_by_row(X, score)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`, in nats per example. y is ignored."""
        del y
        return float(self.score_samples(X).mean(dtype=np.float64))

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Save to a folder: the weights as safetensors, all else as JSON and CSV. `uc.load` reads
        it back.

        Raises:
            InputError: if the folder exists and `overwrite` is False, or cannot be written.
        """
        check_is_fitted(self)
        if self.registry.get(type(self).__name__) is not type(self):
            raise ParameterError(
                f"saving expects one of {', '.join(self.registry)}, got {type(self).__name__}: "
                "save its model_ with torch."
            )
        family = (
            get_family(self.parameters_["family"])
            if "family" in self.parameters_
            else self.model_.family
        )
        if type(family) is not FAMILIES.get(family.name):
            raise ParameterError(
                f"saving expects a family of {', '.join(FAMILIES)}, got {family!r}: another could "
                "not be loaded again."
            )
        random_state = self.parameters_["random_state"]
        parameters = {
            **self.parameters_,
            "random_state": random_state if isinstance(random_state, int) else None,
        }
        if "family" in parameters:
            parameters["family"] = family.spec
        names = getattr(self, "feature_names_in_", None)
        settings = Settings(
            estimator=type(self).__name__,
            parameters=parameters,
            n_features=self._size,
            feature_names=None if names is None else names.tolist(),
            vocabulary=self._saved_vocabulary,
            seed=self.seed_,
            constants=self.inverse_lipschitz_,
        )
        write_run(Path(folder), settings, self.model_.state_dict(), self.history_, overwrite)
        return Path(folder)

    @property
    def inverse_lipschitz_(self) -> tuple[float, ...] | None:
        """The constants in force, one for each map; None for an ordinary decoder."""
        check_is_fitted(self, "model_")
        return self.model_.decoder.constants or None

    @property
    def _size(self) -> int:
        """What `build` was told beside the parameters."""
        return int(self.n_features_in_)

    @property
    def _saved_vocabulary(self) -> SavedVocabulary | None:
        """What a run must know of the symbols of sequences."""
        return None

    def _restore(self, settings: Settings) -> None:
        """Take over from a saved run what is neither a parameter nor the model."""
        self.n_features_in_ = settings.n_features
        if settings.feature_names is not None:
            self.feature_names_in_ = np.array(settings.feature_names, dtype=object)

    @property
    def _n_features_out(self) -> int:
        return self.model_.latent_dim

    def check_rows(self, X: Any) -> np.ndarray:
        """X as float32 rows that the fitted model accepts.

        Raises:
            InputError: if X has other columns than in `fit`, is not finite, or lies outside the
                family's support.
        """
        return _joined(self._checked_pieces(X))

    def random_rows(self, X: Any, n: int) -> np.ndarray:
        """At most n rows of X, always the same random ones in random order, as the model observes
        them, shape (n, n_features).

        All rows are checked; of those that are not in memory, no others are kept.

        Raises:
            InputError: as `check_rows` does.
        """
        source, chance = as_source(X, ROWS_AT_ONCE), np.random.default_rng(0)
        if source is None or not len(source):  # whose number only going through them tells
            rows = self.model_.observe(self.check_rows(X))
            return rows[chance.permutation(len(rows))[:n]]
        order = chance.permutation(len(source))[:n]
        places, found, start = np.sort(order), [], 0
        for piece in self._checked_pieces(source):
            first, last = np.searchsorted(places, [start, start + len(piece)])
            found.append(piece[places[first:last] - start])
            start += len(piece)
        return self.model_.observe(np.concatenate(found)[np.searchsorted(places, order)])

    def _checked_pieces(self, X: Any) -> Iterator[np.ndarray]:
        """The same, piece after piece where they are not in memory."""
        check_is_fitted(self)
        source, n = as_source(X, ROWS_AT_ONCE), 0
        if source is None:
            yield self._checked(X)
            return
        if not source.is_ordered:
            raise DataError(
                "X expects rows in their order, got a loader that shuffles or leaves some out: "
                "give its data set."
            )
        with progress_bar("rows", len(source) or None, self.verbose) as advance:
            for table in source.tables():
                with rows_counted_from(n):
                    rows = self._checked(table)
                yield rows
                n += len(rows)
                advance("", n)

    def _checked(self, X: Any) -> np.ndarray:
        with as_input_error():
            given = validate_data(self, X, reset=False, dtype=FLOATS, ensure_all_finite=False)
        rows = finite_floats(given, "X")
        self.model_.family.check(rows)
        return rows

    @living_workers()
    def _row_by_row(self, X: Any, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """What a function makes of rows, of which as many are in memory as X itself holds there."""
        with one_pass():
            return _joined(function(rows) for rows in self._checked_pieces(X))

    def _in_batches(
        self, rows: np.ndarray, function: Callable[[torch.Tensor], torch.Tensor]
    ) -> np.ndarray:
        pieces = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
        with torch.inference_mode():
            return np.concatenate(
                [function(to_device(self.model_, piece)).cpu().numpy() for piece in pieces]
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


@dataclass(frozen=True)
class Plan:
    """How one model is trained.

    Attributes:
        rows: to learn from, or a random sample of those that are not in memory.
        validation: rows by which the best epoch is found, if one is to be.
        watched: rows that the strategy may look at.
        parameters: of the estimator, checked.
        seed: of all that is random.
        budget: what may be used up, in place of a number of epochs.
        objective: what is minimised.
        strategy: what is done about the posterior.
        hardware: what Lightning's trainer is told of it.
        history: gains a row with each epoch.
        callbacks: called with each epoch.
        checkpoint: where the state is kept.
        source: the rows to learn from, where they are not in memory.
    """

    rows: np.ndarray
    validation: np.ndarray | None
    watched: np.ndarray | None
    parameters: dict[str, Any]
    seed: int
    budget: Budget | None
    objective: Objective
    strategy: Strategy
    hardware: dict[str, Any]
    history: list[tuple[float, ...]] = field(default_factory=list)
    callbacks: Sequence[Any] = ()
    checkpoint: Checkpoint | None = None
    source: RowSource | None = None

    def batches(self, seed: int, lengths: torch.Tensor | None) -> Batches:
        """The rows in batches."""
        batch_size = self.parameters["batch_size"]
        if isinstance(self.source, StoredRows):
            return BatchesOnDisk(self.source, batch_size, seed, self.rows)
        if isinstance(self.source, LoadedRows):
            return BatchesFromLoader(self.source, seed, self.rows)
        return BatchesInMemory(torch.as_tensor(self.rows), batch_size, seed, lengths)

    @classmethod
    def of(
        cls,
        model: models.VAE,
        rows: np.ndarray,
        parameters: dict[str, Any],
        seed: int,
        validation: np.ndarray | None = None,
        *,
        budget: Budget | None,
        source: RowSource | None = None,
        **others: Any,
    ) -> Plan:
        """The plan that the parameters ask for, for a model and its data, of which a strategy that
        watches has some held out.

        Args:
            model: to be trained.
            rows: its data.
            parameters: of the estimator, checked.
            seed: of all that is random.
            validation: rows by which the best epoch is found.
            budget: what may be used up.
            source: all rows, where `rows` are a sample of them.
            others: callbacks and checkpoint.

        Raises:
            InputError: if the objective does not suit the model, the budget is none, or the data
                are too few.
        """
        if not isinstance(budget, Budget | None):
            raise ParameterError(
                f"budget expects a uc.Budget, got {budget!r}: give uc.Budget(seconds=60), for "
                "example."
            )
        hardware = lightning_arguments(parameters)
        objective, strategy = (
            get_objective(parameters["objective"]),
            get_strategy(parameters["strategy"]),
        )
        watched = validation
        if strategy.needs_validation and validation is None:
            if source is not None:
                raise ParameterError(
                    "strategy 'lagging' holds out rows, which it cannot of data that stay on disk: "
                    "give an array."
                )
            rows, watched = _hold_out(rows, seed)
        batch_size = parameters["batch_size"]
        n_batches = (
            math.ceil(len(rows) / batch_size) if source is None else source.n_batches(batch_size)
        )
        with seeded(derived_seed(seed, "objective")):
            some = _first_rows(model, rows)
            objective.check(model, some)
            objective.prepare(model, some, parameters["max_epochs"] * n_batches)
        return cls(
            rows,
            validation,
            watched,
            parameters,
            seed,
            budget,
            objective,
            strategy,
            hardware,
            source=source,
            **others,
        )


def _hold_out(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and some that are not, a tenth at most."""
    order = np.random.default_rng(derived_seed(seed, "held out")).permutation(len(rows))
    n_held_out = max(2, min(MAX_WATCHED_ROWS, len(rows) // 10))
    if len(rows) < n_held_out + 2:
        raise DataError(
            f"strategy 'lagging' expects at least 4 rows, of which it holds out some, got "
            f"{len(rows)}: give more data."
        )
    return rows[order[n_held_out:]], rows[order[:n_held_out]]


def _first_rows(model: models.VAE, rows: np.ndarray) -> torch.Tensor:
    """A few rows, as the family observes them."""
    return model.family.observe(to_device(model, rows[:2]))


def _joined(pieces: Iterator[np.ndarray]) -> np.ndarray:
    """Pieces as one array, which a single one is already."""
    first, *others = pieces
    return np.concatenate([first, *others]) if others else first


def digest_of(rows: np.ndarray) -> str:
    """What tells rows from others."""
    return hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()


def choose_seed(random_state: Any) -> int:
    """The seed that a seed, a RandomState or None stands for."""
    return (
        random_state
        if isinstance(random_state, int)
        else int(check_random_state(random_state).randint(2**31))
    )

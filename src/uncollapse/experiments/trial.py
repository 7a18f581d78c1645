"""Trials: models that are fitted and measured once, in any order, on any machine."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from uncollapse.data import Data
from uncollapse.diagnostics import Report, diagnose
from uncollapse.estimators import Estimator, load
from uncollapse.estimators.building import resolve_device
from uncollapse.estimators.settings import RENAMED, RUNTIME_ARGUMENTS
from uncollapse.experiments.environment import environment
from uncollapse.measures.tempering import MAX_ROWS, rate_distortion_of_rows
from uncollapse.training import Epoch

N_IMPORTANCE = 64
# Arguments that are newer than some published rows. At these values, which were in force before,
# they are no part of a key.
NEW_ARGUMENTS = {"precision": "float32"}
# Arguments that published rows have under an older name, which keys keep.
OLD_NAMES = {new: old for old, new in RENAMED.items()}

EpochCallback = Callable[[Epoch], None]


class Trial(ABC):
    """One model on one data set.

    Attributes:
        model: name of the model in tables.
        labels: further columns that tables group by, such as the data set.
    """

    model: str
    labels: dict[str, Any]

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return everything but the seed that the result depends on, as JSON holds it."""

    @abstractmethod
    def execute(
        self, seed: int, folder: Path, verbose: bool, on_epoch: EpochCallback | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Compute the result.

        Args:
            seed: of all random numbers.
            folder: for the state of the computation, which resumes from a state that is there.
            verbose: show progress bars on a terminal.
            on_epoch: called after each epoch of the training.

        Returns:
            The fitted model, which has a method `save`, and the row of results.

        Raises:
            NonFiniteLossError: if training fails; a second attempt would fail too.
            InputError: if a resource is missing; a second attempt may succeed.
        """

    @abstractmethod
    def saves_model(self, seed: int) -> bool:
        """Return whether the model of this seed is saved."""

    @staticmethod
    @abstractmethod
    def load(path: Path) -> Any:
        """Return a saved model."""

    @property
    def device(self) -> str:
        """Type of the device that computes the result."""
        return "cpu"

    @property
    def uses_gpu(self) -> bool:
        """Whether the trial uses a GPU where there is one."""
        return False

    @property
    def n_epochs(self) -> int:
        """Number of epochs of the training."""
        return 1

    def key(self, seed: int) -> str:
        """Return 16 hexadecimal digits that identify the trial and its seed."""
        content = json.dumps({**self.config(), "seed": seed}, sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def describe(self, seed: int) -> str:
        """Return the model, its labels and the seed in words."""
        labels = (f"{name} {value}" for name, value in self.labels.items())
        return ", ".join([self.model, *labels, f"seed {seed}"])

    def header(self, seed: int) -> dict[str, Any]:
        """Return the entries that every row of this trial begins with."""
        return {
            "key": self.key(seed),
            "model": self.model,
            "labels": self.labels,
            "config": self.config(),
            "seed": seed,
        }


class TrialData(NamedTuple):
    """Training, test and validation data of a trial."""

    train: Data
    test: Data
    validation: Data | None = None


@dataclass(frozen=True)
class FitTrial(Trial):
    """An estimator that is fitted to training data and measured on test data.

    Attributes:
        estimator: name of an estimator of this package.
        arguments: of the estimator, without its seed.
        data: name of the data set, and whatever identifies the data.
    """

    model: str
    estimator: str
    arguments: dict[str, Any]
    data: dict[str, Any]
    labels: dict[str, Any] = field(default_factory=dict)

    @abstractmethod
    def load_data(self, seed: int) -> TrialData:
        """Return the data for a seed."""

    def extra_results(self, estimator: Estimator, test: Data) -> dict[str, Any]:
        """Return further entries of the row; entries of "estimates" join the others."""
        del estimator, test
        return {}

    def config(self) -> dict[str, Any]:
        # Defaults are included. New arguments at their old value, and those that are None, are left
        # out, so that they do not change the keys of published rows.
        arguments = {
            OLD_NAMES.get(name, name): value
            for name, value in self._all_arguments.items()
            if name not in RUNTIME_ARGUMENTS
            and value is not None
            and (name not in NEW_ARGUMENTS or value != NEW_ARGUMENTS[name])
        }
        config = {"estimator": self.estimator, "arguments": arguments, "data": self.data}
        plain: dict[str, Any] = json.loads(json.dumps(config))
        return plain

    def execute(
        self, seed: int, folder: Path, verbose: bool, on_epoch: EpochCallback | None = None
    ) -> tuple[Any, dict[str, Any]]:
        train, test, validation = self.load_data(seed)
        arguments = {**self.arguments, "random_state": seed, "verbose": verbose}
        estimator = Estimator.registry[self.estimator](**arguments).fit(
            train.table(),
            checkpoint=folder,
            callbacks=() if on_epoch is None else (on_epoch,),
            **({} if validation is None else {"validation": validation.X}),
        )
        report = measure(estimator, test.table(), test.labels, verbose=verbose)
        last = estimator.history_.iloc[-1]
        row = {
            **self.header(seed),
            "n_train": len(train.X),
            "n_test": len(test.X),
            "seconds": round(float(last["seconds"]), 2),
            "constants": estimator.inverse_lipschitz_,
            "training_loss": float(last["loss"]),
            "estimates": {
                name: {"value": estimate.value, "standard_error": estimate.standard_error}
                for name, estimate in report.estimates.items()
                if estimate is not None
            },
            "environment": environment(self.device),
        }
        extra = self.extra_results(estimator, test)
        estimates = {**row["estimates"], **extra.pop("estimates", {})}
        return estimator, {**row, "estimates": estimates, **extra}

    @staticmethod
    def load(path: Path) -> Any:
        return load(path)

    @property
    def device(self) -> str:
        return resolve_device(self._all_arguments["device"])

    @property
    def uses_gpu(self) -> bool:
        return self._all_arguments["device"] in ("auto", "cuda")

    @property
    def n_epochs(self) -> int:
        return int(self._all_arguments["max_epochs"])

    @property
    def _all_arguments(self) -> dict[str, Any]:
        return dict(Estimator.registry[self.estimator](**self.arguments).get_params())


def arguments_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a `FitTrial` from its config, as JSON holds them."""
    found, names = config["arguments"], Estimator.registry[config["estimator"]]().get_params()
    return {name: found.get(OLD_NAMES.get(name, name), NEW_ARGUMENTS.get(name)) for name in names}


def measure(
    estimator: Estimator,
    X: Any,
    labels: Any = None,
    *,
    n_importance: int = N_IMPORTANCE,
    **options: Any,
) -> Report:
    """Diagnose an estimator on held-out data, without the expensive parts of a diagnosis."""
    return diagnose(estimator, X, labels, n_importance=n_importance, thorough=False, **options)


def rate_distortion_curve(estimator: Estimator, X: Any) -> pd.DataFrame:
    """Return the rates and distortions of an estimator on random rows of held-out data."""
    return rate_distortion_of_rows(estimator.model_, estimator.random_rows(X, MAX_ROWS))

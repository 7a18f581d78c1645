"""What a trial is: something that can be computed anywhere and in any order, and gives a row of
results."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from uncollapse.data import Data
from uncollapse.diagnostics import Report, diagnose
from uncollapse.estimators import Estimator, load
from uncollapse.estimators.building import resolve_device
from uncollapse.estimators.settings import RUNTIME_ARGUMENTS
from uncollapse.experiments.environment import environment

N_IMPORTANCE = 64
ADDED = {
    "precision": "float32"
}  # arguments that are younger than some results, at what was in force before
# New names of arguments whose old ones stand in keys of results.
OLD_NAMES = {"intermediate_dims": "between"}
# CallbackLogger the numbers of each epoch.
Watch = Callable[[Mapping[str, float]], None]


class Kept(Protocol):
    """What a trial makes that is worth keeping beside its row."""

    def save(self, path: str | Path, overwrite: bool = False) -> Any:
        """Write it into a folder."""


class Trial(ABC):
    """One model on one data set.

    Attributes:
        model: what tables call it.
        labels: what tables group by beside the model, such as the data set or the noise.
    """

    model: str
    labels: dict[str, Any]

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All that decides over the result, but the seed, as JSON has it."""

    @abstractmethod
    def execute(
        self, seed: int, folder: Path, verbose: bool, watch: Watch | None = None
    ) -> tuple[Kept, dict[str, Any]]:
        """Compute it.

        Args:
            seed: of all that is random.
            folder: for what is needed to go on after an interruption, which is taken up where it is
                there.
            verbose: show progress bars where there is a terminal.
            watch: told the numbers of each epoch, where there are epochs.

        Returns:
            What may be kept, and the row of results.

        Raises:
            NonFiniteLossError: if training fails, as it would again.
            InputError: if something is in the way.
        """

    @abstractmethod
    def keeps(self, seed: int) -> bool:
        """Whether what this seed makes is kept."""

    @staticmethod
    @abstractmethod
    def load(path: Path) -> Any:
        """What `execute` has made, and `Kept.save` has written."""

    @property
    def device(self) -> str:
        """The kind of device that it computes on."""
        return "cpu"

    @property
    def takes_gpu(self) -> bool:
        """Whether it uses one where there is one."""
        return False

    def key(self, seed: int) -> str:
        """What tells this trial apart from all others."""
        content = json.dumps({**self.config(), "seed": seed}, sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def describe(self, seed: int) -> str:
        """The trial in words."""
        return ", ".join(
            [
                self.model,
                *(f"{name} {value}" for name, value in self.labels.items()),
                f"seed {seed}",
            ]
        )

    def identity(self, seed: int) -> dict[str, Any]:
        """What its row begins with."""
        return {
            "key": self.key(seed),
            "model": self.model,
            "labels": self.labels,
            "config": self.config(),
            "seed": seed,
        }

    def failure(self, seed: int, error: Exception) -> dict[str, Any]:
        """The row of a trial that gave no result."""
        return {**self.identity(seed), "error": str(error), "environment": environment(self.device)}


class Parts(NamedTuple):
    """The data of a trial."""

    train: Data
    test: Data
    validation: Data | None = None


@dataclass(frozen=True)
class FitTrial(Trial):
    """An estimator that is fitted to data, and measured on others.

    Attributes:
        model: what tables call it.
        estimator: the name of a `uncollapse` estimator.
        arguments: of the estimator, without its seed.
        data: the name of a data set, and what tells it apart from others.
        labels: what tables group by beside the model, such as the data set or the noise.
    """

    model: str
    estimator: str
    arguments: dict[str, Any]
    data: dict[str, Any]
    labels: dict[str, Any] = field(default_factory=dict)

    @abstractmethod
    def parts(self, seed: int) -> Parts:
        """Its data."""

    def further(self, estimator: Estimator, test: Data, report: Report) -> dict[str, Any]:
        """What its row holds beside what all rows do."""
        del estimator, test, report
        return {}

    def config(self) -> dict[str, Any]:
        """All that decides over the result, defaults too, but the seed, as JSON has it.

        Arguments that are None, or as they were before there was a choice, are left out: a new one
        that is not used changes no key.
        """
        arguments = self._all_arguments
        old = {name for name, value in ADDED.items() if arguments[name] == value}
        chosen = {
            OLD_NAMES.get(name, name): value
            for name, value in arguments.items()
            if name not in (*RUNTIME_ARGUMENTS, *old) and value is not None
        }
        given = {"estimator": self.estimator, "arguments": chosen, "data": self.data}
        config: dict[str, Any] = json.loads(json.dumps(given))
        return config

    def execute(
        self, seed: int, folder: Path, verbose: bool, watch: Watch | None = None
    ) -> tuple[Kept, dict[str, Any]]:
        """Fit and measure."""
        train, test, validation = self.parts(seed)
        estimator = self._fit(seed, train, validation, folder, verbose, watch)
        report = diagnose(
            estimator,
            test.table(),
            test.labels,
            n_importance=N_IMPORTANCE,
            thorough=False,
            verbose=verbose,
        )
        last = estimator.history_.iloc[-1]
        row = {
            **self.identity(seed),
            "n_train": len(train.X),
            "n_test": len(test.X),
            "seconds": round(float(last["seconds"]), 2),
            "constants": estimator.inverse_lipschitz_,
            "training_loss": float(last["loss"]),
            "estimates": {
                name: vars(estimate)
                for name, estimate in report.estimates.items()
                if estimate is not None
            },
            "environment": environment(self.device),
        }
        for name, value in self.further(estimator, test, report).items():
            row[name] = {**row[name], **value} if name in row else value
        return estimator, row

    def _fit(
        self,
        seed: int,
        train: Data,
        validation: Data | None,
        folder: Path,
        verbose: bool,
        watch: Watch | None,
    ) -> Estimator:
        estimator = Estimator.registry[self.estimator](
            **{**self.arguments, "random_state": seed, "verbose": verbose}
        )
        held_out: dict[str, Any] = {} if validation is None else {"validation": validation.X}
        callbacks = (
            []
            if watch is None
            else [lambda epoch: watch({"epoch": epoch.number, **epoch.metrics})]
        )
        return estimator.fit(train.table(), checkpoint=folder, callbacks=callbacks, **held_out)

    @staticmethod
    def load(path: Path) -> Any:
        """The fitted estimator."""
        return load(path)

    @property
    def device(self) -> str:
        """The kind of device that it computes on."""
        return resolve_device(self._all_arguments["device"])

    @property
    def takes_gpu(self) -> bool:
        """Whether it uses one where there is one."""
        return self._all_arguments["device"] in ("auto", "cuda")

    @property
    def n_epochs(self) -> int:
        """Of the training."""
        return int(self._all_arguments["max_epochs"])

    @property
    def _all_arguments(self) -> dict[str, Any]:
        """Those that are given, and the defaults of the others."""
        arguments: dict[str, Any] = Estimator.registry[self.estimator](
            **self.arguments
        ).get_params()
        return arguments


def told_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a `FitTrial` by its config, those that it leaves out among them, as JSON has
    them."""
    found = config["arguments"]
    names = Estimator.registry[config["estimator"]]().get_params()
    return {name: found.get(OLD_NAMES.get(name, name), ADDED.get(name)) for name in names}

"""Combinations of arguments that a sweep tries."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from uncollapse._utils.errors import InputError, NonFiniteLossError, ParameterError, brief
from uncollapse._utils.parameters import check_parameters
from uncollapse.data import Data, StoredRows
from uncollapse.estimators import Estimator
from uncollapse.estimators.building import check_memory
from uncollapse.estimators.settings import RUNTIME_ARGUMENTS, check_settings
from uncollapse.experiments.trial import (
    FitTrial,
    TrialData,
    arguments_from_config,
    rate_distortion_curve,
)
from uncollapse.training.budget import Budget
from uncollapse.training.resume import Checkpoint

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})")


@dataclass(frozen=True)
class SweepTrial(FitTrial):
    """A model with one combination of arguments.

    Attributes:
        sources: training and held-out data. `data` holds their name and digests.
    """

    sources: TrialData = field(kw_only=True, repr=False, compare=False)

    def load_data(self, seed: int) -> TrialData:
        return self.sources

    def extra_results(self, estimator: Estimator, test: Data) -> dict[str, Any]:
        curve = rate_distortion_curve(estimator, test.table())
        return {"curve": curve[["rate", "distortion"]].to_numpy().tolist()}

    def saves_model(self, seed: int) -> bool:
        return True  # Any model may turn out to be the best.


@dataclass(frozen=True)
class SearchSpace:
    """All combinations of some arguments of a model.

    Attributes:
        sources: training and held-out data.
        model: name of the estimator.
        values: a list of values, or the (low, high) of a range, by the name of the argument.
        settings: arguments that all trials have in common.
    """

    sources: TrialData
    model: str
    values: dict[str, list[Any] | tuple[Any, Any]]
    settings: Mapping[str, Any]

    @classmethod
    def from_grid(
        cls,
        sources: TrialData,
        model: str,
        grid: Mapping[str, Any],
        settings: Mapping[str, Any],
        allow_ranges: bool,
    ) -> SearchSpace:
        """Return the checked space of a grid. Arguments with a single value become settings."""
        if model not in Estimator.registry:
            known = ", ".join(Estimator.registry)
            raise ParameterError(f"model expects one of {known}, got {model!r}.")
        kind = Estimator.registry[model]
        parsed = {
            name: _parse_values(kind, name, given, allow_ranges) for name, given in grid.items()
        }
        values = {name: found for name, found in parsed.items() if len(found) > 1}
        single = {name: found[0] for name, found in parsed.items() if len(found) == 1}
        common = {**sources.train.defaults, **settings, **single}
        _check_names(values, common)
        settings = {name: value for name, value in common.items() if name not in values}
        return cls(sources, model, values, settings)

    @cached_property
    def data(self) -> dict[str, Any]:
        """Name and digests that identify the data."""
        return {
            "name": self.sources.train.name,
            "digest": digest(self.sources.train),
            "held_out": digest(self.sources.test, self.sources.test.labels),
        }

    @property
    def dimensions(self) -> dict[str, Any]:
        """Number of values to choose from, or the ends of a range, by name."""
        return {
            name: len(values) if isinstance(values, list) else values
            for name, values in self.values.items()
        }

    def trials(self) -> Iterator[SweepTrial]:
        """Yield the trial of each combination; ranges contribute their ends."""
        for combination in itertools.product(*self.values.values()):
            yield self.trial(dict(zip(self.values, combination, strict=True)))

    def trial(self, chosen: Mapping[str, Any]) -> SweepTrial:
        """Return the trial with these values of the arguments."""
        given = {**self.settings, **chosen}
        checked = check_parameters(Estimator.registry[self.model], given)
        arguments = {name: checked[name] for name in given}
        return SweepTrial(
            self.model, self.model, arguments, self.data, dict(chosen), sources=self.sources
        )

    def trial_at(self, point: Mapping[str, Any]) -> SweepTrial:
        """Return the trial of a point: the index of each listed value, or a value of a range."""
        chosen = {
            name: values[point[name]] if isinstance(values, list) else point[name]
            for name, values in self.values.items()
        }
        return self.trial(chosen)

    def seeded_trial_at(self, seed: int, point: dict[str, Any]) -> tuple[SweepTrial, int]:
        """Return the trial of a point with a seed."""
        return self.trial_at(point), seed

    def find(self, key: str, seed: int, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the point with these arguments if it is in this space and its trial has this key,
        else None."""
        point: dict[str, Any] = {}
        for name, values in self.values.items():
            value = arguments.get(name)
            if isinstance(values, list) and value in values:
                point[name] = values.index(value)
            elif isinstance(values, tuple) and _is_between(value, *values):
                point[name] = value
            else:
                return None
        return point if self.trial_at(point).key(seed) == key else None

    def known_points(
        self, rows: Mapping[str, dict[str, Any]], seed: int
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield the point and the row of each trial of this space and seed."""
        for key, row in rows.items():
            point = self.find(key, seed, arguments_from_config(row["config"]))
            if point is not None:
                yield point, row

    def interrupted_trials(self, states: Path, seed: int) -> Iterator[SweepTrial]:
        """Yield the trials of this space and seed that have left a state to resume from."""
        for folder in sorted(states.glob("*")):
            with suppress(InputError):  # A damaged state cannot be resumed.
                arguments = (Checkpoint(folder).found() or {}).get("parameters", {})
                point = self.find(folder.name, seed, arguments)
                if point is not None:
                    yield self.trial_at(point)

    def check(self, on_this_machine: bool) -> None:
        """Train for one step, and build every combination, so that mistakes are found early.

        The device of the settings must be available only if the trials run on this machine.
        """
        kind, (train, held_out, _) = Estimator.registry[self.model], self.sources
        arguments = [trial.arguments for trial in self.trials()]
        if not train.is_text:
            for given in arguments:
                settings = check_settings(self.model, given)
                check_memory(kind.build, settings, train.X.shape[1])
        device = {} if on_this_machine else {"device": "auto"}
        first = kind(**{**arguments[0], **device, "random_state": 0, "verbose": False})
        with suppress(NonFiniteLossError):  # A trial records this as its result.
            first.fit(train.table(), budget=Budget(evaluations=1))
        first.random_rows(held_out.table(), 1)  # This validates all rows.


def _is_between(value: Any, low: Any, high: Any) -> bool:
    return isinstance(value, int | float) and low <= value <= high


def _check_names(values: Mapping[str, Any], common: Mapping[str, Any]) -> None:
    """Raise `ParameterError` for arguments that a sweep sets itself or that change no result."""
    if "random_state" in {**common, **values}:
        raise ParameterError("a sweep takes seeds (--seeds) in place of random_state.")
    if unused := sorted(set(values) & set(RUNTIME_ARGUMENTS)):
        raise ParameterError(
            f"{unused[0]} makes no difference to results, got several values. Give one."
        )
    if any(common.get(name, 1) != 1 for name in ("devices", "num_nodes")):
        raise ParameterError(
            "a sweep trains each trial on one device, got devices or num_nodes. Leave them out, "
            "and use --ray."
        )


def _parse_values(kind: type[Estimator], name: str, given: Any, allow_ranges: bool) -> Any:
    """Return a list of distinct values as the estimator takes them, or the ends of a range."""
    if isinstance(given, str):
        return _parse_range(kind, name, given, allow_ranges)
    listed = list(given) if isinstance(given, list | tuple | np.ndarray | range) else [given]
    try:
        values = [_checked_value(kind, name, value) for value in listed]
    except InputError:
        raise
    except (TypeError, ValueError):
        raise ParameterError(
            f"{name} expects values that JSON has, such as names and numbers, got {brief(listed)}."
        ) from None
    if not values or any(value in values[:index] for index, value in enumerate(values)):
        raise ParameterError(f"{name} expects one or more distinct values, got {brief(listed)}.")
    return values


def _parse_range(kind: type[Estimator], name: str, given: str, allowed: bool) -> tuple[Any, Any]:
    ends = RANGE.fullmatch(given)
    if ends is None:
        raise ParameterError(
            f"{name} expects a list of values, or a range such as '0.1..5', got {given!r}."
        )
    if not allowed:
        raise ParameterError(
            f"{name} is a range, which needs a search (--search), got {given!r}. Give a list of "
            "values."
        )
    low, high = (_checked_value(kind, name, float(end)) for end in ends.groups())
    if not (isinstance(low, int | float) and isinstance(high, int | float) and low < high):
        raise ParameterError(f"the range of {name} expects its lower end first, got {given!r}.")
    return low, high


def _checked_value(kind: type[Estimator], name: str, value: Any) -> Any:
    """Return the value as the estimator takes it and JSON holds it."""
    plain = value.item() if isinstance(value, np.generic) else value
    return json.loads(json.dumps(check_parameters(kind, {name: plain})[name]))


def digest(data: Data, labels: np.ndarray | None = None) -> str:
    """Return 32 hexadecimal digits that identify examples, feature names and labels."""
    names = repr(data.feature_names).encode(errors="surrogatepass")
    content = hashlib.blake2b(names, digest_size=16)
    in_memory = map(np.asarray, data.X) if data.is_text else iter([data.X])
    arrays = data.X.blocks() if isinstance(data.X, StoredRows) else in_memory
    for array in arrays if labels is None else itertools.chain(arrays, [labels]):
        plain = array.astype(str) if array.dtype == object else array
        content.update(f"{plain.shape} {plain.dtype}".encode())
        content.update(np.ascontiguousarray(plain).tobytes())
    return content.hexdigest()

"""One model over values of its arguments and over seeds, and the best of them under a stated rule:
`sweep`."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uncollapse._utils.errors import (
    DataError,
    FileError,
    InputError,
    NonFiniteLossError,
    ParameterError,
    brief,
)
from uncollapse._utils.files import write_bytes, write_text
from uncollapse._utils.parameters import check_parameters
from uncollapse._utils.validation import check_count, check_seed
from uncollapse.data import Data, StoredRows, are_documents
from uncollapse.diagnostics import Report
from uncollapse.diagnostics.plotting import COLOURS
from uncollapse.estimators import Estimator
from uncollapse.estimators.base import ROWS_AT_ONCE
from uncollapse.estimators.building import check_memory
from uncollapse.estimators.data_summary import as_source
from uncollapse.estimators.settings import RUNTIME_ARGUMENTS
from uncollapse.experiments import FitTrial, Parts, Place, ResultsFile, Rule, do_trials
from uncollapse.experiments.plotting import as_png, new_figure
from uncollapse.experiments.run import ONE_PROCESS, OWN_INSTANCE, has_ray, on_ray
from uncollapse.experiments.tables import provenance, value_of
from uncollapse.experiments.trial import told_arguments
from uncollapse.measures.rate_distortion import MAX_ROWS, rate_distortion
from uncollapse.training.budget import Budget
from uncollapse.training.resume import Checkpoint

RESULTS, TABLE, PICTURE, BEST = "trials.jsonl", "sweep.csv", "rate-distortion.png", "best.json"
MEASURES = ("nll_nats", "kl_nats", "mutual_information_nats", "active_units", "informative_units")
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})")
MAX_IN_LEGEND = 24


@dataclass(frozen=True)
class Candidate(FitTrial):
    """A model with values of its arguments.

    Attributes:
        data: the name of the data and a digest of them.
        sources: the data themselves.
    """

    sources: Parts = field(kw_only=True, repr=False, compare=False)

    def parts(self, seed: int) -> Parts:
        """Its data, the same for all seeds."""
        del seed
        return self.sources

    def further(self, estimator: Estimator, test: Data, report: Report) -> dict[str, Any]:
        """The curve of rates and distortions that the model can be set to."""
        del report
        found = rate_distortion(estimator.model_, estimator.random_rows(test.table(), MAX_ROWS))
        return {"curve": found[["rate", "distortion"]].to_numpy().tolist()}

    def keeps(self, seed: int) -> bool:
        """True: any may be the best."""
        del seed
        return True


@dataclass(frozen=True)
class Sweep:
    """What a sweep has found.

    Attributes:
        rows: of the trials, as they stand in the file.
        names: of the arguments that differ.
        n_seeds: with which every configuration is trained.
        rule: by which the best is chosen.
        models: the folder of the fitted models.
        failures: a sentence about each trial that something was in the way of.
    """

    rows: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    n_seeds: int
    rule: Rule
    models: Path
    failures: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """A row for each configuration: means over seeds of what was measured, in nats, their
        deviations, and the rest.

        ``done``, ``stopped`` and ``failed`` count its trials; ``qualifies`` tells whether its KL is
        what the rule asks for.
        """
        return pd.DataFrame([self._line(members) for members in self._groups])

    @cached_property
    def _groups(self) -> list[list[dict[str, Any]]]:
        """The rows of each configuration."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            groups.setdefault(json.dumps(row["labels"], sort_keys=True), []).append(row)
        return list(groups.values())

    def _line(self, members: list[dict[str, Any]]) -> dict[str, Any]:
        done = _done(members)
        line = {name: _shown(members[0]["labels"].get(name)) for name in self.names}
        for measure in MEASURES:
            values = np.array([value_of(row, measure) for row in done])
            line[measure] = float(values.mean()) if len(values) else math.nan
            line[f"{measure}_deviation"] = (
                float(values.std(ddof=1)) if len(values) > 1 else math.nan
            )
        line["seconds"] = float(np.mean([row["seconds"] for row in done])) if done else math.nan
        counts = {
            "done": len(done),
            "stopped": _count(members, "stopped"),
            "failed": _count(members, "error"),
        }
        return {**line, **counts, "qualifies": bool(done) and self.rule.admits(line["kl_nats"])}

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best model; None if none qualifies.

        Of the configurations that were trained with all seeds, that which the rule names, and of
        its seeds that with the lowest rank. Where none of them qualifies, the best single trial of
        those configurations that have lost some.
        """
        whole = [members for members in self._groups if len(_done(members)) == self.n_seeds]
        lines = [self._line(members) for members in whole]
        chosen = [
            (line["nll_nats"], index) for index, line in enumerate(lines) if line["qualifies"]
        ]
        if chosen:
            return min(whole[min(chosen)[1]], key=self._rank)
        rest = [row for members in self._groups if members not in whole for row in _done(members)]
        return min(
            (row for row in rest if self.rule.admits(value_of(row, "kl_nats"))),
            key=self._rank,
            default=None,
        )

    def _rank(self, row: Mapping[str, Any]) -> float:
        return self.rule.rank(value_of(row, "nll_nats"), value_of(row, "kl_nats"))

    @property
    def best_folder(self) -> Path | None:
        """Where the best model is, for `uc.load`."""
        return None if self.best is None else self.models / self.best["key"]

    def __repr__(self) -> str:
        shown = self.table()[[*self.names, *MEASURES, "seconds", "done"]]
        lines = [
            shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}"),
            "",
            f"best by {self.rule}:",
        ]
        best = self.best
        if best is None:
            lines.append(
                f"none: the highest KL of a configuration is {self.table()['kl_nats'].max():.3g} "
                "nats"
            )
        else:
            told = ", ".join(f"{name}={_shown(best['labels'][name])}" for name in self.names)
            numbers = (
                f"NLL {value_of(best, 'nll_nats'):.2f}, KL {value_of(best, 'kl_nats'):.2f} nats"
            )
            lines.append(
                f"{told or best['model']}, seed {best['seed']}: {numbers}, in {self.best_folder}"
            )
        return "\n".join(lines)

    def figure(self) -> Any:
        """The rate-distortion picture: a curve for each configuration, a point for each seed, and a
        ring around the best."""
        figure, axes = new_figure(1, 1, width=8.0, height=5.0)
        axis = axes[0][0]
        for index, members in enumerate(filter(_done, self._groups)):
            curves = [np.array(row["curve"], dtype=float) for row in _done(members)]
            colour = COLOURS[index % len(COLOURS)]
            name = (
                ", ".join(f"{name} {_shown(value)}" for name, value in members[0]["labels"].items())
                or members[0]["model"]
            )
            axis.plot(*curves[0].T, color=colour, linewidth=1, alpha=0.7)
            points = np.array([curve[-1] for curve in curves])
            axis.scatter(
                *points.T, color=colour, s=18, label=name if index < MAX_IN_LEGEND else None
            )
        best = self.best
        if best is not None:
            axis.scatter(
                *best["curve"][-1], s=140, facecolors="none", edgecolors="black", label="best"
            )
        if self.rule.min_kl:
            axis.axvline(self.rule.min_kl, color="grey", linestyle=":", linewidth=1)
        axis.set(
            xlabel="rate KL(q(z|x) ‖ p(z)), nats",
            ylabel="distortion -E log p(x|z), nats",
            title="held-out data",
        )
        axis.grid(alpha=0.3)
        figure.legend(fontsize=7, loc="outside right center")
        return figure

    def write(self, folder: Path) -> list[Path]:
        """Write the table, the picture and the best, in place of what an earlier call has written.

        Raises:
            InputError: if they cannot be written.
        """
        best = self.best
        told = {
            "rule": str(self.rule),
            "run": None if best is None else str(self.best_folder),
            "trial": best,
        }
        write_text(folder / TABLE, self.table().to_csv(index=False), overwrite=True)
        write_text(
            folder / BEST, json.dumps(told, indent=2, allow_nan=False) + "\n", overwrite=True
        )
        write_bytes(folder / PICTURE, as_png(self.figure()))
        return [folder / name for name in (TABLE, PICTURE, BEST)]


def sweep(
    X: Any,
    grid: Mapping[str, Any],
    *,
    held_out: Any = None,
    labels: Any = None,
    model: str | None = None,
    seeds: Sequence[int] = (0,),
    min_kl: float = 0.0,
    output: str | Path = "sweep",
    resume: bool = False,
    ray: str | None = None,
    stop_early: bool = False,
    n_searched: int | None = None,
    verbose: bool = True,
    tell: Callable[[str], None] = print,
    **settings: Any,
) -> Sweep:
    """Train a model with all combinations of values of its arguments and all seeds, and find the
    best.

    Args:
        X: training data, shape (n, n_features), an array, a data frame, or rows on disk; or
            documents.
        grid: lists of values, by the name of the argument; with `n_searched` also ranges, as
            "0.1..5", which is searched on a logarithmic scale where both ends are positive.
        held_out: what is measured on; a random fifth of X if not given, which is then not trained
            on.
        labels: of the held-out data, if these are given; classes are looked for by a linear probe.
        model: "VAE", "MixtureVAE" or "SequenceVAE"; if not given, "SequenceVAE" for documents, else
            "VAE".
        seeds: each combination is trained with all of them, first all combinations with the first.
        min_kl: of the best model, in nats.
        output: folder of the results: ``trials.jsonl`` with a row for each trial, written when it
            is done; ``models`` with the fitted ones; ``sweep.csv``, ``rate-distortion.png`` and
            ``best.json``; and while it computes, states to go on from.
        resume: go on with what is there, computing nothing twice.
        ray: "local" for all cores and GPUs of this machine, which is the default where Ray is
            installed, the address of a cluster whose machines see the same folders, or "none" for
            one trial after the other in this process.
        stop_early: on Ray, stop trials that do not look promising (ASHA), by their loss on training
            data and their KL.
        n_searched: on Ray, let Optuna choose so many combinations, by what came of those before.
            Takes one seed.
        verbose: show progress bars where there is a terminal.
        tell: receives a line about each step.
        settings: other arguments of the model, which all trials have in common.

    Raises:
        InputError: if an argument cannot be used, results are there and `resume` is False, or
            nothing came of any trial.

    >>> import tempfile, numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.diag([3.0, 2.0, 0.1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = uc.sweep(X, {"inverse_lipschitz": [0.0, 1.0]}, latent_dim=1, max_epochs=3, output=folder, ray="none",
    ...                      verbose=False, tell=lambda line: None)
    >>> found.table()[["inverse_lipschitz", "done"]].to_numpy().tolist()
    [[0.0, 1.0], [1.0, 1.0]]
    """
    if held_out is None and labels is not None:
        raise ParameterError(
            "labels belong to held_out, which was not given: give both, or neither."
        )
    is_text = None if model is None else model == "SequenceVAE"
    train = as_data(X, is_text=is_text)
    train, held = (
        train.hold_out() if held_out is None else (train, as_data(held_out, labels, is_text))
    )
    return sweep_data(
        train,
        held,
        grid,
        model=model,
        seeds=seeds,
        min_kl=min_kl,
        output=output,
        resume=resume,
        ray=ray,
        stop_early=stop_early,
        n_searched=n_searched,
        settings={**settings, "verbose": verbose},
        tell=tell,
    )


def as_data(X: Any, labels: Any = None, is_text: bool | None = None) -> Data:
    """Examples as `Data`; they are documents if they are strings or of different lengths, where
    `is_text` does not say.

    Raises:
        InputError: if they are not in rows, come from a loader, or a column of a data frame holds
            something other than numbers.
    """
    if isinstance(X, str | Path):
        raise DataError(f"X expects examples, got {brief(X)}: read a file by uncollapse.data.load.")
    y = None if labels is None else np.asarray(labels)
    source = as_source(X, ROWS_AT_ONCE)
    if isinstance(source, StoredRows):
        return Data(source, y, feature_names=source.feature_names)
    if source is not None:
        raise DataError(
            "a sweep expects rows that can be read in any order, got a loader: give a data set "
            "with a length."
        )
    if isinstance(X, pd.DataFrame):
        try:
            return Data(X.to_numpy(dtype=float), y, feature_names=[str(name) for name in X.columns])
        except (ValueError, TypeError) as error:
            raise DataError(
                f"X expects columns of numbers, got others ({error}): encode them, or leave them "
                "out."
            ) from None
    if not (are_documents(X) if is_text is None else is_text):
        try:
            table = np.asarray(X.toarray() if hasattr(X, "toarray") else X)
        except ValueError:  # of rows of several lengths, and of things that are no arrays
            table = np.empty(())
        if not table.ndim:
            raise DataError(f"X expects an array of examples in rows, got {brief(X)}.")
        return Data(table, y)
    rows = list(X)
    documents = np.empty(len(rows), dtype=object)
    documents[:] = rows
    return Data(documents, y)


def sweep_data(
    train: Data,
    held_out: Data,
    grid: Mapping[str, Any],
    *,
    model: str | None,
    seeds: Sequence[int],
    min_kl: float,
    output: str | Path,
    resume: bool,
    ray: str | None,
    stop_early: bool,
    n_searched: int | None,
    settings: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Sweep:
    """As `sweep`, of data that have been read."""
    rule, folder, seeds = Rule(min_kl), Path(output).absolute(), _checked(seeds)
    place = Place(ResultsFile(folder / RESULTS))
    ray = ray or (OWN_INSTANCE if has_ray() else ONE_PROCESS)
    if ray == ONE_PROCESS and (stop_early or n_searched is not None):
        raise InputError(
            "stopping early and searching need Ray: pip install 'uncollapse[sweep]', and leave "
            "ray='none' out."
        )
    space = _Space.of(
        train,
        held_out,
        model or ("SequenceVAE" if train.is_text else "VAE"),
        grid,
        settings,
        n_searched is not None,
    )
    before = place.file.rows()
    if before and not resume:
        raise FileError(
            f"{place.file.path} holds {len(before)} trials: go on with them (--resume), or choose "
            "another --output."
        )
    space.rehearse(anywhere=ray not in (ONE_PROCESS, OWN_INSTANCE))
    if n_searched is None:
        verbose = bool(settings.get("verbose", True))
        failures, wanted = _go_through(space, seeds, place, ray, verbose, tell, rule, stop_early)
    else:
        failures, wanted = _search(space, seeds, n_searched, place, ray, tell, rule, stop_early)
    found = {
        row["key"]: row for row in place.file.rows()
    }  # of a trial that was stopped and then done, the last
    # Labels follow this call, whatever differed in the one that has done a trial.
    rows = tuple({**found[key], "labels": labels} for key, labels in wanted.items() if key in found)
    if not _done(rows):
        reasons = [
            *failures,
            *(row["error"] for row in rows if "error" in row),
            "all were stopped early",
        ]
        raise InputError(f"none of {len(wanted)} trials has a result: {reasons[0]}")
    result = Sweep(rows, tuple(space.values), len(seeds), rule, place.models, tuple(failures))
    written = result.write(folder)
    tell(f"written: {', '.join(map(str, [place.file.path, *written]))}\n{provenance(rows)}")
    return result


def _checked(seeds: Sequence[int]) -> list[int]:
    try:
        plain = [operator.index(seed) for seed in seeds]
    except TypeError:
        raise ParameterError(f"seeds expect a list of whole numbers, got {brief(seeds)}.") from None
    if len(set(plain)) < max(len(plain), 1):
        raise ParameterError(f"seeds expect one or more, each once, got {brief(plain)}.")
    for seed in plain:
        check_seed("seeds", seed)
    return plain


def _go_through(
    space: _Space,
    seeds: Sequence[int],
    place: Place,
    ray: str,
    verbose: bool,
    tell: Callable[[str], None],
    rule: Rule,
    stop_early: bool,
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Do what is wanted and not done: sentences on what was in the way, and the labels of what is
    wanted, by key."""
    wanted = {trial.key(seed): (trial, seed) for seed in seeds for trial in space.all()}
    done = {row["key"] for row in place.file.rows() if _is_final(row, rule if stop_early else None)}
    due = [chosen for key, chosen in wanted.items() if key not in done]
    tell(f"{len(wanted)} trials, {len(wanted) - len(due)} of them done before")
    failures = do_trials(due, place, ray, verbose, tell, rule if stop_early else None)
    return failures, {key: trial.labels for key, (trial, _) in wanted.items()}


def _is_final(row: Mapping[str, Any], stop_by: Rule | None) -> bool:
    """Whether a trial need not be done: not one that was stopped early, unless it would be stopped
    again."""
    return "stopped" not in row or (stop_by is not None and row["min_kl"] == stop_by.min_kl)


def _search(
    space: _Space,
    seeds: Sequence[int],
    n: int,
    place: Place,
    ray: str,
    tell: Callable[[str], None],
    rule: Rule,
    stop_early: bool,
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Let Optuna choose, after what an interruption has left has been done. Returns what
    `_go_through` does."""
    check_count("n_searched", n)
    if len(seeds) != 1:
        raise ParameterError(
            f"a search takes one seed, got {len(seeds)}: search with one, and sweep the best with "
            "more."
        )
    if space.size < n:
        raise ParameterError(
            f"a search of {n} expects as many combinations at least, got {space.size}: try them "
            "all instead."
        )
    seed = seeds[0]
    begun = [(trial, seed) for trial in space.begun(place.states, seed)]
    failures = do_trials(begun, place, ray, False, tell) if begun else []
    known = []
    for _, point, row in space.known(place.file.rows(), seed):
        rank = (
            rule.rank(value_of(row, "nll_nats"), value_of(row, "kl_nats"))
            if "estimates" in row
            else row.get("rank")
        )
        known.append((point, math.inf if rank is None else rank))
    tell(f"{n} trials to be chosen, {min(n, len(known))} of them done before")
    if len(known) < n:
        arguments = (
            partial(_chosen, space, seed),
            space.dimensions(),
            n - len(known),
            place,
            ray,
            tell,
            rule,
            known,
        )
        failures += on_ray().search(*arguments, stop_early=stop_early)
    return failures, {
        trial.key(seed): trial.labels for trial, _, _ in space.known(place.file.rows(), seed)
    }


def _chosen(space: _Space, seed: int, point: dict[str, Any]) -> tuple[Candidate, int]:
    return space.at(point), seed


@dataclass(frozen=True)
class _Space:
    """The trials that there may be.

    Attributes:
        train: data to learn from.
        held_out: data to measure on.
        model: the name of the estimator.
        values: lists, or ends of ranges, by the name of the argument.
        settings: other arguments.
    """

    train: Data
    held_out: Data
    model: str
    values: dict[str, Any]
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        train: Data,
        held_out: Data,
        model: str,
        grid: Mapping[str, Any],
        settings: Mapping[str, Any],
        is_searched: bool,
    ) -> _Space:
        """The space of a grid, of which what has one value is a setting.

        Raises:
            InputError: if an argument cannot be used, or makes no difference to results.
        """
        if model not in Estimator.registry:
            raise ParameterError(
                f"model expects one of {', '.join(Estimator.registry)}, got {model!r}."
            )
        values = {
            name: _values(Estimator.registry[model], name, what, is_searched)
            for name, what in grid.items()
        }
        tried = {name: what for name, what in values.items() if len(what) > 1}
        common = {
            **train.defaults,
            **settings,
            **{name: what[0] for name, what in values.items() if len(what) == 1},
        }
        if "random_state" in {**common, **tried}:
            raise ParameterError(
                "a sweep has its seeds from seeds (--seeds), got random_state as well: leave it "
                "out."
            )
        if useless := sorted(set(tried) & set(RUNTIME_ARGUMENTS)):
            raise ParameterError(
                f"{useless[0]} makes no difference to results, got several values: give one."
            )
        if any(common.get(name, 1) != 1 for name in ("devices", "num_nodes")):
            raise ParameterError(
                "a sweep trains each trial on one device, got devices or num_nodes: leave them "
                "out, and give --ray."
            )
        return cls(
            train,
            held_out,
            model,
            tried,
            {name: value for name, value in common.items() if name not in tried},
        )

    @cached_property
    def data(self) -> dict[str, Any]:
        """What tells these data apart from others."""
        return {
            "name": self.train.name,
            "digest": _digest(self.train),
            "held_out": _digest(self.held_out, self.held_out.labels),
        }

    @property
    def size(self) -> float:
        """How many combinations there are."""
        return math.prod(
            len(what) if isinstance(what, list) else math.inf for what in self.values.values()
        )

    def candidate(self, chosen: Mapping[str, Any]) -> Candidate:
        """The trial with these values."""
        given = {**self.settings, **chosen}
        arguments = check_parameters(Estimator.registry[self.model], given)
        taken = {name: arguments[name] for name in given}
        return Candidate(
            self.model,
            self.model,
            taken,
            self.data,
            dict(chosen),
            sources=Parts(self.train, self.held_out),
        )

    def all(self) -> Iterator[Candidate]:
        """Every combination, of ranges that of their ends."""
        lists = map(list, self.values.values())
        return (
            self.candidate(dict(zip(self.values, chosen, strict=True)))
            for chosen in itertools.product(*lists)
        )

    def at(self, point: Mapping[str, Any]) -> Candidate:
        """The trial of a point that Optuna has chosen: the place of a value in its list, or the
        value itself of a range."""
        chosen = {
            name: what[point[name]] if isinstance(what, list) else point[name]
            for name, what in self.values.items()
        }
        return self.candidate(chosen)

    def point(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """The point that has these arguments; None if it is none of this space."""
        point: dict[str, Any] = {}
        for name, what in self.values.items():
            value = arguments.get(name)
            if isinstance(what, list) and value in what:
                point[name] = what.index(value)
            elif (
                isinstance(what, tuple)
                and isinstance(value, int | float)
                and what[0] <= value <= what[1]
            ):
                point[name] = value
            else:
                return None
        return point

    def known(
        self, rows: Sequence[dict[str, Any]], seed: int
    ) -> Iterator[tuple[Candidate, dict[str, Any], dict[str, Any]]]:
        """Of rows, those of this space and seed: their trials, their points, and the rows."""
        for row in {row["key"]: row for row in rows}.values():
            point = self.point(told_arguments(row["config"]))
            if point is not None and self.at(point).key(seed) == row["key"]:
                yield self.at(point), point, row

    def begun(self, states: Path, seed: int) -> Iterator[Candidate]:
        """The trials of this space and seed that an interruption has left states of."""
        for folder in sorted(states.glob("*")):
            with suppress(InputError):  # what has been damaged has not begun
                point = self.point((Checkpoint(folder).found() or {}).get("parameters", {}))
                if point is not None and self.at(point).key(seed) == folder.name:
                    yield self.at(point)

    def dimensions(self) -> dict[str, Any]:
        """How many values there are to choose from, or the ends of a range, by name."""
        return {
            name: len(what) if isinstance(what, list) else what
            for name, what in self.values.items()
        }

    def rehearse(self, anywhere: bool) -> None:
        """Find out by a step of training whether data and model go together, and whether all
        combinations can be built.

        Args:
            anywhere: whether this machine need not have the device.
        """
        kind = Estimator.registry[self.model]
        arguments = [trial.arguments for trial in self.all()]
        if not self.train.is_text:
            for given in arguments:
                parameters = check_parameters(kind, given)
                check_memory(partial(kind.build, parameters, self.train.X.shape[1]), parameters)
        here = {"device": "auto"} if anywhere else {}
        first = kind(**{**arguments[0], **here, "random_state": 0, "verbose": False})
        with suppress(NonFiniteLossError):  # a result, of this one
            first.fit(self.train.table(), budget=Budget(evaluations=1))
        first.random_rows(self.held_out.table(), 1)  # which checks all


def _values(kind: type[Estimator], name: str, what: Any, is_searched: bool) -> Any:
    """A list of values as the estimator takes them, each once; or the two ends of a range."""
    if isinstance(what, str):
        ends = RANGE.fullmatch(what)
        if ends is None:
            raise ParameterError(
                f"{name} expects a list of values, or a range such as '0.1..5', got {what!r}."
            )
        if not is_searched:
            raise ParameterError(
                f"{name} is a range, which is for a search (--search), got {what!r}: give a list "
                "of values."
            )
        low, high = (check_parameters(kind, {name: float(end)})[name] for end in ends.groups())
        if not (isinstance(low, int | float) and isinstance(high, int | float) and low < high):
            raise ParameterError(f"the range of {name} expects its lower end first, got {what!r}.")
        return low, high
    given = list(what) if isinstance(what, list | tuple | np.ndarray | range) else [what]
    try:
        values = [_plain(check_parameters(kind, {name: _native(value)})[name]) for value in given]
    except InputError:
        raise
    except (TypeError, ValueError):
        raise ParameterError(
            f"{name} expects values that JSON has, such as names and numbers, got {brief(given)}."
        ) from None
    if not values or any(value in values[:index] for index, value in enumerate(values)):
        raise ParameterError(f"{name} expects one or more values, each once, got {brief(given)}.")
    return values


def _native(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _digest(data: Data, labels: np.ndarray | None = None) -> str:
    """32 hexadecimal digits that depend on all examples, the names of their features, and the
    labels."""
    content = hashlib.blake2b(
        repr(data.feature_names).encode(errors="surrogatepass"), digest_size=16
    )
    in_memory = map(np.asarray, data.X) if data.is_text else iter([data.X])
    arrays = data.X.blocks() if isinstance(data.X, StoredRows) else in_memory
    for array in arrays if labels is None else itertools.chain(arrays, [labels]):
        plain = array.astype(str) if array.dtype == object else array
        content.update(f"{plain.shape} {plain.dtype}".encode())
        content.update(np.ascontiguousarray(plain).tobytes())
    return content.hexdigest()


def _done(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "estimates" in row]


def _count(members: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(name in row for row in members)


def _shown(value: Any) -> Any:
    return (
        "None"
        if value is None
        else value
        if isinstance(value, int | float | str)
        else json.dumps(value)
    )

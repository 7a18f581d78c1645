"""One model over values of its arguments and over seeds, and the best of them under a stated rule: `sweep`."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from uncollapse.data import Data
from uncollapse.diagnostics import Report
from uncollapse.diagnostics.page import COLOURS
from uncollapse.diagnostics.rate_distortion import rate_distortion
from uncollapse.errors import InputError, brief
from uncollapse.estimators import Estimator
from uncollapse.files import write_bytes, write_text
from uncollapse.inputs import check_count
from uncollapse.parameters import check_parameters
from uncollapse.training.budget import Budget
from uncollapse.training.checkpoint import Checkpoint
from uncollapse.trials import FitTrial, Parts, Place, ResultsFile, do_trials
from uncollapse.trials.doing import ONE_PROCESS, OWN_INSTANCE, has_ray, on_ray
from uncollapse.trials.figures import new_figure
from uncollapse.trials.tables import provenance

RESULTS, TABLE, PICTURE, BEST = "trials.jsonl", "sweep.csv", "rate-distortion.png", "best.json"
MEASURES = ("nll_nats", "kl_nats", "mutual_information_nats", "active_units", "informative_units")
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})")
PENALTY = 1e6  # nats, for each that a KL lacks: whatever has the KL comes before whatever has not
MAX_IN_LEGEND = 24


@dataclass(frozen=True)
class Rule:
    """By what the best model is chosen.

    Attributes:
        min_kl: what the mean KL(q(z|x) || p(z)) of held-out data must be at least, in nats.
    """

    min_kl: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.min_kl, bool) or not isinstance(self.min_kl, int | float) or not 0 <= self.min_kl < math.inf:
            raise InputError(f"min_kl expects a number of nats, 0 or more, got {brief(self.min_kl)}.")

    def rank(self, nll_nats: float, kl_nats: float) -> float:
        """What a model is worth, the lower the better.

        >>> Rule(2.0).rank(100.0, 2.5)
        100.0
        >>> Rule(2.0).rank(90.0, 1.5) > Rule(2.0).rank(90.0, 1.9) > 1e4
        True
        """
        return nll_nats + PENALTY * max(0.0, self.min_kl - kl_nats)

    def __str__(self) -> str:
        at = f" at a KL of at least {self.min_kl:g} nats" if self.min_kl else ""
        return f"the lowest negative log-likelihood of held-out data{at}, both as means over seeds"


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
        rows = estimator.model_.observe(estimator.check_rows(test.table()))
        found = rate_distortion(estimator.model_, rows, np.random.default_rng(0).permutation(len(rows)))
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
        rule: by which the best is chosen.
        models: the folder of the fitted models.
        failures: a sentence about each trial that something was in the way of.
    """

    rows: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    rule: Rule
    models: Path
    failures: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """A row for each configuration: means over seeds of what was measured, in nats, their deviations, and the rest.

        ``done``, ``stopped`` and ``failed`` count its trials; ``qualifies`` tells whether its KL is what the rule asks for.
        """
        return pd.DataFrame([self._line(members) for members in self._groups.values()])

    @cached_property
    def _groups(self) -> dict[str, list[dict[str, Any]]]:
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            groups.setdefault(json.dumps(row["labels"], sort_keys=True), []).append(row)
        return groups

    def _line(self, members: list[dict[str, Any]]) -> dict[str, Any]:
        done = [row for row in members if "estimates" in row]
        line = {name: _shown(members[0]["labels"].get(name)) for name in self.names}
        for measure in MEASURES:
            values = np.array([row["estimates"].get(measure, {"value": math.nan})["value"] for row in done])
            line[measure] = float(values.mean()) if len(values) else math.nan
            line[f"{measure}_deviation"] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        line["seconds"] = float(np.mean([row["seconds"] for row in done])) if done else math.nan
        counts = {"done": len(done), "stopped": _count(members, "stopped"), "failed": _count(members, "error")}
        return {**line, **counts, "qualifies": bool(line["kl_nats"] >= self.rule.min_kl)}

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best model; None if no configuration qualifies.

        Of the configurations all of whose trials were done, that which the rule names, and of its seeds that with the lowest rank.
        Where each has lost trials, the best of all that were done.
        """
        whole = [members for members in self._groups.values() if all("estimates" in row for row in members)]
        lines = [self._line(members) for members in whole]
        chosen = [(line["nll_nats"], index) for index, line in enumerate(lines) if line["qualifies"]]
        if chosen:
            return min(whole[min(chosen)[1]], key=self._rank)
        done = [row for row in self.rows if "estimates" in row and _estimate(row, "kl_nats") >= self.rule.min_kl]
        return min(done, key=self._rank) if done and not whole else None

    def _rank(self, row: Mapping[str, Any]) -> float:
        return self.rule.rank(_estimate(row, "nll_nats"), _estimate(row, "kl_nats"))

    @property
    def best_folder(self) -> Path | None:
        """Where the best model is, for `uc.load`."""
        return None if self.best is None else self.models / self.best["key"]

    def __repr__(self) -> str:
        shown = self.table()[[*self.names, *MEASURES, "seconds", "done"]]
        lines = [shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}"), "", f"best by {self.rule}:"]
        best = self.best
        if best is None:
            highest = self.table()["kl_nats"].max()
            lines.append(f"none: the highest KL of a configuration is {highest:.3g} nats")
        else:
            told = ", ".join(f"{name}={_shown(best['labels'][name])}" for name in self.names)
            numbers = f"NLL {_estimate(best, 'nll_nats'):.2f}, KL {_estimate(best, 'kl_nats'):.2f} nats"
            lines.append(f"{told or best['model']}, seed {best['seed']}: {numbers}, in {self.best_folder}")
        return "\n".join(lines)

    def figure(self) -> Any:
        """The rate-distortion picture: a curve for each configuration, a point for each seed, and a ring around the best."""
        figure, axes = new_figure(1, 1, width=8.0, height=5.5)
        axis = axes[0][0]
        for index, members in enumerate(members for members in self._groups.values() if any("curve" in row for row in members)):
            curves = [np.array(row["curve"]) for row in members if "curve" in row]
            colour = COLOURS[index % len(COLOURS)]
            name = ", ".join(f"{name} {_shown(value)}" for name, value in members[0]["labels"].items())
            axis.plot(*curves[0].T, color=colour, linewidth=1, alpha=0.7)
            points = np.array([curve[-1] for curve in curves])
            axis.scatter(*points.T, color=colour, s=18, label=name if index < MAX_IN_LEGEND else None)
        best = self.best
        if best is not None:
            axis.scatter(*best["curve"][-1], s=140, facecolors="none", edgecolors="black", label="best")
        if self.rule.min_kl:
            axis.axvline(self.rule.min_kl, color="grey", linestyle=":", linewidth=1)
        axis.set(xlabel="rate KL(q(z|x) ‖ p(z)), nats", ylabel="distortion -E log p(x|z), nats", title="held-out data")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure

    def write(self, folder: Path) -> list[Path]:
        """Write the table, the picture and the best, in place of what an earlier call has written.

        Raises:
            InputError: if they cannot be written.
        """
        best = self.best
        told = {"rule": str(self.rule), "run": None if best is None else str(self.best_folder), "trial": best}
        write_text(folder / TABLE, self.table().to_csv(index=False), overwrite=True)
        write_text(folder / BEST, json.dumps(told, indent=2) + "\n", overwrite=True)
        write_bytes(folder / PICTURE, _as_png(self.figure()))
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
    """Train a model with all combinations of values of its arguments and all seeds, and find the best.

    Args:
        X: training data, shape (n, n_features), an array or a data frame, or documents.
        grid: lists of values, by the name of the argument; with `n_searched` also ranges, as "0.1..5", which is searched on a
            logarithmic scale where both ends are positive.
        held_out: what is measured on; a random fifth of X if not given, which is then not trained on.
        labels: of the held-out data, if these are given; classes are looked for by a linear probe.
        model: "VAE", "MixtureVAE" or "SequenceVAE"; if not given, "SequenceVAE" for documents, else "VAE".
        seeds: each combination is trained with all of them, first all combinations with the first.
        min_kl: of the best model, in nats.
        output: folder of the results: ``trials.jsonl`` with a row for each trial, written when it is done; ``models`` with the
            fitted ones; ``sweep.csv``, ``rate-distortion.png`` and ``best.json``; and while it computes, states to go on from.
        resume: go on with what is there, computing nothing twice.
        ray: "local" for all cores and GPUs of this machine, which is the default where Ray is installed, the address of a cluster
            whose machines see the same folders, or "none" for one trial after the other in this process.
        stop_early: on Ray, stop trials that do not look promising (ASHA), by their loss on training data and their KL.
        n_searched: on Ray, let Optuna choose so many combinations, by what came of those before. Takes one seed.
        verbose: show progress bars where there is a terminal.
        tell: receives a line about each step.
        settings: other arguments of the model, which all trials have in common.

    Raises:
        InputError: if an argument cannot be used, results are there and `resume` is False, or nothing came of any trial.

    >>> import tempfile, numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.diag([3.0, 2.0, 0.1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = uc.sweep(X, {"inverse_lipschitz": [0.0, 1.0]}, latent_dim=1, max_epochs=3, output=folder, ray="none",
    ...                      verbose=False, tell=lambda line: None)
    >>> found.table()[["inverse_lipschitz", "done"]].to_numpy().tolist()
    [[0.0, 1.0], [1.0, 1.0]]
    """
    train, held = as_data(X), None if held_out is None else as_data(held_out, labels)
    if held is None and labels is not None:
        raise InputError("labels belong to held_out, which was not given: give both, or neither.")
    train, held = train.hold_out() if held is None else (train, held)
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


def as_data(X: Any, labels: Any = None) -> Data:
    """Examples in memory as `Data`."""
    y = None if labels is None else np.asarray(labels)
    if isinstance(X, pd.DataFrame):
        return Data(X.to_numpy(), y, feature_names=[str(name) for name in X.columns])
    rows = list(X)
    if rows and (isinstance(rows[0], str) or len({np.size(row) for row in rows}) > 1):
        documents = np.empty(len(rows), dtype=object)
        documents[:] = rows
        return Data(documents, y)
    return Data(np.asarray(X), y)


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
    rule, folder = Rule(min_kl), Path(output).absolute()
    place = Place(ResultsFile(folder / RESULTS))
    ray = ray or (OWN_INSTANCE if has_ray() else ONE_PROCESS)
    if ray == ONE_PROCESS and (stop_early or n_searched is not None):
        raise InputError("stopping early and searching need Ray: pip install 'uncollapse[sweep]', and leave ray='none' out.")
    model = model or ("SequenceVAE" if train.is_text else "VAE")
    if model not in Estimator.kinds:
        raise InputError(f"model expects one of {', '.join(Estimator.kinds)}, got {model!r}.")
    values = {name: _values(name, what, n_searched) for name, what in grid.items()}
    tried = {name: what for name, what in values.items() if len(what) > 1}
    space = _Space(
        train, held_out, model, tried, {**settings, **{name: what[0] for name, what in values.items() if len(what) == 1}}
    )
    if len(set(seeds)) < max(len(seeds), 1):
        raise InputError(f"seeds expect one or more, each once, got {brief(list(seeds))}.")
    done = {row["key"] for row in place.file.rows()}
    if done and not resume:
        raise InputError(f"{place.file.path} holds {len(done)} trials: go on with them (--resume), or choose another --output.")
    space.rehearse()
    verbose = bool(settings.get("verbose", True))
    if n_searched is None:
        wanted = {trial.key(seed): (trial, seed) for seed in seeds for trial in space.all()}
        due = [chosen for key, chosen in wanted.items() if key not in done]
        tell(f"{len(wanted)} trials, {len(wanted) - len(due)} of them done before")
        failures = do_trials(due, place, ray, verbose, tell, rule.rank if stop_early else None)
    else:
        failures = _search(space, seeds, n_searched, place, ray, tell, rule, stop_early)
        wanted = {trial.key(seeds[0]): (trial, seeds[0]) for trial, _, _ in space.known(place.file.rows(), seeds[0])}
    found = {row["key"]: row for row in place.file.rows()}
    # Labels follow this call, whatever differed in the one that has done a trial.
    rows = tuple({**found[key], "labels": trial.labels} for key, (trial, _) in wanted.items() if key in found)
    result = Sweep(rows, tuple(tried), rule, place.models, tuple(failures))
    written = result.write(folder)
    tell(f"written: {', '.join(map(str, [place.file.path, *written]))}\n{provenance(rows)}")
    return result


def _search(
    space: _Space,
    seeds: Sequence[int],
    n: int,
    place: Place,
    ray: str,
    tell: Callable[[str], None],
    rule: Rule,
    stop_early: bool,
) -> list[str]:
    """Let Optuna choose, after what an interruption has left has been done."""
    check_count("n_searched", n)
    if len(seeds) != 1:
        raise InputError(f"a search takes one seed, got {len(seeds)}: search with one, and sweep the best with more.")
    begun = [(trial, seeds[0]) for trial in space.begun(place.states, seeds[0])]
    failures = do_trials(begun, place, ray, False, tell) if begun else []
    known = []
    for _, point, row in space.known(place.file.rows(), seeds[0]):
        worth = rule.rank(_estimate(row, "nll_nats"), _estimate(row, "kl_nats")) if "estimates" in row else row.get("rank", PENALTY)
        known.append((point, worth))
    tell(f"{n} trials to be chosen, {min(n, len(known))} of them done before")
    if len(known) < n:
        make = partial(_chosen, space, seeds[0])
        failures += on_ray().search(
            make, space.dimensions(), n - len(known), place, ray, tell, rule.rank, known, stop_early=stop_early
        )
    return failures


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

    @cached_property
    def data(self) -> dict[str, Any]:
        """What tells these data apart from others."""
        return {"name": self.train.name, "digest": _digest(self.train), "held_out": _digest(self.held_out)}

    def candidate(self, chosen: Mapping[str, Any]) -> Candidate:
        """The trial with these values."""
        given = {**self.train.defaults, **self.settings, **chosen}
        if "random_state" in given:
            raise InputError("a sweep has its seeds from seeds (--seeds), got random_state as well: leave it out.")
        arguments = check_parameters(Estimator.kinds[self.model], given)
        taken = {name: arguments[name] for name in given}
        return Candidate(self.model, self.model, taken, self.data, dict(chosen), sources=Parts(self.train, self.held_out))

    def all(self) -> Iterator[Candidate]:
        """Every combination."""
        return (self.candidate(dict(zip(self.values, chosen, strict=True))) for chosen in itertools.product(*self.values.values()))

    def at(self, point: Mapping[str, Any]) -> Candidate:
        """The trial of a point that Optuna has chosen: the place of a value in its list, or the value itself of a range."""
        chosen = {name: what[point[name]] if isinstance(what, list) else point[name] for name, what in self.values.items()}
        return self.candidate(chosen)

    def point(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """The point that has these arguments; None if it is none of this space."""
        point: dict[str, Any] = {}
        for name, what in self.values.items():
            value = arguments.get(name)
            if isinstance(what, list) and value in what:
                point[name] = what.index(value)
            elif isinstance(what, tuple) and isinstance(value, int | float) and what[0] <= value <= what[1]:
                point[name] = value
            else:
                return None
        return point

    def known(self, rows: Sequence[dict[str, Any]], seed: int) -> Iterator[tuple[Candidate, dict[str, Any], dict[str, Any]]]:
        """Of rows, those of this space and seed: their trials, their points, and the rows."""
        for row in rows:
            point = self.point(row["config"]["arguments"])
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
        return {name: len(what) if isinstance(what, list) else what for name, what in self.values.items()}

    def rehearse(self) -> None:
        """Find out by a step of training whether the first trial can be done, and whether the arguments of all can be used."""
        ends = {name: what if isinstance(what, list) else list(what) for name, what in self.values.items()}
        trials = list(_Space(self.train, self.held_out, self.model, ends, self.settings).all())
        first = Estimator.kinds[self.model](**{**trials[0].arguments, "random_state": 0, "verbose": False})
        clone(first).fit(self.train.table(), budget=Budget(evaluations=1)).check_rows(self.held_out.table())


def _values(name: str, what: Any, n_searched: int | None) -> Any:
    """A list of values, or the two ends of a range."""
    if isinstance(what, str):
        ends = RANGE.fullmatch(what)
        if ends is None:
            raise InputError(f"{name} expects a list of values, or a range such as '0.1..5', got {what!r}.")
        low, high = (int(end) if re.fullmatch(r"[-+]?\d+", end) else float(end) for end in ends.groups())
        if not low < high:
            raise InputError(f"the range of {name} expects its lower end first, got {what!r}.")
        if n_searched is None:
            raise InputError(f"{name} is a range, which is for a search (--search), got {what!r}: give a list of values.")
        return low, high
    values = list(what) if isinstance(what, list | tuple | np.ndarray | range) else [what]
    try:
        plain = json.loads(json.dumps([value.item() if isinstance(value, np.generic) else value for value in values]))
    except (TypeError, ValueError):
        raise InputError(f"{name} expects values that JSON has, such as names and numbers, got {brief(values)}.") from None
    if not plain or any(value in plain[:index] for index, value in enumerate(plain)):
        raise InputError(f"{name} expects one or more values, each once, got {brief(values)}.")
    return plain


def _digest(data: Data) -> str:
    content = hashlib.blake2b(digest_size=16)
    if data.X.dtype == object:
        for document in data.X:
            content.update(f"{len(document)} {document}".encode(errors="surrogatepass"))
    else:
        content.update(f"{data.X.shape} {data.X.dtype}".encode())
        content.update(np.ascontiguousarray(data.X).data)
    return content.hexdigest()


def _estimate(row: Mapping[str, Any], name: str) -> float:
    return float(row["estimates"][name]["value"]) if "estimates" in row else math.nan


def _count(members: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(name in row for row in members)


def _shown(value: Any) -> Any:
    return "None" if value is None else value if isinstance(value, int | float | str) else json.dumps(value)


def _as_png(figure: Any) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, bbox_inches="tight")
    return content.getvalue()

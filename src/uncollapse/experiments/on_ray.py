"""Trials in parallel on Ray Tune (extra ``sweep``), on this machine or a cluster."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from uncollapse._utils.errors import ParameterError, one_line
from uncollapse._utils.signals import INTERRUPTS, raise_interrupts
from uncollapse.experiments.environment import environment
from uncollapse.experiments.results import ResultsFolder
from uncollapse.experiments.run import RunOptions, SeededTrial, run_trial
from uncollapse.experiments.selection import SelectionRule
from uncollapse.experiments.trial import Trial
from uncollapse.training import Epoch

# Attempts at a trial while its process dies. Each resumes from the last state.
ATTEMPTS = 3
# ASHA keeps a third of the trials at each rung. The first rung is a ninth of the epochs.
REDUCTION, FIRST_RUNG = 3, 9
# Draws of a new point before a search gives up.
MAX_DRAWS = 100
# These settings keep Ray from writing files for each trial, sending usage reports, changing the
# working directory, and handling Ctrl-C itself.
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
# Environment variables with paths, which Ray's processes receive.
PATH_VARIABLES = ("UNCOLLAPSE_DATA", "PYTHONPATH")

# Returns the trial and the seed of a point in Tune's search space.
MakeTrial = Callable[[dict[str, Any]], SeededTrial]
# A point of a search space, and the rank of its trial.
RankedPoint = tuple[dict[str, Any], float]


def run_grid(
    trials: Sequence[SeededTrial], folder: ResultsFolder, options: RunOptions
) -> list[str]:
    """Run trials as `run_trials` does, with early stopping if the options ask for it."""
    options = replace(options, rule=options.stopping_rule)
    scheduler = _asha(max(trial.n_epochs for trial, _ in trials)) if options.stop_early else None
    config = tune.TuneConfig(metric="rank", mode="min", scheduler=scheduler, reuse_actors=True)
    space = {"index": tune.grid_search(list(range(len(trials))))}
    collector = _Collector(lambda point: trials[point["index"]], folder, len(trials), options)
    return _tune(collector, space, config, any(trial.uses_gpu for trial, _ in trials))


def search(
    make_trial: MakeTrial,
    dimensions: Mapping[str, Any],
    n: int,
    known: Sequence[RankedPoint],
    folder: ResultsFolder,
    options: RunOptions,
) -> list[str]:
    """Run at most n trials that Optuna chooses by the ranks of known ones, none of them twice.

    A dimension is a number of values to choose from, or the two ends of a range. Failures are
    returned as by `run_trials`.
    """
    space = {name: _dimension(values) for name, values in dimensions.items()}
    example, _ = make_trial({name: dimension.sample() for name, dimension in space.items()})
    config = tune.TuneConfig(
        metric="rank",
        mode="min",
        num_samples=n,
        scheduler=_asha(example.n_epochs) if options.stop_early else None,
        search_alg=_DistinctPoints(make_trial, known),
        reuse_actors=True,
    )
    with folder.locked():
        collector = _Collector(make_trial, folder, n, options)
        failures = _tune(collector, space, config, example.uses_gpu)
        folder.remove_finished_states()
    return failures


def _dimension(values: Any) -> Any:
    if isinstance(values, int):
        return tune.choice(list(range(values)))
    low, high = values
    if isinstance(low, int):
        return tune.lograndint(low, high + 1) if low > 0 else tune.randint(low, high + 1)
    return tune.loguniform(low, high) if low > 0 else tune.uniform(low, high)


def _asha(n_epochs: int) -> ASHAScheduler:
    """Asynchronous successive halving (Li et al. 2020). Its last step is the measurement."""
    first = max(1, n_epochs // FIRST_RUNG)
    return ASHAScheduler(
        "epoch", max_t=n_epochs + 1, grace_period=first, reduction_factor=REDUCTION
    )


def _tune(
    collector: _Collector, space: dict[str, Any], config: tune.TuneConfig, uses_gpu: bool
) -> list[str]:
    with _ray(collector.options.ray), tempfile.TemporaryDirectory(prefix="uncollapse-") as scratch:
        given = _send((collector.make_trial, collector.folder, collector.options.rule))
        n_gpus = 1 if uses_gpu and ray.cluster_resources().get("GPU", 0) > 0 else 0
        task = tune.with_parameters(_run_in_worker, given=given)
        run_config = tune.RunConfig(
            storage_path=scratch,
            callbacks=[collector],
            failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
            verbose=0,
        )
        task = tune.with_resources(task, {"cpu": 1, "gpu": n_gpus})
        tune.Tuner(task, param_space=space, tune_config=config, run_config=run_config).fit()
    return collector.failures


def _send(given: Any) -> Any:
    """Return a reference to an object in Ray's store, or raise `ParameterError`."""
    try:
        return ray.put(given)
    except Exception as error:  # Data sets of users may raise anything.
        # Ray quotes the whole object before the reason.
        reason = str(error).partition("serialization:")[2].strip().splitlines()
        raise ParameterError(
            f"the trials cannot be sent to Ray's processes ({(reason or [one_line(error)])[0]}). "
            "Use ray='none' (--ray none)."
        ) from None


def _run_in_worker(
    point: dict[str, Any], given: tuple[MakeTrial, ResultsFolder, SelectionRule | None]
) -> None:
    """Run one trial in a process of Ray, and report its row."""
    make_trial, folder, rule = given
    trial, seed = make_trial(point)
    n_epochs, provenance = trial.n_epochs, json.dumps(environment(trial.device))

    def report(epoch: Epoch) -> None:
        n_done, metrics = epoch.number + 1, epoch.metrics
        # A trial beyond the last rung is worth its measurement.
        if rule is not None and n_done <= n_epochs // REDUCTION:
            rank = rule.rank(metrics["reconstruction"] + metrics["kl"], metrics["kl"])
            tune.report({"epoch": n_done, "rank": rank, "environment": provenance})

    outcome = run_trial(trial, seed, folder, on_epoch=report)
    last: dict[str, Any] = {"epoch": n_epochs + 1, "rank": math.inf}
    if isinstance(outcome, str):
        tune.report({**last, "failure": outcome})
        return
    if rule is not None and "estimates" in outcome:
        last["rank"] = rule.rank_row(outcome)
    tune.report({**last, "row": json.dumps(outcome)})


class _Collector(tune.Callback):  # type: ignore[misc]
    """Records rows as they arrive, in the process that has started the trials."""

    def __init__(
        self, make_trial: MakeTrial, folder: ResultsFolder, n: int, options: RunOptions
    ) -> None:
        self.make_trial, self.folder, self.n, self.options = make_trial, folder, n, options
        self.n_done = 0
        self.failures: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks to a file that is never read.

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the row of a trial, or how far it came if it was stopped early."""
        ours, seed = self.make_trial(trial.config)
        last = trial.last_result or {}
        if "failure" in last:
            self._fail(ours, seed, last["failure"])
            return
        if "row" in last:
            row = json.loads(last["row"])
            outcome = f": {row['error']}" if "error" in row else ""
        else:
            rule = self.options.rule
            row = {
                **ours.header(seed),
                "stopped": last["epoch"],
                "rank": last["rank"],
                "min_kl": None if rule is None else rule.min_kl,
                "environment": json.loads(last["environment"]),
            }
            outcome = f", stopped after {last['epoch']} epochs"
        self.folder.record(row)
        self._tell(ours, seed, outcome)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note why a trial failed."""
        lines = [line.strip() for line in str(trial.get_error() or "").splitlines() if line.strip()]
        reason = one_line(lines[-1]) if lines else "its process died"
        self._fail(*self.make_trial(trial.config), f"{reason} ({ATTEMPTS} attempts)")

    def _fail(self, trial: Trial, seed: int, reason: str) -> None:
        self.failures.append(f"{trial.describe(seed)}: {reason}")
        self._tell(trial, seed, f": {reason}")

    def _tell(self, trial: Trial, seed: int, outcome: str) -> None:
        self.n_done += 1
        self.options.tell(f"done {self.n_done} of {self.n}: {trial.describe(seed)}{outcome}")


class _DistinctPoints(OptunaSearch):  # type: ignore[misc]
    """Optuna's tree-structured Parzen estimator (Akiba et al. 2019), without repetitions."""

    def __init__(self, make_trial: MakeTrial, known: Sequence[RankedPoint]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._make_trial = make_trial
        self._seen = {self._key(point) for point, _ in known}
        super().__init__(
            sampler=optuna.samplers.TPESampler(seed=len(known)),
            points_to_evaluate=[point for point, _ in known] or None,
            evaluated_rewards=[rank for _, rank in known] or None,
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a new point, or `Searcher.FINISHED` if no draw gives one."""
        for _ in range(MAX_DRAWS):
            point: dict[str, Any] | None = super().suggest(trial_id)
            if point is None or self._key(point) not in self._seen:
                break
            self.on_trial_complete(trial_id, error=True)
            del self._ot_trials[trial_id]
            self._completed_trials.discard(trial_id)
        else:
            return str(Searcher.FINISHED)
        if point is not None:
            self._seen.add(self._key(point))
        return point

    def _key(self, point: dict[str, Any]) -> str:
        trial, seed = self._make_trial(point)
        return trial.key(seed)


@contextmanager
def _ray(address: str) -> Iterator[None]:
    """Use the Ray instance of this process, or start one for the block, with our settings."""
    if address.startswith("ray://"):
        raise ParameterError(
            "ray expects an address such as '10.0.0.1:6379', from a machine of the cluster, got "
            f"{address!r}."
        )
    before = dict(os.environ)
    levels = {logger: logger.level for logger in map(logging.getLogger, ("ray", "ray.tune"))}
    os.environ.update(RAY_SETTINGS)
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    is_ours = not ray.is_initialized()
    try:
        if is_ours:
            _start(address)
        # Ray installs signal handlers that would end the process without a message.
        with raise_interrupts() as interrupt:
            yield
    except KeyboardInterrupt:  # Ray raises this for every signal.
        raise INTERRUPTS.get(interrupt(), KeyboardInterrupt) from None
    finally:
        if is_ours:
            ray.shutdown()
        for logger, level in levels.items():
            logger.setLevel(level)
        for name in RAY_SETTINGS:
            os.environ.pop(name)
            os.environ.update({name: before[name]} if name in before else {})


def _start(address: str) -> None:
    paths = {
        name: os.pathsep.join(map(os.path.abspath, os.environ[name].split(os.pathsep)))
        for name in PATH_VARIABLES
        if name in os.environ
    }
    try:
        with warnings.catch_warnings():
            # JAX warns of every fork. Ray's forks execute other programs at once and take no lock
            # with them.
            message = r"os\.fork\(\) was called"
            warnings.filterwarnings("ignore", message=message, category=RuntimeWarning)
            ray.init(
                address=address,
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=False,
                runtime_env={"env_vars": {**RAY_SETTINGS, **paths}},
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ParameterError(
            f"Ray cannot be reached at {address!r} ({one_line(error)}). Use the address of a "
            "cluster, 'local', or 'none'."
        ) from None

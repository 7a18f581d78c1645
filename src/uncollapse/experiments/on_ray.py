"""Trials side by side, by Ray Tune (extra ``sweep``): on this machine, or on a cluster."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
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
from uncollapse.experiments.run import Due, Place, Tell, attempt
from uncollapse.experiments.stopping import Rule
from uncollapse.experiments.trial import FitTrial, Trial

TRIES = 3  # at a trial whose process dies, each from where the last one came
REDUCTION, FIRST_RUNG = (
    3,
    9,
)  # of ASHA: the share that goes on is a third, from a ninth of the epochs on
DRAWS = 100  # of a point that has not been tried before, until there seems to be none
# Ray's own habits: files of its own for each trial, reports to its makers, a working directory for
# each trial, Ctrl-C.
HABITS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
TAKEN_ALONG = (
    "UNCOLLAPSE_DATA",
    "PYTHONPATH",
)  # from this process's environment to those of a cluster: paths

# The trial that a point of what Tune goes through stands for, and its seed.
Make = Callable[[dict[str, Any]], tuple[Trial, int]]


def do_grid(
    due: Due, place: Place, address: str, tell: Tell, stop_by: Rule | None = None
) -> list[str]:
    """Do trials, the more promising ones to their ends where a rule says which these are. As
    `do_trials` otherwise."""
    scheduler = None if stop_by is None else _halving(max(_n_epochs(trial) for trial, _ in due))
    makes_use_of_gpu = any(trial.takes_gpu for trial, _ in due)
    space = {"index": tune.grid_search(list(range(len(due))))}
    config = tune.TuneConfig(metric="rank", mode="min", scheduler=scheduler, reuse_actors=True)
    collector = _Collector(partial(_of_grid, due), place, len(due), tell, stop_by)
    return _tune(collector, space, config, address, makes_use_of_gpu, stop_by)


def search(
    make: Make,
    space: Mapping[str, Any],
    n: int,
    place: Place,
    address: str,
    tell: Tell,
    rule: Rule,
    known: Sequence[tuple[dict[str, Any], float]] = (),
    stop_early: bool = False,
) -> list[str]:
    """Do trials that Optuna chooses, by what came of those before, none of them twice.

    Args:
        make: the trial that a point of the space stands for.
        space: a number of values to choose from, or the ends of a range, by name.
        n: how many, or as many as there are.
        place: as for `do_trials`.
        address: as for `do_trials`.
        tell: as for `do_trials`.
        rule: by which trials are ranked.
        known: points of trials that are done, and their ranks.
        stop_early: stop what does not look promising.

    Returns:
        A sentence about each trial that something was in the way of.
    """
    dimensions = {name: _dimension(what) for name, what in space.items()}
    example, _ = make({name: dimension.sample() for name, dimension in dimensions.items()})
    config = tune.TuneConfig(
        metric="rank",
        mode="min",
        num_samples=n,
        scheduler=_halving(_n_epochs(example)) if stop_early else None,
        search_alg=_Distinct(make, known),
        reuse_actors=True,
    )
    collector = _Collector(make, place, n, tell, rule)
    with place.occupied():
        failures = _tune(collector, dimensions, config, address, example.takes_gpu, rule)
        place.clear(but=())
    return failures


def _dimension(what: Any) -> Any:
    if isinstance(what, int):
        return tune.choice(list(range(what)))
    low, high = what
    if isinstance(low, int):
        return tune.lograndint(low, high + 1) if low > 0 else tune.randint(low, high + 1)
    return tune.loguniform(low, high) if low > 0 else tune.uniform(low, high)


def _of_grid(due: Due, config: dict[str, Any]) -> tuple[Trial, int]:
    trial, seed = due[config["index"]]
    return trial, seed


def _tune(
    collector: _Collector,
    space: dict[str, Any],
    config: tune.TuneConfig,
    address: str,
    takes_gpu: bool,
    rule: Rule | None,
) -> list[str]:
    with _instance(address), tempfile.TemporaryDirectory(prefix="uncollapse-") as scratch:
        n_gpus = 1 if takes_gpu and ray.cluster_resources().get("GPU", 0) > 0 else 0
        try:
            given = ray.put((collector.make, collector.place, rule))
        # of whatever kind the data raise; Ray's own begins with all that was to be sent
        except Exception as error:
            reason = str(error).partition("serialization:")[2].strip().splitlines() or [
                one_line(error)
            ]
            raise ParameterError(
                f"what the trials need cannot be sent to Ray's processes ({reason[0]}): give "
                "ray='none' (--ray none)."
            ) from None
        work = tune.with_parameters(_do, given=given)
        run_config = tune.RunConfig(
            storage_path=scratch,
            callbacks=[collector],
            failure_config=tune.FailureConfig(max_failures=TRIES - 1),
            verbose=0,
        )
        resources = {"cpu": 1, "gpu": n_gpus}
        tune.Tuner(
            tune.with_resources(work, resources),
            param_space=space,
            tune_config=config,
            run_config=run_config,
        ).fit()
    return collector.failures


def _n_epochs(trial: Trial) -> int:
    return trial.n_epochs if isinstance(trial, FitTrial) else 1


def _halving(n_epochs: int) -> ASHAScheduler:
    """Asynchronous successive halving (Li et al. 2020) in epochs, the last of which is followed by
    the measuring."""
    return ASHAScheduler(
        time_attr="epoch",
        max_t=n_epochs + 1,
        grace_period=max(1, n_epochs // FIRST_RUNG),
        reduction_factor=REDUCTION,
    )


def _do(config: dict[str, Any], given: tuple[Make, Place, Rule | None]) -> None:
    """One trial, in a process of Ray's."""
    make, place, rule = given
    trial, seed = make(config)
    n_epochs, where = _n_epochs(trial), json.dumps(environment(trial.device))

    def watch(numbers: Mapping[str, float]) -> None:
        epoch = int(numbers["epoch"]) + 1
        if (
            rule is not None and epoch <= n_epochs // REDUCTION
        ):  # what has come further is worth its measuring
            rank = rule.rank(numbers["reconstruction"] + numbers["kl"], numbers["kl"])
            tune.report({"epoch": epoch, "rank": rank, "environment": where})

    found = attempt(trial, seed, place, watch=watch)
    if isinstance(found, str):
        tune.report({"epoch": n_epochs + 1, "rank": math.inf, "refusal": found})
        return
    rank = math.inf
    if rule is not None and "estimates" in found:
        rank = rule.rank(*(found["estimates"][name]["value"] for name in ("nll_nats", "kl_nats")))
    tune.report({"epoch": n_epochs + 1, "rank": rank, "row": json.dumps(found)})


class _Collector(tune.Callback):  # type: ignore[misc]
    """Puts down rows as they come, in the process that has asked for them."""

    def __init__(self, make: Make, place: Place, n: int, tell: Tell, rule: Rule | None) -> None:
        self.make, self.place, self.n, self.tell, self.rule = make, place, n, tell, rule
        self.n_done = 0
        self.failures: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps its callbacks in a file of its own, from which nobody goes on."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take what it has given; a trial that was stopped gives only how far it came."""
        ours, seed = self.make(trial.config)
        last = trial.last_result or {}
        if "refusal" in last:
            self._fail(ours, seed, last["refusal"])
        elif "row" in last:
            row = json.loads(last["row"])
            self.place.settle(row)
            self._tell(ours, seed, f": {row['error']}" if "error" in row else "")
        else:
            min_kl = None if self.rule is None else self.rule.min_kl
            stopped = {"stopped": last["epoch"], "rank": last["rank"], "min_kl": min_kl}
            self.place.settle(
                {**ours.identity(seed), **stopped, "environment": json.loads(last["environment"])}
            )
            self._tell(ours, seed, f", stopped after {last['epoch']} epochs")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say what kept it from its end."""
        lines = [line.strip() for line in str(trial.get_error() or "").splitlines() if line.strip()]
        reason = one_line(lines[-1]) if lines else "its process died"
        self._fail(*self.make(trial.config), f"{reason} ({TRIES} tries)")

    def _fail(self, trial: Trial, seed: int, reason: str) -> None:
        self.failures.append(f"{trial.describe(seed)}: {reason}")
        self._tell(trial, seed, f": {reason}")

    def _tell(self, trial: Trial, seed: int, how: str) -> None:
        self.n_done += 1
        self.tell(f"done {self.n_done} of {self.n}: {trial.describe(seed)}{how}")


class _Distinct(OptunaSearch):  # type: ignore[misc]
    """Optuna's choice (Akiba et al. 2019, by tree-structured Parzen estimators), of what has not
    been chosen before.

    Args:
        make: the trial that a point stands for.
        known: points of trials that are done, and their ranks.
    """

    def __init__(self, make: Make, known: Sequence[tuple[dict[str, Any], float]]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._make = make
        self._seen = {self._key(point) for point, _ in known}
        super().__init__(
            sampler=optuna.samplers.TPESampler(seed=len(known)),
            points_to_evaluate=[point for point, _ in known] or None,
            evaluated_rewards=[rank for _, rank in known] or None,
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A point; that there is none any more, if chance finds none."""
        for _ in range(DRAWS):
            point: dict[str, Any] | None = super().suggest(trial_id)
            if point is None or self._key(point) not in self._seen:
                break
            self.on_trial_complete(trial_id, error=True)
            del self._ot_trials[trial_id]
            self._completed_trials.discard(trial_id)
        else:
            finished: str = Searcher.FINISHED
            return finished
        if point is not None:
            self._seen.add(self._key(point))
        return point

    def _key(self, point: dict[str, Any]) -> str:
        trial, seed = self._make(point)
        return trial.key(seed)


@contextmanager
def _instance(address: str) -> Iterator[None]:
    """Ray, the instance that the caller has running already or a new one, without its habits."""
    if address.startswith("ray://"):
        raise ParameterError(
            f"ray expects an address such as '10.0.0.1:6379', from a machine of the cluster, got "
            f"{address!r}."
        )
    before = dict(os.environ)
    levels = {logger: logger.level for logger in map(logging.getLogger, ("ray", "ray.tune"))}
    os.environ.update(HABITS)
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    is_ours = not ray.is_initialized()
    try:
        if is_ours:
            _begin(address)
        with (
            raise_interrupts() as interrupt
        ):  # Ray has begun to listen, and would end the process without a word
            yield
    except KeyboardInterrupt:  # as which Ray lets all pass
        raise INTERRUPTS.get(interrupt(), KeyboardInterrupt) from None
    finally:
        if is_ours:
            ray.shutdown()
        for logger, level in levels.items():
            logger.setLevel(level)
        for name in HABITS:
            os.environ.pop(name)
            os.environ.update({name: before[name]} if name in before else {})


def _begin(address: str) -> None:
    paths = {name: os.environ[name].split(os.pathsep) for name in TAKEN_ALONG if name in os.environ}
    taken = {name: os.pathsep.join(map(os.path.abspath, parts)) for name, parts in paths.items()}
    try:
        with warnings.catch_warnings():
            # Where JAX is in use. Ray's forks become other programs at once, and take no lock with
            # them.
            warnings.filterwarnings(
                "ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning
            )
            ray.init(
                address=address,
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=False,
                runtime_env={"env_vars": {**HABITS, **taken}},
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ParameterError(
            f"Ray cannot be reached at {address!r} ({one_line(error)}): give the address of a "
            "cluster, 'local', or 'none'."
        ) from None

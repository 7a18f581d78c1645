"""Trials side by side, by Ray Tune (extra ``sweep``): on this machine, or on a cluster."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from uncollapse.errors import InputError, one_line
from uncollapse.interrupts import INTERRUPTS, raise_interrupts
from uncollapse.trials.doing import Due, Place, Tell, do_trial
from uncollapse.trials.environment import environment
from uncollapse.trials.trial import FitTrial, Rank, Trial

TRIES = 3  # at a trial whose process dies, each from where the last one came
REDUCTION, FIRST_RUNG = 3, 9  # of ASHA: the share that goes on is a third, from a ninth of the epochs on
# Ray's own habits: files of its own for each trial, reports to its makers, a working directory for each trial, Ctrl-C.
HABITS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
TAKEN_ALONG = ("UNCOLLAPSE_DATA", "PYTHONPATH")  # from this process's environment to those of a cluster

# The trial that a point of what Tune goes through stands for, and its seed.
Make = Callable[[dict[str, Any]], tuple[Trial, int]]


def do_grid(due: Due, place: Place, address: str, tell: Tell, stop_by: Rank | None = None) -> list[str]:
    """Do trials, the more promising ones to their ends where `stop_by` says which these are. As `do_trials` otherwise."""
    make = partial(_of_grid, due)
    return _tune(make, {"index": tune.grid_search(list(range(len(due))))}, 1, due, place, address, tell, stop_by)


def search(
    make: Make,
    space: Mapping[str, Any],
    n: int,
    place: Place,
    address: str,
    tell: Tell,
    rank: Rank,
    known: Sequence[tuple[dict[str, Any], float]] = (),
    stop_early: bool = False,
) -> list[str]:
    """Do trials that Optuna chooses, by what came of those before.

    Args:
        make: the trial that a point of the space stands for.
        space: a number of values to choose from, or the ends of a range, by name.
        n: how many.
        place: as for `do_trials`.
        address: as for `do_trials`.
        tell: as for `do_trials`.
        rank: what a trial is worth.
        known: points of trials that are done, and their ranks.
        stop_early: stop what does not look promising.

    Returns:
        A sentence about each trial that something was in the way of.
    """
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    points, ranks = [point for point, _ in known], [value for _, value in known]
    chooser = OptunaSearch(
        sampler=optuna.samplers.TPESampler(seed=len(known)),
        points_to_evaluate=points or None,
        evaluated_rewards=ranks or None,
    )
    dimensions = {name: _dimension(what) for name, what in space.items()}
    return _tune(make, dimensions, n, (), place, address, tell, rank, chooser, stop_early)


def _dimension(what: Any) -> Any:
    if isinstance(what, int):
        return tune.choice(list(range(what)))
    low, high = what
    if isinstance(low, int) and isinstance(high, int):
        return tune.lograndint(low, high + 1) if low > 0 else tune.randint(low, high + 1)
    return tune.loguniform(low, high) if low > 0 else tune.uniform(low, high)


def _of_grid(due: Due, config: dict[str, Any]) -> tuple[Trial, int]:
    trial, seed = due[config["index"]]
    return trial, seed


def _tune(
    make: Make,
    space: dict[str, Any],
    n_samples: int,
    due: Due,
    place: Place,
    address: str,
    tell: Tell,
    rank: Rank | None,
    chooser: Any = None,
    stop_early: bool = True,
) -> list[str]:
    with _instance(address), tempfile.TemporaryDirectory(prefix="uncollapse-") as scratch:
        has_gpu = ray.cluster_resources().get("GPU", 0) > 0
        example = due[0][0] if due else make({name: dimension.sample() for name, dimension in space.items()})[0]
        collector = _Collector(make, place, len(due) or n_samples, tell)
        stops = rank is not None and stop_early
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_do, make=make, place=place, rank=rank),
                {"cpu": 1, "gpu": 1 if has_gpu and example.takes_gpu else 0},
            ),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="rank",
                mode="min",
                num_samples=n_samples,
                scheduler=_halving(max(_n_epochs(trial) for trial, _ in due) if due else _n_epochs(example)) if stops else None,
                search_alg=chooser,
                reuse_actors=True,  # a fresh process would import everything again
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                callbacks=[collector],
                failure_config=tune.FailureConfig(max_failures=TRIES - 1),
                verbose=0,
            ),
        )
        tuner.fit()
    return collector.failures


def _n_epochs(trial: Trial) -> int:
    return trial.n_epochs if isinstance(trial, FitTrial) else 1


def _halving(n_epochs: int) -> ASHAScheduler:
    """Asynchronous successive halving (Li et al. 2020) in epochs, the last of which is followed by the measuring."""
    return ASHAScheduler(
        time_attr="epoch", max_t=n_epochs + 1, grace_period=max(1, n_epochs // FIRST_RUNG), reduction_factor=REDUCTION
    )


def _do(config: dict[str, Any], make: Make, place: Place, rank: Rank | None) -> None:
    """One trial, in a process of Ray's."""
    trial, seed = make(config)
    epoch = 0

    def watch(numbers: Mapping[str, float]) -> None:
        nonlocal epoch
        epoch = int(numbers["epoch"]) + 1
        if rank is not None:
            tune.report({"epoch": epoch, "rank": rank(numbers["reconstruction"] + numbers["kl"], numbers["kl"])})

    try:
        row = do_trial(trial, seed, place, watch=watch)
    except InputError as error:
        tune.report({"epoch": epoch + 1, "rank": math.inf, "refusal": str(error)})
        return
    found = {name: row["estimates"][name]["value"] for name in ("nll_nats", "kl_nats")} if "estimates" in row else {}
    value = rank(found["nll_nats"], found["kl_nats"]) if rank is not None and found else math.inf
    tune.report({"epoch": epoch + 1, "rank": value, "row": json.dumps(row)})


class _Collector(tune.Callback):  # type: ignore[misc]
    """Puts down rows as they come, in the process that has asked for them."""

    def __init__(self, make: Make, place: Place, n: int, tell: Tell) -> None:
        self.make, self.place, self.n, self.tell = make, place, n, tell
        self.n_done = 0
        self.failures: list[str] = []

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
            stopped = {"stopped": int(last["epoch"]), "rank": last["rank"], "environment": environment(ours.device)}
            self.place.settle({**ours.identity(seed), **stopped})
            self._tell(ours, seed, f", stopped after {last['epoch']} epochs")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say what kept it from its end."""
        reason = one_line(trial.get_error() or "its process died")
        self._fail(*self.make(trial.config), f"{reason} ({TRIES} tries)")

    def _fail(self, trial: Trial, seed: int, reason: str) -> None:
        self.failures.append(f"{trial.describe(seed)}: {reason}")
        self._tell(trial, seed, f": {reason}")

    def _tell(self, trial: Trial, seed: int, how: str) -> None:
        self.n_done += 1
        self.tell(f"done {self.n_done} of {self.n}: {trial.describe(seed)}{how}")


@contextmanager
def _instance(address: str) -> Iterator[None]:
    """Ray, unless the caller has it running already."""
    if ray.is_initialized():
        yield
        return
    os.environ.update(HABITS)
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    taken = {name: os.environ[name] for name in TAKEN_ALONG if name in os.environ}
    try:
        ray.init(
            address=address,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            runtime_env={"env_vars": {**HABITS, **taken}},
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"Ray cannot be reached at {address!r} ({one_line(error)}): give the address of a cluster, 'local', or 'none'."
        ) from None
    try:
        with raise_interrupts() as interrupt:  # Ray has begun to listen, and would end the process without a word
            yield
    except KeyboardInterrupt:  # as which Ray lets all pass
        raise INTERRUPTS.get(interrupt(), KeyboardInterrupt) from None
    finally:
        ray.shutdown()

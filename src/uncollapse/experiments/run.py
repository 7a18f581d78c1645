"""Running trials, each once: one after the other in this process, or in parallel on Ray."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from uncollapse._utils.errors import (
    DEBUG_VARIABLE,
    InputError,
    NonFiniteLossError,
    ParameterError,
    one_line,
)
from uncollapse.experiments.environment import environment
from uncollapse.experiments.results import ResultsFolder
from uncollapse.experiments.selection import SelectionRule
from uncollapse.experiments.trial import EpochCallback, Trial

# Values of `ray` in place of the address of a cluster.
NO_RAY, LOCAL_RAY = "none", "local"
# A trial and its seed.
SeededTrial = tuple[Trial, int]


@dataclass(frozen=True)
class RunOptions:
    """Where and how trials are run.

    Attributes:
        ray: "none" for this process, "local" for all cores and GPUs of this machine, or the
            address of a Ray cluster whose machines see the same folders.
        verbose: show progress bars on a terminal.
        tell: receives a line about each step.
        rule: ranks trials for early stopping and for searches.
        stop_early: stop trials with poor ranks early (ASHA); needs Ray and a rule.
    """

    ray: str = NO_RAY
    verbose: bool = True
    tell: Callable[[str], None] = print
    rule: SelectionRule | None = None
    stop_early: bool = False

    @property
    def stopping_rule(self) -> SelectionRule | None:
        """The rule that stops trials early, or None."""
        return self.rule if self.stop_early else None


def run_missing(
    wanted: Mapping[str, SeededTrial], folder: ResultsFolder, options: RunOptions
) -> list[str]:
    """Run the trials without a final row, as `run_trials` does. A row of a stopped trial is final
    if the rule that stopped it is still in force."""
    rows, rule = folder.rows_by_key(), options.stopping_rule
    done = [
        key
        for key, row in rows.items()
        if "stopped" not in row or (rule is not None and row["min_kl"] == rule.min_kl)
    ]
    missing = [trial for key, trial in wanted.items() if key not in done]
    options.tell(f"{len(wanted)} trials, {len(wanted) - len(missing)} of them done before")
    return run_trials(missing, folder, options)


def run_trials(
    trials: Sequence[SeededTrial], folder: ResultsFolder, options: RunOptions
) -> list[str]:
    """Run trials, and write the row of each as soon as it ends.

    Trials resume from the states that an interruption has left in the folder.

    Returns:
        A sentence for each trial that failed for a reason that may pass. It has no row.

    Raises:
        FileError: if the folder cannot be written to, or another process runs trials there.
        ParameterError: if Ray is asked for and is not installed.
    """
    keys = [trial.key(seed) for trial, seed in trials]
    with folder.locked():
        folder.remove_finished_states(keep=keys)
        if not trials:
            failures = []
        elif options.ray == NO_RAY:
            failures = _run_in_turn(trials, folder, options)
        else:
            failures = import_on_ray().run_grid(trials, folder, options)
        folder.remove_finished_states()
    return failures


def import_on_ray() -> Any:
    """Return the module `on_ray`, or raise `ParameterError` if Ray Tune is not installed."""
    try:
        return import_module("uncollapse.experiments.on_ray")
    except ImportError:
        raise ParameterError(
            "running trials in parallel needs Ray Tune. Install it with "
            "pip install 'uncollapse[sweep]', or use ray='none' (--ray none)."
        ) from None


def _run_in_turn(
    trials: Sequence[SeededTrial], folder: ResultsFolder, options: RunOptions
) -> list[str]:
    failures = []
    for number, (trial, seed) in enumerate(trials, 1):
        options.tell(f"trial {number} of {len(trials)}: {trial.describe(seed)}")
        outcome = run_trial(trial, seed, folder, options.verbose)
        if isinstance(outcome, str):
            failures.append(f"{trial.describe(seed)}: {outcome}")
            options.tell(f"note: {outcome}")
            continue
        folder.record(outcome)
        if "error" in outcome:
            options.tell(f"note: {outcome['error']}")
    return failures


def run_trial(
    trial: Trial,
    seed: int,
    folder: ResultsFolder,
    verbose: bool = False,
    on_epoch: EpochCallback | None = None,
) -> dict[str, Any] | str:
    """Run one trial and save its model.

    Returns:
        The row, which the caller records; or the reason of a failure that may pass. No exception
        is raised, so that the other trials go on.
    """
    key = trial.key(seed)
    try:
        model, row = trial.execute(seed, folder.states / key, verbose, on_epoch)
        if trial.saves_model(seed):
            model.save(folder.models / key, overwrite=True)
    except NonFiniteLossError as error:  # Another attempt would end in the same way.
        found = environment(trial.device)
        return {**trial.header(seed), "error": str(error), "environment": found}
    except InputError as error:
        return str(error)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        reason = f"unexpected {type(error).__name__}: {one_line(error)}"
        return f"{reason} (set {DEBUG_VARIABLE}=1 for the traceback)"
    return row

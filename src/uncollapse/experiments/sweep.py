"""`sweep`: train a model over values of its arguments and over seeds, and select the best."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uncollapse._utils.errors import DataError, InputError, ParameterError, brief
from uncollapse._utils.validation import check_count, check_seed
from uncollapse.data import Data, StoredRows, are_documents
from uncollapse.estimators.base import PREDICTED_ROWS_AT_ONCE
from uncollapse.estimators.data_summary import as_source
from uncollapse.experiments.results import ResultsFolder
from uncollapse.experiments.run import (
    LOCAL_RAY,
    NO_RAY,
    RunOptions,
    import_on_ray,
    run_missing,
    run_trials,
)
from uncollapse.experiments.search_space import SearchSpace
from uncollapse.experiments.selection import SelectionRule
from uncollapse.experiments.sweep_result import Row, Sweep, finished
from uncollapse.experiments.tables import provenance
from uncollapse.experiments.trial import TrialData

RESULTS = "trials.jsonl"


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
    """Train a model with all combinations of values and seeds, and select the best.

    Args:
        X: training data, shape (n, n_features): an array, a data frame, or rows on disk; or
            documents; or `Data`.
        grid: lists of values, by the name of the argument. With `n_searched` also ranges such as
            "0.1..5", which are searched on a logarithmic scale if both ends are positive.
        held_out: data that the models are measured on. By default a random fifth of X, which is
            left out of the training.
        labels: of the held-out data. A linear probe measures how well the latents predict classes.
        model: "VAE", "MixtureVAE" or "SequenceVAE". By default "SequenceVAE" for documents, else
            "VAE".
        seeds: each combination is trained with every seed.
        min_kl: lowest KL of the best model, in nats.
        output: folder of the results. ``trials.jsonl`` receives a row for each trial when it ends,
            ``models`` the fitted models; ``sweep.csv``, ``rate-distortion.png`` and ``best.json``
            are written at the end. Unfinished trials keep their state here.
        resume: continue an interrupted sweep in this folder. Finished trials are not repeated.
        ray: "local" for all cores and GPUs of this machine (the default where Ray is installed),
            the address of a cluster whose machines see the same folders, or "none" for one trial
            after the other in this process.
        stop_early: on Ray, stop trials with a poor training loss or KL early (ASHA).
        n_searched: on Ray, number of combinations that Optuna chooses by the results of earlier
            ones. Takes one seed.
        verbose: show progress bars on a terminal.
        tell: receives a line about each step.
        settings: other arguments of the model, for all trials.

    Raises:
        InputError: if an argument cannot be used, the folder holds results and `resume` is False,
            or no trial has a result.

    >>> import tempfile, numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.diag([3.0, 2.0, 0.1])
    >>> settings = {"latent_dim": 1, "hidden": (8,), "max_epochs": 3, "ray": "none"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = uc.sweep(X, {"inverse_lipschitz": [0.0, 1.0]}, output=folder,
    ...                      tell=lambda line: None, verbose=False, **settings)
    >>> found.table()[["inverse_lipschitz", "done"]].to_numpy().tolist()
    [[0.0, 1.0], [1.0, 1.0]]
    """
    if held_out is None and labels is not None:
        raise ParameterError("labels belong to held_out, which is missing. Give both, or neither.")
    rule, seeds = SelectionRule(min_kl), _check_seeds(seeds)
    ray = ray or (LOCAL_RAY if find_spec("ray") else NO_RAY)
    if ray == NO_RAY and (stop_early or n_searched is not None):
        raise ParameterError(
            "early stopping and searches need Ray. Install it with "
            "pip install 'uncollapse[sweep]', and leave out ray='none'."
        )
    is_text = None if model is None else model == "SequenceVAE"
    train = as_data(X, is_text=is_text)
    parts = train.hold_out() if held_out is None else (train, as_data(held_out, labels, is_text))
    model = model or ("SequenceVAE" if train.is_text else "VAE")
    settings = {**settings, "verbose": verbose}
    space = SearchSpace.from_grid(TrialData(*parts), model, grid, settings, n_searched is not None)
    folder = ResultsFolder(Path(output).absolute() / RESULTS)
    folder.check_resume(resume)
    space.check(on_this_machine=ray in (NO_RAY, LOCAL_RAY))
    options = RunOptions(ray, verbose, tell, rule, stop_early)
    if n_searched is None:
        failures, labels = _run_all(space, seeds, folder, options)
    else:
        failures, labels = _search(space, seeds, n_searched, folder, options)
    rows = _labeled_rows(folder.rows_by_key(), labels, failures)
    result = Sweep(rows, tuple(space.values), len(seeds), rule, folder.models, tuple(failures))
    paths = ", ".join(map(str, [folder.path, *result.write(folder.path.parent)]))
    tell(f"written: {paths}\n{provenance(rows)}")
    return result


def as_data(X: Any, labels: Any = None, is_text: bool | None = None) -> Data:
    """Return examples of any kind that `sweep` takes as `Data`.

    Strings and sequences of different lengths are documents, unless `is_text` says otherwise.
    """
    if isinstance(X, Data):
        return X
    if isinstance(X, str | Path):
        raise DataError(
            f"X expects examples, got {brief(X)}. Read a file with uncollapse.data.load."
        )
    y = None if labels is None else np.asarray(labels)
    source = as_source(X, PREDICTED_ROWS_AT_ONCE)
    if isinstance(source, StoredRows):
        return Data(source, y, feature_names=source.feature_names)
    if source is not None:
        raise DataError(
            "a sweep expects rows that can be read in any order, got a loader. Give a data set "
            "with a length."
        )
    if isinstance(X, pd.DataFrame):
        return Data(_frame_values(X), y, feature_names=[str(name) for name in X.columns])
    if not (are_documents(X) if is_text is None else is_text):
        return Data(_array(X), y)
    listed = list(X)
    documents = np.empty(len(listed), dtype=object)
    documents[:] = listed
    return Data(documents, y)


def _frame_values(frame: pd.DataFrame) -> np.ndarray:
    try:
        return frame.to_numpy(dtype=float)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"X expects columns of numbers, got others ({error}). Encode them, or leave them out."
        ) from None


def _array(X: Any) -> np.ndarray:
    try:
        table = np.asarray(X.toarray() if hasattr(X, "toarray") else X)
    except ValueError:  # NumPy refuses rows of different lengths.
        table = np.empty(())
    if not table.ndim:
        raise DataError(f"X expects an array of examples in rows, got {brief(X)}.")
    return table


def _labeled_rows(
    found: Mapping[str, Row], labels: Mapping[str, dict[str, Any]], failures: Sequence[str]
) -> tuple[Row, ...]:
    """Return the rows in the order of their labels, or raise `InputError` if none has results.

    The labels are those of this call: an earlier one may have varied other arguments.
    """
    rows = tuple({**found[key], "labels": labels[key]} for key in labels if key in found)
    if not finished(rows):
        errors = [row["error"] for row in rows if "error" in row]
        reason = [*failures, *errors, "all were stopped early"][0]
        raise InputError(f"none of {len(labels)} trials has a result: {reason}")
    return rows


def _check_seeds(seeds: Sequence[int]) -> list[int]:
    try:
        plain = [operator.index(seed) for seed in seeds]
    except TypeError:
        raise ParameterError(f"seeds expect a list of integers, got {brief(seeds)}.") from None
    if len(set(plain)) < max(len(plain), 1):
        raise ParameterError(f"seeds expect one or more distinct integers, got {brief(plain)}.")
    for seed in plain:
        check_seed("seeds", seed)
    return plain


def _run_all(
    space: SearchSpace, seeds: list[int], folder: ResultsFolder, options: RunOptions
) -> tuple[list[str], dict[str, Any]]:
    """Run all combinations. Return the failures, and the labels of the trials by key."""
    wanted = {trial.key(seed): (trial, seed) for seed in seeds for trial in space.trials()}
    failures = run_missing(wanted, folder, options)
    return failures, {key: trial.labels for key, (trial, _) in wanted.items()}


def _search(
    space: SearchSpace, seeds: list[int], n: int, folder: ResultsFolder, options: RunOptions
) -> tuple[list[str], dict[str, Any]]:
    """Resume interrupted trials, and let Optuna choose the rest. Return as `_run_all` does."""
    check_count("n_searched", n)
    if len(seeds) != 1:
        raise ParameterError(
            f"a search takes one seed, got {len(seeds)}. Search with one, and sweep the best "
            "combinations with more."
        )
    sizes = [size if isinstance(size, int) else math.inf for size in space.dimensions.values()]
    if math.prod(sizes) < n:
        raise ParameterError(
            f"a search of {n} expects at least as many combinations, got {math.prod(sizes)}. Sweep "
            "all of them instead."
        )
    seed, failures = seeds[0], []
    interrupted = [(trial, seed) for trial in space.interrupted_trials(folder.states, seed)]
    if interrupted:
        plain = RunOptions(options.ray, verbose=False, tell=options.tell)
        failures = run_trials(interrupted, folder, plain)
    points = space.known_points(folder.rows_by_key(), seed)
    known = [(point, _rank(row, options.rule)) for point, row in points]
    options.tell(f"{n} trials to be chosen, {min(n, len(known))} of them done before")
    if len(known) < n:
        make_trial = partial(space.seeded_trial_at, seed)
        failures += import_on_ray().search(
            make_trial, space.dimensions, n - len(known), known, folder, options
        )
    points = space.known_points(folder.rows_by_key(), seed)
    return failures, {row["key"]: space.trial_at(point).labels for point, row in points}


def _rank(row: Row, rule: SelectionRule | None) -> float:
    """Return the rank of a row for Optuna, infinite for a trial without results."""
    if rule is not None and "estimates" in row:
        return rule.rank_row(row)
    rank = row.get("rank")
    return math.inf if rank is None else rank

"""Doing the trials of an experiment, once each, and making its table and figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from uncollapse._utils.errors import FileError, InputError, ParameterError
from uncollapse._utils.files import write_bytes, write_text
from uncollapse._utils.validation import check_count
from uncollapse.experiments import Place, ResultsFile, Trial, do_trials
from uncollapse.experiments.papers.classical import CLASSICAL_GMM, CLASSICAL_PPCA
from uncollapse.experiments.papers.experiment import SCALES, Experiment, paper_notes
from uncollapse.experiments.papers.k23 import IMAGES as K23_IMAGES
from uncollapse.experiments.papers.k23 import TOY
from uncollapse.experiments.papers.text import K23_TEXT, W21_TEXT
from uncollapse.experiments.papers.w21 import DEPTH, ONE_CLUSTER, PINWHEEL
from uncollapse.experiments.papers.w21 import IMAGES as W21_IMAGES
from uncollapse.experiments.plotting import as_png
from uncollapse.experiments.run import ONE_PROCESS
from uncollapse.experiments.tables import flat, provenance, to_markdown

EXPERIMENTS: dict[str, Experiment] = {
    "k23-toy": TOY,
    "k23-images": K23_IMAGES,
    "w21-pinwheel": PINWHEEL,
    "w21-images": W21_IMAGES,
    "w21-depth": DEPTH,
    "w21-one-cluster": ONE_CLUSTER,
    "k23-text": K23_TEXT,
    "w21-text": W21_TEXT,
    "w21-ppca": CLASSICAL_PPCA,
    "w21-gmm": CLASSICAL_GMM,
}


def reproduce(
    name: str,
    scale: str = "small",
    seeds: int | None = None,
    output: str | Path = "results",
    resume: bool = False,
    ray: str = ONE_PROCESS,
    verbose: bool = True,
    tell: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Compute an experiment of one of the papers anew.

    Every trial is a row in ``<output>/<name>-<scale>.jsonl``, written when it is done, with its
    configuration, seed, commit and versions. A trial that another experiment has in common, and has
    done in the same folder, is taken from there. Beside the rows go the table (.csv, .md) and the
    figures (.png), and while it computes, what is needed to go on after an interruption.

    Args:
        name: of the experiment.
        scale: "smoke" (seconds), "small" (at most about ten minutes a run on 2 cores) or "paper"
            (the papers' sizes).
        seeds: how many, from 0 on; by default what the scale asks for.
        output: folder of the results.
        resume: go on with the results that are there, computing nothing twice.
        ray: as for `uncollapse.experiments.do_trials`: this process, or this machine or a cluster
            by Ray.
        verbose: show progress bars where there is a terminal.
        tell: receives a line about each step.

    Returns:
        The table.

    Raises:
        InputError: if there is no such experiment or scale, results are there and `resume` is
            False, or something was in the way of a trial, once all others are done and published.
    """
    experiment = _find(name, scale)
    n_seeds = experiment.seeds[scale] if seeds is None else seeds
    check_count("seeds", n_seeds)
    folder = Path(output)
    file = ResultsFile(folder / f"{name}-{scale}.jsonl")
    done = {row["key"] for row in file.rows()}
    if done and not resume:
        raise FileError(
            f"{file.path} holds {len(done)} trials: go on with them (--resume), or choose another "
            "--output."
        )
    trials = list(experiment.trials(scale))
    wanted = {trial.key(seed): (trial, seed) for seed in range(n_seeds) for trial in trials}
    due = {key: chosen for key, chosen in wanted.items() if key not in done}
    _take_over(due, file, scale, tell)
    failures = do_trials(list(due.values()), Place(file), ray, verbose, tell)
    found = {row["key"]: row for row in file.rows()}
    rows = [
        found[key] for key in wanted if key in found
    ]  # tables follow the experiment, whenever its trials were done
    if failures and not any("estimates" in row for row in rows):
        raise InputError(failures[0])
    table = _publish(name, scale, experiment, rows, folder, tell)
    if failures:
        raise InputError(
            f"{len(failures)} trials gave no result, and are due again with --resume: {failures[0]}"
        )
    return table


def _find(name: str, scale: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise ParameterError(
            f"there is no experiment {name!r}: expected one of {', '.join(EXPERIMENTS)}."
        )
    if scale not in SCALES:
        raise ParameterError(f"scale expects one of {', '.join(SCALES)}, got {scale!r}.")
    return EXPERIMENTS[name]


def _take_over(
    due: dict[str, tuple[Trial, int]], file: ResultsFile, scale: str, tell: Callable[[str], None]
) -> None:
    """Copy from the other experiments of the folder what they have done of the trials that are due,
    which then are not."""
    for name in EXPERIMENTS:
        path = file.path.parent / f"{name}-{scale}.jsonl"
        common = [row for row in ResultsFile(path).rows() if row["key"] in due]
        for row in common:
            trial, _ = due.pop(row["key"])
            file.append({**row, "model": trial.model, "labels": trial.labels})
        if common:
            tell(f"{len(common)} trials taken from {path}")


def _publish(
    name: str,
    scale: str,
    experiment: Experiment,
    rows: list[dict[str, Any]],
    folder: Path,
    tell: Callable[[str], None],
) -> pd.DataFrame:
    results = flat([row for row in rows if "estimates" in row])
    if results.empty:
        raise InputError(
            f"none of the {len(rows)} trials of {name} ended well: see "
            f"{folder / f'{name}-{scale}.jsonl'}."
        )
    table = experiment.table(results)
    stem = folder / f"{name}-{scale}"
    write_text(f"{stem}.csv", table.to_csv(index=False), overwrite=True)
    text = to_markdown(
        f"{experiment.title} ({scale} scale)", table, paper_notes(name), provenance(rows)
    )
    write_text(f"{stem}.md", text, overwrite=True)
    written = [f"{stem}.csv", f"{stem}.md"]
    for figure_name, draw in experiment.figures.items():
        path, models = Path(f"{stem}-{figure_name}.png"), _Models(folder / "models")
        figure = draw(results, models, scale)
        lacking = f"{len(models.missing)} fitted models, which are not in {models.folder}"
        if models.missing and path.exists():
            tell(f"note: {path} stays as it was: it would lack {lacking}")
            continue
        if models.missing:
            tell(f"note: {path} lacks {lacking}")
        write_bytes(path, as_png(figure))
        written.append(str(path))
    tell(f"written: {', '.join(written)}")
    return table


class _Models:
    """What the trials of the first seed have kept, as far as it is in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[Trial] = []

    def __call__(self, trial: Trial) -> Any:
        path = self.folder / trial.key(0)
        if not path.is_dir():
            self.missing.append(trial)
            return None
        return trial.load(path)

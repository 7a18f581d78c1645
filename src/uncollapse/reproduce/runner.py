"""Doing the runs of an experiment, once each, and making its table and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from uncollapse.errors import InputError, NonFiniteLossError
from uncollapse.files import write_text
from uncollapse.inputs import check_count
from uncollapse.reproduce.classical import CLASSICAL_GMM, CLASSICAL_PPCA
from uncollapse.reproduce.experiment import SCALES, Experiment, Run, paper_notes
from uncollapse.reproduce.k23 import IMAGES as K23_IMAGES
from uncollapse.reproduce.k23 import TOY
from uncollapse.reproduce.measure import failure
from uncollapse.reproduce.results import ResultsFile
from uncollapse.reproduce.tables import flat, provenance, to_markdown
from uncollapse.reproduce.text import K23_TEXT, W21_TEXT
from uncollapse.reproduce.w21 import DEPTH, ONE_CLUSTER, PINWHEEL
from uncollapse.reproduce.w21 import IMAGES as W21_IMAGES

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
    verbose: bool = True,
    tell: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Compute an experiment of one of the papers anew.

    Every run is a row in ``<output>/<name>-<scale>.jsonl``, written when it is done, with its configuration, seed, commit and
    versions. A run that another experiment has in common, and has done in the same folder, is taken from there. Beside the rows
    go the table (.csv, .md) and the figures (.png).

    Args:
        name: of the experiment.
        scale: "smoke" (seconds), "small" (at most about ten minutes a run on 2 cores) or "paper" (the papers' sizes).
        seeds: how many, from 0 on; by default what the scale asks for.
        output: folder of the results.
        resume: go on with the results that are there, computing nothing twice.
        verbose: show progress bars where there is a terminal.
        tell: receives a line about each step.

    Returns:
        The table.

    Raises:
        InputError: if there is no such experiment or scale, or results are there and `resume` is False.
    """
    experiment = _find(name, scale)
    n_seeds = experiment.seeds[scale] if seeds is None else seeds
    check_count("seeds", n_seeds)
    file, folder = ResultsFile(Path(output) / f"{name}-{scale}.jsonl"), Path(output)
    done = {row["key"] for row in file.rows()}
    if done and not resume:
        raise InputError(f"{file.path} holds {len(done)} runs: go on with them (--resume), or choose another --output.")
    runs = list(experiment.runs(scale))
    wanted = {run.key(seed): (run, seed) for seed in range(n_seeds) for run in runs}
    due = {key: chosen for key, chosen in wanted.items() if key not in done}
    _take_over(due, file, scale, tell)
    _compute(list(due.values()), file, folder, verbose, tell)
    found = {row["key"]: row for row in file.rows()}
    rows = [found[key] for key in wanted if key in found]  # tables follow the experiment, whenever its runs were done
    return _publish(name, scale, experiment, rows, folder, tell)


def _find(name: str, scale: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise InputError(f"there is no experiment {name!r}: expected one of {', '.join(EXPERIMENTS)}.")
    if scale not in SCALES:
        raise InputError(f"scale expects one of {', '.join(SCALES)}, got {scale!r}.")
    return EXPERIMENTS[name]


def _take_over(due: dict[str, tuple[Run, int]], file: ResultsFile, scale: str, tell: Callable[[str], None]) -> None:
    """Copy from the other experiments of the folder what they have done of the runs that are due, which it then is not."""
    for name in EXPERIMENTS:
        path = file.path.parent / f"{name}-{scale}.jsonl"
        common = [row for row in ResultsFile(path).rows() if row["key"] in due]
        for row in common:
            run, _ = due.pop(row["key"])
            file.append({**row, "model": run.model, "labels": run.labels})
        if common:
            tell(f"{len(common)} runs taken from {path}")


def _compute(due: Sequence[tuple[Run, int]], file: ResultsFile, folder: Path, verbose: bool, tell: Callable[[str], None]) -> None:
    for number, (run, seed) in enumerate(due, 1):
        what = ", ".join([run.model, *(f"{key} {value}" for key, value in run.labels.items())])
        tell(f"run {number} of {len(due)}: {what}, seed {seed}")
        try:
            kept, row = run.execute(seed, verbose)
        except NonFiniteLossError as error:  # a result as well, which another try would only repeat
            tell(f"note: {error}")
            file.append(failure(run, seed, error))
            continue
        if run.keep and seed == 0:
            kept.save(folder / "models" / run.key(seed), overwrite=True)
        file.append(row)


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
        raise InputError(f"none of the {len(rows)} runs of {name} ended well: see {folder / f'{name}-{scale}.jsonl'}.")
    table = experiment.table(results)
    stem = folder / f"{name}-{scale}"
    write_text(f"{stem}.csv", table.to_csv(index=False), overwrite=True)
    text = to_markdown(f"{experiment.title} ({scale} scale)", table, paper_notes(name), provenance(rows))
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
        figure.savefig(path, dpi=150)
        written.append(str(path))
    tell(f"written: {', '.join(written)}")
    return table


class _Models:
    """What the runs of the first seed have kept, as far as it is in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[Run] = []

    def __call__(self, run: Run) -> Any:
        path = self.folder / run.key(0)
        if not path.is_dir():
            self.missing.append(run)
            return None
        return run.load(path)

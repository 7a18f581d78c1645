"""`reproduce`: run the trials of an experiment, and write its table and figures."""

import warnings
from pathlib import Path

import pandas as pd

from uncollapse._utils.errors import InputError, ParameterError
from uncollapse._utils.files import write_bytes, write_text
from uncollapse._utils.validation import check_count
from uncollapse.experiments.papers import classical, k23, text, w21
from uncollapse.experiments.papers.experiment import (
    SCALES,
    Experiment,
    FigureInput,
    published_notes,
)
from uncollapse.experiments.plotting import as_png
from uncollapse.experiments.results import ResultsFolder
from uncollapse.experiments.run import RunOptions, SeededTrial, run_missing
from uncollapse.experiments.tables import provenance, results_frame, to_markdown

EXPERIMENTS: dict[str, Experiment] = {
    "k23-toy": k23.TOY,
    "k23-images": k23.IMAGES,
    "w21-pinwheel": w21.PINWHEEL,
    "w21-images": w21.IMAGES,
    "w21-depth": w21.DEPTH,
    "w21-one-cluster": w21.ONE_CLUSTER,
    "k23-text": text.K23_TEXT,
    "w21-text": text.W21_TEXT,
    "w21-ppca": classical.PPCA_EXPERIMENT,
    "w21-gmm": classical.GMM_EXPERIMENT,
}
IN_TURN = RunOptions()


def reproduce(
    name: str,
    scale: str = "small",
    seeds: int | None = None,
    output: str | Path = "results",
    resume: bool = False,
    options: RunOptions = IN_TURN,
) -> pd.DataFrame:
    """Reproduce an experiment of one of the papers.

    ``<output>/<name>-<scale>.jsonl`` receives a row for each trial when it ends, with its
    configuration, seed, commit and versions. A trial that belongs to another experiment as well is
    copied from there if it is in the same folder. The table (.csv, .md) and the figures (.png) are
    written at the end. Unfinished trials keep their state in the folder.

    Args:
        name: of the experiment.
        scale: "smoke" (seconds), "small" (at most about ten minutes a run on 2 cores) or "paper"
            (the papers' sizes).
        seeds: number of seeds, which count from 0. The default depends on the scale.
        output: folder of the results.
        resume: continue with the results in the folder. Finished trials are not repeated.
        options: where and how the trials are run; by default one after the other.

    Returns:
        The table.

    Raises:
        InputError: if there is no such experiment or scale, the folder holds results and `resume`
            is False, or a trial failed; the results of the others are written first.
    """
    experiment = _find_experiment(name, scale)
    n_seeds = experiment.seeds[scale] if seeds is None else seeds
    check_count("seeds", n_seeds)
    stem = Path(output) / f"{name}-{scale}"
    folder = ResultsFolder(Path(f"{stem}.jsonl"))
    folder.check_resume(resume)
    trials = experiment.trials(scale)
    wanted = {trial.key(seed): (trial, seed) for seed in range(n_seeds) for trial in trials}
    _copy_common_rows(wanted, folder, scale, options)
    with warnings.catch_warnings():
        # The papers binarize grey levels too.
        warnings.filterwarnings("ignore", message="X holds values strictly between 0 and 1")
        failures = run_missing(wanted, folder, options)
    found = folder.rows_by_key()
    rows = [found[key] for key in wanted if key in found]
    results = results_frame([row for row in rows if "estimates" in row])
    if results.empty:
        reason = failures[0] if failures else f"see {folder.path}."
        raise InputError(f"none of the {len(wanted)} trials of {name} has a result: {reason}")
    table, title = experiment.table(results), f"{experiment.title} ({scale} scale)"
    page = to_markdown(title, table, published_notes(name), provenance(rows))
    write_text(f"{stem}.csv", table.to_csv(index=False), overwrite=True)
    write_text(f"{stem}.md", page, overwrite=True)
    figures = _draw_figures(experiment, results, folder, scale, options)
    options.tell(f"written: {', '.join([f'{stem}.csv', f'{stem}.md', *figures])}")
    if failures:
        raise InputError(
            f"{len(failures)} trials gave no result. Repeat them with --resume: {failures[0]}"
        )
    return table


def _find_experiment(name: str, scale: str) -> Experiment:
    if name not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS)
        raise ParameterError(f"there is no experiment {name!r}: expected one of {known}.")
    if scale not in SCALES:
        raise ParameterError(f"scale expects one of {', '.join(SCALES)}, got {scale!r}.")
    return EXPERIMENTS[name]


def _copy_common_rows(
    wanted: dict[str, SeededTrial], folder: ResultsFolder, scale: str, options: RunOptions
) -> None:
    """Copy rows of missing trials from the results of other experiments in the same folder."""
    missing = {key: trial for key, (trial, _) in wanted.items()}
    for key in folder.rows_by_key():
        missing.pop(key, None)
    for name in EXPERIMENTS:
        path = folder.path.with_name(f"{name}-{scale}.jsonl")
        common = [row for row in ResultsFolder(path).rows() if row["key"] in missing]
        for row in common:
            trial = missing.pop(row["key"])
            folder.record({**row, "model": trial.model, "labels": trial.labels})
        if common:
            options.tell(f"{len(common)} trials taken from {path}")


def _draw_figures(
    experiment: Experiment,
    results: pd.DataFrame,
    folder: ResultsFolder,
    scale: str,
    options: RunOptions,
) -> list[str]:
    """Draw and write the figures, and return their paths.

    A figure that is there stays if models are missing to draw it anew.
    """
    written = []
    for end, draw in experiment.figures.items():
        path = folder.path.with_name(f"{folder.path.stem}-{end}.png")
        given = FigureInput(results, scale, folder.models)
        figure = draw(given)
        missing = f"{len(given.missing)} fitted models, which are missing in {folder.models}"
        if given.missing and path.exists():
            options.tell(f"note: {path} is not redrawn without {missing}")
            continue
        if given.missing:
            options.tell(f"note: {path} lacks {missing}")
        write_bytes(path, as_png(figure))
        written.append(str(path))
    return written

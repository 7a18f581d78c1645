"""Parts that the papers' experiments share: trials, data, rivals, and published numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uncollapse._utils.correlations import canonical_correlations
from uncollapse._utils.random import derived_seed, hold_out_indices, random_indices
from uncollapse.data import Data, load
from uncollapse.data.synthetic import one_cluster, pinwheel, two_clusters, two_gaussians
from uncollapse.data.synthetic_text import TEST_TRUTH, synthetic_text, true_latents
from uncollapse.estimators import Estimator
from uncollapse.experiments.presets import find_preset
from uncollapse.experiments.tables import beside, over_seeds
from uncollapse.experiments.trial import FitTrial, Trial, TrialData

PUBLISHED = Path(__file__).parent / "published"
SCALES = ("smoke", "small", "paper")
GENERATORS: dict[str, Callable[..., Data]] = {
    "two-gaussians": two_gaussians,
    "pinwheel": pinwheel,
    "one-cluster": one_cluster,
    "two-clusters": two_clusters,
}
# Ablations of our defaults: without a constant, and without an injective decoder.
OUR_DEFAULTS: dict[str, dict[str, Any]] = {
    "GMVAE, our defaults": {"inverse_lipschitz": None},
    "L = 0, our defaults": {"inverse_lipschitz": 0.0},
}
# Presets by the names that tables give to the models: the rivals of W21 table 1, and rivals that
# neither paper computes.
RIVALS = {
    "VAE": "VAE",
    "SA-VAE": "SA-VAE",
    "Lagging VAE": "Lagging-VAE",
    "beta-VAE (0.2)": "beta-VAE",
}
OTHER_RIVALS = {
    name: name for name in ("annealed-VAE", "cyclical-VAE", "free-bits-VAE", "IWAE", "LR-VAE")
}
SMOKE_SCHEDULES: dict[str, dict[str, Any]] = {
    "annealed-VAE": {"objective": {"elbo": {"warmup_steps": 1}}},
    "cyclical-VAE": {"objective": {"cyclical": {"n_cycles": 1}}},
}
# Columns of the results by the names that tables give them.
COLUMNS = {
    "NLL": "nll_nats",
    "KL": "kl_nats",
    "KL of y": "kl_y_nats",
    "KL of z": "kl_z_nats",
    "MI": "mutual_information_nats",
    "cap": "information_cap_nats",
    "I(x; y)": "component_information_nats",
    "AU": "active_share",
    "informative": "informative_share",
    "live components": "live_components",
    "Fisher": "fisher_divergence",
    "majority": "majority_accuracy",
    "matched": "matched_accuracy",
    "final L": "constant",
}


@dataclass(frozen=True)
class Fit(FitTrial):
    """An estimator that is fitted to the data of `load_trial_data(data)`.

    Attributes:
        keep: save the fitted model of the first seed, for figures.
    """

    keep: bool = False

    def load_data(self, seed: int) -> TrialData:
        return load_trial_data(self.data, seed)

    def extra_results(self, estimator: Estimator, test: Data) -> dict[str, Any]:
        if self.data["name"] != "synthetic-text":
            return {}
        share = {"value": correlation_share(estimator, test.X), "standard_error": math.nan}
        return {"estimates": {"correlation_share": share}}

    def saves_model(self, seed: int) -> bool:
        return self.keep and seed == 0


@dataclass(frozen=True)
class Table:
    """Make a table of means and deviations over seeds, beside the published numbers if any.

    Attributes:
        by: columns that make a group of trials.
        columns: columns of the results, by their names in the table.
        published: name of the experiment whose published numbers are shown.
        digits: number of decimals.
    """

    by: tuple[str, ...]
    columns: Mapping[str, str]
    published: str = ""
    digits: int = 2

    def __call__(self, results: pd.DataFrame) -> pd.DataFrame:
        table = over_seeds(results, self.by, self.columns, self.digits)
        if not self.published:
            return table
        paper = self.published.partition("-")[0].upper()
        return beside(table, published_numbers(self.published), self.by, paper)


@dataclass(frozen=True)
class FigureInput:
    """Results and models that a figure is drawn from.

    Attributes:
        models: folder of the fitted models.
        missing: trials whose model was asked for and is not there.
    """

    results: pd.DataFrame
    scale: str
    models: Path
    missing: list[Trial] = field(default_factory=list)

    def model(self, trial: Trial) -> Any:
        """Return the fitted model of a trial's first seed, or None if it is missing."""
        path = self.models / trial.key(0)
        if path.is_dir():
            return trial.load(path)
        self.missing.append(trial)
        return None


@dataclass(frozen=True)
class Experiment:
    """A figure or a table of a paper.

    Attributes:
        title: in one line.
        trials: returns the trials of a scale.
        table: makes the table of the results.
        figures: by the end of their file's name.
        seeds: number of seeds, by scale.
    """

    title: str
    trials: Callable[[str], Sequence[Trial]]
    table: Callable[[pd.DataFrame], pd.DataFrame]
    figures: dict[str, Callable[[FigureInput], Any]] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=lambda: {"smoke": 1, "small": 3, "paper": 3})


def published_numbers(name: str) -> pd.DataFrame:
    """Return the numbers that a paper prints for an experiment, with their source."""
    return pd.read_csv(PUBLISHED / f"{name}.csv")


def published_notes(name: str) -> str:
    """Return the notes on an experiment's table, in Markdown."""
    return (PUBLISHED / f"{name}.md").read_text(encoding="utf-8")


def load_trial_data(data: dict[str, Any], seed: int) -> TrialData:
    """Return the data of a trial.

    Args:
        data: a name, with the arguments of a generator, or with the numbers `n_train` and `n_test`
            of random rows. With `n_held_out`, the test data are split into so many test rows and
            training rows. For text also the `part` to train on, and `max_words` of a document.
        seed: of the generator, or of the choice of rows.
    """
    name, arguments = data["name"], {key: data[key] for key in data if key != "name"}
    if name in GENERATORS:
        n_test = arguments.pop("n_test", None)
        train, test = (
            GENERATORS[name](seed=derived_seed(seed, part), **arguments)
            for part in ("train", "test")
        )
        return TrialData(train, _random_rows(test, n_test, seed))
    if "n_held_out" in arguments:
        whole, chosen = load(name, "test"), derived_seed(seed, "rows")
        kept, held_out = hold_out_indices(len(whole.X), arguments["n_held_out"], chosen)
        return TrialData(whole.take(kept[: arguments.get("n_train")]), whole.take(held_out))
    part = arguments.get("part", "train")
    train, test = (
        _random_rows(_short_documents(load(name, split), data), arguments.get(n), seed)
        for split, n in ((part, "n_train"), ("test", "n_test"))
    )
    has_validation = train.is_text and part == "train"
    return TrialData(train, test, load(name, "validation") if has_validation else None)


def _short_documents(data: Data, wanted: dict[str, Any]) -> Data:
    if "max_words" not in wanted:
        return data
    lengths = np.array([len(document.split()) for document in data.X])
    return data.take(np.flatnonzero(lengths <= wanted["max_words"]))


def _random_rows(data: Data, n: int | None, seed: int) -> Data:
    if n is None or n >= len(data.X):
        return data
    return data.take(random_indices(len(data.X), n, derived_seed(seed, "rows")))


def correlation_share(estimator: Estimator, sentences: np.ndarray) -> float:
    """Return how well the posterior means correlate with the true latents of synthetic text.

    The result is the lowest ratio of a canonical correlation to that of the exact posterior means.
    """
    rows = {sentence: row for row, sentence in enumerate(synthetic_text("test").X)}
    latents = true_latents("test")[[rows[sentence] for sentence in sentences]]
    reached = canonical_correlations(estimator.transform(sentences), latents)
    return float((reached / np.array(TEST_TRUTH.correlations)).min())


def rivals(data: str, scale: str, names: Mapping[str, str] = RIVALS) -> dict[str, dict[str, Any]]:
    """Return the arguments of presets for a kind of data, by the names of the models."""
    return {
        model: _scaled(name, find_preset(name, data).arguments, scale)
        for model, name in names.items()
    }


def _scaled(name: str, arguments: dict[str, Any], scale: str) -> dict[str, Any]:
    """Return arguments with fewer refinement steps, or shorter schedules, at smaller scales."""
    if name == "SA-VAE" and scale != "paper":
        refinement = {**arguments["strategy"]["semi_amortized"], "n_steps": 5}
        return {**arguments, "strategy": {"semi_amortized": refinement}}
    return {**arguments, **(SMOKE_SCHEDULES.get(name, {}) if scale == "smoke" else {})}


def paper_posterior(arguments: dict[str, Any]) -> str:
    """Return the papers' posterior: RealNVP, or a Gaussian for methods that need one."""
    refines = "semi_amortized" in (arguments.get("strategy") or ())
    has_free_bits = "free_bits" in (arguments.get("objective") or ())
    return "gaussian" if refines or has_free_bits else "realnvp"


def columns(*names: str) -> dict[str, str]:
    """Return columns of the results by the names that tables give them."""
    return {name: COLUMNS[name] for name in names}

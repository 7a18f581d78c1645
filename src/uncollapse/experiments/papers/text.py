"""The experiments on text: K23 tables 1 and 5, W21 table 1."""

from __future__ import annotations

from typing import Any

import pandas as pd

from uncollapse.data.synthetic_text import TEST_TRUTH
from uncollapse.experiments import Trial
from uncollapse.experiments.papers.experiment import Experiment, Fit, Models, paper_numbers
from uncollapse.experiments.papers.figures import curves
from uncollapse.experiments.papers.k23 import OTHERS, RIVALS, rivals
from uncollapse.experiments.papers.tables import beside, with_shares
from uncollapse.experiments.tables import over_seeds

LIPSCHITZ = (0.0, 0.2, 0.4, 0.5, 0.6, 1.0, 1.5, 5.0)
ANNEALED, TARGETED = "IL-LIDSVAE annealed", "IL-LIDSVAE, KL wanted"
OF_THE_DATA = "of the data"  # stands for a wanted KL
ADDITIVE = {"context": "additive"}


def _grid_name(constant: float) -> str:
    return f"IL-LIDSVAE, L = {constant:g}" if constant else "LIDSVAE, L = 0"


DELTA = "delta-VAE (0.3 nats a symbol)"
MODELS: dict[str, dict[str, Any]] = {
    **rivals("text", "small", RIVALS | OTHERS),
    DELTA: {"inverse_lipschitz": None, "committed_rate": 0.3},
    **{_grid_name(constant): {"inverse_lipschitz": constant} for constant in LIPSCHITZ},
    ANNEALED: {"annealing": True},
    TARGETED: {"target_kl": OF_THE_DATA},
    f"{TARGETED}, additive": {"target_kl": OF_THE_DATA, **ADDITIVE},
}
OF_TABLE_1 = (
    *RIVALS,
    *map(_grid_name, (0.0, 0.5, 1.5)),
    ANNEALED,
    TARGETED,
)  # of W21, on synthetic sentences
# At the small scale the LSTM that reads the words before has few units. Some models are run with as
# many as the encoder's as well, which are enough to leave the latents out.
LARGER_HISTORY = {
    f"{model}, history 64": {**MODELS[model], "hidden_dim": 64, "embedding_dim": 32}
    for model in ("VAE", "beta-VAE (0.2)", *map(_grid_name, (0.0, 1.0)))
}
# Of documents, models as in the papers, with two remedies for collapse that do not touch the
# decoder, and with a history that is added, which small collections of documents need.
POOLED = {"posterior": "pooled-lstm", "word_dropout": 0.3}
OF_DOCUMENTS = {
    **{model: MODELS[model] for model in (*RIVALS, _grid_name(0.0))},
    **{
        f"{model}, pooled": {**MODELS[model], **POOLED}
        for model in ("VAE", *map(_grid_name, (0.5, 1.5)), ANNEALED, TARGETED)
    },
    f"{_grid_name(0.0)}, additive": {**MODELS[_grid_name(0.0)], **ADDITIVE},
    **{
        f"{model}, pooled, additive": {**MODELS[model], **POOLED, **ADDITIVE}
        for model in (_grid_name(1.5), TARGETED)
    },
}
EVERY_MODEL: dict[str, dict[str, Any]] = {**MODELS, **LARGER_HISTORY, **OF_DOCUMENTS}

# What each data set takes: of the smaller scales, and of the papers' (K23 table 3, W21 appendix C:
# hidden layers of 1,024).
LARGE = {
    "hidden_dim": 1024,
    "embedding_dim": 512,
    "n_layers": 2,
    "hidden": [1024, 1024],
    "max_epochs": 50,
}
SENTENCES = {
    "hidden_dim": 32,
    "embedding_dim": 16,
    "encoder_hidden_dim": 64,
    "encoder_embedding_dim": 32,
    "hidden": [64, 64],
    "max_epochs": 16,
    "batch_size": 64,
    "learning_rate": 5e-3,
}
DOCUMENTS = {
    "hidden_dim": 256,
    "hidden": [256, 256],
    "max_epochs": 8,
    "batch_size": 64,
    "learning_rate": 2e-3,
}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "synthetic-text": {"small": SENTENCES, "paper": LARGE},
    "yahoo": {"small": {**DOCUMENTS, "max_vocabulary": 8000}, "paper": LARGE},
    "yelp": {"small": DOCUMENTS, "paper": LARGE},
}
COMMON: dict[str, dict[str, Any]] = {
    "synthetic-text": {"latent_dim": 5, "min_count": 1, "max_length": 10},
    "yahoo": {"latent_dim": 32, "max_length": 200, "max_vocabulary": 20_000},
    "yelp": {"latent_dim": 32, "max_length": 200},
}
TARGET_KL = {"synthetic-text": TEST_TRUTH.kl_nats, "yahoo": 5.5, "yelp": 2.5}
SMOKE = {"hidden_dim": 8, "embedding_dim": 4, "hidden": [8], "max_epochs": 2}


def text_trial(model: str, data: str, scale: str) -> Trial:
    """A model of documents, one z for each."""
    given = {**EVERY_MODEL, **rivals("text", scale, RIVALS | OTHERS)}[model]
    arguments = {**COMMON[data], **(SMOKE if scale == "smoke" else SETTINGS[data][scale]), **given}
    if arguments.get("target_kl") == OF_THE_DATA:
        arguments["target_kl"] = TARGET_KL[data]
    labels = {"data": data, "L": given.get("inverse_lipschitz")}
    return Fit(model, "SequenceVAE", arguments, {"name": data, **_documents(data, scale)}, labels)


def _documents(data: str, scale: str) -> dict[str, Any]:
    """Which documents are taken. Upstream's training parts of Yahoo and Yelp are for the papers'
    scale."""
    few = {"n_train": 200, "n_test": 50} if scale == "smoke" else {}
    if data == "synthetic-text":
        return few
    if scale == "paper":
        return {"part": "train"}
    return {
        "part": "validation",
        **({"max_words": 80} if data == "yahoo" else {}),
        **(few or {"n_test": 1000}),
    }


def k23_trials(scale: str) -> list[Trial]:
    """Every model on the synthetic sentences."""
    models = [*MODELS, *(LARGER_HISTORY if scale == "small" else ())]
    return [text_trial(model, "synthetic-text", scale) for model in models]


def k23_table(results: pd.DataFrame) -> pd.DataFrame:
    """The columns of K23 table 5, beside the truth."""
    results = with_shares(results, COMMON["synthetic-text"]["latent_dim"]).assign(
        excess=100 * (results["nll_nats"] / TEST_TRUTH.nll_nats - 1),
        share=results["kl_nats"] / TEST_TRUTH.kl_nats,
    )
    columns = {
        "NLL": "nll_nats",
        "NLL above the truth, %": "excess",
        "KL": "kl_nats",
        "KL of the truth": "share",
        "MI": "mutual_information_nats",
        "correlations": "correlation_share",
        "AU": "au",
        "informative": "iu",
    }
    ours = over_seeds(results, ["data", "model"], columns)
    truth = {
        "data": "synthetic-text",
        "model": "the true model",
        "NLL": f"{TEST_TRUTH.nll_nats:.2f}",
        "KL": f"{TEST_TRUTH.kl_nats:.2f}",
        "MI": f"{TEST_TRUTH.information_nats:.2f}",
    }
    table = pd.concat([pd.DataFrame([truth]), ours.astype(object)], ignore_index=True)[ours.columns]
    return beside(table, paper_numbers("k23-text"), ["data", "model"], "K23")


def k23_control(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """NLL, KL and correlations against L, beside the truth."""
    del models, scale
    grid = results[results["model"].isin(list(map(_grid_name, LIPSCHITZ)))]
    figure = curves(
        grid,
        "L",
        {
            "kl_nats": "KL, nats",
            "nll_nats": "NLL, nats",
            "correlation_share": "share of the exact correlations",
        },
        xlabel="L of each map",
        by="data",
    )
    for axis, true in zip(figure.axes, (TEST_TRUTH.kl_nats, TEST_TRUTH.nll_nats, 1.0), strict=True):
        axis.axhline(true, color="black", linestyle=":", label="the true model")
    figure.axes[0].legend(fontsize=7)
    return figure


K23_TEXT = Experiment(
    title="K23 tables 1 and 5: synthetic sentences whose truth is known",
    trials=k23_trials,
    table=k23_table,
    figures={"control": k23_control},
)


def w21_trials(scale: str) -> list[Trial]:
    """Some models on all three data sets; those on the synthetic sentences are K23's as well."""
    models = {"synthetic-text": OF_TABLE_1, "yahoo": OF_DOCUMENTS, "yelp": OF_DOCUMENTS}
    return [text_trial(model, data, scale) for data in models for model in models[data]]


def w21_table(results: pd.DataFrame) -> pd.DataFrame:
    """The columns of W21 table 1, text half."""
    results = with_shares(results, results["data"].map(lambda data: COMMON[data]["latent_dim"]))
    columns = {
        "AU": "au",
        "informative": "iu",
        "KL": "kl_nats",
        "MI": "mutual_information_nats",
        "cap": "information_cap_nats",
        "NLL": "nll_nats",
    }
    return beside(
        over_seeds(results, ["data", "model"], columns),
        paper_numbers("w21-text"),
        ["data", "model"],
        "W21",
    )


W21_TEXT = Experiment(
    title="W21 table 1, text half: Yahoo and Yelp", trials=w21_trials, table=w21_table, figures={}
)

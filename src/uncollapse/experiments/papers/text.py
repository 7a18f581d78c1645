"""Experiments on text: K23 tables 1 and 5, W21 table 1."""

from typing import Any

import pandas as pd

from uncollapse.data.synthetic_text import TEST_TRUTH
from uncollapse.experiments.papers.experiment import (
    OTHER_RIVALS,
    RIVALS,
    Experiment,
    FigureInput,
    Fit,
    Table,
    columns,
    published_numbers,
    rivals,
)
from uncollapse.experiments.papers.figures import curves
from uncollapse.experiments.tables import beside, over_seeds
from uncollapse.experiments.trial import Trial

LIPSCHITZ = (0.0, 0.2, 0.4, 0.5, 0.6, 1.0, 1.5, 5.0)
ANNEALED, TARGETED = "IL-LIDSVAE annealed", "IL-LIDSVAE, KL wanted"
# Stands for the target KL of the data set.
OF_THE_DATA = "of the data"
ADDITIVE = {"context": "additive"}


def _name(constant: float) -> str:
    return f"IL-LIDSVAE, L = {constant:g}" if constant else "LIDSVAE, L = 0"


MODELS: dict[str, dict[str, Any]] = {
    **rivals("text", "small", RIVALS | OTHER_RIVALS),
    "delta-VAE (0.3 nats a symbol)": {"inverse_lipschitz": None, "committed_rate": 0.3},
    **{_name(constant): {"inverse_lipschitz": constant} for constant in LIPSCHITZ},
    ANNEALED: {"annealing": True},
    TARGETED: {"target_kl": OF_THE_DATA},
    f"{TARGETED}, additive": {"target_kl": OF_THE_DATA, **ADDITIVE},
}
# Models of W21 table 1 on synthetic sentences.
TABLE_1 = (*RIVALS, *map(_name, (0.0, 0.5, 1.5)), ANNEALED, TARGETED)
# At the small scale the LSTM that reads the earlier words has few units. Some models also run with
# as many as the encoder's, which are enough to ignore the latents.
LARGER_HISTORY = {
    f"{model}, history 64": {**MODELS[model], "hidden_dim": 64, "embedding_dim": 32}
    for model in ("VAE", "beta-VAE (0.2)", *map(_name, (0.0, 1.0)))
}
# Models of documents: the papers', two remedies that do not change the decoder, and an additive
# history, which small collections of documents need.
POOLED = {"posterior": "pooled-lstm", "word_dropout": 0.3}
DOCUMENT_MODELS = {
    **{model: MODELS[model] for model in (*RIVALS, _name(0.0))},
    **{
        f"{model}, pooled": {**MODELS[model], **POOLED}
        for model in ("VAE", *map(_name, (0.5, 1.5)), ANNEALED, TARGETED)
    },
    f"{_name(0.0)}, additive": {**MODELS[_name(0.0)], **ADDITIVE},
    **{
        f"{model}, pooled, additive": {**MODELS[model], **POOLED, **ADDITIVE}
        for model in (_name(1.5), TARGETED)
    },
}
ALL_MODELS: dict[str, dict[str, Any]] = {**MODELS, **LARGER_HISTORY, **DOCUMENT_MODELS}

# Settings of the papers (K23 table 3, W21 appendix C: hidden layers of 1,024), and of the small
# scale.
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
SMALL: dict[str, dict[str, Any]] = {
    "synthetic-text": SENTENCES,
    "yahoo": {**DOCUMENTS, "max_vocabulary": 8000},
    "yelp": DOCUMENTS,
}
SMOKE = {"hidden_dim": 8, "embedding_dim": 4, "hidden": [8], "max_epochs": 2}
COMMON: dict[str, dict[str, Any]] = {
    "synthetic-text": {"latent_dim": 5, "min_count": 1, "max_length": 10},
    "yahoo": {"latent_dim": 32, "max_length": 200, "max_vocabulary": 20_000},
    "yelp": {"latent_dim": 32, "max_length": 200},
}
TARGET_KL = {"synthetic-text": TEST_TRUTH.kl_nats, "yahoo": 5.5, "yelp": 2.5}


def text_trial(model: str, data: str, scale: str) -> Trial:
    """Return a model of documents with one z for each."""
    given = {**ALL_MODELS, **rivals("text", scale, RIVALS | OTHER_RIVALS)}[model]
    sizes = {"smoke": SMOKE, "small": SMALL[data], "paper": LARGE}[scale]
    arguments = {**COMMON[data], **sizes, **given}
    if arguments.get("target_kl") == OF_THE_DATA:
        arguments["target_kl"] = TARGET_KL[data]
    labels = {"data": data, "L": given.get("inverse_lipschitz")}
    return Fit(model, "SequenceVAE", arguments, {"name": data, **_documents(data, scale)}, labels)


def _documents(data: str, scale: str) -> dict[str, Any]:
    """Return which documents are used. The training parts of Yahoo and Yelp are for the papers'
    scale."""
    few = {"n_train": 200, "n_test": 50} if scale == "smoke" else {}
    if data == "synthetic-text":
        return few
    if scale == "paper":
        return {"part": "train"}
    short = {"max_words": 80} if data == "yahoo" else {}
    return {"part": "validation", **short, **(few or {"n_test": 1000})}


def k23_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of K23 table 5, beside the truth."""
    results = results.assign(
        excess=100 * (results["nll_nats"] / TEST_TRUTH.nll_nats - 1),
        share=results["kl_nats"] / TEST_TRUTH.kl_nats,
    )
    shown = {
        **columns("NLL"),
        "NLL above the truth, %": "excess",
        **columns("KL"),
        "KL of the truth": "share",
        **columns("MI"),
        "correlations": "correlation_share",
        **columns("AU", "informative"),
    }
    by = ["data", "model"]
    ours = over_seeds(results, by, shown).astype(object)
    truth = {
        "data": "synthetic-text",
        "model": "the true model",
        "NLL": f"{TEST_TRUTH.nll_nats:.2f}",
        "KL": f"{TEST_TRUTH.kl_nats:.2f}",
        "MI": f"{TEST_TRUTH.information_nats:.2f}",
    }
    table = pd.concat([pd.DataFrame([truth]), ours], ignore_index=True)[ours.columns]
    return beside(table, published_numbers("k23-text"), by, "K23")


def k23_control(given: FigureInput) -> Any:
    """Draw NLL, KL and correlations against L, beside the truth."""
    grid = given.results[given.results["model"].isin(list(map(_name, LIPSCHITZ)))]
    ys = {
        "kl_nats": "KL, nats",
        "nll_nats": "NLL, nats",
        "correlation_share": "share of the exact correlations",
    }
    figure = curves(grid, "L", ys, xlabel="L of each map", by="data")
    truths = (TEST_TRUTH.kl_nats, TEST_TRUTH.nll_nats, 1.0)
    for axis, truth in zip(figure.axes, truths, strict=True):
        axis.axhline(truth, color="black", linestyle=":", label="the true model")
    figure.axes[0].legend(fontsize=7)
    return figure


K23_TEXT = Experiment(
    title="K23 tables 1 and 5: synthetic sentences whose truth is known",
    trials=lambda scale: [
        text_trial(model, "synthetic-text", scale)
        for model in (*MODELS, *(LARGER_HISTORY if scale == "small" else ()))
    ],
    table=k23_table,
    figures={"control": k23_control},
)
# The models on synthetic sentences are K23's as well.
W21_MODELS = {"synthetic-text": TABLE_1, "yahoo": DOCUMENT_MODELS, "yelp": DOCUMENT_MODELS}
W21_TEXT = Experiment(
    title="W21 table 1, text half: Yahoo and Yelp",
    trials=lambda scale: [
        text_trial(model, data, scale) for data, models in W21_MODELS.items() for model in models
    ],
    table=Table(
        by=("data", "model"),
        columns=columns("AU", "informative", "KL", "MI", "cap", "NLL"),
        published="w21-text",
    ),
)

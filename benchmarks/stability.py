"""`python -m benchmarks.stability`: exploding steps in the training of sequential VAEs.

Every constant is trained with every seed.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Annotated, Any, ClassVar

import typer

from benchmarks.timing import print_row
from uncollapse._utils.errors import NonFiniteLossError
from uncollapse.data import load
from uncollapse.estimators import SequenceVAE
from uncollapse.models import VAEModel
from uncollapse.objectives import OBJECTIVES, Elbo, Loss

CONSTANTS = (0.0, 0.2, 0.5, 1.5, 5.0)
# A step explodes if its loss exceeds the first loss by this factor.
EXPLOSION = 10.0


class Watching(Elbo):
    """The ELBO, which records its losses in training, in nats per document."""

    name = "watching"
    losses: ClassVar[list[float]] = []

    def forward(self, model: VAEModel, x: Any, step: int) -> Loss:
        """Return the loss of the ELBO."""
        loss = super().forward(model, x, step)
        self.losses.append(float(loss.value.detach()))
        return loss


OBJECTIVES[Watching.name] = Watching


def row_of(constant: float, seed: int, arguments: dict[str, Any], documents: Any) -> dict[str, Any]:
    """Train a model, and return a row about its losses."""
    losses = Watching.losses
    losses.clear()
    vae = SequenceVAE(
        inverse_lipschitz=constant,
        objective=Watching.name,
        random_state=seed,
        verbose=False,
        **arguments,
    )
    try:
        vae.fit(documents)
        failed = None
    except NonFiniteLossError as error:
        failed = str(error)
    first, peak = losses[0], max(loss for loss in losses if math.isfinite(loss))
    return {
        "L": constant,
        "seed": seed,
        "steps": len(losses),
        "first_nats": round(first, 3),
        "peak_nats": round(peak, 3),
        "last_nats": None if failed else round(losses[-1], 3),
        "exploding_steps": sum(not loss <= EXPLOSION * first for loss in losses),
        "failed": failed,
    }


def independent_nats(documents: Any) -> float:
    """Return nats per document of independent symbols with the observed frequencies.

    The end of a document is a symbol. All words count, as in the synthetic sentences; a model
    replaces words that occur once by an unknown symbol.
    """
    counts = Counter(symbol for document in documents for symbol in (*document.split(), None))
    total = counts.total()
    return -sum(count * math.log(count / total) for count in counts.values()) / len(documents)


def main(
    data: Annotated[str, typer.Option(help="A named data set of documents.")] = "synthetic-text",
    n_train: Annotated[int, typer.Option(help="Documents.")] = 4000,
    n_seeds: int = 20,
    max_epochs: int = 8,
    hidden_dim: Annotated[
        int, typer.Option(help="Units of the LSTMs; embeddings have half as many.")
    ] = 32,
    width: Annotated[int, typer.Option(help="Width of both layers of each map.")] = 64,
) -> None:
    """Print one JSON line for each seed and constant, at the default learning rate."""
    documents = load(data, "train").X[:n_train]
    # The first loss is itself large at L = 5. A peak can be compared with this instead.
    independent = round(independent_nats(documents), 3)
    arguments = {
        "hidden_dim": hidden_dim,
        "embedding_dim": hidden_dim // 2,
        "hidden": (width, width),
        "max_epochs": max_epochs,
    }
    for seed in range(n_seeds):
        for constant in CONSTANTS:
            print_row(
                benchmark="stability",
                data=data,
                documents=len(documents),
                independent_nats=independent,
                **arguments,
                **row_of(constant, seed, arguments, documents),
            )


if __name__ == "__main__":
    typer.run(main)

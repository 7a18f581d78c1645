"""`python -m benchmarks.sequences`: tokens per second of injective sequential VAEs.

They are compared with a sequential VAE with a softmax layer.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import typer

from benchmarks.timing import Step, adam_step, interleaved_medians, print_row
from uncollapse.estimators import SequenceVAE
from uncollapse.estimators.settings import check_settings

SEED = 0
PLAIN = "sequential VAE"
CONTESTANTS: dict[str, dict[str, Any]] = {
    PLAIN: {"inverse_lipschitz": None},
    "maps of 512 x 2": {"hidden": (512, 512)},
    "maps of 1024 x 2": {"hidden": (1024, 1024)},
    "maps of 512 x 2, history added": {"hidden": (512, 512), "context": "additive"},
    "maps of 1024 x 2, history added": {"hidden": (1024, 1024), "context": "additive"},
}


def training_step(given: dict[str, Any], n_symbols: int, x: torch.Tensor) -> Step:
    """Return a step of Adam on a new model."""
    torch.manual_seed(SEED)
    model = SequenceVAE.build(check_settings("SequenceVAE", given), n_symbols)
    return adam_step(model, x)


def main(
    seconds: Annotated[float, typer.Option(help="Time for all.")] = 180.0,
    n_symbols: int = 20_000,
    batch_size: int = 32,
    length: Annotated[int, typer.Option(help="Symbols of each sequence.")] = 40,
    hidden_dim: Annotated[
        int, typer.Option(help="Units of the LSTMs; embeddings have half as many.")
    ] = 1024,
) -> None:
    """Print one JSON line for each model, with its tokens per second and the ratio to the plain
    one."""
    x = torch.randint(
        n_symbols - 2, (batch_size, length), generator=torch.Generator().manual_seed(SEED)
    ).float()
    sizes = {"hidden_dim": hidden_dim, "embedding_dim": hidden_dim // 2}
    steps = {
        name: training_step({**sizes, **given}, n_symbols, x) for name, given in CONTESTANTS.items()
    }
    times = interleaved_medians(steps, seconds)
    common = {
        "benchmark": "sequences",
        "symbols": n_symbols,
        "batch": batch_size,
        "length": length,
        "seed": SEED,
        **sizes,
    }
    for name, value in times.items():
        rate, ratio = round(x.numel() / value, 1), round(times[PLAIN] / value, 3)
        print_row(
            **common,
            contestant=name,
            milliseconds=round(1000 * value, 2),
            tokens_per_second=rate,
            ratio=ratio,
        )


if __name__ == "__main__":
    typer.run(main)

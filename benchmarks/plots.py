"""`python -m benchmarks.plots RESULTS PICTURE`: cost of maps against the number of parameters.

The results are rows of `benchmarks.maps`.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import typer
from matplotlib.figure import Figure

COLORS = {"ours": "#1f6f8b", "textbook": "#c06014", "mlp": "#8a8a8a"}
LABELS = {
    "ours": "Brenier maps",
    "textbook": "textbook Brenier maps",
    "mlp": "perceptron of the same size",
}


def main(results: Path, picture: Path) -> None:
    """Draw the plot, and print slopes of log time against the log number of parameters."""
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    steps = [
        row for row in rows if row["kind"] == "training step" and row["size"].startswith("width")
    ]
    mpl.rcParams["svg.hashsalt"] = "uncollapse"  # This makes files reproducible.
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, color in COLORS.items():
        own = [row for row in steps if row["contestant"] == name]
        sizes, times = np.array([(row["n_parameters"], row["milliseconds"]) for row in own]).T
        slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        axes.loglog(sizes, times, "o-", color=color, label=f"{LABELS[name]}: slope {slope:.2f}")
        print(f"{name}: slope {slope:.3f} over {sizes.min():.3g} to {sizes.max():.3g} parameters")
        if name == "ours":
            quadratic = times[0] * (sizes / sizes[0]) ** 2
            shown = np.where(quadratic < 3 * times.max(), quadratic, np.nan)
            axes.loglog(sizes, shown, ":", color="black", label="quadratic: slope 2")
    axes.set_xlabel("number of parameters p")
    axes.set_ylabel("training step, ms")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


if __name__ == "__main__":
    typer.run(main)

"""The report of a diagnosis: verdict, estimates, and a table of latent units."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from uncollapse._utils.files import write_text
from uncollapse.certificates.certificate import Certificate
from uncollapse.diagnostics.gallery import Gallery
from uncollapse.diagnostics.quantities import QUANTITIES
from uncollapse.measures.estimate import Estimate, Findings, summary_text

# A printed report shows this many units, the strongest first.
N_PRINTED = 10


@dataclass(frozen=True)
class Report(Findings):
    """Result of `diagnose`.

    Attributes:
        name: of the model.
        n_examples: number of rows.
        verdict: "healthy", "partly collapsed", "collapsed in the model", "collapsed in inference",
            "collapsed" if the cause is unknown, or "prior mismatch".
        advice: the verdict in a few sentences, with its evidence and a remedy.
        notes: cautions about the numbers.
        estimates: by the names of `QUANTITIES`; None if unknown. Numbers of the component are there
            for mixtures only, and accuracies only if the labels are classes.
        units: a row for each latent unit, as `UnitSums.table` returns it. Where each symbol of a
            sequence has its own z, a row describes a unit of all of them.
        collapse_curves: the smallest delta for which a unit is (epsilon, delta)-collapsed (Lucas et
            al. 2019); a row for each epsilon in nats, a column for each unit.
        certificate: guarantees of the decoder's constant on 100 of the rows; None if there are
            none.
        history: a row for each epoch of the training; empty if unknown.
        points: posterior means of at most 2,000 rows, shape (n, 2); their principal components if
            there are more than two units.
        labels: of the points, or None.
        gallery: reconstructions, samples and traversals.
    """

    meanings: ClassVar = {name: quantity.meaning for name, quantity in QUANTITIES.items()}

    name: str
    n_examples: int
    verdict: str
    advice: str
    notes: tuple[str, ...]
    estimates: dict[str, Estimate | None]
    units: pd.DataFrame
    collapse_curves: pd.DataFrame
    certificate: Certificate | None
    history: pd.DataFrame
    points: np.ndarray
    labels: np.ndarray | None
    gallery: Gallery

    @property
    def unit_kl(self) -> str:
        """Column of `units` with the KL; moment-matched if the KL does not split into units."""
        return "matched_kl_nats" if self.units["kl_nats"].isna().any() else "kl_nats"

    @property
    def ranked_units(self) -> pd.DataFrame:
        """Latent units, the largest explained share first."""
        return self.units.sort_values("explained_share", ascending=False, kind="stable")

    @property
    def unit_formats(self) -> dict[str, str]:
        """Format of each column of `units` that is shown."""
        return {
            "unit": "{:.0f}",
            self.unit_kl: "{:.3f}",
            "mean_variance": "{:.3g}",
            "explained_share": "{:.1%}",
            "active": "{}",
            "informative": "{}",
        }

    def content(self) -> dict[str, Any]:
        """Return all that `to_json` writes beside the estimates."""
        return {
            "name": self.name,
            "n_examples": self.n_examples,
            "verdict": self.verdict,
            "advice": self.advice,
            "notes": list(self.notes),
            "units": self.units.to_dict(orient="records"),
            "collapse_curves": {
                "epsilon_nats": self.collapse_curves.index.tolist(),
                "delta": self.collapse_curves.T.to_numpy().tolist(),
            },
            "certificate": self.certificate and self.certificate.numbers(),
        }

    def to_html(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write one self-contained page, which needs no network.

        Raises:
            FileError: if the file exists and `overwrite` is False, or cannot be written.
        """
        from uncollapse.diagnostics.page import render_page

        return write_text(path, render_page([self], title=f"Report on {self.name}"), overwrite)

    def __repr__(self) -> str:
        n_units = len(self.units)
        lines = [
            f"Report on {self.name}: {self.n_examples:,} examples, {n_units} latent units",
            self.advice,
            *(f"Note: {note}" for note in self.notes),
            "",
            summary_text(self.summary()),
            "",
        ]
        if (proof := self.certificate) is not None:
            lines += [f"Certificate, on {len(proof.examples)} rows: {proof.verdict}", ""]
        formats = self.unit_formats
        lines.append(
            self.ranked_units[list(formats)]
            .head(N_PRINTED)
            .to_string(index=False, formatters={key: form.format for key, form in formats.items()})
        )
        if n_units > N_PRINTED:
            lines.append(f"... and {n_units - N_PRINTED} more in report.units")
        return "\n".join(lines)

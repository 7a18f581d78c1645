"""The report on a model: what its latents carry, unit by unit and in total."""

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
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.summary import Findings, summary_text

# Numeric labels with more values than this are a scale, not classes; and as many classes have a
# colour of their own.
MAX_CLASSES = 20
# Units that a printed report shows, the strongest first.
N_PRINTED = 10


@dataclass(frozen=True)
class Report(Findings):
    """What `diagnose` found.

    Attributes:
        name: of the model.
        n_examples: rows that were looked at.
        verdict: "healthy", "partly collapsed", "collapsed in the model", "collapsed in inference",
            "collapsed" where nothing tells which of these, or "prior mismatch".
        advice: the verdict in a few sentences, with its evidence and what to do.
        notes: what a reader of the numbers must know.
        estimates: by the names of `QUANTITIES`, those of the component for mixtures only, and
            accuracies where there are labels that are classes; None where nothing is known.
        units: a row for each latent unit, as `Units.table` has it; one for all symbols, where each
            of them has a z.
        collapse_curves: the least delta for which each unit, a column, is (epsilon,
            delta)-collapsed (Lucas et al. 2019), for each epsilon in nats, a row.
        certificate: what the decoder's constant guarantees on 100 of the rows; None where nothing
            is promised.
        history: the training, a row for each epoch; empty where it is not known.
        points: posterior means in two dimensions (their principal ones, if there are more), at most
            2,000.
        labels: of the points, or None.
        gallery: for pictures.
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
        """The column of `units` that tells how much each of them carries."""
        return "matched_kl_nats" if self.units["kl_nats"].isna().any() else "kl_nats"

    def content(self) -> dict[str, Any]:
        """The verdict, and what is known of each unit."""
        proof = self.certificate
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
            "certificate": proof and proof.numbers(),
        }

    def to_html(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write one page that needs nothing else, no network either.

        Raises:
            InputError: if the file exists and `overwrite` is False, or cannot be written.
        """
        from uncollapse.diagnostics.page import render_page

        return write_text(path, render_page([self], title=f"Report on {self.name}"), overwrite)

    def __repr__(self) -> str:
        head = (
            f"Report on {self.name}: {self.n_examples:,} examples, {len(self.units)} latent units"
        )
        notes = [f"Note: {note}" for note in self.notes]
        proof = self.certificate
        guarantee = (
            []
            if proof is None
            else ["", f"Certificate, on {len(proof.examples)} rows: {proof.verdict}"]
        )
        return "\n".join(
            [
                head,
                self.advice,
                *notes,
                "",
                summary_text(self.summary()),
                *guarantee,
                "",
                self._units_text(),
            ]
        )

    @property
    def ranked_units(self) -> pd.DataFrame:
        """The units, the strongest first."""
        return self.units.sort_values("explained_share", ascending=False, kind="stable")

    @property
    def unit_formats(self) -> dict[str, str]:
        """The columns of `units` that are shown, and how."""
        return {
            "unit": "{:.0f}",
            self.unit_kl: "{:.3f}",
            "mean_variance": "{:.3g}",
            "explained_share": "{:.1%}",
            "active": "{}",
            "informative": "{}",
        }

    def _units_text(self) -> str:
        formats = self.unit_formats
        units = self.ranked_units[list(formats)].head(N_PRINTED)
        text = units.to_string(
            index=False, formatters={key: form.format for key, form in formats.items()}
        )
        rest = len(self.units) - N_PRINTED
        return text if rest <= 0 else f"{text}\n... and {rest} more in report.units"

"""Diagnosis: what a model's latents carry, measured and guaranteed. Nothing here trains."""

from uncollapse.diagnostics.certificates import Certificate, certify
from uncollapse.diagnostics.information import information_floor, inverse_lipschitz_for
from uncollapse.diagnostics.page import render_page
from uncollapse.diagnostics.report import Report, diagnose

__all__ = [
    "Certificate",
    "Report",
    "certify",
    "diagnose",
    "information_floor",
    "inverse_lipschitz_for",
    "render_page",
]

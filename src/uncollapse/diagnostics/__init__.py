"""Diagnosis: what a model's latents carry, measured and guaranteed. Nothing here trains."""

from uncollapse.diagnostics.certificates import Certificate, certify
from uncollapse.diagnostics.diagnosis import diagnose
from uncollapse.diagnostics.identifiability import Identifiability, is_identifiable
from uncollapse.diagnostics.information import information_floor, inverse_lipschitz_for
from uncollapse.diagnostics.page import compare_reports, render_page
from uncollapse.diagnostics.report import Report

__all__ = [
    "Certificate",
    "Identifiability",
    "Report",
    "certify",
    "compare_reports",
    "diagnose",
    "information_floor",
    "inverse_lipschitz_for",
    "is_identifiable",
    "render_page",
]

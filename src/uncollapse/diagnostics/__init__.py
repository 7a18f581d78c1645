"""Diagnosis: measures of a model as a table, a verdict and a page. Nothing here trains."""

from uncollapse.diagnostics.diagnose import diagnose
from uncollapse.diagnostics.page import compare_reports, render_page
from uncollapse.diagnostics.report import Report

__all__ = ["Report", "compare_reports", "diagnose", "render_page"]

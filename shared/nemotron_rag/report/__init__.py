"""Search results as a self-contained HTML page with the page images."""

from __future__ import annotations

from nemotron_rag.report.html_page import Answer, HeatmapOf, render_report, write_report

__all__ = ["Answer", "HeatmapOf", "render_report", "write_report"]

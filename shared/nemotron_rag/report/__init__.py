"""Search results as a self-contained HTML page with the page images, and as JSON."""

from __future__ import annotations

from nemotron_rag.report.as_json import hit_json
from nemotron_rag.report.html_page import Answer, HeatmapOf, render_report, write_report

__all__ = ["Answer", "HeatmapOf", "hit_json", "render_report", "write_report"]

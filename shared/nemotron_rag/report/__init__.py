"""Search results as a self-contained HTML page with the page images, and as JSON."""

from __future__ import annotations

from nemotron_rag.report.as_json import hit_json, page_link, region_json
from nemotron_rag.report.html_page import Answer, HeatmapOf, RegionsOf, render_report, write_report

__all__ = ["Answer", "HeatmapOf", "RegionsOf", "hit_json", "page_link", "region_json", "render_report", "write_report"]

"""Search results as a self-contained HTML page with the page images, as JSON, and in notebooks."""

from __future__ import annotations

from nemotron_rag.report.as_json import hit_json, page_link, region_json
from nemotron_rag.report.html_page import Answer, HeatmapOf, RegionsOf, render_report, write_report
from nemotron_rag.report.notebook import Shown, draw_regions, show_images, show_messages, show_pages

__all__ = [
    "Answer",
    "HeatmapOf",
    "RegionsOf",
    "Shown",
    "draw_regions",
    "hit_json",
    "page_link",
    "region_json",
    "render_report",
    "show_images",
    "show_messages",
    "show_pages",
    "write_report",
]

"""Fixtures of the LangChain tests: components over tiny real checkpoints, and a PDF."""

from __future__ import annotations

from pathlib import Path

import pymupdf
import pytest

from langchain_nemotron_rag import NemotronEmbeddings, NemotronRerank
from support.langchain import Runs


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def embeddings(reference: Path) -> NemotronEmbeddings:
    return NemotronEmbeddings(model=reference / "embed_vl_open_1", device="cpu")


@pytest.fixture
def rerank(reference: Path) -> NemotronRerank:
    return NemotronRerank(model=reference / "rerank_vl_open_1", device="cpu", top_n=None)


@pytest.fixture
def report_pdf(tmp_path: Path) -> Path:
    """Four pages: one with a text of its own, two with equal texts, one without text."""
    pdf = pymupdf.open()
    for text in ("Tornadoes form in thunderstorms.", "CONFIDENTIAL", "CONFIDENTIAL", ""):
        page = pdf.new_page(width=200, height=260)
        if text:
            page.insert_text((20, 40), text, fontsize=9)
        page.draw_rect((20, 60 + 20 * pdf.page_count, 120, 150), fill=(0.8, 0.1, 0.1))
    pdf.set_metadata({"title": "Storms", "creationDate": "D:20260102030405Z"})
    path = tmp_path / "report.pdf"
    pdf.save(path)
    return path

"""The starters find and rank pages of which they see the image alone; with random weights they do not.

The pages are made here, in a plain font at the size of a printed page's text. One vector for a whole image, as
`starter-embed-vl` makes it, is too weak for pages as alike as these.
"""

import json
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from PIL import Image

from nemotron_rag import Passage, load_multivector_embedder, load_reranker
from nemotron_rag_starters import checkpoint
from support.starters import random_twin

DATA = json.loads((Path(__file__).parents[1] / "data" / "starter_quality.json").read_text(encoding="utf-8"))
ROWS = DATA["pages"][:12]
QUERIES = [row["query"] for row in ROWS]


def draw(text: str) -> Image.Image:
    """An A4 page with the text between two paragraphs that stand on every page."""
    with pymupdf.open() as document:
        page = document.new_page(width=595, height=842)
        page.insert_textbox((72, 72, 523, 770), "\n\n".join((DATA["frames"][0], text, DATA["frames"][1])), fontsize=11)
        pixels = page.get_pixmap(dpi=150)
    return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples)


@pytest.fixture(scope="module")
def pages() -> list[Passage]:
    return [Passage(image=draw(row["text"])) for row in ROWS]


def found(scores: np.ndarray, k: int) -> float:
    """Share of queries whose page is among the first k."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return float(np.mean([i in row[:k] for i, row in enumerate(order)]))


def late_interaction(folder: Path, pages: list[Passage]) -> np.ndarray:
    model = load_multivector_embedder(folder, device="cpu")
    return model.score(model.embed_queries(QUERIES), model.embed_passages(pages), exact=True)


def logits(folder: Path, pages: list[Passage]) -> np.ndarray:
    model = load_reranker(folder, device="cpu")
    return np.stack([model.score(query, pages) for query in QUERIES])


pytestmark = pytest.mark.slow
SYSTEMS = [("starter-colembed", late_interaction), ("starter-rerank-vl", logits)]


@pytest.mark.parametrize(("name", "score"), SYSTEMS)
def test_images_are_read(name, score, pages):
    scores = score(checkpoint(name), pages)
    assert found(scores, 1) >= 0.7
    assert found(scores, 3) >= 0.9


@pytest.mark.parametrize(("name", "score"), SYSTEMS)
def test_random_weights_read_nothing(name, score, pages, tmp_path):
    assert found(score(random_twin(name, tmp_path), pages), 1) <= 0.4

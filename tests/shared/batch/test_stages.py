"""The stages in a plain loop: the same index as `PageIndex.add`, and errors as rows."""

from __future__ import annotations

import pickle

import numpy as np
import pymupdf
import pytest
from PIL import Image

from nemotron_rag import PageIndex
from nemotron_rag.batch.pages import NewPage
from nemotron_rag.batch.place import IndexPlace
from nemotron_rag.batch.rows import failure_of, failure_row, from_row, from_table, to_row, to_table, vectors_of
from nemotron_rag.batch.stages import EmbedPages, RenderPages, WritePages, span_rows
from nemotron_rag.documents.pdf import content_hash
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder
from nemotron_rag.types import Failure, Page


@pytest.fixture
def pdf(tmp_path):
    path = tmp_path / "report.pdf"
    with pymupdf.open() as document:
        for number in range(1, 6):
            document.new_page(width=200, height=200).insert_text((20, 80), f"page {number} of words")
        document.save(path)
    return path


def spans(path, numbers=(1, 2, 3, 4, 5), *, size=2):
    of_file = {"source": path.as_posix(), "content_hash": content_hash(path), "metadata": {"year": 2024}}
    return span_rows(str(path), list(numbers), size=size, **of_file)


def stored(index):
    state = index._state
    pages = {page.page.id: page for page in state.store.pages(texts=True)}
    vectors = state.store.vectors(list(pages))
    images = {page_id: state.images.of(page).open().tobytes() for page_id, page in pages.items()}
    return pages, {page_id: vectors[page_id].tolist() for page_id in pages}, images


def test_a_loop_over_the_stages_writes_what_add_writes(pdf, tmp_path):
    with PageIndex(tmp_path / "one", embedder=FakeEmbedder()) as index:
        index.add(pdf, metadata={"year": 2024}, progress=False)
        one = stored(index)
        settings = index._state.render_settings()
    with PageIndex(tmp_path / "two", embedder=FakeEmbedder()) as index:
        index._state.prepare()
        render, embed = RenderPages(**settings), EmbedPages(FakeEmbedder())
        write = WritePages(IndexPlace(str(tmp_path / "two"), images=index._state.images.root))
        for span in spans(pdf):
            written = write(embed(render([span])))
            assert [row["error"] for row in written] == [None] * len(written)
            assert all(row["vector"] is row["image"] is None for row in written)
        two = stored(index)
    assert len(one[0]) == 5
    assert one == two


def test_rows_survive_arrow_and_pickle():
    image = Image.effect_noise((20, 10), 40).convert("RGB")
    new = NewPage(Page("words", image, id="p1", source="a.pdf", number=3, metadata={"k": [1, None]}), "hash", {"y": 1})
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    rows = [
        to_row(new, vectors),
        to_row(NewPage(Page("x", id="p2"), "page:1"), vectors[0]),
        failure_row(Failure("b", "r")),
    ]
    for copy in (from_table(to_table(rows)), pickle.loads(pickle.dumps(rows))):
        again = from_row(copy[0])
        assert (again.page, again.metadata, again.content_hash) == (new.page, new.metadata, "hash")
        assert again.page.metadata == new.page.metadata
        assert from_row(copy[1]).metadata is None
        assert np.array_equal(vectors_of(copy[0]), vectors)
        assert np.array_equal(vectors_of(copy[1]), vectors[0])
        assert failure_of(copy[2]) == Failure("b", "r")
    assert to_table([]).schema == to_table(rows).schema


def test_a_page_or_document_that_cannot_be_read_is_a_row(pdf, tmp_path):
    rows = RenderPages()(spans(pdf, [1, 99], size=8))
    assert [(row["number"], row["error"] is None) for row in rows] == [(1, True)] or "99" in rows[-1]["error"]
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (row,) = RenderPages()(spans(tmp_path / "broken.pdf", [1]))
    assert failure_of(row).source.endswith("broken.pdf")
    span = spans(pdf)[0]
    pdf.write_bytes(pdf.read_bytes() + b"\n%changed")
    (row,) = RenderPages()([span])
    assert "changed since it was listed" in row["error"]


class Poisoned(FakeEmbedder):
    def embed_passages(self, passages):
        if any("3" in passage.text for passage in passages):
            raise InputError("cannot stand three")
        return super().embed_passages(passages)


def test_a_poisoned_page_costs_itself(pdf):
    rows = EmbedPages(Poisoned())(RenderPages()(spans(pdf, size=8)))
    assert [row["number"] for row in rows if row["error"] is None] == [1, 2, 4, 5]
    (failure,) = [failure_of(row) for row in rows if row["error"]]
    assert (failure.number, failure.reason) == (3, "cannot stand three")


def test_token_vectors_are_fitted_as_the_record_says(pdf, tmp_path):
    with PageIndex(tmp_path / "index", embedder=FakeMultiVectorEmbedder()) as index:
        index.add(pdf, pages=[1], progress=False)
        record = index._state.record
        one = index._state.embed([from_row(row).page for row in RenderPages()(spans(pdf, [2]))])
    stage = EmbedPages(FakeMultiVectorEmbedder(), token_vectors=record.token_vectors, identity=record.identity)
    (row,) = stage(RenderPages()(spans(pdf, [2])))
    assert np.array_equal(vectors_of(row), np.asarray(one[0], dtype=np.float32))


def test_another_model_than_the_index_has_is_refused():
    with pytest.raises(InputError, match="wanted"):
        EmbedPages(FakeEmbedder(dimensions=8), identity={"model": "other"})([])

"""Pages that are alike, by image and text."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import Document
from PIL import Image

from langchain_nemotron_rag import NemotronEmbeddings, NemotronRerank, PageRedundantFilter
from nemotron_rag.documents.images import load_image
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.langchain import data_uri


class Seeing(FakeEmbedder):
    """A vector of the mean colour of the image; of a text alone, of its words."""

    def embed_passages(self, passages):
        rows = super().embed_passages(passages)
        for row, passage in zip(rows, passages, strict=True):
            if passage.image is not None:
                row[:] = 0
                row[:3] = np.asarray(load_image(passage.image).convert("RGB"), np.float32).mean((0, 1)) + 1
                row /= np.linalg.norm(row)
        return rows


def page(colour: str, text: str) -> Document:
    return Document(text, id=f"{colour} {text}", metadata={"image": data_uri(Image.new("RGB", (8, 8), colour))})


TEXTS = [Document("Results"), Document("results")]
SLIDES = [page("red", "Results"), page("blue", "Results"), page("red", "Result"), *TEXTS]
BROKEN = Document("Results", id="broken", metadata={"image": "data:image/png;base64,iVBORw0K"})


async def test_slides_of_one_heading_are_told_apart_by_what_they_show():
    unlike = PageRedundantFilter(embeddings=NemotronEmbeddings(model=Seeing()))
    before = [slide.model_copy(deep=True) for slide in SLIDES]
    kept = unlike.transform_documents(SLIDES)
    assert kept == [SLIDES[0], SLIDES[1], SLIDES[3]]
    assert await unlike.atransform_documents(SLIDES) == kept
    assert before == SLIDES
    assert unlike.transform_documents([]) == []
    everything = PageRedundantFilter(embeddings=NemotronEmbeddings(model=Seeing()), similarity_threshold=1e-9)
    assert everything.transform_documents(SLIDES[:3]) == SLIDES[:1]


async def test_what_cannot_be_read_is_kept(caplog):
    unlike = PageRedundantFilter(embeddings=NemotronEmbeddings(model=Seeing()))
    documents = [SLIDES[0], BROKEN, SLIDES[2], BROKEN]
    with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
        assert unlike.transform_documents(documents) == [SLIDES[0], BROKEN, BROKEN]
    assert "document 1 is kept" in caplog.text
    assert await unlike.atransform_documents(documents) == [SLIDES[0], BROKEN, BROKEN]


def test_in_a_pipeline():
    unlike = PageRedundantFilter(embeddings=NemotronEmbeddings(model=Seeing()))
    pipeline = DocumentCompressorPipeline(transformers=[unlike, NemotronRerank(model=FakeReranker(), top_n=2)])
    assert len(pipeline.compress_documents(SLIDES, "results")) == 2
    with pytest.raises(ValueError, match="similarity_threshold"):
        PageRedundantFilter(embeddings=NemotronEmbeddings(model=Seeing()), similarity_threshold=2)

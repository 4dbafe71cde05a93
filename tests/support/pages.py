"""What the tests of the index share: small documents, a counting embedder, and a comparison of whole indexes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pymupdf

from nemotron_rag.errors import InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder
from nemotron_rag.types import AddReport, Page


class CountingEmbedder(FakeEmbedder):
    """Counts the pages it embeds; refuses pages whose text holds `refuses`."""

    def __init__(self, refuses: str = "\0", **options) -> None:
        super().__init__(**options)
        self.embedded = 0
        self.refuses = refuses

    def embed_passages(self, passages):
        for passage in passages:
            if self.refuses in passage.text:
                raise InputError(f"cannot embed {passage.text!r}")
        self.embedded += len(passages)
        return super().embed_passages(passages)


def make_pdf(path: Path, *texts: str) -> Path:
    document = pymupdf.open()
    for text in texts:
        document.new_page(width=120, height=160).insert_text((10, 40), text, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    document.save(path, no_new_id=True)
    return path


def text_page(number: int, text: str, **fields) -> Page:
    return Page(id=f"p{number}", number=number, text=text, **fields)


def add(index: PageIndex, sources, **options) -> AddReport:
    return index.add(sources, progress=False, **options)


def contents(index: PageIndex) -> dict[str, tuple]:
    """Payload and vector of every point, the record among them."""
    records, _ = index._state.store._qdrant.client.scroll("pages", limit=1000, with_vectors=True)
    return {record.id: (record.payload, record.vector.get("dense", [])) for record in records}


def same(one: dict[str, tuple], other: dict[str, tuple]) -> bool:
    return one.keys() == other.keys() and all(
        one[i][0] == other[i][0] and np.allclose(one[i][1], other[i][1], atol=1e-5) for i in one
    )


def raw_pdf(objects: list[str]) -> bytes:
    """A PDF of the given objects, 1 the catalog; without a cross-reference table, which readers rebuild."""
    body = "".join(f"{number} 0 obj\n{text}\nendobj\n" for number, text in enumerate(objects, 1))
    return f"%PDF-1.7\n{body}trailer\n<</Root 1 0 R>>\n".encode()


def stream_object(dictionary: str, content: str) -> str:
    return f"<<{dictionary}/Length {len(content)}>>\nstream\n{content}\nendstream"


def endless(pages: int = 1) -> bytes:
    """Each page draws a form that draws 10 times a form that ...: 10^11 rectangles out of 3 kB."""
    first_form = 3 + pages
    kids = " ".join(f"{3 + i} 0 R" for i in range(pages))
    objects = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Kids[{kids}]/Count {pages}>>"]
    resources = f"<</XObject<</F {first_form} 0 R>>>>"
    content = first_form + 12
    page = f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents {content} 0 R/Resources{resources}>>"
    objects += [page] * pages
    for level in range(11):
        inner = f"/Resources<</XObject<</F {first_form + level + 1} 0 R>>>>"
        objects.append(stream_object(f"/Type/XObject/Subtype/Form/BBox[0 0 200 200]{inner}", "/F Do " * 10))
    objects.append(stream_object("/Type/XObject/Subtype/Form/BBox[0 0 200 200]", "0 0 9 9 re f"))
    objects.append(stream_object("", "/F Do"))
    return raw_pdf(objects)

"""A server in strict mode, as Qdrant Cloud has it: whatever this package filters on has an index."""

from __future__ import annotations

import pytest

from nemotron_rag.errors import StoreError
from nemotron_rag.index import PageIndex
from nemotron_rag.stores.collection_options import CollectionOptions
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder
from support.pages import add, make_pdf, text_page
from support.qdrant_server import StrictServer

YEAR = CollectionOptions(metadata_indexes={"year": "integer"})


@pytest.mark.parametrize("embedder", [FakeEmbedder, FakeMultiVectorEmbedder])
@pytest.mark.parametrize("tenant", [None, ("customer", "acme")])
def test_all_that_an_index_does_is_allowed(tmp_path, tenant, embedder):
    server = StrictServer()
    options = {"tenant": tenant, "images": tmp_path / "images", "collection_options": YEAR}
    index = PageIndex(client=server.client(), embedder=embedder(), **options)
    pdf = make_pdf(tmp_path / "a.pdf", "red apples", "blue whales")
    copy = make_pdf(tmp_path / "b.pdf", "red apples", "blue whales")
    assert add(index, [pdf, copy, text_page(1, "green pears")], metadata={"year": 2024}).failures == ()
    add(index, pdf)
    make_pdf(pdf, "red apples", "grey tunnels")
    assert add(index, pdf).added == 2
    names = [name for name in index.sources() if name]
    filters = [
        *({"source": names[0]}, {"page_number": [1, 2]}, {"id": "p1"}, {"content_hash": "x"}, {"year": 2024}),
        *({"year": {"gte": 2020}}, {"year": None}, {"source": names, "year": 2024}),
    ]
    for filter in filters:
        index.search("apples", filter=filter)
        index.search("apples", filter=filter, mode="hybrid")
        index.count(filter)
    assert index.delete(names[0]) >= 0
    index.delete(filter={"year": 2024})
    index.delete(ids=["p1"])
    assert index.count() == 0
    assert server.refused == []
    assert len(server.indexed) > 5


def test_a_filter_on_a_key_without_an_index_says_what_to_do(tmp_path):
    server = StrictServer()
    index = PageIndex(client=server.client(), embedder=FakeEmbedder(), images=None)
    add(index, [text_page(1, "apples", metadata={"year": 2024})])
    with pytest.raises(StoreError, match=r"Index required.*index_metadata"):
        index.search("apples", filter={"year": 2024})
    index.index_metadata("year", "integer")
    assert len(index.search("apples", filter={"year": 2024})) == 1

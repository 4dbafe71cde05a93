"""NemotronPageRetriever over an index of ours: what it finds, by which queries, ranked how."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import ImageNode, MetadataMode, TextNode

from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever, NodeCollection
from nemotron_rag.documents.images import load_image
from nemotron_rag.errors import ClosedError, ImageError, IndexMismatchError, InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from nemotron_rag.types import Page
from support.llama_index import ask, png_file, same, texts
from support.pages import add, text_page

# ---- an index of ours -------------------------------------------------------------------------------------------


def test_class():
    assert issubclass(NemotronPageRetriever, BaseRetriever)


@pytest.mark.slow
def test_importing_it_loads_no_torch():
    code = "import sys, llama_index.retrievers.nemotron_rag; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_pages_come_back_as_image_nodes_with_text_image_and_metadata(retriever, index, pdf, folder):
    found = retriever.retrieve("red apples")
    assert len(found) == 4
    hits = index.search("red apples")
    assert [item.node_id for item in found] == [hit.page.id for hit in hits]
    assert [item.score for item in found] == pytest.approx([hit.score for hit in hits])
    assert all(type(item.score) is float for item in found)
    node = found[0].node
    assert isinstance(node, ImageNode)
    assert node.class_name() == "ImageNode"
    assert node.text == "red apples"
    assert Path(node.image_path).is_relative_to(folder / "images")
    assert Path(node.image_path).is_absolute()
    assert load_image(node.image_path).size == index.search("red apples", k=1)[0].page.image.size
    assert (
        node.metadata.items()
        >= {
            "page_label": "1",
            "page_number": 1,
            "file_name": "nature.pdf",
            "file_path": str(pdf),
            "source": str(pdf),
            "total_pages": 4,
            "page_image_path": node.image_path,
            "year": 2024,
        }.items()
    )
    assert "page_count" not in node.metadata
    json.dumps(node.to_dict())


def test_nodes_are_those_of_the_reader(retriever, pages):
    read = {page.metadata["page_number"]: page for page in pages}
    for item in retriever.retrieve("apples"):
        page = read[item.node.metadata["page_number"]]
        assert item.node.text == page.text
        for excluded in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys"):
            assert {*getattr(item.node, excluded), "page_image_sha256"} == set(getattr(page, excluded))
        ours = set(page.metadata) - {"page_image_path", "page_image_sha256", "tags", "note"}
        assert {key: item.node.metadata[key] for key in ours} == {key: page.metadata[key] for key in ours}


def test_prompts_show_label_and_file_name_but_no_path(retriever):
    node = retriever.retrieve("red apples")[0].node
    assert node.get_content(MetadataMode.LLM) == "page_label: 1\nfile_name: nature.pdf\nyear: 2024\n\nred apples"
    assert node.get_content(MetadataMode.EMBED) == "year: 2024\n\nred apples"


@pytest.mark.parametrize("form", [str, Path])
def test_an_index_by_its_folder_is_opened_by_the_first_search(folder, form, monkeypatch):
    opened = []

    class Spy(PageIndex):
        def __init__(self, *args, **options):
            opened.append(self)
            super().__init__(*args, **options)

    monkeypatch.setattr("nemotron_rag.index.lazy.PageIndex", Spy)
    with NemotronPageRetriever(form(folder), embedder=FakeEmbedder()) as one:
        assert opened == []
        first = one.retrieve("blue whales")
        with NemotronPageRetriever(form(folder), embedder=FakeEmbedder()) as other:  # they share a client
            assert [item.node for item in other.retrieve("blue whales")] == [item.node for item in first]
    assert len(opened) == 2
    assert texts(first)[0] == "blue whales"
    with PageIndex(folder) as index:  # all closed
        assert index.count() == 4


def test_it_can_be_used_again_after_closing(folder):
    retriever = NemotronPageRetriever(folder, embedder=FakeEmbedder())
    before = retriever.retrieve("blue whales")
    retriever.close()
    same(retriever.retrieve("blue whales"), before)
    retriever.close()


def test_an_open_index_stays_open(retriever, index):
    retriever.close()
    assert index.count() == 4
    index.close()
    with pytest.raises(ClosedError):
        retriever.retrieve("apples")


def test_options_of_an_index_by_location_are_passed_on(tmp_path, pdf):
    options = {"collection": "shelf", "images": tmp_path / "elsewhere"}
    with PageIndex(tmp_path / "i", embedder=FakeEmbedder(), dpi=72, **options) as index:
        add(index, pdf, ocr="never")
    with NemotronPageRetriever(tmp_path / "i", embedder=FakeEmbedder(), pdf_engine="mupdf", **options) as retriever:
        node = retriever.retrieve("apples")[0].node
        assert Path(node.image_path).is_relative_to(tmp_path / "elsewhere")
    with (
        NemotronPageRetriever(tmp_path / "i", embedder=FakeEmbedder(dimensions=8), collection="shelf") as retriever,
        pytest.raises(IndexMismatchError, match="dimensions"),
    ):
        retriever.retrieve("apples")


# ---- queries --------------------------------------------------------------------------------------------------


def test_an_image_finds_the_page_that_shows_it(index, tmp_path):
    retriever = NemotronPageRetriever(index, similarity_top_k=2)
    page = index.search("blue whales", k=1)[0].page
    page.image.open().save(tmp_path / "query.png")
    found = retriever.retrieve(ask(image_path=str(tmp_path / "query.png")))
    assert found[0].node_id == page.id
    assert len(found) == 2
    assert [item.score for item in found] == pytest.approx([hit.score for hit in index.search_image(page.image, k=2)])


def test_words_and_an_image_are_joined_by_their_ranks(retriever, index, tmp_path):
    whale = index.search("blue whales", k=1)[0].page
    whale.image.open().save(tmp_path / "query.png")
    found = retriever.retrieve(ask(query_str="red apples", image_path=str(tmp_path / "query.png")))
    by_words = [hit.page.id for hit in index.search("red apples")]
    by_image = [hit.page.id for hit in index.search_image(whale.image)]
    expected = {i: 1 / (61 + by_words.index(i)) + 1 / (61 + by_image.index(i)) for i in by_words}
    assert {item.node_id: item.score for item in found} == pytest.approx(expected)
    assert [item.score for item in found] == sorted(expected.values(), reverse=True)
    assert {by_words[0], by_image[0]} <= {item.node_id for item in found[:3]}


def test_other_wordings_of_a_query_are_searched_too(index):
    retriever = NemotronPageRetriever(index, similarity_top_k=3)
    found = retriever.retrieve(ask(query_str="?", custom_embedding_strs=["red apples", "blue whales"]))
    assert {"red apples", "blue whales"} <= set(texts(found))


def test_the_query_is_left_as_it_was(retriever):
    query = ask(query_str="red apples", embedding=[1.0, 2.0])  # of another model
    before = query.to_dict()
    retriever.retrieve(query)
    assert query.to_dict() == before


@pytest.mark.parametrize("query", ["", "  ", ask(), ask(custom_embedding_strs=[""])])
async def test_a_query_must_hold_something(retriever, query):
    with pytest.raises(InputError, match="got neither"):
        retriever.retrieve(query)
    with pytest.raises(InputError, match="got neither"):
        await retriever.aretrieve(query)


def test_an_image_that_cannot_be_read_is_an_error(retriever, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        retriever.retrieve(ask(image_path=str(tmp_path / "gone.png")))
    with pytest.raises(ImageError, match="never fetched"):
        retriever.retrieve(ask(image_path="http://example.invalid/a.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"similarity_top_k": 0}, "similarity_top_k must be a positive integer, got 0"),
        ({"top_n": "3"}, "top_n must be a positive integer, got '3'"),
        ({"embedder": FakeEmbedder()}, "embedder belongs to an index by location"),
        ({"index": 7}, "wanted index as a folder"),
    ],
)
def test_arguments_are_checked(index, arguments, message):
    with pytest.raises(InputError, match=message):
        NemotronPageRetriever(**{"index": index, **arguments})


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(InputError, match="there is no index: .*nothing"):
        NemotronPageRetriever(tmp_path / "nothing", embedder=FakeEmbedder()).retrieve("apples")
    assert not (tmp_path / "nothing").exists()


def test_a_collection_has_settings_of_its_own(collection, client):
    with pytest.raises(InputError, match="inline_images belongs to an index"):
        NemotronPageRetriever(collection, inline_images=True)
    with pytest.raises(InputError, match="either a location or a client"):
        NodeCollection(collection="docs", embedder=FakeEmbedder())


# ---- reranking --------------------------------------------------------------------------------------------------


class Seeing(FakeReranker):
    """Likes pages whose text is short, and remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def score(self, query, passages):
        self.seen += passages
        return super().score(query, passages) * 0 - [float(len(passage.text)) for passage in passages]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_reranker_sees_image_and_text(index, wrapped):
    model = Seeing()
    reranker = NemotronRerank(model, top_n=3) if wrapped else model
    retriever = NemotronPageRetriever(index, reranker=reranker, similarity_top_k=4, top_n=2)
    found = retriever.retrieve("red apples")
    assert texts(found) == ["", "red apples"]
    read = "year: 2024\n\nred apples" if wrapped else "red apples"  # PageIndex.search reads no metadata
    assert [item.score for item in found] == [0.0, -len(read)]
    assert sorted(passage.modality for passage in model.seen) == ["image"] + ["image_text"] * 3
    assert all("page_label" not in passage.text for passage in model.seen)
    if wrapped:
        retriever.top_n = None
        assert len(retriever.retrieve("red apples")) == 3


def test_only_what_was_retrieved_is_reranked(index):
    model = Seeing()
    found = NemotronPageRetriever(index, reranker=model, similarity_top_k=2).retrieve("blue whales")
    assert len(found) == len(model.seen) == 2
    assert "blue whales" in texts(found)


def test_a_reranker_may_be_named(index, reference):
    retriever = NemotronPageRetriever(index, reranker=reference / "rerank_vl_open_1", top_n=2)
    assert retriever.reranker.model.endswith("rerank_vl_open_1")
    assert len(retriever.retrieve("red apples")) == 2
    retriever.close()


def test_an_open_indexes_own_reranker_ranks(folder):
    with PageIndex(folder, embedder=FakeEmbedder(), reranker=Seeing()) as index:
        assert texts(NemotronPageRetriever(index, top_n=1).retrieve("red apples")) == [""]


async def test_an_image_alone_is_not_reranked(index, tmp_path):
    model = Seeing()
    retriever = NemotronPageRetriever(index, reranker=model, top_n=3)
    query = ask(image_path=str(png_file(tmp_path)))
    assert len(retriever.retrieve(query)) == len(await retriever.aretrieve(query)) == 3
    assert model.seen == []
    query.query_str = "red apples"
    assert len(retriever.retrieve(query)) == 3
    assert len(model.seen) == 4


# ---- images ---------------------------------------------------------------------------------------------------


def test_a_lost_image_costs_only_itself(index, caplog):
    index.search("red apples", k=1)[0].page.image.path.unlink()
    retriever = NemotronPageRetriever(index, reranker=Seeing())
    with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
        found = {item.node.text: item.node for item in retriever.retrieve("red apples")}
    assert len(found) == 4
    assert type(found["red apples"]) is TextNode
    assert "comes without its image" in caplog.text


def test_inline_images(index):
    node = NemotronPageRetriever(index, inline_images=True).retrieve("red apples")[0].node
    assert (node.image_path, node.image_mimetype) == (None, "image/png")
    shown = index.search("red apples", k=1)[0].page.image
    assert base64.b64decode(node.image) == shown.read_bytes()
    assert load_image(base64.b64decode(node.image)).tobytes() == shown.open().tobytes()
    assert "page_image_path" not in node.metadata


def test_images_that_are_no_files_come_inline(pdf):
    with PageIndex(embedder=FakeEmbedder(), dpi=72) as index:  # in memory
        add(index, pdf, ocr="never")
        assert all(item.node.image for item in NemotronPageRetriever(index).retrieve("apples"))


def test_an_index_without_images_gives_texts():
    with PageIndex(embedder=FakeEmbedder(), images=None) as index:
        add(index, [text_page(1, "red apples", source="a/b.pdf"), Page(id="x", number=2, text="whales")])
        found = NemotronPageRetriever(index).retrieve("apples")
        assert [type(item.node) for item in found] == [TextNode, TextNode]
        assert found[0].node.metadata == {
            "page_label": "1",
            "page_number": 1,
            "file_name": "b.pdf",
            "file_path": "a/b.pdf",
            "source": "a/b.pdf",
        }

"""What notebooks show: every image has an alternative text, no text becomes markup, both frameworks are understood."""

from __future__ import annotations

import base64
import doctest
import io
import re
from html import escape

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.schema import ImageNode, NodeWithScore
from PIL import Image

from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.report import draw_regions, notebook, show_images, show_messages, show_pages
from nemotron_rag.types import Hit, Page, Region

EVIL = '"><script>alert(1)</script>'


def png(size=(60, 90), colour="white"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def shown_images(html):
    return re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]*)"', html)


def opened(encoded):
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def hit(text="Sales grew.", image=None, **more):
    page = Page(text, image, id="1", source="reports/a.pdf", number=3)
    return Hit(page, **{"score": 0.5, "retrieval_score": 0.5, "rank": 1, **more})


def test_examples_of_the_docstrings():
    assert doctest.testmod(notebook).failed == 0


def test_hits_have_file_page_and_scores():
    assert repr(show_pages([hit(), hit(score=2.5)])) == (
        "1. a.pdf, page 3, retrieval 0.50\n2. a.pdf, page 3, reranker 2.50, retrieval 0.50"
    )


def test_every_image_has_an_alternative_text():
    html = show_pages([hit(image=png()), hit(image=png())], note=lambda each: "right")._repr_html_()
    assert [alternative for _, alternative in shown_images(html)] == [
        "1. a.pdf, page 3, retrieval 0.50",
        "2. a.pdf, page 3, retrieval 0.50",
    ]
    assert html.count("<b>right</b>") == 2
    assert html.count("<img") == 2


def test_images_are_as_large_as_they_are_shown():
    ((encoded, _),) = shown_images(show_images({"a page": png((2000, 3000))}, width=200).html)
    assert max(opened(encoded).size) == 360


def test_a_page_without_an_image_shows_its_text_with_the_words_of_the_query():
    html = show_pages([hit("Sales <b>grew</b>.")], query="did sales grow").html
    assert "<mark>Sales</mark>" in html
    assert "&lt;b&gt;grew&lt;/b&gt;" in html
    assert "<img" not in html


def test_nothing_found_says_so():
    assert repr(show_pages([])) == "nothing"


@pytest.mark.parametrize("where", ["source", "text", "query", "note", "caption", "message", "call"])
def test_no_text_becomes_markup(where):
    page = Page(EVIL if where == "text" else "x", id="1", source=f"{EVIL}.pdf" if where == "source" else "a.pdf")
    found = Hit(page, score=1.0, retrieval_score=1.0, rank=1)
    html = show_pages([found], query=EVIL if where == "query" else "", note=lambda each: EVIL * (where == "note")).html
    html += show_images({EVIL * (where == "caption"): png()}).html
    call = {"name": "search", "args": {"query": EVIL}, "id": "1", "type": "tool_call"}
    html += show_messages([HumanMessage(EVIL), AIMessage("", tool_calls=[call])]).html
    assert "<script" not in html
    assert "alert(1)" in html


def test_regions_are_framed_and_said():
    region = Region((0.1, 0.1, 0.9, 0.3), 1.0, "Sales\ngrew.", "words")
    asked = []

    def regions(page, query):
        asked.append((page.number, query))
        return [region]

    plain = show_pages([hit(image=png())], query="sales")
    framed = show_pages([hit(image=png())], query="sales", regions=regions)
    assert asked == [(3, "sales")]
    assert repr(framed).splitlines()[1] == "   Sales grew."
    ((before, _),), ((after, alternative),) = shown_images(plain.html), shown_images(framed.html)
    assert alternative.endswith(", 1 framed")
    assert np.asarray(opened(before)).min() > 240
    assert np.asarray(opened(after)).min() < 150


def test_regions_of_metadata_are_those_of_an_index():
    image = Image.new("RGB", (100, 100), "white")
    region = Region((0.2, 0.2, 0.8, 0.4), 1.0, "x", "words")
    one, other = draw_regions(image, [region]), draw_regions(image, [{"box": [0.2, 0.2, 0.8, 0.4], "text": "x"}])
    assert one.tobytes() == other.tobytes() != image.tobytes()
    assert image.getpixel((30, 30)) == (255, 255, 255)


def test_an_image_that_cannot_be_read():
    with pytest.raises(ImageError) as raised:
        draw_regions(b"no image", [])
    html = show_pages([hit(image=b"no image")]).html
    assert escape(str(raised.value)) in html
    assert "<img" not in html


def test_documents_of_langchain():
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    region = {"box": [0, 0, 1, 0.5], "text": "Sales grew.", "score": 1.0, "evidence": "words"}
    metadata = {"source": "x/a.pdf", "page_number": 3, "image": uri, "relevance_score": 2.5, "retrieval_score": 0.5}
    shown = show_pages([Document("Sales", metadata=metadata | {"regions": [region]})])
    assert repr(shown) == "1. a.pdf, page 3, reranker 2.50, retrieval 0.50\n   Sales grew."
    assert len(shown_images(shown.html)) == 1


def test_a_score_of_the_search_is_not_called_the_reranker_s():
    metadata = {"source": "a.pdf", "page_number": 3, "relevance_score": 0.5, "retrieval_score": 0.5}
    assert repr(show_pages([Document("Sales", metadata=metadata)])) == "1. a.pdf, page 3, retrieval 0.50"


def test_nodes_of_llama_index(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    metadata = {"file_name": "a.pdf", "page_label": "3"}
    by_path = ImageNode(text="Sales", image_path=str(tmp_path / "a.png"), metadata=metadata)
    inline = ImageNode(text="Sales", image=base64.b64encode(png()).decode(), metadata=metadata)
    shown = show_pages([NodeWithScore(node=by_path, score=2.5), inline])
    assert repr(shown) == "1. a.pdf, page 3, score 2.50\n2. a.pdf, page 3"
    assert len(shown_images(shown.html)) == 2


def test_what_is_no_page_is_refused():
    with pytest.raises(InputError, match="wanted hits, pages, documents or nodes, got int"):
        show_pages([1])
    with pytest.raises(InputError, match="wanted messages of LangChain or LlamaIndex, got str"):
        show_messages("x")


def test_messages_of_langchain():
    image = {"type": "image", "base64": base64.b64encode(png()).decode(), "mime_type": "image/png"}
    call = {"name": "search", "args": {"query": "sales"}, "id": "1", "type": "tool_call"}
    messages = [
        HumanMessage("Did sales grow?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage([{"type": "text", "text": "word " * 100}, image], tool_call_id="1"),
    ]
    shown = show_messages(messages, words=5)
    assert repr(shown).splitlines() == [
        *("human:", "  Did sales grow?", "ai:", "  search(query='sales')"),
        *("tool:", "  word word word word word …", "  image of 60 x 90 pixels"),
    ]
    assert [alternative for _, alternative in shown_images(shown.html)] == ["image of 60 x 90 pixels"]
    assert repr(show_messages(messages[0])) == "human:\n  Did sales grow?"


def test_messages_of_llama_index():
    message = ChatMessage(
        role="user",
        blocks=[
            TextBlock(text="Did sales grow?"),
            ImageBlock(image=png()),
            ToolCallBlock(tool_name="search", tool_kwargs={"input": "sales"}),
        ],
    )
    assert repr(show_messages([message])).splitlines() == [
        *("user:", "  Did sales grow?", "  image of 60 x 90 pixels", "  search(input='sales')")
    ]

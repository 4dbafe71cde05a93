"""Images of nodes in every form, what may be opened, and the copies for events and the LLM."""

from __future__ import annotations

import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from llama_index.core.schema import (
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeWithScore,
    TextNode,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from PIL import ImageChops

from llama_index.embeddings.nemotron_rag import PageNode
from llama_index_nemotron_rag.events import light, light_nodes
from llama_index_nemotron_rag.nodes import image_of
from llama_index_nemotron_rag.reading import NodeReading
from llama_index_nemotron_rag.shown import for_llm
from nemotron_rag.documents.images import ImageBudget, load_image
from nemotron_rag.errors import ImageBudgetError, ImageError
from support.llama_index import FORMS, b64, image_nodes, make_image, png, png_file, uri


@pytest.mark.parametrize("form", FORMS)
def test_every_form_shows_the_same_image_and_text(form, tmp_path):
    (reading,) = NodeReading().read([image_nodes(tmp_path, text="Revenue rose.")[form]])
    assert reading.passage.text == "Revenue rose."
    assert ImageChops.difference(load_image(reading.passage.image).convert("RGB"), make_image()).getbbox() is None


def test_nodes_without_images_have_none():
    for node in (TextNode(text="a"), Node(text_resource=MediaResource(text="a")), ImageNode(text="a", image="")):
        assert image_of(node) is None
        assert NodeReading().read([node])[0].passage.modality == "text"


def test_metadata_goes_with_the_text_but_not_with_a_bare_image():
    metadata = {"title": "Report", "page": 3}
    keys = {"excluded_embed_metadata_keys": ["page"]}
    text = TextNode(text="Revenue rose.", metadata=metadata, **keys)
    page = ImageNode(text="Revenue rose.", image=b64(), metadata=metadata, **keys)
    bare = ImageNode(image=b64(), metadata=metadata, **keys)
    texts = [reading.passage.text for reading in NodeReading().read([text, page, bare])]
    assert texts == ["title: Report\n\nRevenue rose."] * 2 + [""]
    (plain,) = NodeReading(metadata_mode=MetadataMode.NONE).read([page])
    assert plain.passage.text == "Revenue rose."


@pytest.mark.parametrize(("modality", "expected"), [("image_text", "image_text"), ("image", "image"), ("text", "text")])
def test_modality(modality, expected):
    page, text = NodeReading(modality=modality).read([ImageNode(text="a", image=b64()), TextNode(text="a")])
    assert page.passage.modality == expected
    assert text.passage.modality == "text"


def test_text_mode_opens_no_image():
    (reading,) = NodeReading(modality="text").read([ImageNode(text="a", image_path="/nowhere.png")])
    assert reading.passage.text == "a"


def test_roots_close_what_lies_outside(tmp_path):
    (tmp_path / "pages").mkdir()
    inside, outside = png_file(tmp_path / "pages"), png_file(tmp_path)
    reading = NodeReading(image_roots=tmp_path / "pages")
    assert reading.read([ImageNode(image_path=str(inside))])[0].passage.image is not None
    for node in (ImageNode(image_path=str(outside)), Node(image_resource=MediaResource(path=outside))):
        assert NodeReading().read([node])[0].passage.image is not None
        with pytest.raises(ImageError, match=r"node 0 .* outside the allowed folders .*image_roots="):
            reading.read([node])


def test_metadata_opens_nothing_by_default(tmp_path):
    path = str(png_file(tmp_path))
    node = TextNode(text="a", metadata={"image": path})
    assert NodeReading().read([node])[0].passage.modality == "text"
    with pytest.raises(ImageError, match="outside the allowed folders"):
        NodeReading(image_keys="image").read([node])
    allowed = NodeReading(image_keys=["missing", "image"], image_roots=[tmp_path])
    assert allowed.read([node])[0].passage.image is not None
    inside = TextNode(text="a", metadata={"image": uri()}, excluded_embed_metadata_keys=["image"])
    (reading,) = NodeReading(image_keys=["image"]).read([inside])
    assert (reading.passage.text, reading.passage.modality) == ("a", "image_text")


def test_urls_are_fetched_from_allowed_hosts_only(socket_enabled):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.png"
        for node in (ImageNode(image_url=url), Node(image_resource=MediaResource(url=url))):
            with pytest.raises(ImageError, match=r"not on an allowed host \(none\).*image_hosts="):
                NodeReading().read([node])
            assert NodeReading(image_hosts=["127.0.0.1"]).read([node])[0].passage.image.size == (40, 60)
        server.shutdown()


def test_budget():
    with pytest.raises(ImageBudgetError, match="node 0"):
        NodeReading(image_budget=ImageBudget(max_pixels=100)).read([ImageNode(image=b64())])


@pytest.mark.parametrize(
    "node",
    [
        ImageNode(text="a", image_path="/nowhere/page.png"),
        ImageNode(text="a", image="bm90IGEgcGljdHVyZQ=="),
        ImageNode(text="a", image="!!!"),
        Node(text_resource=MediaResource(text="a"), image_resource=MediaResource(path="/nowhere/page.png")),
    ],
)
def test_missing_image_by_policy(node, caplog):
    other = TextNode(text="b")
    with pytest.raises(ImageError, match=f"node 8 .{node.node_id}"):
        NodeReading().read([other, node], start=7)
    (only,) = NodeReading(on_image_error="skip").read([node, other])
    assert only.index == 1
    first, second = NodeReading(on_image_error="text").read([node, other])
    assert (first.passage.text, first.passage.image, first.image_lost) == ("a", None, True)
    assert not second.image_lost
    assert caplog.text.count(node.node_id) == 2


def test_an_image_node_with_nothing_in_it_counts_as_missing():
    node = ImageNode(metadata={"page": 1})
    with pytest.raises(ImageError, match="neither an image nor a text"):
        NodeReading().read([node])
    assert NodeReading(on_image_error="skip").read([node]) == []
    assert NodeReading(on_image_error="text").read([node])[0].passage.text == "page: 1"


def test_an_image_that_recurs_is_decoded_once():
    first, second, third = NodeReading().read([ImageNode(image=b64()), ImageNode(image=b64()), ImageNode(image=b64(3))])
    assert first.passage.image is second.passage.image
    assert first.passage.image is not third.passage.image


@pytest.mark.parametrize("form", FORMS)
def test_light_copies_hold_no_image_data(form, tmp_path):
    node = image_nodes(tmp_path, text="Revenue rose.")[form]
    node.metadata = {"image": uri(), "raw": b"123", "page": 3}
    before = copy.deepcopy(node)
    copied = light(node)
    shown = repr(copied) + json.dumps(copied.to_dict(), default=str)
    assert b64()[20:60] not in shown
    assert str(png())[10:40] not in shown
    assert copied.metadata == {"page": 3}
    assert node == before
    if "path" in form:
        assert "page-255.png" in shown


def test_light_nodes_do_not_follow_later_changes():
    scored = [NodeWithScore(node=TextNode(text="a"), score=0.5)]
    (copied,) = light_nodes(scored)
    scored[0].score = 9.0
    scored[0].node.metadata["x"] = 1
    assert (copied.score, copied.node.metadata) == (0.5, {})


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith("ImageNode")])
def test_the_llm_gets_text_and_image(form, tmp_path):
    node = image_nodes(tmp_path, text="Revenue rose.")[form]
    node.metadata = {"page": 3}
    before = copy.deepcopy(node)
    page = for_llm(node)
    metadata, text, shown = page.get_content_blocks(MetadataMode.LLM)
    assert (metadata.text, text.text) == ("page: 3", "Revenue rose.")
    assert ImageChops.difference(load_image(shown.resolve_image()).convert("RGB"), make_image()).getbbox() is None
    page.metadata["more"] = 1
    page.excluded_llm_metadata_keys.append("page")
    assert node == before


def test_nodes_that_need_no_help_stay_as_they_are():
    class OwnNode(ImageNode):
        pass

    for node in (TextNode(text="a"), ImageNode(image=b64()), OwnNode(text="a"), Node(), PageNode(text="a")):
        assert for_llm(node) is node


def test_a_page_node_is_stored_as_an_image_node(tmp_path):
    page = for_llm(ImageNode(text="Revenue rose.", image_path=str(png_file(tmp_path)), metadata={"page": 3}))
    restored = metadata_dict_to_node(node_to_metadata_dict(page))
    assert type(restored) is ImageNode
    assert (restored.text, restored.image_path, restored.node_id) == (page.text, page.image_path, page.node_id)
    assert restored.hash == page.hash


def test_a_page_whose_file_has_gone_leaves_its_text():
    (block,) = PageNode(text="a", image_path="/nowhere.png").get_content_blocks()
    assert block.text == "a"


def test_a_data_uri_in_the_path_field_is_understood():
    page = PageNode(text="a", image_path=uri(), image_mimetype="image/png")
    assert NodeReading().read([page])[0].passage.image.size == (40, 60)
    assert page.get_content_blocks()[1].resolve_image().read() == png()
    assert light(page).image_path is None


def test_a_page_passes_its_url_on_unfetched():
    _, block = PageNode(text="a", image_url="http://pages.example/a.png").get_content_blocks()
    assert str(block.url) == "http://pages.example/a.png"

"""What the LLM gets of a page's image: within limits, never larger than what is stored, no more than asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode
from PIL import Image

from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank, PageImageLimits
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeReranker

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 2600, 3), np.uint8))


@pytest.fixture
def nodes(tmp_path):
    """Two small pages, and one that is too wide."""
    images = [Image.new("RGB", (60, 40), colour) for colour in ("white", "red")] + [NOISE]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    return [
        NodeWithScore(node=ImageNode(text=f"page {n}", image_path=str(tmp_path / f"{n}.png")), score=1.0)
        for n in range(3)
    ]


def shown(items) -> list[ImageBlock]:
    blocks = [block for item in items for block in item.node.get_content_blocks()]
    return [block for block in blocks if isinstance(block, ImageBlock)]


def opened(block) -> Image.Image:
    return Image.open(io.BytesIO(block.resolve_image().getvalue()))


def test_a_small_image_goes_as_it_is_stored_and_a_large_one_smaller(nodes, tmp_path):
    blocks = shown(NemotronRerank(model=FakeReranker()).postprocess_nodes(nodes, query_str="page"))
    assert len(blocks) == 3
    small = [block for block in blocks if opened(block).width == 60]
    stored = {(tmp_path / f"{n}.png").read_bytes() for n in range(2)}
    assert {block.resolve_image().getvalue() for block in small} == stored
    (large,) = [block for block in blocks if opened(block).width > 60]
    assert opened(large).width == 2048
    assert len(large.resolve_image().getvalue()) <= (tmp_path / "2.png").stat().st_size


def test_limits_are_the_users(nodes):
    limits = PageImageLimits(image_format="jpeg", max_side=500, max_bytes=20_000)
    for block in shown(limits.postprocess_nodes(nodes)):
        assert max(opened(block).size) <= 500
        assert len(block.resolve_image().getvalue()) <= 20_000
    (first,) = shown(PageImageLimits(max_images=1).postprocess_nodes(nodes))
    assert opened(first).size == (60, 40)
    assert all(type(item.node) is ImageNode for item in nodes)  # the caller's stay as they are


def test_a_text_is_no_image(nodes):
    items = [NodeWithScore(node=TextNode(text="alone"), score=1.0), *nodes]
    assert len(shown(PageImageLimits(max_images=2).postprocess_nodes(items))) == 2


def test_regions_are_cut_out_behind_their_page(nodes, caplog):
    nodes[2].node.metadata["regions"] = [{"box": [0, 0, 0.5, 0.5]}, {"box": [0.5, 0.5, 1, 1]}]
    chunk = NodeWithScore(node=nodes[2].node.model_copy(update={"text": "again", "id_": "chunk"}), score=0.5)
    found = PageImageLimits(max_crops=1, max_side=500).postprocess_nodes([*nodes, chunk])
    blocks = found[2].node.get_content_blocks()
    assert [type(block).__name__ for block in blocks] == ["TextBlock", "ImageBlock", "ImageBlock"]
    assert [opened(block).size for block in blocks[1:]] == [(500, 58), (500, 75)]
    assert [len(shown([item])) for item in found] == [1, 1, 2, 0]
    assert len(shown(PageImageLimits(max_crops=2, max_images=4).postprocess_nodes(nodes))) == 4
    assert len(shown(PageImageLimits().postprocess_nodes(found))) == 3  # the last one says
    ranked = PageImageLimits(max_crops=2).postprocess_nodes(
        NemotronRerank(FakeReranker()).postprocess_nodes(nodes, query_str="page")
    )
    assert len(shown(ranked)) == 5
    assert caplog.text == ""


def test_regions_that_are_something_else(nodes, caplog):
    nodes[0].node.metadata["regions"] = "EMEA"
    assert len(shown(PageImageLimits(max_crops=2).postprocess_nodes(nodes))) == 3
    assert "regions are left out of a prompt: regions must be a list of mappings with a box" in caplog.text


def test_an_address_is_passed_on_alone():
    page = ImageNode(
        text="page", image_url="https://example.com/1.png", metadata={"regions": [{"box": [0, 0, 1, 0.1]}]}
    )
    (block,) = shown(PageImageLimits(max_crops=2).postprocess_nodes([NodeWithScore(node=page)]))
    assert str(block.url) == "https://example.com/1.png"


def test_limits_are_checked():
    for wrong in ({"max_crops": -1}, {"max_images": 0}, {"max_side": 0}, {"max_bytes": -1}, {"image_format": "gif"}):
        with pytest.raises((InputError, ValueError)):
            PageImageLimits(**wrong)

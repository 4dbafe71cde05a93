"""Images that can be transparent come in on a white ground, in every mode; opaque ones stay as they are."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.documents.base import Blob
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode
from PIL import Image

from langchain_nemotron_rag import NemotronRerank, to_content_blocks
from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank as NodeRerank
from nemotron_rag import Page, PageIndex, Passage
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import encode_image, load_image, load_page_image, on_white, to_rgb
from nemotron_rag.documents.llm_images import encode_for_llm
from nemotron_rag.documents.transparency import lay_on_white
from nemotron_rag.testing import FakeEmbedder, FakeReranker


def png(
    width: int, depth: int, colour: int, row: bytes, transparent: bytes | None = None, palette: bytes = b""
) -> bytes:
    """A PNG of one row, as no encoder of Pillow's writes it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))]
    parts += [chunk(b"PLTE", palette)] if palette else []
    parts += [chunk(b"tRNS", transparent)] if transparent is not None else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")])


def grey(value: int) -> bytes:
    return struct.pack(">H", value)


# Two pixels each: the first is opaque black or nearly so, the second transparent over black or another dark value.
FILES = {
    "1 bit": png(2, 1, 0, bytes([0b01000000]), grey(1)),
    "2 bits": png(2, 2, 0, bytes([0b00010000]), grey(1)),
    "4 bits": png(2, 4, 0, bytes([0x03]), grey(3)),
    "8 bits": png(2, 8, 0, bytes([0, 7]), grey(7)),
    "16 bits": png(2, 16, 0, struct.pack(">HH", 0, 1800), grey(1800)),
    "grey and alpha": png(2, 8, 4, bytes([0, 255, 0, 0])),
    "16 bits grey and alpha": png(2, 16, 4, struct.pack(">4H", 0, 65535, 0, 0)),
    "RGB": png(2, 8, 2, bytes([0, 0, 0, 1, 2, 3]), struct.pack(">3H", 1, 2, 3)),
    "16 bits RGB": png(2, 16, 2, struct.pack(">6H", 0, 0, 0, 256, 512, 768), struct.pack(">3H", 256, 512, 768)),
    "RGBA": png(2, 8, 6, bytes([0, 0, 0, 255, 0, 0, 0, 0])),
    "16 bits RGBA": png(2, 16, 6, struct.pack(">8H", 0, 0, 0, 65535, 0, 0, 0, 0)),
    "palette": png(2, 8, 3, bytes([0, 1]), bytes([255, 0]), bytes([0, 0, 0, 9, 9, 9])),
    "palette of 1 bit": png(2, 1, 3, bytes([0b01000000]), bytes([255, 0]), bytes([0, 0, 0, 9, 9, 9])),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_transparent_is_white(name):
    image = load_page_image(FILES[name])
    assert image.mode == "RGB"
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("name", FILES)
def test_a_passage_keeps_the_pixels_that_a_model_was_published_with(name):
    dropped = to_rgb(load_image(FILES[name]))
    assert max(dropped.getpixel((1, 0))) < 255 or name == "1 bit"


def transparent(mode: str) -> Image.Image:
    """Black beside nothing, over black."""
    if mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([0, 0, 0, 5, 5, 5])
        image.putpixel((1, 0), 1)
        image.info["transparency"] = 1
        return image
    layer = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 0, 0))
    if mode in ("LA", "La"):
        alpha = Image.merge("LA", (layer.getchannel("R"), layer.getchannel("A")))
        return alpha if mode == "LA" else alpha.convert("La")
    if mode == "PA":
        image = Image.new("PA", (2, 1), (0, 255))
        image.putpixel((1, 0), (0, 0))
        return image
    return layer if mode == "RGBA" else layer.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGBa", "La"])
def test_every_mode_of_a_decoded_image(mode):
    image = transparent(mode)
    before = image.tobytes()
    assert on_white(image).tobytes() == bytes([0, 0, 0, 255, 255, 255])
    assert image.tobytes() == before
    assert load_image(encode_image(image, "png")).getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"])
def test_an_opaque_image_is_the_same_object(mode):
    image = Image.new(mode, (3, 2))
    assert lay_on_white(image) is image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_that_hides_nothing_changes_no_pixel(mode):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8))
    noise = noise.convert("L") if mode != "RGBA" else noise
    image = noise.convert(mode)
    assert lay_on_white(image).tobytes() == image.convert("RGB").tobytes()


@dataclass
class Watching:
    """A reranker that keeps what it sees."""

    def __post_init__(self):
        self.model = FakeReranker()
        self.seen = []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def score(self, query, passages, **options):
        self.seen += [to_rgb(load_image(passage.image)).getpixel((1, 0)) for passage in passages]
        return self.model.score(query, passages, **options)


WHITE = (255, 255, 255)
CHART = FILES["grey and alpha"]


def stored_pixel(index: PageIndex) -> tuple[int, int, int]:
    (hit,) = index.search("chart", k=5)
    return hit.page.image.open().getpixel((1, 0))


def test_pages_of_an_index_are_on_white(tmp_path):
    path = tmp_path / "chart.png"
    path.write_bytes(CHART)
    pages = [path, Page(id="a", text="chart", image=CHART), Page(id="b", image=load_image(CHART))]
    for source in pages:
        with PageIndex(embedder=FakeEmbedder()) as index:
            index.add([source], progress=False)
            assert stored_pixel(index) == WHITE


def test_documents_and_nodes_are_on_white(tmp_path):
    path = tmp_path / "chart.png"
    path.write_bytes(CHART)
    for image in (encode_data_uri(), Blob.from_data(CHART), str(path), load_image(CHART)):
        model = Watching()
        rerank = NemotronRerank(model=model, image_roots=[tmp_path])
        rerank.compress_documents([Document("chart", metadata={"image": image})], "chart")
        assert model.seen == [WHITE]
    nodes = [
        ImageNode(text="chart", image_path=str(path)),
        ImageNode(text="chart", image=encode_data_uri().partition(",")[2]),
        TextNode(text="chart", metadata={"image": str(path)}),
    ]
    for node in nodes:
        model = Watching()
        rerank = NodeRerank(model=model, image_roots=[tmp_path], image_keys=["image"])
        rerank.postprocess_nodes([NodeWithScore(node=node, score=1.0)], query_str="chart")
        assert model.seen == [WHITE]


def encode_data_uri() -> str:
    block = to_content_blocks([Document("x", metadata={"image": Blob.from_data(CHART)})], image_format="png")[1]
    assert load_image(f"data:;base64,{block['base64']}").getpixel((1, 0)) == WHITE
    import base64

    return f"data:image/png;base64,{base64.b64encode(CHART).decode()}"


def test_what_a_chat_model_gets_is_on_white():
    for source in (CHART, load_image(CHART), ImageAccess().reference(CHART)):
        sent = load_image(io.BytesIO(encode_for_llm(source, image_format="png").data))
        assert to_rgb(sent).getpixel((1, 0)) == WHITE


def test_a_passage_for_the_model_alone_is_not_laid_on_white():
    model = Watching()
    model.score("chart", [Passage(image=CHART)])
    assert model.seen == [(0, 0, 0)]

"""Heatmaps: every box where the model reads, every word where its characters stand, heat where the vectors match."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pymupdf
import pytest
import torch
from PIL import Image

from nemotron_rag import Passage, load_multivector_embedder
from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction import boxes, heatmap
from nemotron_rag.late_interaction import words as _words
from nemotron_rag.late_interaction.boxes import grid_boxes, tile_boxes
from nemotron_rag.late_interaction.heatmap import Heatmap, compute_heatmap
from nemotron_rag.models._llama.network import pixel_shuffle
from nemotron_rag.models._llama.pixels import Cut, cut_tiles
from nemotron_rag.models._qwen.pixels import PixelSettings, patchify
from nemotron_rag.protocols import LocatingEmbedder
from nemotron_rag.testing import FakeMultiVectorEmbedder
from nemotron_rag.types import Page

DATA = Path(__file__).parents[1] / "data" / "reference"
LLAMA, QWEN = DATA / "colembed_llama_open_1", DATA / "colembed_qwen3vl_open_1"
QUERY = "Where do tornadoes form, Käse 東京?"


@pytest.fixture(scope="module", params=[LLAMA, QWEN], ids=["llama", "qwen"])
def model(request):
    return load_multivector_embedder(request.param, device="cpu")


def centres(found) -> np.ndarray:
    return (found[:, :2] + found[:, 2:]) / 2


def gradient(width: int, height: int) -> Image.Image:
    """An image whose red says how far to the right a pixel is, and whose green how far down, in 1/255."""
    down, right = np.indices((height, width)) + 0.5
    channels = [right / width * 255, down / height * 255, np.zeros((height, width))]
    return Image.fromarray(np.stack(channels, axis=2).round().astype(np.uint8))


def test_tile_boxes_are_where_the_tiles_and_their_tokens_are():
    """What the boxes say against what the pixels of each token say: 2 by 3 tiles and the thumbnail."""
    cut = Cut.of((220, 330), max_tiles=6, side=64, use_thumbnail=True)
    tiles = cut_tiles(gradient(220, 330), cut)  # (7, 64, 64, 3)
    assert len(tiles) == 7
    patches = tiles.reshape(7, 8, 8, 8, 8, 3).mean(axis=(2, 4)).reshape(7, 64, 3)  # patches of 8x8 pixels, row by row
    tokens = pixel_shuffle(torch.from_numpy(patches)).reshape(-1, 4, 3).mean(dim=1)  # four patches each
    found = tile_boxes(2, 3, side=4, thumbnail=True)
    np.testing.assert_allclose(centres(found), tokens[:, :2].numpy() / 255, atol=0.01)
    assert found[0].tolist() == pytest.approx([0, 0, 1 / 8, 1 / 12])
    assert found[5 * 16 + 15].tolist() == pytest.approx([7 / 8, 11 / 12, 1, 1])
    assert found[6 * 16].tolist() == pytest.approx([0, 0, 1 / 4, 1 / 4])


def test_grid_boxes_are_where_the_patches_of_a_qwen_token_are():
    settings = PixelSettings(8, 2, 2, 1, 10**9, mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels = torch.from_numpy(np.array(gradient(160, 96)))
    patches = patchify(pixels, settings).view(-1, 3, 2, 8, 8).mean(dim=(2, 3, 4))  # (patches, 3) red, green, blue
    tokens = patches.view(-1, 4, 3).mean(dim=1)
    np.testing.assert_allclose(centres(grid_boxes(10, 6)), tokens[:, :2].numpy(), atol=0.01)


@pytest.mark.parametrize("size", [(90, 120), (300, 60), (40, 40)])
def test_every_vector_of_a_passage_has_its_box(model, size):
    passages = [Passage(image=gradient(*size)), Passage("a caption", gradient(*size)), Passage("only text")]
    for rows, found in zip(model.embed_passages(passages), model.locate_passages(passages), strict=True):
        assert found.shape == (len(rows), 4)
        assert found.dtype == np.float32
    image, both, text = model.locate_passages(passages)
    placed = image[~np.isnan(image).any(axis=1)]
    assert placed.min() == 0
    assert placed.max() == 1
    np.testing.assert_array_equal(placed, both[~np.isnan(both).any(axis=1)])
    assert np.isnan(text).all()


def test_the_tiles_of_the_settings_count():
    page = Passage(image=gradient(128, 256))
    one = load_multivector_embedder(LLAMA, device="cpu", max_input_tiles=1).locate_passages([page])[0]
    np.testing.assert_allclose(one[~np.isnan(one).any(axis=1)], grid_boxes(2, 2))


@pytest.mark.parametrize("query", [QUERY, "", "word " * 900, "\ud800 lone", "  spaced  out "])
def test_every_vector_of_a_query_has_its_characters(model, query):
    (rows,), (spans,) = model.embed_queries([query]), model.locate_queries([query])
    assert spans.shape == (len(rows), 2)
    starts, ends = spans.T
    assert (starts <= ends).all()
    covered = {i for start, end in spans.tolist() for i in range(start, end)}
    kept = query[: max(covered, default=-1) + 1]  # a long query is cut
    assert {i for i, character in enumerate(kept) if not character.isspace()} <= covered
    assert kept.rstrip() == query.rstrip() or len(rows) == 512


def test_pieces_are_grouped_to_words(model):
    spans = model.locate_queries([QUERY])[0]
    words = _words.word_tokens(QUERY, spans)
    assert [word for word, _ in words] == ["Where", "do", "tornadoes", "form", "Käse", "東京"]
    places = np.concatenate([tokens for _, tokens in words])
    assert len(set(places.tolist())) == len(places)  # no piece belongs to two words
    assert len(words[2][1]) > 1  # this vocabulary has no "tornadoes"
    pieces = "".join(QUERY[start:end] for start, end in spans[words[2][1]])
    assert pieces.strip() == "tornadoes"


class Vectors(FakeMultiVectorEmbedder):
    """Words as dimensions, and a page of 2 by 1 tiles with 2 by 2 tokens each, a thumbnail, and a prompt token."""

    seen = ("prompt", "crimson", "-", "azure", *"----", *("crimson",) * 5)

    def _axis(self, word):
        names = ["crimson", "azure", "the"]
        return np.eye(4, dtype=np.float32)[names.index(word) if word in names else 3]

    def embed_queries(self, queries):
        return [np.stack([self._axis(word) for word in query.split()]) for query in queries]

    def embed_passages(self, passages):
        rows = np.stack([self._axis(word) for word in self.seen])
        rows[3] *= 0.5  # azure is half there
        return [rows] * len(passages)

    def locate_passages(self, passages):
        return [np.vstack([np.full((1, 4), np.nan), tile_boxes(2, 1, side=2, thumbnail=True)])] * len(passages)


WHITE = Passage(image=Image.new("RGB", (80, 40), "white"))
#          columns 0 1 2 3; crimson is the first token of the first tile and the last one of the second
CRIMSON_AT = [[1, 0, 0, 0], [0, 0, 0, 1]]
AZURE_AT = [[0, 0, 0, 0], [0.5, 0, 0, 0]]


def test_heat_is_where_a_word_matches():
    found = compute_heatmap(Vectors(), WHITE, "the crimson azure")
    assert found.words == ("the", "crimson", "azure")
    assert found.similarities.dtype == np.float32
    # the seen page: tokens 1-4 are the first tile, 5-8 the second, 9-12 the thumbnail, which is left out
    assert found.similarities.tolist() == [np.zeros((2, 4)).tolist(), np.array(CRIMSON_AT).tolist(), AZURE_AT]
    assert found.heat("CRIMSON").tolist() == CRIMSON_AT
    assert found.heat("azure").tolist() == AZURE_AT  # all words share one scale
    assert found.heat("the").max() == 0
    assert found.heat().tolist() == np.maximum(CRIMSON_AT, AZURE_AT).tolist()


def test_heat_is_painted_at_its_place_and_only_there():
    image = compute_heatmap(Vectors(), WHITE, "the crimson").image()
    assert (image.mode, image.size) == ("RGB", (80, 40))
    pixels = np.asarray(image).astype(int)
    colour = pixels.max(axis=2) - pixels.min(axis=2)  # grey has none
    assert colour[10, 10] > 60  # the centres of the two cells
    assert colour[30, 70] > 60
    cold = [(10, 50), (10, 70), (30, 10), (30, 50)]
    assert max(colour[place] for place in cold) < 3
    assert colour[5, 2] > 60  # the corner of the page belongs to its cell


def test_the_page_stays_readable():
    page = Image.new("RGB", (40, 40), "white")
    page.paste("black", (0, 20, 40, 40))
    hot = Heatmap(page, ("x", "y"), np.array([[[0, 0], [1, 1]]] * 2, np.float32).reshape(2, 1, 4))
    pixels = np.asarray(hot.image().convert("L")).astype(int)
    assert (pixels[2] - pixels[38]).min() > 60  # black on white, through the strongest heat too


def test_a_page_that_matches_everywhere_stays_pale():
    even = Heatmap(WHITE.image, ("x",), np.full((1, 3, 2), 0.7, np.float32))
    assert even.heat().max() == 0
    assert np.asarray(even.image()).min() > 250


def test_a_real_model_gives_the_mean_of_its_pieces(model):
    """Each cell of each word computed again from the vectors, one by one."""
    page = Passage("caption", gradient(128, 256))
    found = compute_heatmap(model, page, QUERY)
    queries, rows = model.embed_queries([QUERY])[0], model.embed_passages([page])[0]
    placed, spans = model.locate_passages([page])[0], model.locate_queries([QUERY])[0]
    _, height, width = found.similarities.shape
    fine = [i for i, box in enumerate(placed) if box[2] - box[0] == pytest.approx(1 / width, rel=1e-3)]
    assert len(fine) == height * width
    start, end = QUERY.index("tornadoes"), QUERY.index(" form") - 0
    pieces = [i for i, (first, last) in enumerate(spans.tolist()) if first < end and last > start and last > first]
    for i in fine[:: max(1, len(fine) // 7)]:
        row, column = round(placed[i][1] * height), round(placed[i][0] * width)
        wanted = np.mean([queries[piece] @ rows[i] for piece in pieces])
        assert found.similarities[2, row, column] == pytest.approx(wanted, abs=1e-5)
    assert found.image().size == (128, 256)


@pytest.mark.slow
def test_a_trained_model_finds_words_where_they_stand():
    """The starter reads about half of these words; a peak at the right place is below 1 in 100 by chance."""
    lines = ["The annual report of the company", "Revenue and profit by quarter", "Tornadoes form in thunderstorms"]
    document = pymupdf.open()
    page = document.new_page(width=595, height=842)
    for row, line in enumerate(lines):
        page.insert_text((80 + 40 * row, 120 + 150 * row), line, fontsize=14)
    drawn = page.get_pixmap(dpi=124)
    image = Passage(image=Image.frombytes("RGB", (drawn.width, drawn.height), drawn.samples))
    stands = {word[4]: np.array(word[:4]) / (595, 842, 595, 842) for word in page.get_text("words")}
    starter = load_multivector_embedder("starter-colembed", device="cpu")
    found = 0
    for word in ("report", "company", "Revenue", "profit", "Tornadoes", "thunderstorms"):
        heat = compute_heatmap(starter, image, word).heat()
        cell = np.array([1 / heat.shape[1], 1 / heat.shape[0]])  # width and height
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        peak = (np.array([column, row]) + 0.5) * cell
        found += ((stands[word][:2] - cell <= peak) & (peak <= stands[word][2:] + cell)).all()
    assert found >= 2


def test_one_word_is_painted_alone():
    heatmap = compute_heatmap(Vectors(), Page("", WHITE.image, id="1"), "crimson azure")
    whole, azure = heatmap.image(), heatmap.image("azure")
    assert whole.size == azure.size == (80, 40)
    assert (np.asarray(whole) != np.asarray(azure)).any()


def test_who_can_say_where():
    assert isinstance(FakeMultiVectorEmbedder(), LocatingEmbedder)

    class Blind:
        name = "blind"

    with pytest.raises(InputError, match="blind cannot locate its vectors on a page; heatmaps need a ColEmbed model"):
        compute_heatmap(Blind(), WHITE, "crimson")


@pytest.mark.parametrize(
    ("page", "query", "message"),
    [
        (Passage("only text"), "crimson", "needs a page with an image"),
        (WHITE, " ?! ", r"needs a query with words, got ' \?! '"),
        (Passage(image=b"no image"), "crimson", "expected an image"),
    ],
)
def test_what_cannot_be_mapped(page, query, message):
    with pytest.raises(InputError, match=message):
        compute_heatmap(FakeMultiVectorEmbedder(), page, query)


def test_words_that_are_not_in_the_query():
    found = compute_heatmap(Vectors(), WHITE, "the crimson")
    with pytest.raises(InputError, match="the query has no word 'green'; give one of: the, crimson"):
        found.heat("green")


def test_wrong_inputs_name_their_index(model):
    with pytest.raises(InputError, match="query 1 must be a str, got int"):
        model.locate_queries(["a", 1])
    with pytest.raises(InputError, match="passage 1 must be a nemotron_rag.Passage, got str"):
        model.locate_passages([WHITE, "b"])


@pytest.mark.parametrize("module", [heatmap, boxes, _words])
def test_examples(module):
    failed, tried = doctest.testmod(module)
    assert (failed, tried > 0) == (0, True)

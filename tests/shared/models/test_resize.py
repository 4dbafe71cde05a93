"""Images resized where the model runs: the same as Pillow's, and the same embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from benchmarks.workloads import draw_pages
from nemotron_rag import Passage, load_embedder, load_multivector_embedder, load_reranker
from nemotron_rag.models._base import resize as _resize
from nemotron_rag.models._base.resize import resize, resize_image, resizes_on_device
from nemotron_rag.models._llama import model as _vl_model
from nemotron_rag.models._llama.pixels import Cut, cut_tiles, cut_tiles_on_device
from nemotron_rag.models._qwen import model as _qwen_model
from nemotron_rag.runtime.features import vision_features
from support.devices import either_device

PDFS = Path(__file__).parents[3] / "cookbook" / "pdfs"
CUDA = torch.device("cuda")


def page() -> Image.Image:
    from nemotron_rag.documents.pdf import read_pdf  # the others do without the extra `pdf`

    (found,) = read_pdf(sorted(PDFS.glob("*.pdf"))[0], pages=[1])
    return found.image


def drawn() -> Image.Image:
    return draw_pages(1)[0].image


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


@pytest.mark.parametrize("make", [page, lambda: noise(533, 700), lambda: noise(64, 48)], ids=["page", "noise", "small"])
@pytest.mark.parametrize(
    "size", [(1024, 1536), (1024, 512), (512, 512), (37, 41), (64, 700), (533, 48), (128, 96), (2, 900), (900, 2)]
)
def test_resized_like_pillow(make, size):
    image = make()
    found = resize(tensor(image), size)
    expected = np.asarray(resize_image(image, size))
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape
    distance = abs(found.numpy().astype(int) - expected)
    assert distance.max() <= 1
    assert (distance > 0).mean() < 0.002


@pytest.mark.skipif(int(PIL.__version__.partition(".")[0]) < 13, reason="what Pillow 13 does is to be compared with")
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
@pytest.mark.parametrize("size", [(1024, 512), (512, 512), (64, 700), (533, 48), (900, 2)])
def test_every_pillow_resizes_like_pillow_13(size, mode, monkeypatch):
    monkeypatch.setattr(_resize, "_PILLOW_BEFORE_13", True)
    image = noise(533, 700)
    if mode in ("LA", "RGBA"):
        image.putalpha(noise(533, 700).convert("L"))
    image = image.convert(mode)
    assert resize_image(image, size).tobytes() == image.resize(size).tobytes()


def test_the_order_of_the_passes_shows():
    """What Pillow did before version 13, without the way around it."""
    image, size = noise(533, 700), (1024, 512)
    across_first = np.asarray(image.resize((1024, 700)).resize(size)).astype(int)
    assert abs(across_first - np.asarray(resize_image(image, size))).max() > 1


def test_an_image_of_the_right_size_stays_as_it_is():
    image = tensor(noise(30, 20))
    assert torch.equal(resize(image, (30, 20)), image)


@pytest.mark.parametrize("thumbnail", [True, False])
@pytest.mark.parametrize("size", [(220, 330), (300, 60), (40, 40)])
def test_cut_like_pillow(size, thumbnail):
    image = noise(*size)
    cut = Cut.of(size, max_tiles=6, side=64, use_thumbnail=thumbnail)
    found = cut_tiles_on_device(tensor(image), cut).numpy()
    expected = cut_tiles(image, cut)
    assert found.shape == expected.shape == (cut.tiles, 64, 64, 3)
    assert abs(found.astype(int) - expected).max() <= 1


def test_which_images_are_resized_there():
    assert resizes_on_device(noise(40, 40), pixels=534, device=CUDA)
    assert not resizes_on_device(noise(40, 40), pixels=533, device=CUDA)  # a large one would wait in memory as it is
    assert not resizes_on_device(noise(40, 40).convert("L"), pixels=1600, device=CUDA)
    assert not resizes_on_device(noise(40, 40), pixels=1600, device=torch.device("cpu"))


@pytest.mark.parametrize("module", [_vl_model, _qwen_model])
def test_a_page_of_a_pdf_travels_as_it_is(module):
    """At the tiles and pixels that the families have by default."""
    image = page()
    cut = Cut.of(image.size, max_tiles=2, side=512, use_thumbnail=True)
    assert module.resizes_on_device(image, pixels=cut.pixels, device=CUDA)


@pytest.mark.parametrize(
    ("load", "case"),
    [
        (load_embedder, "embed_vl_open_1"),
        (load_reranker, "rerank_vl_open_1"),
        (load_multivector_embedder, "colembed_llama_open_1"),
        (load_multivector_embedder, "colembed_qwen3vl_open_1"),
        (load_reranker, "jina_m0_open_1"),
        (load_reranker, "monoqwen2vl_open_1"),
    ],
)
def test_the_model_says_the_same(load, case, reference, monkeypatch):
    model = load(reference / case, device="cpu")
    passages = [Passage(image=noise(90, 130)), Passage(image=noise(131, 60))]

    def run() -> list[np.ndarray]:
        vision_features.clear()
        return list(model.score("why", passages) if load is load_reranker else model.embed_passages(passages))

    expected = run()
    sent = []
    for module in (_vl_model, _qwen_model):
        monkeypatch.setattr(module, "resizes_on_device", lambda image, **_: sent.append(image) or True)
    for found, row in zip(run(), expected, strict=True):
        np.testing.assert_allclose(found, row, atol=2e-3)
    assert sent


@either_device
@pytest.mark.parametrize("size", [(1024, 1536), (1024, 512), (512, 512), (37, 41)])
def test_resized_like_pillow_on_the_device(size, device):
    """Within one level, and but few values by that."""
    for image in (drawn(), noise(533, 700)):
        found = resize(tensor(image).to(device), size)
        assert found.device.type == device
        distance = abs(found.cpu().numpy().astype(int) - np.asarray(resize_image(image, size)))
        assert distance.max() <= 1
        assert (distance > 0).mean() < 0.002


@either_device
@pytest.mark.parametrize("case", ["embed_vl_open_1", "colembed_qwen3vl_open_1"])
def test_the_same_is_said_of_images_resized_on_either_side(case, reference, monkeypatch, device):
    load = load_multivector_embedder if case.startswith("colembed") else load_embedder
    model = load(reference / case, device=device, dtype="float32")
    passages = [Passage(image=noise(90, 130))]
    found = {}
    for there in (True, False):
        vision_features.clear()
        for module in (_vl_model, _qwen_model):
            monkeypatch.setattr(module, "resizes_on_device", lambda *_, there=there, **__: there)
        found[there] = model.embed_passages(passages)[0]
    np.testing.assert_allclose(found[True], found[False], atol=2e-3)
    assert abs(found[True] - found[False]).max() > 0  # one level of some pixels: both ways were gone

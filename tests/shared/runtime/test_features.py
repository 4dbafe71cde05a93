"""Vision features are kept, bounded, shared by identical towers, and never change a result."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from nemotron_rag import Passage, configure_vision_cache, load_embedder, load_reranker, vision_cache_info
from nemotron_rag.documents.images import pixel_hash
from nemotron_rag.errors import InputError
from nemotron_rag.models._llama.network import LlamaNemotronVL
from nemotron_rag.models._qwen.vision import Qwen2Tower
from nemotron_rag.runtime import features
from nemotron_rag.runtime.feature_folder import FeatureFolder
from nemotron_rag.runtime.features import FeatureCache, image_key, vision_features, weights_key
from support.contracts import make_image
from support.devices import either_device


@pytest.fixture(autouse=True)
def _empty_cache():
    vision_features.clear()
    yield
    configure_vision_cache()
    vision_features.clear()


def _counts() -> tuple[int, int]:
    info = vision_cache_info()
    return info.hits, info.misses


def test_least_recently_used_goes_first_and_bytes_are_bounded():
    cache = FeatureCache(max_bytes=3 * 40)
    for name in (b"a", b"b", b"c"):
        cache.put(name, torch.zeros(10))
    assert cache.get(b"a") is not None
    cache.put(b"d", torch.zeros(10))
    assert cache.get(b"b") is None
    assert [cache.get(name) is not None for name in (b"a", b"c", b"d")] == [True, True, True]
    cache.put(b"e", torch.zeros(1000))  # larger than all there is
    assert cache.get(b"e") is None
    info = cache.info()
    assert (info.hits, info.misses, info.images, info.bytes, info.max_bytes) == (4, 2, 3, 120, 120)
    assert info.hit_rate == pytest.approx(2 / 3)
    cache.configure(max_bytes=40, folder=None)
    assert cache.info().images == 1
    assert cache.find(b"d") is not None


def test_a_slice_does_not_keep_its_batch_alive():
    cache = FeatureCache(max_bytes=10_000)
    cache.put(b"a", torch.zeros(1000, 2)[:1])
    assert cache.get(b"a").untyped_storage().nbytes() == 8


def test_keys_tell_images_tilings_and_towers_apart():
    image = make_image()
    other = image.copy()
    other.putpixel((5, 5), (1, 2, 3))

    def key(image, settings):
        return image_key(pixel_hash(image), settings)

    keys = [key(image, "2x3"), key(other, "2x3"), key(image, "1x1")]
    keys.append(key(image.transpose(Image.Transpose.ROTATE_90), "2x3"))
    indexed = image.convert("P", palette=Image.Palette.ADAPTIVE)
    painted = indexed.copy()
    painted.putpalette([255 - value for value in indexed.getpalette()])
    keys += [key(indexed, "2x3"), key(painted, "2x3")]
    assert len(set(keys)) == len(keys)
    assert key(image.copy(), "2x3") == keys[0]
    layer = nn.Linear(3, 3)
    before = weights_key(layer, settings="gelu")
    assert weights_key(layer, settings="gelu") == before != weights_key(layer, settings="relu")
    assert weights_key(nn.Linear(3, 3), settings="gelu") != before
    assert weights_key(layer.to(torch.bfloat16), settings="gelu") != before


def test_a_second_query_pays_no_vision(reference, monkeypatch):
    reranker = load_reranker(reference / "rerank_vl_open_1", device="cpu")
    passages = [Passage(image=make_image(i)) for i in range(3)] + [Passage("text", make_image(0)), Passage("text")]
    first = reranker.score("one", passages)
    assert _counts() == (0, 3)  # equal images of a batch are encoded once
    monkeypatch.setattr(LlamaNemotronVL, "encode_tiles", lambda *_: pytest.fail("the tower was run again"))
    monkeypatch.setattr(
        "nemotron_rag.models._llama.model.cut_tiles", lambda *_, **__: pytest.fail("tiles were cut again")
    )
    again = reranker.score("one", passages)
    np.testing.assert_allclose(again, first, atol=1e-6)
    assert abs(reranker.score("another", passages) - first).max() > 1e-6
    assert vision_cache_info().hits == 6


def test_qwen_keeps_them_too(reference, monkeypatch):
    reranker = load_reranker(reference / "jina_m0_open_1", device="cpu")
    passages = [Passage(image=make_image(i)) for i in range(2)]
    first = reranker.score("one", passages)
    monkeypatch.setattr(Qwen2Tower, "forward", lambda *_: pytest.fail("the tower was run again"))
    np.testing.assert_allclose(reranker.score("one", passages), first, atol=1e-6)


def test_features_dropped_between_preparing_and_computing_are_still_there(reference, monkeypatch):
    reranker = load_reranker(reference / "rerank_vl_open_1", device="cpu")
    passages = [Passage(image=make_image(i)) for i in range(3)]
    first = reranker.score("one", passages)
    collect = vision_features.collect
    monkeypatch.setattr(vision_features, "collect", lambda asked: (vision_features.clear(), collect(asked))[1])
    np.testing.assert_allclose(reranker.score("one", passages), first, atol=1e-6)


def test_other_tiling_or_tower_is_another_key(reference):
    passage = [Passage(image=make_image(size=(300, 400)))]
    load_embedder(reference / "embed_vl_open_1", device="cpu").embed_passages(passage)
    load_embedder(reference / "embed_vl_open_1", device="cpu", max_input_tiles=2).embed_passages(passage)
    load_reranker(reference / "rerank_vl_open_1", device="cpu").score("q", passage)
    assert _counts() == (0, 3)


def _with_tower_of(embedder: Path, reranker: Path, folder: Path) -> Path:
    """A copy of a reranker whose tower and projector are those of an embedder."""
    copy = Path(shutil.copytree(reranker, folder))
    weights = load_file(reranker / "model.safetensors")
    theirs = load_file(embedder / "model.safetensors")
    tower = {f"model.{name}": weight for name, weight in theirs.items() if name.startswith(("vision_model.", "mlp1."))}
    assert tower.keys() <= weights.keys()
    save_file(weights | tower, copy / "model.safetensors")
    return copy


def test_an_identical_tower_shares_them(reference, tmp_path, monkeypatch):
    """Pages that were embedded pay no vision when they are reranked, and the logits are those of a fresh process."""
    folder = _with_tower_of(reference / "embed_vl_open_1", reference / "rerank_vl_open_1", tmp_path / "reranker")
    pages = [Passage(image=make_image(i, (200, 280))) for i in range(3)]
    alone = load_reranker(folder, device="cpu").score("q", pages)
    vision_features.clear()
    load_embedder(reference / "embed_vl_open_1", device="cpu").embed_passages(pages)
    monkeypatch.setattr(LlamaNemotronVL, "encode_tiles", lambda *_: pytest.fail("the tower was run again"))
    np.testing.assert_allclose(load_reranker(folder, device="cpu").score("q", pages), alone, atol=1e-6)
    assert _counts() == (3, 3)


def test_the_next_process_finds_them_in_the_folder(reference, tmp_path, monkeypatch):
    configure_vision_cache(folder=tmp_path / "kept")
    embedder = load_embedder(reference / "embed_vl_open_1", device="cpu")
    pages = [Passage(image=make_image(i)) for i in range(3)]
    first = embedder.embed_passages(pages)
    vision_features.flush()
    assert len(list((tmp_path / "kept").iterdir())) == 3
    vision_features.clear()  # as a new process begins
    monkeypatch.setattr(LlamaNemotronVL, "encode_tiles", lambda *_: pytest.fail("the tower was run again"))
    np.testing.assert_allclose(embedder.embed_passages(pages), first, atol=1e-6)
    info = vision_cache_info()
    assert (info.hits, info.misses, info.folder_hits, info.folder) == (3, 0, 3, str(tmp_path / "kept"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_file_gives_back_every_bit(tmp_path, dtype):
    folder = FeatureFolder(tmp_path / "new", max_bytes=1 << 20)
    kept = torch.randn(3, 5).to(dtype)
    folder.write(b"key", kept.T)
    found = folder.read(b"key")
    assert found.dtype == dtype
    assert torch.equal(found, kept.T)
    assert folder.read(b"other") is None


@pytest.mark.parametrize("damage", ["cut", "flip", "zeros", "empty", "foreign"])
def test_a_broken_file_is_a_miss(tmp_path, damage):
    folder = FeatureFolder(tmp_path, max_bytes=1 << 20)
    folder.write(b"key", torch.randn(30, 5))
    [path] = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    broken = {"cut": data[:200], "flip": data, "zeros": bytes(len(data)), "empty": b""}
    if damage == "foreign":
        save_file({"something": torch.zeros(3)}, path)
    else:
        path.write_bytes(broken[damage])
    assert folder.read(b"key") is None
    assert not path.exists()
    folder.write(b"key", torch.ones(2))
    assert torch.equal(folder.read(b"key"), torch.ones(2))


def test_the_folder_is_bounded_and_the_least_recently_used_goes_first(tmp_path):
    folder = FeatureFolder(tmp_path, max_bytes=10_000)
    for i in range(4):
        folder.write(bytes([i]), torch.zeros(500))  # 2 KB and a header each
        os.utime(folder._path(bytes([i])), (i, i))
    assert folder.read(b"\0") is not None  # used just now
    folder.write(b"\4", torch.zeros(500))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
    assert [folder.read(bytes([i])) is not None for i in range(5)] == [True, False, True, True, True]
    folder.write(b"\5", torch.zeros(5000))  # more than all there may be
    assert folder.read(b"\5") is None
    abandoned, busy = tmp_path / "1.tmp", tmp_path / "2.tmp"
    abandoned.touch()
    busy.touch()
    os.utime(abandoned, (0, 0))
    FeatureFolder(tmp_path, max_bytes=10_000).write(b"\6", torch.zeros(1))
    assert (abandoned.exists(), busy.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_hurts_nobody(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = FeatureCache(max_bytes=1000, folder=FeatureFolder(tmp_path / "file", max_bytes=1000))
    for i in range(3):
        cache.put(bytes([i]), torch.zeros(2))
    cache.flush()
    assert cache.get(b"\1") is not None
    assert cache.get(b"\7") is None
    assert len(caplog.records) == 1
    assert "cannot be cached in" in caplog.text


def test_writing_does_not_run_far_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_UNWRITTEN", 2)
    cache = FeatureCache(max_bytes=0, folder=FeatureFolder(tmp_path, max_bytes=1 << 20))
    for i in range(20):
        cache.put(bytes([i]), torch.full((3,), float(i)))
        assert len(cache._writing) <= 2
    cache.flush()
    assert [cache.get(bytes([i]))[0].item() for i in range(20)] == list(range(20))


def test_the_environment_names_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NEMOTRON_RAG_VISION_CACHE", str(tmp_path))
    assert features._from_environment().root == tmp_path
    monkeypatch.setenv("NEMOTRON_RAG_VISION_CACHE", "")
    assert features._from_environment() is None


def test_settings_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="max_bytes must not be negative, got -1"):
        configure_vision_cache(max_bytes=-1)
    with pytest.raises(InputError, match="folder .*file cannot be created: .*; name another one"):
        configure_vision_cache(folder=tmp_path / "file")
    assert vision_cache_info().folder is None


@either_device
def test_features_come_back_from_the_device(device):
    cache = FeatureCache(max_bytes=1 << 30)
    kept = torch.randn(512, 2048, device=device, dtype=torch.bfloat16)
    cache.put(b"a", kept)
    found = cache.get(b"a")
    assert found.device.type == "cpu"
    assert found.is_pinned() == (device == "cuda")  # so that they are sent back while the device computes
    assert torch.equal(found, kept.cpu())

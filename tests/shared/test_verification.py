"""Cards against models: the machinery on golden cases of the reference implementation, real weights where asked for."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from nemotron_rag import CATALOG, cli, verification
from nemotron_rag.documents.images import load_image
from nemotron_rag.errors import CheckpointError, ImageError, InputError, UnknownModelError
from nemotron_rag.models import catalog
from nemotron_rag.verification import cards, find_images, verify
from nemotron_rag.verification.cards import CARDS, IMAGE_HOSTS, Example

DATA = Path(__file__).parents[1] / "data" / "reference"
HOST = f"https://{IMAGE_HOSTS[0]}/somewhere/"
RERANKER, EMBEDDER, COLEMBED = (
    "llama-nemotron-rerank-vl-1b-v2",
    "llama-nemotron-embed-vl-1b-v2",
    "llama-nemotron-colembed-vl-3b-v2",
)


def calls_of(case):
    return {call["name"]: call for call in json.loads((DATA / case / "inputs.json").read_text())["calls"]}


def expected_of(case, name):
    tensors = load_file(DATA / case / "expected.safetensors")
    return tensors[f"{name}.pil" if f"{name}.pil" in tensors else name].float().numpy()


def example(name, queries, texts, images, scores):
    addresses = tuple(HOST + image if image else "" for image in images)
    rows = tuple(tuple(row) for row in np.asarray(scores).tolist())
    return Example(name=name, queries=tuple(queries), texts=tuple(texts), images=addresses, scores=rows)


def is_rgb(image):
    """The cards' code makes every image RGB before the processor sees it; the golden cases do not."""
    return not image or load_image(DATA / "rerank_vl_open_1" / "images" / image).mode == "RGB"


def rerank_card():
    """The pairs of the golden calls that have the first one's query, with the reference's logits."""
    found = []
    for name in ("text", "image", "image_text"):
        pairs = calls_of("rerank_vl_open_1")[name]["pairs"]
        mine = [i for i, pair in enumerate(pairs) if pair[0] == pairs[0][0] and is_rgb(pair[2])]
        assert mine
        logits = expected_of("rerank_vl_open_1", f"{name}.logits")[mine, 0]
        _, texts, images = zip(*[pairs[i] for i in mine], strict=True)
        found.append(example(name, [pairs[0][0]], texts, [image or "" for image in images], [logits]))
    return tuple(found)


def embed_card():
    queries, pages = calls_of("embed_vl_open_1")["queries"], calls_of("embed_vl_open_1")["docs_both"]
    vectors, rows = (expected_of("embed_vl_open_1", f"{name}.embeddings_l2") for name in ("queries", "docs_both"))
    return (example("both", queries["texts"], pages["texts"], pages["images"], vectors @ rows.T),)


def colembed_card():
    queries, pages = calls_of("colembed_llama_open_1")["queries"], calls_of("colembed_llama_open_1")["docs_image"]
    scores = expected_of("colembed_llama_open_1", "maxsim.queries--docs_image")
    return (example("image", queries["texts"], pages["texts"], pages["images"], scores),)


@pytest.fixture
def golden_cards(monkeypatch):
    monkeypatch.setattr(
        verification, "CARDS", {RERANKER: rerank_card(), EMBEDDER: embed_card(), COLEMBED: colembed_card()}
    )


@pytest.mark.parametrize(
    ("model", "case"),
    [(RERANKER, "rerank_vl_open_1"), (EMBEDDER, "embed_vl_open_1"), (COLEMBED, "colembed_llama_open_1")],
)
def test_scores_of_every_kind_are_computed_again(golden_cards, model, case):
    found = verify(model, weights=DATA / case, images=DATA / case / "images", device="cpu", tolerance=1e-4)
    assert len(found) == len(verification.CARDS[model])
    assert all(each.passed for each in found)
    assert max(each.difference for each in found) < 1e-4


def test_other_settings_are_noticed(golden_cards):
    """One tile instead of six changes what the images say, and nothing about texts."""
    case = DATA / "rerank_vl_open_1"
    found = verify(RERANKER, weights=case, images=case / "images", device="cpu", max_input_tiles=1, tolerance=1e-4)
    assert [each.passed for each in found] == [True, False, False]


def test_without_its_images_an_example_is_not_verified(golden_cards, tmp_path):
    case = DATA / "rerank_vl_open_1"
    found = verify(RERANKER, weights=case, device="cpu", tolerance=1e-4)
    assert [each.scores is None for each in found] == [False, True, True]
    assert [(each.passed, each.difference is None) for each in found] == [(True, False), (False, True), (False, True)]
    for image in list((case / "images").iterdir())[:1]:
        shutil.copy(image, tmp_path)
    assert verify(RERANKER, weights=case, images=tmp_path, device="cpu")[1].scores is None


def test_what_is_not_a_number_does_not_pass():
    one = example("text", ["q"], ["p"], [""], [[1.0]])
    assert not verification.Verified(one, np.array([[np.nan]], np.float32), allowed=1e9).passed


def test_models_without_known_scores_say_so():
    with pytest.raises(
        InputError, match="cannot verify nemotron-colembed-vl-4b-v2: the scores of its card are not known"
    ):
        verify("nemotron-colembed-vl-4b-v2")
    with pytest.raises(UnknownModelError):
        verify("bert")


def test_weights_are_not_downloaded_unasked(monkeypatch, tmp_path):
    from nemotron_rag.runtime import hub

    asked = []

    def snapshot(repo, *, revision, allow_patterns, local_files_only):
        asked.append((repo, local_files_only))
        raise OSError("nothing there")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    with pytest.raises(CheckpointError, match="is not in the cache of the model hub; allow its download, or give a"):
        verify(RERANKER)
    with pytest.raises(CheckpointError, match="from the model hub"):
        verify(RERANKER, download=True)
    assert asked == [(f"nvidia/{RERANKER}", True), (f"nvidia/{RERANKER}", False)]


def test_images_come_from_the_folder_or_when_allowed_from_nvidia(monkeypatch, tmp_path):
    asked = []

    def refuse(self, request, **_):
        asked.append(request.full_url)
        raise OSError("no network in tests")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    Image.new("L", (4, 3), 7).save(tmp_path / "a.png")
    addresses = [HOST + "a.png", HOST + "b.png"]
    found = find_images(addresses, folder=tmp_path, download=False)
    assert list(found) == [HOST + "a.png"]
    assert found[HOST + "a.png"].mode == "RGB"
    assert find_images(addresses, folder=None, download=False) == {}
    assert not asked
    with pytest.raises(ImageError, match=r"b\.png' cannot be fetched: no network in tests"):
        find_images(addresses, folder=tmp_path, download=True)
    assert asked == [HOST + "b.png"]
    with pytest.raises(ImageError, match="is not on an allowed host"):
        find_images(["https://example.org/b.png"], folder=None, download=True)


def test_cards_are_whole():
    for name, examples in CARDS.items():
        spec = catalog.find(name)
        for each in examples:
            assert np.array(each.scores).shape == (len(each.queries), len(each.texts))
            assert len(each.texts) == len(each.images)
            for text, image in zip(each.texts, each.images, strict=True):
                modality = "image_text" if text and image else "image" if image else "text"
                assert modality in spec.modalities
    addresses = [address for examples in CARDS.values() for each in examples for address in each.images if address]
    assert {urlsplit(address).scheme for address in addresses} == {"https"}
    assert {urlsplit(address).hostname for address in addresses} == set(IMAGE_HOSTS)
    assert cards.CARDS.keys() <= {spec.id for spec in CATALOG}


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_the_command_shows_a_table_and_its_verdict(golden_cards, capsys):
    case = DATA / "rerank_vl_open_1"
    arguments = ("verify", RERANKER, "--weights", case, "--images", case / "images", "--device", "cpu")
    code, out, err = run(capsys, *arguments, "--max-tiles", 6)
    assert (code, err) == (0, "")
    logit = verification.CARDS[RERANKER][0].scores[0][0]
    assert f"{logit:.4f}" in out
    assert out.count("verified, largest difference 0.0000") == 3
    code, out, _ = run(capsys, *arguments, "--max-tiles", 1, "--tolerance", "1e-6")
    assert code == 1
    assert "image: NOT reproduced, largest difference" in out
    assert " NO" in out


def test_the_command_without_images(golden_cards, capsys):
    arguments = ("verify", COLEMBED, "--weights", DATA / "colembed_llama_open_1", "--device", "cpu")
    code, out, _ = run(capsys, *arguments)
    assert code == 1  # nothing was computed
    assert out == "image: not verified, its images are missing: give --images or --download-images\n"
    arguments = ("verify", RERANKER, "--weights", DATA / "rerank_vl_open_1", "--device", "cpu", "--json")
    code, out, _ = run(capsys, *arguments)
    assert code == 0  # the texts are reproduced
    found = json.loads(out)
    assert set(found[0]) == {"example", "printed", "computed", "difference", "allowed", "passed"}
    assert [each["passed"] for each in found] == [True, False, False]
    assert found[1]["computed"] is None


def test_the_command_says_in_one_line_what_it_cannot_do(capsys):
    code, out, err = run(capsys, "verify", "jina-reranker-m0")
    assert (code, out) == (1, "")
    assert err.startswith("error: cannot verify jina-reranker-m0: the scores of its card are not known")
    assert err.count("\n") == 1


@pytest.mark.hub
@pytest.mark.parametrize("model", CARDS)
def test_real_weights_reproduce_their_cards(model):
    found = verify(model, download=True, download_images=True)
    assert {each.example.name: each.difference for each in found if not each.passed} == {}

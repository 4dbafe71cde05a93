"""NemotronEmbeddings: LangChain's standard suites, roles, every duck-typing caller, and what is opened."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.documents.base import Blob
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_nemotron_rag import NemotronEmbeddings
from nemotron_rag import CATALOG, LoadOptions, Passage
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.contracts import make_image, mixed_passages
from support.langchain import data_uri, png

FOLDER = Path(__file__).parents[2] / "data" / "reference" / "embed_vl_open_1"
STARTER = "starter-embed-vl"
needs_starter = pytest.mark.skipif(
    STARTER not in {spec.id for spec in CATALOG}, reason=f"{STARTER} is not in the catalog yet"
)


class Ours:
    @property
    def embeddings_class(self):
        return NemotronEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": FOLDER, "device": "cpu"}


class Starter(Ours):
    @property
    def embedding_model_params(self):
        return {"model": STARTER, "device": "cpu"}


class TestUnit(Ours, EmbeddingsUnitTests):
    pass


class TestIntegration(Ours, EmbeddingsIntegrationTests):
    pass


@needs_starter
class TestStarterUnit(Starter, EmbeddingsUnitTests):
    pass


@needs_starter
class TestStarterIntegration(Starter, EmbeddingsIntegrationTests):
    pass


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_queries_and_passages_have_their_roles(embeddings):
    text = "Tornadoes form in thunderstorms."
    close(embeddings.embed_query(text), embeddings.load().embed_queries([text])[0])
    close(embeddings.embed_documents([text, "x"]), embeddings.load().embed_passages([Passage(text), Passage("x")]))
    assert np.abs(np.subtract(embeddings.embed_query(text), embeddings.embed_documents([text])[0])).max() > 1e-3


def test_vectors_are_python_floats_of_length_one(embeddings):
    rows = [
        *embeddings.embed_documents(["a", "b"]),
        embeddings.embed_query("a"),
        *embeddings.embed_images([make_image()]),
    ]
    for row in rows:
        assert type(row) is list
        assert {type(value) for value in row} == {float}
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-4)


def test_a_text_is_never_a_path_or_an_image(embeddings, tmp_path):
    path = tmp_path / "page.png"
    make_image().save(path)
    for text in (str(path), data_uri(make_image())):
        (as_text,) = embeddings.embed_documents([text])
        close(as_text, embeddings.load().embed_passages([Passage(text)])[0])
        assert np.abs(np.subtract(as_text, embeddings.embed_image(text))).max() > 1e-3


def test_dimensions_are_cut_and_normalised_again(embeddings):
    short = NemotronEmbeddings(model=FOLDER, device="cpu", dimensions=16)
    for name, argument in (("embed_query", "a"), ("embed_image", make_image())):
        full = np.array(getattr(embeddings, name)(argument)[:16])
        close(getattr(short, name)(argument), full / np.linalg.norm(full))
    with pytest.raises(InputError, match="dimensions must be a positive integer, got 0"):
        NemotronEmbeddings(dimensions=0)
    with pytest.raises(InputError, match="dimensions came with a loaded model"):
        NemotronEmbeddings(model=FakeEmbedder(), dimensions=16)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (FakeMultiVectorEmbedder(), "a loaded embedder, got a multivector_embedder, FakeMultiVectorEmbedder"),
        (FakeReranker(), "a loaded embedder, got a reranker, FakeReranker"),
        ("starter-rerank-vl", "starter-rerank-vl is of kind reranker, wanted embedder"),
        ("starter-colembed", "starter-colembed is of kind multivector_embedder, wanted embedder"),
        (7, "a loaded embedder, got int"),
    ],
)
def test_models_of_another_kind_are_refused(model, said):
    with pytest.raises(InputError, match=said) as caught:
        NemotronEmbeddings(model=model)
    assert "\n" not in str(caught.value)
    embeddings = NemotronEmbeddings(model=FakeEmbedder())
    with pytest.raises(InputError, match=said):
        embeddings.model = model
    assert embeddings.embed_query("a")


def test_every_option_is_a_field():
    assert set(LoadOptions.__annotations__) <= NemotronEmbeddings.model_fields.keys()
    with pytest.raises(InputError, match="device must be"):
        NemotronEmbeddings(model=STARTER, device="gpu")
    with pytest.raises(InputError, match="has no use for use_thumbnail"):
        NemotronEmbeddings(model="llama-nemotron-embed-1b-v2", use_thumbnail=True)
    plain = NemotronEmbeddings(model=STARTER, device="cpu", max_input_tiles=2)
    bare = NemotronEmbeddings(model=STARTER, device="cpu", max_input_tiles=2, use_thumbnail=False)
    page = make_image(4, (900, 600))
    assert np.abs(np.subtract(plain.embed_image(page), bare.embed_image(page))).max() > 1e-4


def test_order_and_batch_do_not_matter(embeddings):
    texts = ["Tornado " * (1 + number % 7) for number in range(40)]
    together = embeddings.embed_documents(texts)
    close(together, [embeddings.embed_documents([text])[0] for text in texts])


@pytest.mark.parametrize(
    "form",
    [
        data_uri,
        png,
        lambda image: image,
        np.asarray,
        lambda image: Blob.from_data(png(image), mime_type="image/png"),
        lambda image: {"type": "image", "base64": data_uri(image).split(",")[1], "mime_type": "image/png"},
    ],
)
def test_every_form_of_an_image(embeddings, form):
    close(
        embeddings.embed_image(form(make_image(2))), embeddings.load().embed_passages([Passage(image=make_image(2))])[0]
    )


def test_paths_that_the_caller_names(embeddings, tmp_path):
    path = tmp_path / "page.png"
    make_image(2).save(path)
    wanted = embeddings.embed_image(make_image(2))
    for form in (path, str(path), Blob.from_path(path)):
        close(embeddings.embed_image(form), wanted)
    with pytest.raises(ImageError, match="image 1: .*not on an allowed host"):
        embeddings.embed_images([path, "https://example.org/page.png"])
    with pytest.raises(ImageError, match="image 1: .*missing.png"):
        embeddings.embed_images([path, tmp_path / "missing.png"])


def test_all_the_ways_to_call_embed_image(embeddings):
    images = [png(make_image(1)), png(make_image(2))]
    rows = embeddings.embed_images(images)
    close(embeddings.embed_image(uris=images), rows)  # Chroma, LanceDB, SingleStoreDB, OpenCLIP
    close(embeddings.embed_image(images), rows)
    close(embeddings.embed_image(images[0]), rows[0])  # Bedrock, OCI
    close(embeddings.embed_image(image=images[1]), rows[1])
    for wrong in ({}, {"image": images[0], "uris": images}):
        with pytest.raises(InputError, match="either an image or uris="):
            embeddings.embed_image(**wrong)


def test_images_with_texts(embeddings):
    passages = mixed_passages()
    wanted = embeddings.load().embed_passages(passages)
    pairs = [(passage.image, passage.text) for passage in passages if passage.image]
    close(embeddings.embed_image_texts(pairs), wanted[[bool(passage.image) for passage in passages]])
    pages = [Document(p.text, metadata={"image": png(p.image)} if p.image else {}) for p in passages]
    close(embeddings.embed_pages(pages), wanted)


def test_pages_open_only_what_is_allowed(embeddings, tmp_path):
    make_image(1).save(tmp_path / "page.png")
    pages = [Document("a"), Document("", metadata={"image": str(tmp_path / "page.png"), "source": "r.pdf"})]
    with pytest.raises(ImageError, match=r"document 1 \(r.pdf\): .*outside the allowed folders"):
        embeddings.embed_pages(pages)
    opened = embeddings.model_copy(update={"image_roots": (tmp_path,)})
    close(opened.embed_pages(pages)[1], embeddings.embed_image(make_image(1)))


def test_a_placeholder_is_not_read(embeddings):
    page = {"image": png(make_image(1)), "text_is_placeholder": True}
    close(
        embeddings.embed_pages([Document("[page image] p.1", metadata=page)])[0], embeddings.embed_image(make_image(1))
    )


async def test_async_twins(embeddings):
    image, pages = png(make_image(1)), [Document("a", metadata={"image": png(make_image(2))}), Document("b")]
    found = await asyncio.gather(
        embeddings.aembed_query("a"),
        embeddings.aembed_documents(["a", "b"]),
        embeddings.aembed_image(image),
        embeddings.aembed_image(uris=[image]),
        embeddings.aembed_images([image]),
        embeddings.aembed_image_texts([(image, "a")]),
        embeddings.aembed_pages(pages),
    )
    wanted = [
        embeddings.embed_query("a"),
        embeddings.embed_documents(["a", "b"]),
        embeddings.embed_image(image),
        embeddings.embed_image(uris=[image]),
        embeddings.embed_images([image]),
        embeddings.embed_image_texts([(image, "a")]),
        embeddings.embed_pages(pages),
    ]
    for one, other in zip(found, wanted, strict=True):
        close(one, other)


async def test_nothing_in_nothing_out_without_a_model():
    unloaded = NemotronEmbeddings()
    for name in ("embed_documents", "embed_images", "embed_image_texts", "embed_pages"):
        assert getattr(unloaded, name)([]) == []
        assert await getattr(unloaded, "a" + name)([]) == []


@pytest.mark.parametrize(
    ("method", "argument", "message"),
    [
        ("embed_query", 7, "query must be a str, got int"),
        ("embed_documents", "abc", "texts must be a list, got str"),
        ("embed_documents", ["a", b"b"], "text 1 must be a str, got bytes"),
        ("embed_images", "page.png", "images must be a list, got str"),
        ("embed_images", [None], "image 0 is None"),
        ("embed_images", [{"type": "text"}], "image 0: expected an image content block"),
        ("embed_image_texts", ["ab"], "pair 0 must be an image and a text, got str"),
        ("embed_image_texts", [(b"", 7)], "the text of pair 0 must be a str, got int"),
        ("embed_pages", ["a"], "document 0 must be a Document, got str"),
    ],
)
async def test_wrong_inputs(embeddings, method, argument, message):
    with pytest.raises(InputError, match=message):
        getattr(embeddings, method)(argument)
    with pytest.raises(InputError, match=message):
        await getattr(embeddings, "a" + method)(argument)


def test_images_are_opened_when_the_model_asks_for_them(tmp_path):
    """A thousand pages must not be in memory at once: opening them waits until the model asks."""
    pages = [Document(str(n), metadata={"image": str(tmp_path / f"{n}.png")}) for n in range(1000)]

    class Stops(FakeEmbedder):
        def embed_passages(self, passages):
            for n in (0, 1, 2):
                make_image(n).save(tmp_path / f"{n}.png")
            return super().embed_passages(passages[:3])

    rows = NemotronEmbeddings(model=Stops(), image_roots=[tmp_path]).embed_pages(pages)
    close(rows, FakeEmbedder().embed_passages([Passage(str(n), make_image(n)) for n in (0, 1, 2)]))


def test_chroma_add_images_unchanged(embeddings, tmp_path):
    paths = []
    for seed in range(3):
        paths.append(str(tmp_path / f"{seed}.png"))
        make_image(7 * seed).save(paths[-1])
    store = Chroma(collection_name="pages", embedding_function=embeddings)
    store.add_images(uris=paths, metadatas=[{"page": seed} for seed in range(3)])
    assert store.similarity_search_by_image(paths[1], k=1)[0].metadata == {"page": 1}
    assert len(store.similarity_search("Where do tornadoes form?", k=3)) == 3

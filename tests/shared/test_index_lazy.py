"""LazyIndex: opened by its first use, checked before, closed by who opened it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from nemotron_rag.errors import ClosedError, InputError, UnknownModelError
from nemotron_rag.index import PageIndex
from nemotron_rag.index.lazy import LazyIndex
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.pages import add, text_page


@pytest.fixture
def place(tmp_path):
    with PageIndex(tmp_path / "i", embedder=FakeEmbedder()) as index:
        add(index, [text_page(1, "red apples")])
    return tmp_path / "i"


async def test_it_is_opened_once_and_again_after_closing(place):
    lazy = LazyIndex(place, embedder=FakeEmbedder())
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(lambda _: lazy.get(), range(4))
    assert all(other is first for other in others)
    assert await lazy.aget() is first
    lazy.close()
    with pytest.raises(ClosedError):
        first.count()
    assert lazy.get().count() == 1
    lazy.close()
    lazy.close()


def test_an_open_index_stays_open(place):
    with PageIndex(place, embedder=FakeEmbedder()) as index:
        lazy = LazyIndex(index)
        assert lazy.get() is index
        lazy.close()
        assert index.count() == 1
        assert repr(lazy) == repr(index)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"embeder": FakeEmbedder()},
            InputError,
            "embeder is no option of an index by location; give one of: .*images",
        ),
        ({"pdf_engine": "poppler"}, InputError, "pdf_engine must be one of .*'pdfium', got 'poppler'"),
        ({"embedder": "no-such-model"}, UnknownModelError, "no model named 'no-such-model'"),
        ({"embedder": FakeReranker()}, InputError, "FakeReranker"),
        ({"rerank": FakeEmbedder()}, InputError, "FakeEmbedder"),
        ({"rerank": "starter-rerank-vl", "reranker_options": {"dtype": "int8"}}, InputError, "dtype must be"),
    ],
)
def test_what_cannot_be_used_is_refused_before_it_is_opened(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        LazyIndex(tmp_path / "new", **options)
    assert list(tmp_path.iterdir()) == []


def test_options_of_an_open_index_are_refused(place):
    with PageIndex(place, embedder=FakeEmbedder()) as index, pytest.raises(InputError, match="images belongs to an"):
        LazyIndex(index, images=None)


def test_there_must_be_an_index_when_it_is_opened(tmp_path):
    lazy = LazyIndex(tmp_path / "nothing", embedder=FakeEmbedder())
    with pytest.raises(InputError, match="there is no index: .*nothing"):
        lazy.get()
    assert list(tmp_path.iterdir()) == []
    assert repr(lazy) == repr(str(tmp_path / "nothing"))

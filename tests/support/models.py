"""Stand-ins for models that are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nemotron_rag.models import load
from nemotron_rag.models.catalog import CATALOG
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker

__all__ = ["load_fake", "use_models"]

_FAKES = {"embedder": FakeEmbedder, "multivector_embedder": FakeMultiVectorEmbedder}


def load_fake(name: Any, *kinds: str, **options: Any) -> Any:
    """The fake of the kind that the name stands for."""
    kind = load.check_model(name, *kinds, **options)
    if kind not in _FAKES:
        return FakeReranker()
    full = next((spec.dimensions[-1] for spec in CATALOG if str(name) in (spec.id, spec.repo)), 64)
    return _FAKES[kind](name=str(name), dimensions=options.get("dimensions") or full)


def use_models(monkeypatch: pytest.MonkeyPatch, load_model: Callable[..., Any] = load_fake) -> None:
    """Have models loaded by this, by whomever they are named."""
    monkeypatch.setattr("nemotron_rag.models.load.load_model", load_model)
    monkeypatch.setattr("nemotron_rag.models.lazy.load_model", load_model)

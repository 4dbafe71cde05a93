"""The catalog as a table and as JSON: the command ``models``, and the table of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from nemotron_rag.cli._output import bare_table, is_wide
from nemotron_rag.types import ModelSpec

__all__ = ["MODEL_COLUMNS", "model_json", "model_row", "models_table", "page_bytes"]

MODEL_COLUMNS = ("model", "kind", "size", "dims", "bytes per page", "reads", "licence", "commercial use", "status")

_FLOAT32 = 4  # bytes


def page_bytes(spec: ModelSpec) -> tuple[int, int] | None:
    """Return the bytes of a page's vectors: from the model in float32, and as stored in an index by default.

    The number of vectors is `ModelSpec.page_vectors`. An index stores a single vector as it is, and pools multi-vectors
    to Qdrant's limit (see `TokenVectors`). None for rerankers, which have no vectors.
    """
    if not spec.dimensions:
        return None
    full = spec.page_vectors * spec.dimensions[-1] * _FLOAT32
    return full, full if spec.page_vectors == 1 else _pooled_bytes(spec.page_vectors, spec.dimensions[-1])


def _pooled_bytes(rows: int, dimensions: int) -> int:
    import numpy as np  # noqa: PLC0415  not needed by the other commands

    from nemotron_rag.late_interaction.token_vectors import TokenVectors  # noqa: PLC0415

    stored = TokenVectors().resolved(dimensions)
    assert stored.max_rows is not None  # resolved
    return min(rows, stored.max_rows) * dimensions * np.dtype(stored.storage).itemsize


def model_row(spec: ModelSpec) -> tuple[str, ...]:
    """Return the cells of a catalog row, in the order of `MODEL_COLUMNS`."""
    return (
        spec.id,
        spec.kind.replace("_", " "),
        _size(spec.parameters),
        ", ".join(map(str, spec.dimensions)) or "-",
        _bytes(page_bytes(spec)),
        ", ".join("both" if modality == "image_text" else modality for modality in spec.modalities),
        spec.licence,
        "yes" if spec.commercial else "no",
        _status(spec),
    )


def models_table(specs: Sequence[ModelSpec]) -> Table:
    """Return the catalog as a table; long facts are below the model's name."""
    table = bare_table()
    longest = max(len(spec.id) for spec in specs)
    table.add_column("model", overflow="fold", min_width=longest if is_wide() else None)
    for name, width in (("kind", 11), ("size", 6), ("dims", 12), ("bytes per page", 9), ("status", 17)):
        justify: Literal["left", "right"] = "right" if name == "size" else "left"
        table.add_column(name, justify=justify, overflow="fold", max_width=width)
    for spec in specs:
        model, kind, size, dimensions, stored, reads, licence, commercial, state = model_row(spec)
        note = f"{spec.note}\n" if spec.note else ""
        about = Text.assemble((model, "bold"), f"\nreads {reads}\n{licence}; commercial use: {commercial}\n{note}")
        table.add_row(about, kind, size, dimensions, stored, state)
    return table


def model_json(spec: ModelSpec) -> dict[str, Any]:
    """Return a catalog row as JSON with stable keys."""
    vectors = page_bytes(spec)
    return {
        "id": spec.id,
        "kind": spec.kind,
        "parameters": spec.parameters,
        "licence": spec.licence,
        "commercial": spec.commercial,
        "dimensions": list(spec.dimensions),
        "page_vectors": spec.page_vectors if vectors else None,
        "page_bytes": vectors[0] if vectors else None,
        "stored_page_bytes": vectors[1] if vectors else None,
        "modalities": list(spec.modalities),
        "max_input_tiles": spec.max_input_tiles,
        "max_length": dict(spec.max_length),
        "instruction": spec.instruction,
        "repo": spec.repo,
        "revision": spec.revision,
        "verified": spec.verified,
        "status": _status(spec),
        "note": spec.note,
    }


def _status(spec: ModelSpec) -> str:
    """Where the weights come from, and whether a test verifies them against the published reference."""
    if spec.starter:
        return "needs starters"
    source = "needs hub" if spec.repo else "local folder only"
    return f"verified, {source}" if spec.verified else source


def _size(parameters: int | None) -> str:
    if parameters is None:
        return "-"
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"


def _bytes(vectors: tuple[int, int] | None) -> str:
    if vectors is None:
        return "-"
    full, stored = map(_binary, vectors)
    return full if full == stored else f"{full}, stored {stored}"


def _binary(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"

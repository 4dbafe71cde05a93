"""What a caller names as a data set -> the data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nemotron_rag.documents.files import one_line
from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.dataset import Dataset
from nemotron_rag.evaluation.published import read_published
from nemotron_rag.evaluation.query_files import queries_of_rows, read_query_file
from nemotron_rag.evaluation.tables import TABLES

__all__ = ["as_dataset", "read_dataset"]

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def read_dataset(
    name: str | os.PathLike[str],
    *,
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    download: bool = False,
) -> Dataset:
    """Read a data set from a file of queries, a folder in a published layout, or the model hub.

    Args:
        name: a CSV or JSON lines file (see `read_query_file`), a folder (see `read_published`), or ``owner/name`` of a
            data set on the hub, such as ``vidore/vidore_v3_hr``.
        split: see `read_published`.
        subset: see `read_published`.
        revision: of the hub's data set: commit, branch or tag; None for its newest one.
        download: fetch what is not in the hub's cache.

    Raises:
        InputError: there is nothing of that name, or it cannot be read.
        CheckpointError: it is on the hub, and cannot be downloaded.
        MissingExtraError: it is Parquet and pyarrow is not installed, or on the hub and huggingface-hub is not.
    """
    path = Path(name)
    if path.is_dir():
        return read_published(path, split=split, subset=subset)
    if path.is_file():
        if not path.name.lower().endswith(TABLES):
            raise InputError(f"{path} is no table of queries; wanted a name that ends in {', '.join(TABLES)}")
        return read_query_file(path)
    if isinstance(name, str) and _REPO.fullmatch(name) and not path.suffix:
        return read_published(_from_hub(name, revision, download), split=split, subset=subset)
    raise InputError(f"there is no data set at {one_line(os.fspath(name))!r}; give a file, a folder, or owner/name")


def as_dataset(given: Dataset | str | os.PathLike[str] | Iterable[Mapping[str, Any]]) -> Dataset:
    """A data set as it is, or one that is named, or one of rows.

    Raises:
        InputError: it cannot be read.
    """
    if isinstance(given, Dataset):
        return given
    if isinstance(given, str | os.PathLike):
        return read_dataset(given)
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise InputError(f"wanted a data set, its file or folder, or rows of queries, got {type(given).__name__}")
    return queries_of_rows(given)


def _from_hub(name: str, revision: str | None, download: bool) -> Path:
    from nemotron_rag.runtime.hub import download_dataset  # noqa: PLC0415  of an extra

    return download_dataset(name, revision=revision, only_cached=not download)

"""The files of a stage: in a folder, or behind an fsspec URL."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from nemotron_rag.documents.files import one_line
from nemotron_rag.documents.urls import check_url, file_system, is_url
from nemotron_rag.errors import MissingExtraError, StoreError
from nemotron_rag.stores.page_images import put_file

__all__ = ["StageFolder"]


class StageFolder:
    """Reads and writes whole files.

    Args:
        root: a folder or URL; made at the first write.

    Raises:
        InputError: it is none, or holds credentials.
    """

    def __init__(self, root: str) -> None:
        self.root = check_url(root) if is_url(root) else root
        self._fs, base = file_system(self.root)
        self._base = base.rstrip("/")

    def names(self, *beginnings: str) -> list[str]:
        """The names of the files that begin so, sorted."""
        try:
            self._fs.invalidate_cache()
            names = [path.rpartition("/")[2] for path in self._fs.ls(self._base, detail=False)]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.startswith(beginnings))

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: it cannot be read.
        """
        try:
            data: bytes = self._fs.cat_file(f"{self._base}/{name}")
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise self._failed(f"read {name}", error) from error
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            put_file(self._fs, f"{self._base}/{name}", data)
        except Exception as error:  # each file system has errors of its own
            raise self._failed(f"write {name}", error) from error

    def table(self, name: str, columns: Sequence[str]) -> Any:
        """Columns of a Parquet file, as an Arrow table; the others are not read.

        Raises:
            StoreError: it cannot be read, or is none of a stage.
            MissingExtraError: pyarrow is not installed.
        """
        parquet = _parquet()
        try:
            with self._fs.open(f"{self._base}/{name}", "rb") as file:
                return parquet.read_table(file, columns=list(columns)).select(list(columns))
        except Exception as error:  # each file system has errors of its own, and so has Arrow
            raise self._failed(f"read {name}", error) from error

    def write_table(self, name: str, table: Any) -> None:
        """Write an Arrow table as a Parquet file.

        Raises:
            StoreError: it cannot be written.
            MissingExtraError: pyarrow is not installed.
        """
        data = io.BytesIO()
        _parquet().write_table(table, data)
        self.write(name, data.getvalue())

    def _failed(self, doing: str, error: Exception) -> StoreError:
        return StoreError(
            f"could not {doing} of stage {self.root}: {one_line(str(error))}; check space, rights and file"
        )


def _parquet() -> Any:
    try:
        from pyarrow import parquet  # noqa: PLC0415  of the extra
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return parquet

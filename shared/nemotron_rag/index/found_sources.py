"""What a source of `add` is found to be: a file here, one behind a URL, one that is no document, or nothing usable."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nemotron_rag.documents.copies import Copies, UrlCopy
from nemotron_rag.documents.pdf import PdfEngine
from nemotron_rag.documents.reading import Document
from nemotron_rag.documents.urls import RemoteFile, clean_url, is_local, is_url, local_path
from nemotron_rag.errors import InputError
from nemotron_rag.types import page_id

__all__ = ["LeftOut", "SourceFile", "Unusable", "UrlSource", "clean_source"]


@dataclass(eq=False)
class SourceFile:
    """One file.

    Args:
        path: of a document; see `nemotron_rag.documents.reading`.
        password: of a protected PDF.
        pdf_engine: what reads PDFs.
    """

    path: Path
    password: str | None = field(default=None, repr=False)
    pdf_engine: PdfEngine = "auto"

    @property
    def source(self) -> str:
        """How the index calls the document; see `clean_source`."""
        return clean_source(self.path)

    @property
    def location(self) -> str:
        """Where other processes find it."""
        return str(self.path.absolute())

    @cached_property
    def document(self) -> Document:
        """What reads it."""
        return Document(self.path, self.source, password=self.password, pdf_engine=self.pdf_engine)

    def ids(self, numbers: Iterable[int]) -> dict[str, int]:
        """Page numbers by page id.

        Raises:
            InputError: the file cannot be read.
        """
        return {page_id(self.document.content_hash, number): number for number in numbers}


class UrlSource(SourceFile):
    """One file behind a URL, copied to this machine as long as it is read.

    Args:
        file: that was listed.
        password: of a protected PDF.
        pdf_engine: what reads PDFs.
    """

    def __init__(self, file: RemoteFile, password: str | None, pdf_engine: PdfEngine) -> None:
        super().__init__(Path(file.path), password, pdf_engine)
        self._file = file
        self._brought: UrlCopy | InputError | None = None
        self._copies: Copies | None = None

    @property
    def source(self) -> str:
        """Its URL."""
        return self._file.url

    @property
    def location(self) -> str:
        """Its URL."""
        return self.source

    @cached_property
    def document(self) -> Document:
        """What reads it; it is copied here now if `bring` was not called.

        Raises:
            InputError: it could not be copied.
        """
        if self._brought is None:
            self._copies = Copies()
            self.bring(self._copies)
        brought = self._brought
        if not isinstance(brought, UrlCopy):
            raise brought or InputError(f"{self.source} is not here")
        return Document(
            brought.path, self.source, password=self.password, pdf_engine=self.pdf_engine, digest=brought.digest
        )

    def bring(self, copies: Copies) -> None:
        """Copy it; what is wrong with it is said when it is read."""
        try:
            self._brought = copies.fetch(self._file)
        except InputError as error:
            self._brought = error

    def release(self, copies: Copies) -> None:
        """Remove the copy."""
        if isinstance(self._brought, UrlCopy):
            copies.drop(self._brought)
        self._brought = None
        self.__dict__.pop("document", None)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Files in a folder that are no documents.

    Args:
        sources: what they would be called.
    """

    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something among the sources that is neither document nor page.

    Args:
        source: what it calls itself.
        error: why it cannot be used.
    """

    source: str
    error: InputError


def clean_source(path: str | os.PathLike[str]) -> str:
    r"""The name of a file in the index: as the caller wrote it, with ``./``, ``x/..`` and doubled slashes folded.

    A relative path stays relative and an absolute one absolute, so an index can be moved together with its files.
    Backslashes of Windows become slashes. Of names that are no Unicode, bytes are written out (``caf\xe9.pdf``), so
    that no two files have one name. A URL stays as it is but for slashes at its end; one of ``file://`` is its path.
    """
    given = os.fspath(path)
    if is_url(given):
        if not is_local(given):
            return clean_url(given)
        path = local_path(given) or given
    name = Path(os.path.normpath(path)).as_posix()
    try:
        return name.encode().decode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

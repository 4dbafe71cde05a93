"""Access policy for images that documents refer to: no file and no URL is opened unless the caller allowed it.

A path or URL in a document's metadata is written by its author, who may be anyone. Only what the document
itself contains (data URI, bytes, a decoded image) is always read; the caller must allow folders and hosts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nemotron_rag.documents.fetch import check_url, fetch, is_url
from nemotron_rag.documents.files import is_data_uri, one_line, shown_url
from nemotron_rag.documents.images import DEFAULT_BUDGET, ImageBudget, load_image, read_image_bytes
from nemotron_rag.documents.transparency import lay_on_white
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.types import ImageReference, ImageSource

__all__ = ["ImageAccess", "UnreadableImage"]

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")  # two letters at least: one is a drive of Windows


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAccess:
    """Folders and hosts from which images named in a document's metadata may be opened.

    Args:
        roots: folders whose files may be read, subfolders included; symbolic links that lead out of them are refused.
        hosts: host names that may be fetched from by http or https, exactly as in the URL, with a port
            (``host:8080``) or for any port; redirects are refused.
        budget: limits for each image.
        timeout: seconds until the whole of an image is there: address, connection, headers and body.

    Raises:
        InputError: `timeout` is not a positive number; or `roots` or `hosts` are a single text, whose letters would be
            taken for folders and hosts, or hold an empty one.

    Example:
        >>> from nemotron_rag.errors import ImageError
        >>> try:
        ...     ImageAccess().open("/etc/passwd")
        ... except ImageError as error:
        ...     print(str(error).split(";")[0])
        image path '/etc/passwd' is outside the allowed folders (none)
    """

    roots: Sequence[str | os.PathLike[str]] = ()
    hosts: Sequence[str] = ()
    budget: ImageBudget = DEFAULT_BUDGET
    timeout: float = 10.0

    def __post_init__(self) -> None:
        for field, given in (("roots", self.roots), ("hosts", self.hosts)):
            name = f"image_{field}"
            if isinstance(given, str | bytes | os.PathLike):
                raise InputError(f"{name} must be a list, got a single {type(given).__name__}; put it into a list")
            if not all(isinstance(each, str | os.PathLike) and os.fspath(each) for each in given):
                raise InputError(f"{name} must be names that are not empty, got {[*given]!r}")
            object.__setattr__(self, field, tuple(given))  # the caller's list may change
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise InputError(f"timeout must be a positive number of seconds, got {self.timeout!r}")

    def open(self, reference: ImageSource) -> Image.Image:
        """Decode an image that a document contains or refers to.

        Args:
            reference: data URI, bytes, binary file, PIL image or array; or an allowed path or URL.

        Raises:
            ImageError: the image is not allowed, cannot be read, or is above the budget.
        """
        return load_image(self._source(reference), budget=self.budget)

    def check(self, reference: ImageSource) -> None:
        """Raise if a document may not name this path or URL; nothing is opened, and what it contains is allowed.

        Raises:
            ImageError: it is not allowed.
        """
        if isinstance(reference, str) and is_url(reference):
            check_url(reference, hosts=self.hosts)
        elif isinstance(reference, str | os.PathLike) and not is_data_uri(reference):
            self._source(reference)

    def read_bytes(self, reference: ImageSource) -> bytes | None:
        """The encoded file that a document contains or refers to; None if it holds a decoded image.

        Raises:
            ImageError: as from `open`, which also decodes it.
        """
        return read_image_bytes(self._source(reference), budget=self.budget)

    def reference(
        self,
        source: ImageSource,
        *,
        size: tuple[int, int] | None = None,
        pixel_hash: str | None = None,
        lay_on_white: bool = True,
    ) -> ImageReference:
        """The image that a document refers to or holds, to be opened by `open` when something needs its pixels.

        Args:
            source: as for `open`; nothing is read or checked before it is opened. Of another reference that has a
                ``path``, as the images of an index have, that must be allowed; any other one is returned as it is.
            size: width and height, pixels, if they are known.
            pixel_hash: see `ImageReference`, if it is known. Take both from whoever stored the image, never from the
                document: vision features are cached under them.
            lay_on_white: give an image that can be transparent as RGB on white, as the pages of documents are shown;
                False leaves its transparency to the model.
        """
        if isinstance(source, ImageReference):
            try:
                path = getattr(source, "path", None)
            except ImageError as error:  # the key of a stored image is not one of an index
                return UnreadableImage(error)
            return source if path is None else _AllowedImage(self, path, source.size, source.pixel_hash, lay_on_white)
        return _AllowedImage(self, source, size, pixel_hash, lay_on_white)

    def path(self, name: str | os.PathLike[str]) -> Path:
        """The path of an image file that a document names, absolute and without links; it is not opened.

        Raises:
            ImageError: it is outside the allowed folders, or is no file.
        """
        path = self._allowed_path(os.fspath(name))
        if not path.is_file():
            raise ImageError(f"image path {os.fspath(name)!r} is no file")
        return path

    def of_caller(self, source: ImageSource) -> ImageSource:
        """An image that the caller names, not a document: paths are the caller's own, hosts must still be allowed."""
        return self.reference(source, lay_on_white=False) if is_url(source) else source

    def _source(self, reference: ImageSource) -> ImageSource:
        if isinstance(reference, os.PathLike):
            return self._allowed_path(os.fspath(reference))
        if not isinstance(reference, str) or is_data_uri(reference):
            return reference
        if is_url(reference):
            return self._fetch(reference)
        if _SCHEME.match(reference):
            raise ImageError(
                f"image {one_line(shown_url(reference))!r} is outside the allowed folders and hosts: neither a path "
                "nor an http(s) URL; give the file's path"
            )
        return self._allowed_path(reference)

    def _allowed_path(self, name: str) -> Path:
        try:
            if _names_a_host(name) and not any(_is_lexically_below(name, root) for root in self.roots):
                raise ValueError("it is on another machine, which is not asked before its folder is allowed")
            path = Path(name).resolve()
            allowed = any(path.is_relative_to(Path(root).resolve()) for root in self.roots)
        except Exception as error:  # of a file system or of a name that cannot be one: loops, NUL, surrogates, bytes
            raise ImageError(f"image path {one_line(repr(name))} cannot be resolved: {one_line(str(error))}") from error
        if not allowed:
            known = ", ".join(str(root) for root in self.roots) or "none"
            raise ImageError(
                f"image path {one_line(repr(name))} is outside the allowed folders ({known}); "
                "give image_roots=[its folder] if you trust the document"
            )
        return path

    def _fetch(self, url: str) -> bytes:
        return fetch(url, hosts=self.hosts, seconds=self.timeout, max_bytes=self.budget.max_bytes)


def _names_a_host(name: str) -> bool:
    """Whether the system would ask another machine for a path, ``//host/share``, even if only to resolve it."""
    return os.name == "nt" and name[:2].replace("\\", "/") == "//"


def _is_lexically_below(name: str, root: str | os.PathLike[str]) -> bool:
    return Path(os.path.normpath(name)).is_relative_to(os.path.normpath(root))


@dataclass(frozen=True, slots=True)
class _AllowedImage:
    """What `ImageAccess.reference` returns."""

    access: ImageAccess
    source: ImageSource
    size: tuple[int, int] | None
    pixel_hash: str | None
    on_white: bool

    def open(self) -> Image.Image:
        """Decode it; see `ImageAccess.open`."""
        image = self.access.open(self.source)
        return lay_on_white(image) if self.on_white else image

    def read_bytes(self) -> bytes | None:
        """The encoded file; see `ImageAccess.read_bytes`."""
        return self.access.read_bytes(self.source)


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """An `ImageReference` that cannot be opened, so that the caller's policy for images decides what becomes of it.

    Args:
        error: what is wrong with it.
    """

    error: ImageError
    size: None = None
    pixel_hash: None = None

    def open(self) -> Image.Image:
        """Raise what is wrong."""
        raise self.error

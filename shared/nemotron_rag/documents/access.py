"""Access policy for images that documents refer to: no file and no URL is opened unless the caller allowed it.

A path or URL in a document's metadata is written by its author, who may be anyone. Only what the document
itself contains (data URI, bytes, a decoded image) is always read; the caller must allow folders and hosts.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nemotron_rag.documents.files import is_data_uri
from nemotron_rag.documents.images import DEFAULT_BUDGET, ImageBudget, load_image, read_image_bytes
from nemotron_rag.errors import ImageBudgetError, ImageError
from nemotron_rag.types import ImageReference, ImageSource

__all__ = ["ImageAccess"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAccess:
    """Folders and hosts from which images named in a document's metadata may be opened.

    Args:
        roots: folders whose files may be read, subfolders included; symbolic links that lead out of them are refused.
        hosts: host names that may be fetched from by http or https, exactly as in the URL; redirects are refused.
        budget: limits for each image.
        timeout: seconds to wait for a host.

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

    def open(self, reference: ImageSource) -> Image.Image:
        """Decode an image that a document contains or refers to.

        Args:
            reference: data URI, bytes, binary file, PIL image or array; or an allowed path or URL.

        Raises:
            ImageError: the image is not allowed, cannot be read, or is above the budget.
        """
        return load_image(self._source(reference), budget=self.budget)

    def read_bytes(self, reference: ImageSource) -> bytes | None:
        """The encoded file that a document contains or refers to; None if it holds a decoded image.

        Raises:
            ImageError: as from `open`, which also decodes it.
        """
        return read_image_bytes(self._source(reference), budget=self.budget)

    def reference(
        self, source: ImageSource, *, size: tuple[int, int] | None = None, pixel_hash: str | None = None
    ) -> ImageReference:
        """The image that a document refers to or holds, to be opened by `open` when something needs its pixels.

        Args:
            source: as for `open`; nothing is read or checked before it is opened. Of another reference that has a
                ``path``, as the images of an index have, that must be allowed; any other one is returned as it is.
            size: width and height, pixels, if they are known.
            pixel_hash: see `ImageReference`, if it is known. Take both from whoever stored the image, never from the
                document: vision features are cached under them.
        """
        if isinstance(source, ImageReference):
            path = getattr(source, "path", None)
            return source if path is None else _AllowedImage(self, path, source.size, source.pixel_hash)
        return _AllowedImage(self, source, size, pixel_hash)

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
        return self.reference(source) if _is_url(source) else source

    def _source(self, reference: ImageSource) -> ImageSource:
        if isinstance(reference, os.PathLike):
            return self._allowed_path(os.fspath(reference))
        if not isinstance(reference, str) or is_data_uri(reference):
            return reference
        if _is_url(reference):
            return self._fetch(reference)
        return self._allowed_path(reference)

    def _allowed_path(self, name: str) -> Path:
        try:
            path = Path(name).resolve()
            allowed = any(path.is_relative_to(Path(root).resolve()) for root in self.roots)
        except (OSError, ValueError) as error:
            raise ImageError(f"image path {name!r} cannot be resolved: {error}") from error
        if not allowed:
            known = ", ".join(str(root) for root in self.roots) or "none"
            raise ImageError(
                f"image path {name!r} is outside the allowed folders ({known}); "
                "give image_roots=[its folder] if you trust the document"
            )
        return path

    def _fetch(self, url: str) -> bytes:
        try:
            host = urllib.parse.urlsplit(url).hostname
        except ValueError as error:
            raise ImageError(f"image URL {url!r} cannot be read: {error}") from error
        if host not in [allowed.lower() for allowed in self.hosts]:
            known = ", ".join(self.hosts) or "none"
            raise ImageError(f"image URL {url!r} is not on an allowed host ({known}); allow it if you trust it")
        try:
            with urllib.request.build_opener(_NoRedirect).open(url, timeout=self.timeout) as response:
                data: bytes = response.read(self.budget.max_bytes + 1)
        except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
            raise ImageError(f"image URL {url!r} cannot be fetched: {error}") from error
        if len(data) > self.budget.max_bytes:
            raise ImageBudgetError(f"image URL {url!r} has more than the {self.budget.max_bytes} bytes allowed")
        return data


def _is_url(source: object) -> bool:
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class _AllowedImage:
    """What `ImageAccess.reference` returns."""

    access: ImageAccess
    source: ImageSource
    size: tuple[int, int] | None
    pixel_hash: str | None

    def open(self) -> Image.Image:
        """Decode it; see `ImageAccess.open`."""
        return self.access.open(self.source)

    def read_bytes(self) -> bytes | None:
        """The encoded file; see `ImageAccess.read_bytes`."""
        return self.access.read_bytes(self.source)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which could lead from an allowed host to any other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow no redirect; the opener then raises it as an error."""
        return

"""Opening the pictures that documents and nodes refer to. It knows no framework, and nothing is opened by default.

A path or URL in a document's metadata comes from whoever wrote the document. Only what travels inside the document
(data URI, bytes, a decoded picture) is read freely; files and hosts must have been allowed by the caller.
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

from nemotron_rag.errors import ImageBudgetError, ImageError
from nemotron_rag.images import DEFAULT_BUDGET, ImageBudget, load_image
from nemotron_rag.types import ImageSource

__all__ = ["ImageAccess"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAccess:
    """What may be opened because a document's metadata names it.

    Args:
        roots: folders whose files may be read, their subfolders too; links that lead out of them may not.
        hosts: host names that may be asked by http or https, exactly as they stand in the URL; redirects are refused.
        budget: for every picture.
        timeout: seconds a host may take.

    Example:
        >>> from nemotron_rag.errors import ImageError
        >>> try:
        ...     ImageAccess().open("/etc/passwd")
        ... except ImageError as error:
        ...     print(error)
        image path '/etc/passwd' is outside the allowed folders (none); allow its folder if you trust the document
    """

    roots: Sequence[str | os.PathLike[str]] = ()
    hosts: Sequence[str] = ()
    budget: ImageBudget = DEFAULT_BUDGET
    timeout: float = 10.0

    def open(self, reference: ImageSource) -> Image.Image:
        """Decode the picture that a document refers to or holds.

        Args:
            reference: data URI, bytes, binary file, PIL image or array; a path or URL if it is allowed.

        Raises:
            ImageError: it is not allowed, cannot be read, or is beyond the budget.
        """
        return load_image(self._source(reference), budget=self.budget)

    def _source(self, reference: ImageSource) -> ImageSource:
        if isinstance(reference, os.PathLike):
            return self._allowed_path(os.fspath(reference))
        if not isinstance(reference, str) or reference[:5].lower() == "data:":
            return reference
        if reference[:7].lower() == "http://" or reference[:8].lower() == "https://":
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
                "allow its folder if you trust the document"
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
            raise ImageBudgetError(f"image URL {url!r} holds more than the {self.budget.max_bytes} bytes allowed")
        return data


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead from an allowed host to any other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Make the redirect itself the answer, which the opener then raises as an error."""
        return

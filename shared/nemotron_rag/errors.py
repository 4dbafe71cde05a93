"""Every error this package raises on purpose, in one tree.

* NemotronRagError
  * MissingExtraError          an optional dependency is not installed (also an ImportError)
  * UnknownModelError          the name is neither in the catalog nor a local folder (also a ValueError)
  * CheckpointError            a checkpoint's files are missing, unreadable, or not of a supported family
  * InputError                 the caller's input cannot be used (also a ValueError)
    * ImageError               an image cannot be read
      * ImageBudgetError       an image is larger than the stated budget
    * DocumentError            an office or web document cannot be read or made into pages
    * PdfError                 a PDF or one of its pages cannot be read
      * PdfPasswordError       a PDF needs a password, or the given one is wrong
    * TokenLimitError          a passage's image tokens do not fit into max_length
  * NonFiniteError             the model computed NaN or infinity
  * EndpointError              a model server refused, could not be reached, or gave an answer that cannot be used
  * ItemTooLargeError          one item alone does not fit into device memory, or into a request
  * ClosedError                the model or index was closed
    * ForkError                the model was on a GPU, and does not survive a fork
  * StoreError                 the vector store refused or could not be reached
    * RefusedError             it refused what it was sent, and would refuse it again
    * IndexMismatchError       an index was written with other settings than those asked for

Each message is one line: what was wanted, what was given, what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from nemotron_rag.types import AddReport

__all__ = [
    "CheckpointError",
    "ClosedError",
    "DocumentError",
    "EndpointError",
    "ForkError",
    "ImageBudgetError",
    "ImageError",
    "IndexMismatchError",
    "InputError",
    "ItemTooLargeError",
    "MissingExtraError",
    "NemotronRagError",
    "NonFiniteError",
    "PdfError",
    "PdfPasswordError",
    "RefusedError",
    "StoreError",
    "TokenLimitError",
    "UnknownModelError",
]


class NemotronRagError(Exception):
    """Base of all errors raised by this package."""

    report: AddReport | None = None
    """Of a `PageIndex.add` that ended with this error: what it had stored. Any other error has it too."""


class MissingExtraError(NemotronRagError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: the import name that was not found.
        extra: the extra of this distribution that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package!r} is not installed; install it with: pip install 'nemotron-rag[{extra}]'")
        self.package = package
        self.extra = extra


class UnknownModelError(NemotronRagError, ValueError):
    """The name is neither a catalog id nor a local folder."""


class CheckpointError(NemotronRagError):
    """A checkpoint's files are missing, unreadable, or not of a supported family."""


class InputError(NemotronRagError, ValueError):
    """The caller's input cannot be used."""


class ImageError(InputError):
    """An image cannot be read."""

    index: int | None = None
    """Of a passage in the list that was given to a model, where it is known."""

    def at(self, index: int | None, *, what: str = "passage") -> Self:
        """The same error with the index of its input.

        Args:
            index: in the caller's list; None for the only one.
            what: the input is.
        """
        named = type(self)(f"{what}: {self}" if index is None else f"{what} {index}: {self}")
        named.index = index
        return named

    def named(self, name: str) -> Self:
        """The same error with what the caller calls the image in front, in place of a model's ``passage 3``."""
        return type(self)(f"{name}: {str(self).removeprefix(f'passage {self.index}: ')}")


class ImageBudgetError(ImageError):
    """An image is larger than the stated budget; nothing was decoded."""


class DocumentError(InputError):
    """An office or web document cannot be read or made into pages."""


class PdfError(InputError):
    """A PDF or one of its pages cannot be read."""


class PdfPasswordError(PdfError):
    """A PDF needs a password, or the given one is wrong."""


class TokenLimitError(InputError):
    """A passage's image tokens do not fit into max_length; image tokens are never cut."""


class NonFiniteError(NemotronRagError):
    """The model computed NaN or infinity, usually because the number format's range is too small."""


class EndpointError(NemotronRagError):
    """A model server refused, could not be reached, or gave an answer that cannot be used."""


class ItemTooLargeError(NemotronRagError):
    """One item alone does not fit into device memory, or into a request to a model server."""


class ClosedError(NemotronRagError):
    """The model or index was closed and cannot be used any more."""


class ForkError(ClosedError):
    """The process was forked from one that uses the device of a model, which does not survive that."""


class StoreError(NemotronRagError):
    """The vector store refused or could not be reached."""


class RefusedError(StoreError):
    """The vector store refused what it was sent, and would refuse it again: it may be one page that is at fault."""


class IndexMismatchError(StoreError):
    """An index was written with other settings than those asked for."""

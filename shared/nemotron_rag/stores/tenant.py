"""One tenant of a store that several share: what is its own, and under which ids."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from nemotron_rag.errors import InputError
from nemotron_rag.types import PAGE_FIELDS

__all__ = ["Tenant", "TenantKey"]

TenantKey: TypeAlias = tuple[str, str]
"""A metadata key and its value, such as ``("customer", "acme")``: whose pages these are."""

_KEY = re.compile(r"[\w-]+")
_NAMESPACE = uuid.UUID("0d4f6a8e-2f0b-5b7c-9a55-6f7f6a1b3c20")


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose pages a store reads and writes; it never sees, changes or deletes those of others.

    Args:
        key: of the metadata, letters, digits, ``_`` and ``-``.
        value: not empty.

    Raises:
        InputError: one of them cannot be used.

    Example:
        >>> Tenant("customer", "acme").uuid("p1") == Tenant("customer", "other").uuid("p1")
        False
    """

    key: str
    value: str

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not _KEY.fullmatch(self.key) or self.key in (*PAGE_FIELDS, "number"):
            raise InputError(
                f"tenant must be (key, value), the key a metadata key of letters, digits, '_' and '-', got {self.key!r}"
            )
        if not isinstance(self.value, str) or not self.value:
            raise InputError(f"the value of tenant {self.key!r} must be a str that is not empty, got {self.value!r}")

    @classmethod
    def of(cls, given: TenantKey | Tenant | None) -> Tenant | None:
        """The tenant that an argument names; None for none.

        Raises:
            InputError: it names none.
        """
        if given is None or isinstance(given, Tenant):
            return given
        if isinstance(given, str) or not isinstance(given, tuple | list) or len(given) != 2:
            raise InputError(f"tenant must be (key, value), such as ('customer', 'acme'), got {given!r}")
        return cls(*given)

    def __str__(self) -> str:
        """``customer='acme'``."""
        return f"{self.key}={self.value!r}"

    @property
    def metadata(self) -> dict[str, str]:
        """What the pages have in their metadata."""
        return {self.key: self.value}

    def uuid(self, id: str) -> str:
        """The id under which this tenant's page or image of an id is stored: no two tenants share one."""
        return str(uuid.uuid5(_NAMESPACE, json.dumps([self.key, self.value, id])))

    def check(self, metadata: Mapping[str, Any]) -> None:
        """Refuse metadata that name another tenant.

        Raises:
            InputError: they do.
        """
        if metadata.get(self.key, self.value) != self.value:
            raise InputError(
                f"metadata say {self.key}={metadata[self.key]!r}, but this was opened with tenant {self}; "
                f"leave {self.key!r} out"
            )

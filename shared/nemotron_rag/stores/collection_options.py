"""The settings of a new collection, the same in every place that makes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from nemotron_rag.errors import InputError
from nemotron_rag.types import IndexedType

__all__ = ["CollectionOptions", "Quantization"]

Quantization: TypeAlias = Literal["int8", "binary", "turbo4"]
"""How vectors are held in memory in short: a fourth, a 32nd or an eighth of their size. What they find is compared
once more in full."""

_COUNTS = ("shards", "replicas", "write_consistency")
_SWITCHES = ("vectors_on_disk", "payload_on_disk", "strict")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionOptions:
    """How a new collection of a Qdrant server is made; None is the server's own choice.

    A collection that is there keeps what it has: a warning says what differs, and only metadata indexes are added to
    it. Embedded collections have neither shards nor replicas.

    Args:
        shards: into how many parts it is divided among the nodes of a cluster.
        replicas: on how many nodes each part is.
        write_consistency: how many replicas must have a write before it counts.
        vectors_on_disk: read vectors from the disk instead of holding them in memory; token vectors always are.
        payload_on_disk: read texts and metadata from the disk.
        quantization: hold vectors in memory in short as well, for a quick first look; token vectors have their own in
            `TokenVectors`.
        metadata_indexes: what metadata keys hold, by key: filters on them are fast, and allowed in strict mode.
        strict: refuse filters on keys without an index (Qdrant's strict mode).

    Raises:
        InputError: a value cannot be used.

    Example:
        >>> CollectionOptions(shards=2, quantization="int8", metadata_indexes={"year": "integer"}).shards
        2
    """

    shards: int | None = None
    replicas: int | None = None
    write_consistency: int | None = None
    vectors_on_disk: bool | None = None
    payload_on_disk: bool | None = None
    quantization: Quantization | None = None
    metadata_indexes: Mapping[str, IndexedType] = field(default_factory=dict)
    strict: bool | None = None

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        for name in _SWITCHES:
            if getattr(self, name) not in (None, True, False):
                raise InputError(f"{name} must be True, False or None, got {getattr(self, name)!r}")
        if self.quantization is not None and self.quantization not in get_args(Quantization):
            raise InputError(
                f"quantization must be one of {', '.join(get_args(Quantization))}, got {self.quantization!r}"
            )
        self._check_indexes()

    @classmethod
    def of(cls, given: CollectionOptions | Mapping[str, Any] | None) -> CollectionOptions | None:
        """Options, or a mapping of them, as configuration files have it.

        Raises:
            InputError: there is no such option, or its value cannot be used.
        """
        if given is None or isinstance(given, CollectionOptions):
            return given
        if not isinstance(given, Mapping):
            raise InputError(f"collection_options must be CollectionOptions or a mapping, got {type(given).__name__}")
        known = [each.name for each in fields(cls)]
        if unknown := [name for name in given if name not in known]:
            raise InputError(f"{', '.join(map(str, unknown))} is no collection option; give one of: {', '.join(known)}")
        return cls(**given)

    def _check_indexes(self) -> None:
        if not isinstance(self.metadata_indexes, Mapping):
            raise InputError(f"metadata_indexes must be a mapping, got {type(self.metadata_indexes).__name__}")
        for key, kind in self.metadata_indexes.items():
            if not isinstance(key, str) or kind not in get_args(IndexedType):
                kinds = ", ".join(get_args(IndexedType))
                raise InputError(f"metadata_indexes must be one of {kinds} by key, got {kind!r} by {key!r}")

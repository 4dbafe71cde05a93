"""Resolve `max_length`: the caller's limits over the model's defaults."""

from __future__ import annotations

from collections.abc import Mapping

from nemotron_rag.errors import InputError

__all__ = ["resolve_lengths"]


def resolve_lengths(defaults: Mapping[str, int], max_length: int | Mapping[str, int] | None) -> dict[str, int]:
    """Fill in the limits that the caller did not set.

    Args:
        defaults: tokens by modality, and under ``query`` for queries that are embedded on their own.
        max_length: one limit for all passages, limits by the keys of `defaults`, or None.

    Raises:
        InputError: a number is below 1 or a key is unknown.
    """
    if max_length is None:
        return dict(defaults)
    given = max_length if isinstance(max_length, Mapping) else dict.fromkeys(defaults.keys() - {"query"}, max_length)
    for key in given:
        if key not in defaults:
            raise InputError(f"max_length has no key {key!r}; give an int or keys out of: {', '.join(defaults)}")
    if min(given.values(), default=1) < 1:
        raise InputError(f"max_length must be at least 1, got {max_length}")
    return {**defaults, **given}

"""Find out whose format a server speaks, and which models it has: by questions that send nothing of the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from nemotron_rag.documents.files import one_line
from nemotron_rag.errors import EndpointError, InputError, UnknownModelError
from nemotron_rag.remote.addresses import Address
from nemotron_rag.remote.endpoint import DIALECTS, Dialect
from nemotron_rag.remote.transport import Transport
from nemotron_rag.types import Kind

__all__ = ["Server", "look_at"]

_HOSTS: dict[str, Dialect] = {
    "api.nvidia.com": "nim",
    "api.openai.com": "openai",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "api.jina.ai": "jina",
}
_OWNERS: dict[str, Dialect] = {"nemotron-rag": "nemotron-rag", "vllm": "vllm"}
_BY_OPERATION: dict[str, Dialect] = {"ranking": "nim", "embed": "tei"}
_LISTED: tuple[Dialect, ...] = ("nemotron-rag", "nim", "vllm")  # what they list is all that they have
_SHOWN = 20  # models


@dataclass(frozen=True, slots=True)
class Server:
    """What was found out of a server.

    Args:
        dialect: that it speaks.
        rows: of its list of models; empty if it has none that is understood.
        where: it is, for messages.
    """

    dialect: Dialect
    rows: Sequence[Mapping[str, Any]]
    where: str = field(default="")

    def model(self, name: str | None, aliases: Sequence[str], kind: Kind) -> tuple[str, Mapping[str, Any]]:
        """What the server calls a model, and its row; the row is empty if there is none.

        Args:
            name: of the model; None for the only one.
            aliases: other names of it.
            kind: of the model.

        Raises:
            UnknownModelError: the server says which models it has, and that is none of them.
            InputError: no name was given, and there is not one alone; or the model is of another kind.
        """
        there = {str(row["id"]): row for row in self.rows if "id" in row}
        if name is None:
            return self._only({key: row for key, row in there.items() if row.get("kind", kind) == kind}, kind)
        found = next((each for each in (name, *aliases) if each in there), None)
        if found is None:
            if there and self.dialect in _LISTED:
                raise UnknownModelError(f"{self.where} has no model {name!r}; it has {_shown(list(there))}")
            return (aliases[0] if aliases and self.dialect == "nim" else name), {}
        row = there[found]
        if row.get("kind", kind) != kind:
            raise InputError(
                f"{found} at {self.where} is of kind {row['kind']}, wanted {kind}; load it with load_{row['kind']}"
            )
        return found, row

    def _only(self, there: Mapping[str, Mapping[str, Any]], kind: Kind) -> tuple[str, Mapping[str, Any]]:
        if len(there) == 1:
            return next(iter(there.items()))
        if self.dialect == "tei":
            return "tei", {}
        listed = [str(row.get("id")) for row in self.rows]
        known = f"it has {_shown(listed)}" if listed else "it does not say which it has"
        raise InputError(f"which {kind} of {self.where}? Give its name; {known}")


async def look_at(transport: Transport, address: Address, *, dialect: Dialect | None, ask: bool) -> Server:
    """Find out what a server is.

    Args:
        transport: to it.
        address: of it.
        dialect: that it was said to speak; None to find out.
        ask: whether its list of models is needed even so.

    Raises:
        EndpointError: it cannot be reached, or cannot be told.
    """
    known = dialect or _of_host(address.base_url) or _BY_OPERATION.get(address.operation or "")
    if known is not None and not (ask or known in _LISTED):
        return Server(known, [], transport.where)
    if address.operation is not None and known is not None:
        return Server(known, [], transport.where)
    rows = _rows(await transport.get(address.of("models", version="v1")))
    found = known or next((_OWNERS[owner] for row in rows if (owner := str(row.get("owned_by"))) in _OWNERS), None)
    if found is None or found == "tei":
        info = await transport.get(address.of("info", version=None))
        if isinstance(info, Mapping) and "model_id" in info:
            return Server("tei", [{"id": info["model_id"]}], transport.where)
    if found is None and await transport.get(address.of("metadata", version="v1")) is not None:
        found = "nim"
    if found is None:
        raise EndpointError(
            f"{transport.where} does not tell which format it speaks; give dialect=, one of {', '.join(DIALECTS)}"
        )
    return Server(found, rows, transport.where)


def _of_host(base_url: str) -> Dialect | None:
    host = (urlsplit(base_url).hostname or "").lower()
    return next((dialect for end, dialect in _HOSTS.items() if host == end or host.endswith(f".{end}")), None)


def _rows(answer: object) -> list[Mapping[str, Any]]:
    data = answer.get("data") if isinstance(answer, Mapping) else None
    return [row for row in data if isinstance(row, Mapping)] if isinstance(data, list) else []


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(one_line(name) for name in names[:_SHOWN]) + more

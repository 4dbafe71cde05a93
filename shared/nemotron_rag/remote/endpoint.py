"""How a model server is reached: key, headers, timeouts, sizes of requests; nothing shows the key."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypedDict, cast, get_args
from urllib.parse import urlsplit

from nemotron_rag.errors import InputError
from nemotron_rag.stores.server import Connection, HoldsSecret, Secrets

__all__ = ["DIALECTS", "KEY_VARIABLE", "Dialect", "Endpoint", "EndpointOptions", "ScoreScale", "key_variable"]

Dialect: TypeAlias = Literal["nemotron-rag", "nim", "vllm", "openai", "cohere", "jina", "tei"]
"""Whose wire format a server speaks: ours, NVIDIA NIM's, vLLM's, OpenAI's embeddings, Cohere's or Jina's reranking, or
that of Hugging Face's text-embeddings-inference."""

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

ScoreScale: TypeAlias = Literal["logit", "probability"]
"""What a server's scores are: raw logits, or their sigmoid."""

KEY_VARIABLE = "NEMOTRON_RAG_API_KEY"
"""The environment variable that holds the key of model servers, unless one is given."""

_VENDORS = {
    "api.nvidia.com": "NVIDIA_API_KEY",
    "api.openai.com": "OPENAI_API_KEY",
    "api.cohere.com": "CO_API_KEY",
    "api.cohere.ai": "CO_API_KEY",
    "api.jina.ai": "JINA_API_KEY",
}
"""The variables of others, by the end of the host that alone gets what they hold."""


class EndpointOptions(TypedDict, total=False):
    """What `Endpoint` is made of; see there."""

    api_key: str | HoldsSecret | None
    headers: Mapping[str, str] | None
    key_variable: str | None
    timeout: float
    patience: float | None
    batch_size: int
    batch_bytes: int
    connections: int
    truncate: Literal["END", "NONE"]
    scores: ScoreScale | None
    query_prefix: str | None
    passage_prefix: str | None


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Endpoint:
    """How requests to a model server are made.

    A pickle leaves the key out, which then comes from the environment; with headers there is no pickle. Key and headers
    are no fields: nothing that walks through these, as tracing does, meets them.

    Args:
        api_key: sent as ``Authorization: Bearer``; None for that of the environment: ``NVIDIA_API_KEY``,
            ``OPENAI_API_KEY``, ``CO_API_KEY`` or ``JINA_API_KEY`` for these vendors' own hosts, else, and where that is
            not set, ``NEMOTRON_RAG_API_KEY``.
        headers: sent with every request.
        key_variable: the environment variable that holds the key, in the place of these: where several servers have
            keys of their own.
        timeout: seconds that one request may take, from connecting to the last byte.
        patience: seconds for which a request is tried again while the server is busy or does not answer, 0 for never.
            None for 120 where passages are embedded, and for 5 where somebody waits: of queries, and of reranking.
        batch_size: inputs of one request at most.
        batch_bytes: of one request at most; a larger input is sent alone.
        connections: requests under way at once.
        truncate: what the server does with longer texts: cut at the "END", or refuse ("NONE"), where its format has it.
        scores: of a reranker; None for what its format says, or is found out of vLLM.
        query_prefix: put before each query, for formats that do not say what an input is; None for the model's own.
        passage_prefix: likewise before the text of each passage.

    Raises:
        InputError: a value is impossible; the message does not show key or headers.

    Example:
        >>> Endpoint(api_key="t0ps3cret", timeout=5)
        Endpoint(timeout=5)
    """

    key_variable: str | None = None
    timeout: float = 60.0
    patience: float | None = None
    batch_size: int = 32
    batch_bytes: int = 16 << 20
    connections: int = 16
    truncate: Literal["END", "NONE"] = "END"
    scores: ScoreScale | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None

    _connection: ClassVar[Connection]  # of each object; no field

    def __init__(
        self,
        *,
        api_key: str | HoldsSecret | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        known = {each.name: each.default for each in fields(type(self))}
        if unknown := [name for name in options if name not in known]:
            names = ", ".join(EndpointOptions.__annotations__)
            raise InputError(f"endpoint= has no option {', '.join(map(repr, unknown))}; give some of: {names}")
        given = {name: value for name, value in options.items() if value is not None}
        object.__setattr__(self, "_connection", Connection(api_key=api_key, headers=headers))
        for name, default in known.items():
            object.__setattr__(self, name, given.get(name, default))
        self._check()

    @classmethod
    def of(cls, given: Endpoint | EndpointOptions | Mapping[str, Any] | None) -> Endpoint:
        """An endpoint as it is, or made of options; None for the defaults.

        Raises:
            InputError: it is something else, or an option is unknown or impossible.
        """
        if isinstance(given, Endpoint):
            return given
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise InputError(f"endpoint= must be an Endpoint or its options, got {type(given).__name__}")
        return cls(**cast("dict[str, Any]", dict(given)))

    def __repr__(self) -> str:
        """What is not the default, but for key and headers."""
        return f"Endpoint({', '.join(f'{name}={value!r}' for name, value in self.to_json().items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Endpoint) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(tuple(self.to_json().items()))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # which, unlike a pickle, keeps the key

    def __reduce__(self) -> tuple[Any, ...]:
        if self._connection.headers:
            raise InputError(
                "headers of an endpoint may hold credentials and are not pickled; make it in the process that uses "
                f"it, or give the server an API key in {KEY_VARIABLE}"
            )
        return _restored, (self.to_json(),)

    def to_json(self) -> dict[str, Any]:
        """The options that are not the default, without key and headers; plain JSON."""
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        return {name: now for name, (now, default) in values.items() if now != default}

    def with_options(self, **options: Any) -> Self:
        """The same with other options."""
        return type(self)(**{**self._all(), **options})

    def sent(self, base_url: str) -> tuple[dict[str, str], Secrets]:
        """The headers of a request to a server, and what no message may show of them."""
        key = self._connection.api_key or self._key_of_environment(base_url)
        secrets = Secrets(key, self._connection.headers)
        return {**({} if key is None else {"authorization": f"Bearer {key}"}), **self._connection.headers}, secrets

    def names_of_key(self, base_url: str) -> tuple[str, ...]:
        """The environment variables in which the key of a server is looked for, in their order."""
        if self.key_variable is not None:
            return (self.key_variable,)
        return tuple(dict.fromkeys((key_variable(base_url), KEY_VARIABLE)))

    def _key_of_environment(self, base_url: str) -> str | None:
        names = self.names_of_key(base_url)
        return next((key for name in names if (key := Connection(api_key=os.environ.get(name)).api_key)), None)

    def _all(self) -> dict[str, Any]:
        return {"api_key": self._connection.api_key, "headers": self._connection.headers, **self.to_json()}

    def _check(self) -> None:
        for name in ("batch_size", "batch_bytes", "connections"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if not _is_seconds(self.timeout) or self.timeout == 0:
            raise InputError(f"timeout must be a positive number of seconds, got {self.timeout!r}")
        if not (self.patience is None or _is_seconds(self.patience)):
            raise InputError(f"patience must be a number of seconds, 0 for none, got {self.patience!r}")
        for name, choices in (("truncate", ("END", "NONE")), ("scores", (None, *get_args(ScoreScale)))):
            if getattr(self, name) not in choices:
                named = ", ".join(map(repr, filter(None, choices)))
                raise InputError(f"{name} must be one of {named}, got {getattr(self, name)!r}")
        self._check_texts()

    def _check_texts(self) -> None:
        texts = {name: getattr(self, name) for name in ("query_prefix", "passage_prefix", "key_variable")}
        if bad := [name for name, text in texts.items() if not isinstance(text, str | None)]:
            raise InputError(f"{bad[0]} must be a str, got {type(texts[bad[0]]).__name__}")
        if self.key_variable == "":
            raise InputError("key_variable must be the name of an environment variable, got ''")


def key_variable(base_url: str) -> str:
    """The environment variable whose key a server would get: a vendor's only for its own hosts."""
    host = (urlsplit(base_url).hostname or "").lower()
    found = next((name for end, name in _VENDORS.items() if host == end or host.endswith(f".{end}")), None)
    return KEY_VARIABLE if found is None else found


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _restored(options: dict[str, Any]) -> Endpoint:
    return Endpoint(**options)

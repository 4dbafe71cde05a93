"""A Qdrant server without a socket: the REST routes the store uses, answered by qdrant-client's embedded mode."""

from __future__ import annotations

import json
import threading

import httpx
from pydantic_core import to_jsonable_python
from qdrant_client import QdrantClient, models

from nemotron_rag.stores.qdrant import opening

DONE = {"operation_id": 0, "status": "completed"}


class Server:
    """Give `client()` to what is tested; `requests` tells what was asked, `answers` overrides the next answers."""

    def __init__(self) -> None:
        self.local = QdrantClient(":memory:")
        self.requests: list[tuple[str, str, dict]] = []
        self.headers: list[dict[str, str]] = []  # of the requests
        self.answers: list[httpx.Response | Exception | None] = []
        self._one_by_one = threading.RLock()  # unlike a server, the embedded client is not safe among threads

    def client(self) -> QdrantClient:
        transport = httpx.MockTransport(self._answer)
        return QdrantClient(url="http://qdrant.invalid", transport=transport, check_compatibility=False)

    def answer_at_urls(self, monkeypatch) -> None:
        """Be what our code finds at every url, as `QdrantClient` and the network would."""
        transport = httpx.MockTransport(self._answer)
        monkeypatch.setattr(opening, "QdrantClient", lambda **options: QdrantClient(**options, transport=transport))
        monkeypatch.setattr(opening, "answers_grpc", lambda url: False)

    def asked(self, method: str, ending: str) -> list[dict]:
        return [body for verb, path, body in self.requests if verb == method and path.endswith(ending)]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or b"{}")
        self.requests.append((request.method, str(request.url), body))
        self.headers.append(dict(request.headers))
        scripted = self.answers.pop(0) if self.answers else None
        if isinstance(scripted, Exception):
            raise scripted
        if scripted is not None:
            return scripted
        _, _, name, *rest = request.url.path.split("/")
        with self._one_by_one:
            result = self._routes[request.method, "/".join(rest)](name, body)
        return httpx.Response(200, json={"result": to_jsonable_python(result), "status": "ok", "time": 0.0})

    @property
    def _routes(self):
        local = self.local
        return {
            ("GET", "exists"): lambda name, body: {"exists": local.collection_exists(name)},
            ("GET", ""): lambda name, body: local.get_collection(name),
            ("PUT", ""): self._create,
            ("PATCH", ""): lambda name, body: True,  # settings change nothing of what is answered
            ("PUT", "index"): lambda name, body: DONE,
            ("PUT", "points"): self._upsert,
            ("POST", "points"): self._retrieve,
            ("POST", "points/delete"): lambda name, body: local.delete(name, _selector(body)) and DONE,
            ("POST", "points/payload"): self._set_payload,
            ("POST", "points/payload/delete"): self._delete_payload,
            ("POST", "points/batch"): self._batch,
            ("POST", "points/count"): lambda name, body: local.count(name, _filter(body)),
            ("POST", "points/scroll"): self._scroll,
            ("POST", "points/query"): self._query,
        }

    def _create(self, name: str, body: dict) -> bool:
        asked = models.CreateCollection(**body)
        return self.local.create_collection(
            name, asked.vectors, sparse_vectors_config=asked.sparse_vectors, metadata=asked.metadata
        )

    def _upsert(self, name: str, body: dict) -> dict:
        condition = models.Filter(**body["update_filter"]) if body.get("update_filter") else None
        self.local.upsert(name, _points(body), update_filter=condition, update_mode=body.get("update_mode"))
        return DONE

    def _set_payload(self, name: str, body: dict) -> dict:
        self.local.set_payload(name, body["payload"], _selector(body), key=body.get("key"))
        return DONE

    def _delete_payload(self, name: str, body: dict) -> dict:
        self.local.delete_payload(name, body["keys"], _selector(body))
        return DONE

    def _batch(self, name: str, body: dict) -> list[dict]:
        """One operation after the other, as a server does it."""
        work = {
            "upsert": self._upsert,
            "delete": lambda name, body: self.local.delete(name, _selector(body)),
            "set_payload": self._set_payload,
        }
        for operation in body["operations"]:
            ((kind, asked),) = operation.items()
            work[kind](name, asked)
        return [DONE] * len(body["operations"])

    def _retrieve(self, name: str, body: dict) -> list[models.Record]:
        asked = models.PointRequest(**body)
        return self.local.retrieve(
            name, asked.ids, with_payload=asked.with_payload, with_vectors=asked.with_vector or False
        )

    def _scroll(self, name: str, body: dict) -> dict:
        asked = models.ScrollRequest(**body)
        records, following = self.local.scroll(
            name,
            asked.filter,
            limit=asked.limit,
            offset=asked.offset,
            with_payload=asked.with_payload,
            with_vectors=asked.with_vector or False,
        )
        return {"points": records, "next_page_offset": following}

    def _query(self, name: str, body: dict) -> models.QueryResponse:
        asked = models.QueryRequest(**body)
        return self.local.query_points(
            name,
            prefetch=asked.prefetch,
            query=asked.query,
            using=asked.using,
            query_filter=asked.filter,
            limit=asked.limit,
            offset=asked.offset,
            score_threshold=asked.score_threshold,
            with_vectors=asked.with_vector or False,
        )


def _points(body: dict):
    if "batch" in body:
        return models.Batch(**body["batch"])
    return [models.PointStruct(**point) for point in body["points"]]


def _selector(body: dict) -> models.PointsSelector:
    if body.get("filter"):
        return models.FilterSelector(filter=models.Filter(**body["filter"]))
    return models.PointIdsList(points=body["points"])


def _filter(body: dict) -> models.Filter | None:
    return models.Filter(**body["filter"]) if body.get("filter") else None


class StrictServer(Server):
    """A server in strict mode: it refuses filters on fields that have no payload index."""

    def __init__(self) -> None:
        super().__init__()
        self.indexed: set[str] = set()
        self.refused: list[str] = []  # fields

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or b"{}")
        if request.method == "PUT" and request.url.path.endswith("/index"):
            self.indexed.add(body["field_name"])
        missing = sorted(set(_filtered(body)) - self.indexed)
        if missing:
            self.refused += missing
            reason = f'Bad request: Index required but not found for "{missing[0]}" of one of the following types'
            return httpx.Response(400, json={"status": {"error": reason}, "time": 0.0})
        return super()._answer(request)


def _filtered(body, under: str = ""):
    """The fields that the filters of a request look at."""
    if isinstance(body, list):
        for each in body:
            yield from _filtered(each, under)
    elif isinstance(body, dict) and isinstance(body.get("nested"), dict):
        yield from _filtered(body["nested"]["filter"], f"{under}{body['nested']['key']}[].")
    elif isinstance(body, dict):
        yield from (under + key for key in _looked_at(body))
        for name, part in body.items():
            if name not in ("payload", "points", "vector", "batch"):
                yield from _filtered(part, under)


def _looked_at(condition: dict):
    if isinstance(condition.get("key"), str) and ({"match", "range", "values_count"} & condition.keys()):
        yield condition["key"]
    yield from (condition[kind]["key"] for kind in ("is_empty", "is_null") if isinstance(condition.get(kind), dict))

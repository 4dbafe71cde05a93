"""A Qdrant server that speaks gRPC on a port of this machine, answered by qdrant-client's embedded mode."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
from qdrant_client import QdrantClient
from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc.collections_service_pb2_grpc import CollectionsServicer, add_CollectionsServicer_to_server
from qdrant_client.grpc.points_service_pb2_grpc import PointsServicer, add_PointsServicer_to_server

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class GrpcServer:
    """In a ``with`` block, its `port` answers; `called` tells what was asked, with the bytes of each message."""

    def __init__(self) -> None:
        self.local = QdrantClient(":memory:")
        self.called: list[tuple[str, int]] = []
        self.headers: list[dict[str, str]] = []  # of the calls
        self.failures: list[grpc.StatusCode] = []  # of the next calls
        self._server = grpc.server(ThreadPoolExecutor(1), interceptors=[_Watch(self)], options=UNLIMITED)
        add_CollectionsServicer_to_server(_Collections(self.local), self._server)
        add_PointsServicer_to_server(_Points(self), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> GrpcServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()


class _Watch(grpc.ServerInterceptor):
    def __init__(self, server: GrpcServer) -> None:
        self.server = server

    def intercept_service(self, continuation, details):
        self.server.called.append((details.method.rpartition("/")[2], 0))
        self.server.headers.append(dict(details.invocation_metadata))
        if self.server.failures:
            code = self.server.failures.pop(0)
            return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(code, "no,\nnot now"))
        return continuation(details)


class _Collections(CollectionsServicer):
    def __init__(self, local: QdrantClient) -> None:
        self.local = local

    def CollectionExists(self, request, context):  # noqa: N802
        exists = self.local.collection_exists(request.collection_name)
        return messages.CollectionExistsResponse(result=messages.CollectionExists(exists=exists))

    def Create(self, request, context):  # noqa: N802
        self.local.create_collection(
            request.collection_name,
            GrpcToRest.convert_vectors_config(request.vectors_config),
            sparse_vectors_config=GrpcToRest.convert_sparse_vector_config(request.sparse_vectors_config),
        )
        return messages.CollectionOperationResponse(result=True)

    def Get(self, request, context):  # noqa: N802
        info = self.local.get_collection(request.collection_name)
        return messages.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))


class _Points(PointsServicer):
    def __init__(self, server: GrpcServer) -> None:
        self.server, self.local = server, server.local

    def Upsert(self, request, context):  # noqa: N802
        self.server.called[-1] = ("Upsert", request.ByteSize())
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        mode = GrpcToRest.convert_update_mode(request.update_mode) if request.HasField("update_mode") else None
        condition = GrpcToRest.convert_filter(request.update_filter) if request.HasField("update_filter") else None
        done = self.local.upsert(request.collection_name, points, update_filter=condition, update_mode=mode)
        return _done(done)

    def CreateFieldIndex(self, request, context):  # noqa: N802
        return messages.PointsOperationResponse(result=messages.UpdateResult(status=messages.UpdateStatus.Completed))

    def Get(self, request, context):  # noqa: N802
        ids = [GrpcToRest.convert_point_id(each) for each in request.ids]
        wanted = GrpcToRest.convert_with_payload_selector(request.with_payload)
        vectors = GrpcToRest.convert_with_vectors_selector(request.with_vectors)
        records = self.local.retrieve(request.collection_name, ids, wanted, vectors)
        return messages.GetResponse(result=[_record(record) for record in records])

    def Count(self, request, context):  # noqa: N802
        count = self.local.count(request.collection_name, _filter(request)).count
        return messages.CountResponse(result=messages.CountResult(count=count))

    def Scroll(self, request, context):  # noqa: N802
        records, following = self.local.scroll(
            request.collection_name,
            _filter(request),
            limit=request.limit,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
        )
        offset = None if following is None else RestToGrpc.convert_extended_point_id(following)
        result = [_record(record) for record in records]
        return messages.ScrollResponse(result=result, next_page_offset=offset)

    def Delete(self, request, context):  # noqa: N802
        return _done(self.local.delete(request.collection_name, GrpcToRest.convert_points_selector(request.points)))

    def SetPayload(self, request, context):  # noqa: N802
        points = GrpcToRest.convert_points_selector(request.points_selector)
        payload = GrpcToRest.convert_payload(request.payload)
        return _done(self.local.set_payload(request.collection_name, payload, points=points))

    def UpdateBatch(self, request, context):  # noqa: N802
        done = [self._update(request.collection_name, each) for each in request.operations]
        return messages.UpdateBatchResponse(result=[RestToGrpc.convert_update_result(result) for result in done])

    def _update(self, name, operation):
        kind = operation.WhichOneof("operation")
        asked = getattr(operation, kind)
        if kind == "delete_points":
            return self.local.delete(name, GrpcToRest.convert_points_selector(asked.points))
        selector = GrpcToRest.convert_points_selector(asked.points_selector)
        return self.local.set_payload(name, GrpcToRest.convert_payload(asked.payload), points=selector)

    def Query(self, request, context):  # noqa: N802
        asked = GrpcToRest.convert_query_points(request)
        found = self.local.query_points(
            request.collection_name,
            asked.query,
            using=asked.using,
            prefetch=asked.prefetch,
            query_filter=asked.filter,
            limit=asked.limit,
        )
        return messages.QueryResponse(result=[RestToGrpc.convert_scored_point(point) for point in found.points])


def _filter(request):
    return GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None


def _done(result):
    return messages.PointsOperationResponse(result=RestToGrpc.convert_update_result(result))


def _record(record):
    return RestToGrpc.convert_record(record.model_copy(update={"payload": record.payload or {}}))

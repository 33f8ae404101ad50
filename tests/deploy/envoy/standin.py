"""A gRPC server of fresco.v1 that answers as a test says: for what the real one cannot be made to do at will (every status, answers of the
largest size, requests kept as they came). What the real one can be made to do is tested with it."""

import concurrent.futures
import contextlib

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from stubs import pb, rpc


def details_of(code, message, field=None, retry_seconds=None):
    """google.rpc.Status, as fresco-server attaches it."""
    status = status_pb2.Status(code=code.value[0], message=message)
    if field:
        bad = error_details_pb2.BadRequest(field_violations=[error_details_pb2.BadRequest.FieldViolation(field=field, description=message)])
        status.details.append(_packed(bad))
    if retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(retry_seconds * 1e9))
        status.details.append(_packed(retry))
    return ("grpc-status-details-bin", status.SerializeToString())


def _packed(message):
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


class StandIn(rpc.ImageGenerationServicer):
    """create_image, generate: functions of the request and the context; calls are kept in `seen` as (request, metadata)."""

    def __init__(self):
        self.seen = []
        self.well = health.HealthServicer()  # SERVING
        self.create_image = lambda request, context: pb.CreateImageResponse(created=1)
        self.generate = lambda request, context: iter(())

    def _keep(self, request, context):
        self.seen.append((request, dict(context.invocation_metadata())))

    def CreateImage(self, request, context):
        self._keep(request, context)
        return self.create_image(request, context)

    def Generate(self, request, context):
        self._keep(request, context)
        yield from self.generate(request, context)


@contextlib.contextmanager
def running_standin(credentials=None):
    """Yields a StandIn and its address; with `credentials` (grpc.ServerCredentials) it speaks TLS."""
    standin = StandIn()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=[("grpc.max_send_message_length", -1)])
    rpc.add_ImageGenerationServicer_to_server(standin, server)
    standin.well.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(standin.well, server)
    port = server.add_secure_port("127.0.0.1:0", credentials) if credentials else server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield standin, f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()

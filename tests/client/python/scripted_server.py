"""A gRPC server in this process that answers as a test says: for what a real one does not do when it is asked to."""

import concurrent.futures
import queue
import subprocess
import threading

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

import installed  # noqa: F401
from fresco.v1 import image_generation_pb2 as pb
from fresco.v1 import image_generation_pb2_grpc as rpc
from fresco.v1 import operations_pb2, operations_pb2_grpc


class Failure(Exception):
    """Ends a call with this status, and google.rpc details."""

    def __init__(self, code, message, *, retry_after=None, violations=()):
        super().__init__(message)
        self.code, self.message = code, message
        self.details = []
        if retry_after is not None:
            self.details.append(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=int(retry_after * 1e9))))
        if violations:
            self.details.append(error_details_pb2.BadRequest(field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in violations]))

    def end(self, context):
        if self.details:
            details = status_pb2.Status(code=self.code.value[0], message=self.message)
            for detail in self.details:
                packed = any_pb2.Any()
                packed.Pack(detail)
                details.details.append(packed)
            context.set_trailing_metadata([("grpc-status-details-bin", details.SerializeToString())])
        context.abort(self.code, self.message)


class Call:
    """What the server saw of one call."""

    def __init__(self, request, context):
        self.request = request
        self.metadata = dict(context.invocation_metadata())
        self.time_left = context.time_remaining()
        self.gone = threading.Event()  # it has ended, whoever ended it
        context.add_callback(self.gone.set)


class ScriptedServer(rpc.ImageGenerationServicer, operations_pb2_grpc.OperationsServicer):
    """Answers the n-th Generate with the n-th of `answers`: a list of events, Failures to end with, and HANG. Use as a context manager."""

    HANG = object()  # until the caller goes

    def __init__(self, *answers, credentials=None):
        self.answers = queue.Queue()
        for answer in answers:
            self.answers.put(answer)
        self.calls = []
        self.arrived = threading.Semaphore(0)
        self.hanging = threading.Semaphore(0)
        self.models = pb.ListModelsResponse()
        self.status = operations_pb2.GetStatusResponse()
        self.failures = queue.Queue()  # of unary calls, one each
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        rpc.add_ImageGenerationServicer_to_server(self, self._server)
        operations_pb2_grpc.add_OperationsServicer_to_server(self, self._server)
        port = (self._server.add_insecure_port("127.0.0.1:0") if credentials is None
                else self._server.add_secure_port("127.0.0.1:0", credentials))
        self.address = f"127.0.0.1:{port}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(0).wait()

    def Generate(self, request, context):
        call = Call(request, context)
        self.calls.append(call)
        self.arrived.release()
        for item in self.answers.get_nowait():
            if isinstance(item, Failure):
                item.end(context)
            elif item is self.HANG:
                self.hanging.release()
                call.gone.wait()
            else:
                yield item

    def ListModels(self, request, context):
        return self._answer(request, context, self.models)

    def Cancel(self, request, context):
        return self._answer(request, context, pb.CancelResponse())

    def GetStatus(self, request, context):
        return self._answer(request, context, self.status)

    def _answer(self, request, context, response):
        self.calls.append(Call(request, context))
        if not self.failures.empty():
            self.failures.get().end(context)
        return response


def progress(step, image_index=0, total_steps=2):
    return pb.GenerateEvent(progress=pb.Progress(image_index=image_index, step=step, total_steps=total_steps,
                                                 remaining=duration_pb2.Duration(seconds=1, nanos=500_000_000)))


def chunk(data, offset=0, total=None, image_index=0, seed=7):
    provenance = pb.Provenance(model="demo", steps=2, batch_size_max=3) if offset == 0 else None
    return pb.GenerateEvent(image=pb.ImageChunk(image_index=image_index, mime_type="image/png", seed=seed, provenance=provenance, data=data,
                                                offset=offset, total_bytes=len(data) if total is None else total, width=16, height=32))


def completed(*warnings):
    return pb.GenerateEvent(completed=pb.Completed(timings=pb.Timings(queue=duration_pb2.Duration(nanos=250_000_000)), warnings=warnings))


class Certificates:
    """A certificate authority of its own in a folder, by the openssl program."""

    def __init__(self, folder):
        self.folder = folder
        self._run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=test authority",
                  "-keyout", "ca.key", "-out", "ca.pem")
        self.make("server", "subjectAltName=IP:127.0.0.1,DNS:fresco.test")
        self.make("client", "subjectAltName=DNS:client.test")

    def make(self, name, extension):
        self._run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                  "-out", f"{name}.csr")
        (self.folder / f"{name}.ext").write_text(extension)
        self._run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext",
                  "-out", f"{name}.pem")

    def path(self, name):
        return self.folder / name

    def read(self, name):
        return self.path(name).read_bytes()

    def server_credentials(self, mutual=False):
        return grpc.ssl_server_credentials([(self.read("server.key"), self.read("server.pem"))], self.read("ca.pem") if mutual else None, mutual)

    def _run(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

"""What can go wrong, as exceptions: one class for each status that a caller may want to tell apart."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from fresco import _wire


@dataclasses.dataclass(frozen=True)
class FieldViolation:
    """What is wrong with a field of the request."""

    field: str
    description: str


class Failed(Protocol):
    """What gRPC raises, of both its APIs."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Any: ...


class Error(Exception):
    """A call has failed. Subclasses are of one status each; a status without one is an Error itself."""

    status: ClassVar[grpc.StatusCode | None] = None

    def __init__(self, code: grpc.StatusCode, message: str, *, violations: tuple[FieldViolation, ...] = (), retry_delay: float | None = None,
                 request_id: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.violations = violations  # InvalidArgument: every field that is wrong
        self.retry_delay = retry_delay  # seconds after which the server says to come back; None: it says nothing
        self.request_id = request_id  # of the request that failed; "": of another call

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name


class InvalidArgument(Error):
    """The request cannot be drawn: `violations` says why."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(Error):
    """No such model, or no such request to cancel."""

    status = grpc.StatusCode.NOT_FOUND


class AlreadyExists(Error):
    """Another request has this request_id; the message says in what they differ."""

    status = grpc.StatusCode.ALREADY_EXISTS


class Unauthenticated(Error):
    """The server wants a token, and this is none of those it knows."""

    status = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(Error):
    """The token does not allow this call."""

    status = grpc.StatusCode.PERMISSION_DENIED


class FailedPrecondition(Error):
    """The model could not be loaded, or only LoadModel loads it."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhausted(Error):
    """The queue is full (`retry_delay` says when to come back), or memory ran out."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(Error):
    """No server is reached, the model is being loaded, or the server is about to end."""

    status = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(Error):
    """The timeout has passed, or is known not to be met."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(Error):
    """The request was cancelled: by cancel(), or as the client was closed."""

    status = grpc.StatusCode.CANCELLED


_BY_STATUS = {kind.status: kind for kind in Error.__subclasses__()}


def error(code: grpc.StatusCode, message: str, **more: Any) -> Error:
    return _BY_STATUS.get(code, Error)(code, message, **more)


def from_call(failed: Failed, request_id: str = "") -> Error:
    """Of what gRPC has raised, with the details that the server sent."""
    violations: tuple[FieldViolation, ...] = ()
    retry_delay = None
    for detail in _details(failed):
        bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            violations += tuple(FieldViolation(v.field, v.description) for v in bad.field_violations)
        elif detail.Unpack(retry):
            retry_delay = max(0.0, _wire.seconds(retry.retry_delay))
    return error(failed.code(), failed.details() or "", violations=violations, retry_delay=retry_delay, request_id=request_id)


def _details(failed: Failed) -> list[Any]:
    for key, value in failed.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:  # a proxy's own idea of it
                return []
    return []

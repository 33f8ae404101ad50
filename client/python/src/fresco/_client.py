"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Unpack

import grpc

from fresco import _errors, _wire
from fresco._base import Base, Collector
from fresco._drawing import Drawing
from fresco._options import DrawOptions
from fresco._types import Event, Model, Picture, Progress, Status
from fresco.v1 import image_generation_pb2 as pb
from fresco.v1 import operations_pb2


class Client(Base):
    """A server, or a balancer before several. Thread-safe. Connects with the first call.

    token: sent as `authorization: Bearer TOKEN`; or a function that gives the one to send now. Without TLS only to this machine, unless
      plaintext_token is set.
    tls: True, or a TLS with whom to trust; else plain text.
    tenant: sent as `fresco-tenant`, where the server takes the caller's word (scheduler.tenant_header).
    timeout: seconds for each call, all its retries included; None: as long as it takes. A call may have its own.
    retries: when a call is made again; Retries(attempts=1): never.

    Calls raise Error.
    """

    _api = grpc

    def generate(self, prompt: str, *, on_progress: Callable[[Progress], None] | None = None, timeout: float | None = None,
                 **options: Unpack[DrawOptions]) -> list[Picture]:
        """Draws pictures, and returns them when all are there.

        on_progress is called with each step of each picture; what it raises ends the call, as Ctrl-C does, at the server too.
        What was not done to the letter is said as a DrawWarning.
        """
        collector = Collector(on_progress)
        with self.stream(prompt, timeout=timeout, **options) as stream:
            for event in stream:
                collector.take(event)
        return collector.pictures()

    def stream(self, prompt: str, *, timeout: float | None = None, **options: Unpack[DrawOptions]) -> Stream:
        """Draws pictures, and yields what happens as it does. The call begins with the first event asked for; one that is closed, or
        dropped, before its end is cancelled at the server."""
        drawing = self._drawing(prompt, timeout, options)
        return Stream(drawing.request.request_id, drawing.request.seed, self._events(drawing))

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Those that the server has, loaded or not; the first is the default."""
        response = self._call(self._images.ListModels, pb.ListModelsRequest(), timeout)
        return [_wire.from_wire(Model, model) for model in response.models]

    def cancel(self, request_id: str, *, timeout: float | None = None) -> None:
        """Ends a waiting or running request of one's own. NotFound where there is none."""
        self._call(self._images.Cancel, pb.CancelRequest(request_id=request_id), timeout)

    def status(self, *, timeout: float | None = None) -> Status:
        """What the server is and does right now; where it has tokens, for operators alone."""
        return _wire.from_wire(Status, self._call(self._operations.GetStatus, operations_pb2.GetStatusRequest(), timeout))

    def close(self) -> None:
        """Ends the connection, and with it what is still being drawn."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _events(self, drawing: Drawing) -> Generator[Event, None, None]:
        while True:
            drawing.begin()
            call = self._images.Generate(drawing.request, timeout=drawing.schedule.time_left(), metadata=self._connection.metadata())
            try:
                for message in call:
                    event = drawing.take(message)
                    if event is not None:
                        yield event
                drawing.finish()
                return
            except grpc.RpcError as failure:
                retrying = drawing.failed(failure)
            finally:
                call.cancel()  # of one that has ended: nothing
            yield retrying
            time.sleep(retrying.delay)

    def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        schedule = self._schedule(timeout)
        while True:
            try:
                return method(request, timeout=schedule.time_left(), metadata=self._connection.metadata())
            except grpc.RpcError as failure:
                delay = schedule.delay_after(_errors.from_call(failure))
            time.sleep(delay)


class Stream(Iterator[Event]):
    """What happens to a request, as it happens. For one thread."""

    def __init__(self, request_id: str, seed: int, events: Generator[Event, None, None]) -> None:
        self.request_id = request_id  # for cancel()
        self.seed = seed  # of the first picture
        self._events = events

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Ends the request, at the server too, unless it has ended."""
        self._events.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

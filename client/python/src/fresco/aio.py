"""The client for asyncio: as fresco.Client, awaited.

    async with fresco.aio.Client("127.0.0.1:8500") as client:
        picture, = await client.generate("a red apple on a light blue background", seed=1)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
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

__all__ = ["Client", "Stream"]


class Client(Base):
    """As fresco.Client, for one event loop: make it where that runs. A task that is cancelled cancels its request at the server."""

    _api = grpc.aio

    async def generate(self, prompt: str, *, on_progress: Callable[[Progress], None] | None = None, timeout: float | None = None,
                       **options: Unpack[DrawOptions]) -> list[Picture]:
        """Draws pictures, and returns them when all are there. on_progress as in fresco.Client; it must not block."""
        collector = Collector(on_progress)
        async with self.stream(prompt, timeout=timeout, **options) as stream:
            async for event in stream:
                collector.take(event)
        return collector.pictures()

    def stream(self, prompt: str, *, timeout: float | None = None, **options: Unpack[DrawOptions]) -> Stream:
        """Draws pictures, and yields what happens as it does: `async with client.stream(…) as events: async for event in events`. The call
        begins with the first event asked for; one that is closed before its end is cancelled at the server."""
        drawing = self._drawing(prompt, timeout, options)
        return Stream(drawing.request.request_id, drawing.request.seed, self._events(drawing))

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Those that the server has, loaded or not; the first is the default."""
        response = await self._call(self._images.ListModels, pb.ListModelsRequest(), timeout)
        return [_wire.from_wire(Model, model) for model in response.models]

    async def cancel(self, request_id: str, *, timeout: float | None = None) -> None:
        """Ends a waiting or running request of one's own. NotFound where there is none."""
        await self._call(self._images.Cancel, pb.CancelRequest(request_id=request_id), timeout)

    async def status(self, *, timeout: float | None = None) -> Status:
        """What the server is and does right now; where it has tokens, for operators alone."""
        return _wire.from_wire(Status, await self._call(self._operations.GetStatus, operations_pb2.GetStatusRequest(), timeout))

    async def close(self) -> None:
        """Ends the connection, and with it what is still being drawn."""
        await self._channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _events(self, drawing: Drawing) -> AsyncGenerator[Event, None]:
        while True:
            drawing.begin()
            call = self._images.Generate(drawing.request, timeout=drawing.schedule.time_left(), metadata=self._connection.metadata())
            try:
                async for message in call:
                    event = drawing.take(message)
                    if event is not None:
                        yield event
                drawing.finish()
                return
            except grpc.aio.AioRpcError as failure:
                retrying = drawing.failed(failure)
            finally:
                call.cancel()  # of one that has ended: nothing
            yield retrying
            await asyncio.sleep(retrying.delay)

    async def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        schedule = self._schedule(timeout)
        while True:
            try:
                return await method(request, timeout=schedule.time_left(), metadata=self._connection.metadata())
            except grpc.aio.AioRpcError as failure:
                delay = schedule.delay_after(_errors.from_call(failure))
            await asyncio.sleep(delay)


class Stream(AsyncIterator[Event]):
    """What happens to a request, as it happens. For one task."""

    def __init__(self, request_id: str, seed: int, events: AsyncGenerator[Event, None]) -> None:
        self.request_id = request_id  # for cancel()
        self.seed = seed  # of the first picture
        self._events = events

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def close(self) -> None:
        """Ends the request, at the server too, unless it has ended."""
        await self._events.aclose()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

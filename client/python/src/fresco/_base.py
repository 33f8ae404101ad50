"""What both clients have in common: how they are made, and what they do without waiting."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from fresco._channel import TLS, Connection, Token
from fresco._drawing import Drawing, Retries, Schedule
from fresco._options import DrawOptions, make_request
from fresco._types import Completed, DrawWarning, Event, Picture, Progress
from fresco.v1 import image_generation_pb2_grpc, operations_pb2_grpc


class Base:
    """A server and its methods. Its arguments are fresco.Client's."""

    _api: Any  # grpc or grpc.aio, whose channels are made and called alike

    def __init__(self, address: str = "127.0.0.1:8500", *, token: Token | None = None, tls: bool | TLS | None = None, tenant: str | None = None,
                 timeout: float | None = None, retries: Retries | None = None, plaintext_token: bool = False) -> None:
        self._connection = connection = Connection.make(address, token, tls, tenant, timeout, retries, plaintext_token)
        if connection.tls is None:
            self._channel = self._api.insecure_channel(address, options=connection.options())
        else:
            self._channel = self._api.secure_channel(address, connection.tls.credentials(), options=connection.options())
        # The generated stubs have no types.
        self._images = image_generation_pb2_grpc.ImageGenerationStub(self._channel)  # type: ignore[no-untyped-call]
        self._operations = operations_pb2_grpc.OperationsStub(self._channel)  # type: ignore[no-untyped-call]

    def _schedule(self, timeout: float | None) -> Schedule:
        return Schedule(self._connection.retries, self._connection.timeout if timeout is None else timeout)

    def _drawing(self, prompt: str, timeout: float | None, options: DrawOptions) -> Drawing:
        return Drawing(make_request(prompt, options), self._schedule(timeout))


class Collector:
    """What generate() makes of events: calls, warnings and, at the end, pictures."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self._on_progress = on_progress
        self._pictures: list[Picture] = []

    def take(self, event: Event) -> None:
        """Called by generate() itself: its caller is whom a warning names."""
        if isinstance(event, Picture):
            self._pictures.append(event)
        elif isinstance(event, Progress) and self._on_progress is not None:
            self._on_progress(event)
        elif isinstance(event, Completed):
            for warning in event.warnings:
                warnings.warn(warning.message, DrawWarning, stacklevel=3)

    def pictures(self) -> list[Picture]:
        return sorted(self._pictures, key=lambda picture: picture.image_index)

"""One request over as many calls as it takes, without I/O: what both clients have in common."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable

import grpc
from google.protobuf.message import Message

from fresco import _errors, _wire
from fresco._types import Completed, Event, Picture, Progress, Provenance, Queued, Retrying, Started
from fresco.v1 import image_generation_pb2 as pb

_PLAIN: dict[str, type[Queued] | type[Started] | type[Progress] | type[Completed]] = {
    "queued": Queued, "started": Started, "progress": Progress, "completed": Completed}


@dataclasses.dataclass(frozen=True)
class Retries:
    """When a call that failed is made again: on UNAVAILABLE, and on RESOURCE_EXHAUSTED where the server says when to come back.

    The server's word (google.rpc.RetryInfo) counts; without it the wait is `first_delay`, each further one `growth` times as long, up to
    `max_delay`. A fifth at most is added at random, so that not all callers come back at once.
    """

    attempts: int = 6  # calls, of which no server has said when to come back; 1: no call is made again
    first_delay: float = 0.25  # seconds
    growth: float = 2.0
    max_delay: float = 30.0  # seconds
    max_wait: float = 120.0  # seconds, between all calls of a request together

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_delay < 0 or self.growth < 1 or self.max_delay < 0 or self.max_wait < 0:
            raise ValueError(f"these can be no retries: {self}")


class Schedule:
    """Says after each failure how long to wait before the next call, or that there is none. Times are `clock`'s, in seconds."""

    def __init__(self, retries: Retries, timeout: float | None, clock: Callable[[], float] = time.monotonic,
                 jitter: Callable[[], float] = random.random) -> None:
        self._retries = retries
        self._clock = clock
        self._jitter = jitter
        self._deadline = None if timeout is None else clock() + timeout
        self._unanswered = 0  # failures without a word about when to come back
        self._waited = 0.0
        self.failures = 0

    def time_left(self) -> float | None:
        """For the next call. None: as long as it takes. Raises DeadlineExceeded when there is none."""
        if self._deadline is None:
            return None
        left = self._deadline - self._clock()
        if left <= 0:
            raise _errors.error(grpc.StatusCode.DEADLINE_EXCEEDED, "the timeout has passed")
        return left

    def delay_after(self, error: _errors.Error) -> float:
        """Seconds to wait. Raises `error` where no call is to be made again."""
        if not self._transient(error):
            raise error
        self.failures += 1
        delay = error.retry_delay
        if delay is None:
            self._unanswered += 1
            if self._unanswered >= self._retries.attempts:
                raise error
            delay = min(self._retries.first_delay * self._retries.growth ** (self._unanswered - 1), self._retries.max_delay)
        elif self._retries.attempts == 1:
            raise error
        delay *= 1 + 0.2 * self._jitter()
        self._waited += delay
        in_time = self._deadline is None or self._clock() + delay < self._deadline
        if self._waited > self._retries.max_wait or not in_time:
            raise error
        return delay

    def _transient(self, error: _errors.Error) -> bool:
        if error.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return error.retry_delay is not None  # memory that ran out, or a reader too slow, stays what it is
        # Once a call was lost, its request may still run at the server, which has not noticed yet.
        lost = error.code == grpc.StatusCode.ALREADY_EXISTS and self.failures > 0
        return error.code == grpc.StatusCode.UNAVAILABLE or lost


class Drawing:
    """Turns a request's messages into events, each picture once, however many calls it takes. Not thread-safe."""

    def __init__(self, request: pb.GenerateRequest, schedule: Schedule) -> None:
        self.request = request
        self.schedule = schedule
        self._chunks: dict[int, list[pb.ImageChunk]] = {}  # of this call's unfinished images
        self._here: set[int] = set()  # images that this call has brought
        self._done: set[int] = set()  # images that were given out, in this call or before
        self._completed = False

    def begin(self) -> None:
        """A call begins: what the last one left unfinished comes again."""
        self._chunks.clear()
        self._here.clear()

    def take(self, message: pb.GenerateEvent) -> Event | None:
        """The event that a message makes, if it makes one. Raises Error where the server says what cannot be."""
        kind = message.WhichOneof("event")
        if kind == "image":
            return self._add(message.image)
        if kind is None:  # of a newer server
            return None
        self._completed = self._completed or kind == "completed"
        inner: Message = getattr(message, kind)
        return _wire.from_wire(_PLAIN[kind], inner)

    def finish(self) -> None:
        """The call ended well; raises Error unless it brought everything."""
        wanted = max(self.request.image_count, 1)
        if not self._completed or len(self._done) != wanted:
            raise self._nonsense(f"the answer ended after {len(self._done)} of {wanted} pictures")

    def failed(self, failure: _errors.Failed) -> Retrying:
        """The call failed: what comes next; raises Error where nothing does."""
        error = _errors.from_call(failure, self.request.request_id)
        return Retrying(self.schedule.delay_after(error), self.schedule.failures, error)

    def _add(self, chunk: pb.ImageChunk) -> Picture | None:
        index = chunk.image_index
        if index in self._here:
            raise self._nonsense(f"image {index} came twice")
        chunks = self._chunks.setdefault(index, [])
        here = sum(len(one.data) for one in chunks)
        if chunk.offset != here or here + len(chunk.data) > chunk.total_bytes:
            raise self._nonsense(f"a part of image {index} at byte {chunk.offset} of {chunk.total_bytes} came at {here}")
        chunks.append(chunk)
        if here + len(chunk.data) < chunk.total_bytes:
            return None
        del self._chunks[index]
        self._here.add(index)
        if index in self._done:  # an earlier call had brought it: equal seeds give equal pictures
            return None
        self._done.add(index)
        return Picture(b"".join(one.data for one in chunks), chunk.mime_type, chunk.seed, chunk.width, chunk.height, index,
                       _wire.from_wire(Provenance, chunks[0].provenance))

    def _nonsense(self, what: str) -> _errors.Error:
        return _errors.error(grpc.StatusCode.INTERNAL, what, request_id=self.request.request_id)

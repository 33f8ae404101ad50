"""What the server says, as plain values. Fields are named as in docs/API.md; durations are seconds."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import os
import pathlib
import secrets
from typing import Any

_EXTENSIONS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


class DrawWarning(UserWarning):
    """generate() drew what it was asked for, but for something: its text says what."""


class Priority(enum.Enum):
    UNSPECIFIED = "UNSPECIFIED"  # or of a newer server
    INTERACTIVE = "INTERACTIVE"
    STANDARD = "STANDARD"
    BATCH = "BATCH"


class ModelState(enum.Enum):
    UNSPECIFIED = "UNSPECIFIED"  # or of a newer server
    LOADING = "LOADING"
    READY = "READY"
    FAILED = "FAILED"
    UNLOADED = "UNLOADED"
    UNLOADING = "UNLOADING"


class WarningKind(enum.Enum):
    UNSPECIFIED = "UNSPECIFIED"  # or of a newer server
    PROMPT_TRUNCATED = "PROMPT_TRUNCATED"
    VALUE_CLAMPED = "VALUE_CLAMPED"
    PRECISION_FALLBACK = "PRECISION_FALLBACK"


@dataclasses.dataclass(frozen=True)
class Queued:
    """It waits; said again whenever the position changes."""

    position: int  # requests before it
    estimated_wait: float  # seconds until it starts
    request_id: str


@dataclasses.dataclass(frozen=True)
class Started:
    """A device works on it."""

    device: str  # "cpu", "cuda:0"


@dataclasses.dataclass(frozen=True)
class Progress:
    """A step of an image is done."""

    image_index: int  # from 0
    step: int  # done, of total_steps
    total_steps: int
    remaining: float  # seconds until this image is done
    preview: bytes = dataclasses.field(default=b"", repr=False)  # a picture; empty in most events
    preview_mime_type: str = ""  # "image/jpeg"; empty without a preview


@dataclasses.dataclass(frozen=True)
class Provenance:
    """How a picture came to be; also embedded in the picture."""

    model: str
    weights_digest: str  # "sha256:…"
    precision: str  # "fp32", "bf16", "fp8", …
    device: str
    software: str  # the server's: "fresco 0.1.0"
    steps: int
    guidance_scale: float
    sampler: str
    batch_size_min: int  # the fewest images in a step of this one
    batch_size_max: int  # the most
    calibration_digest: str  # empty: none


@dataclasses.dataclass(frozen=True)
class Picture:
    """A finished picture. As an event: this image of the request is done."""

    data: bytes = dataclasses.field(repr=False)  # the file
    mime_type: str  # "image/png", "image/jpeg", "image/webp"
    seed: int  # draws this very picture again
    width: int  # pixels
    height: int  # pixels
    image_index: int  # of the request, from 0
    provenance: Provenance = dataclasses.field(repr=False)

    @property
    def extension(self) -> str:
        """Of its file: ".png"."""
        return _EXTENSIONS.get(self.mime_type, "")

    def save(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Writes the file, whole or not at all, and returns its path; one without an extension gets the picture's."""
        target = pathlib.Path(path)
        if not target.suffix:
            target = target.with_suffix(self.extension)
        # Not tempfile's, which are their owner's alone: this is to be a file like any other.
        partial = target.with_name(f".{secrets.token_hex(8)}.partial")
        try:
            with open(partial, "xb") as file:
                file.write(self.data)
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return target

    def _repr_mimebundle_(self, **_: Any) -> dict[str, bytes]:
        """For notebooks, which show it."""
        return {self.mime_type: self.data}


@dataclasses.dataclass(frozen=True)
class Timings:
    """Where the time went, in seconds."""

    queue: float
    prepare: float
    denoise: float
    decode: float
    encode: float
    total: float


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Images in a step, over all steps of the request."""

    min: int
    max: int
    mean: float


@dataclasses.dataclass(frozen=True)
class Warning:
    """Something was done otherwise than asked for."""

    kind: WarningKind
    field: str  # of the request: "prompt"
    message: str


@dataclasses.dataclass(frozen=True)
class Completed:
    """The last event: all pictures are there."""

    timings: Timings
    batch_sizes: BatchSizes
    peak_memory_bytes: int
    warnings: tuple[Warning, ...]


@dataclasses.dataclass(frozen=True)
class Retrying:
    """The call failed and is made again, with the same request_id and seed, once `delay` is over. This client's own event."""

    delay: float  # seconds
    failures: int  # so far
    reason: Exception  # an Error


Event = Queued | Started | Progress | Picture | Completed | Retrying


@dataclasses.dataclass(frozen=True)
class Model:
    """A configured model: what it is, what a request gets that leaves something out, and what one may ask for."""

    name: str
    state: ModelState
    error: str  # why it failed
    architecture: str
    precision: str
    weights_digest: str
    devices: tuple[str, ...]  # those that it is loaded on
    default_width: int
    default_height: int
    default_steps: int
    default_guidance_scale: float
    default_max_sequence_length: int
    size_multiple: int  # pixels
    max_width: int
    max_height: int
    max_steps: int
    max_image_count: int


@dataclasses.dataclass(frozen=True)
class Device:
    """A device, and what is on it."""

    name: str
    models: tuple[str, ...]
    batch_size: int  # images in the step being computed
    memory_weights_bytes: int
    memory_allocated_bytes: int
    memory_peak_bytes: int
    notes: tuple[str, ...]
    lost: str  # why it is lost; empty: it is not
    memory_budget_bytes: int  # 0: no bound


@dataclasses.dataclass(frozen=True)
class RunningRequest:
    """A request that waits or runs."""

    request_id: str
    model: str
    priority: Priority
    images_done: int
    image_count: int
    steps_done: int
    total_steps: int
    age: float  # seconds
    waiting: bool


@dataclasses.dataclass(frozen=True)
class Status:
    """A server at one moment."""

    version: str
    started_at: datetime.datetime  # UTC
    uptime: float  # seconds
    draining: bool
    devices: tuple[Device, ...]
    models: tuple[Model, ...]
    requests_waiting: int
    requests_running: int
    max_queue: int
    requests: tuple[RunningRequest, ...]

"""Draws pictures with a Fresco server.

    import fresco
    picture, = fresco.Client("127.0.0.1:8500").generate("a red apple on a light blue background", seed=1)
    picture.save("apple.png")

`Client` is for threads, `aio.Client` for asyncio. All durations are seconds. `fresco.v1` has the generated stubs.
"""

from fresco import aio
from fresco._channel import TLS
from fresco._client import Client, Stream
from fresco._drawing import Retries
from fresco._errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from fresco._options import DrawOptions
from fresco._types import (
    BatchSizes,
    Completed,
    Device,
    DrawWarning,
    Event,
    Model,
    ModelState,
    Picture,
    Priority,
    Progress,
    Provenance,
    Queued,
    Retrying,
    RunningRequest,
    Started,
    Status,
    Timings,
    Warning,
    WarningKind,
)

__all__ = [
    "TLS", "AlreadyExists", "BatchSizes", "Cancelled", "Client", "Completed", "DeadlineExceeded", "Device", "DrawOptions", "DrawWarning",
    "Error", "Event", "FailedPrecondition", "FieldViolation", "InvalidArgument", "Model", "ModelState", "NotFound", "PermissionDenied",
    "Picture", "Priority", "Progress", "Provenance", "Queued", "ResourceExhausted", "Retries", "Retrying", "RunningRequest", "Started",
    "Status", "Stream", "Timings", "Unauthenticated", "Unavailable", "Warning", "WarningKind", "aio",
]

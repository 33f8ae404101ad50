"""What is to be drawn: keyword arguments as a request."""

import difflib
import secrets
import uuid
from typing import Any, Literal, TypedDict

from fresco.v1 import image_generation_pb2 as pb


class DrawOptions(TypedDict, total=False):
    """Keyword arguments of generate() and stream(), named as in docs/API.md. What is left out is the model's default (models())."""

    model: str  # a name from models(); the first configured one
    negative_prompt: str  # what to stay away from
    width: int  # pixels, a multiple of 16
    height: int  # pixels, a multiple of 16
    steps: int  # denoising steps
    guidance_scale: float  # 0 to 30; 1 or less: none
    seed: int | None  # of the first picture, the others are drawn from those that follow; drawn by the client
    image_count: int  # how many pictures; 1
    format: Literal["png", "jpeg", "webp"]  # png
    quality: int  # of JPEG and WebP, 1 to 100; 90
    preview_every: int  # a preview with every n-th step's Progress; 0: none
    priority: Literal["interactive", "standard", "batch"]  # who goes first; standard
    request_id: str | None  # for cancel() and the server's log; made by the client
    max_sequence_length: int  # T5 tokens, 1 to 512
    prompt_2: str | None  # for CLIP-G; the prompt
    prompt_3: str | None  # for T5; the prompt
    clip_skip: int  # CLIP layers left out before the last but one
    noise_correction: bool | None  # whether what quantisation does on average is taken back
    deterministic: bool  # the same pixels each time on this type of device


def make_request(prompt: str, options: DrawOptions) -> pb.GenerateRequest:
    """A request that gives the same pictures each time it is sent: with a seed and a request_id, drawn here if need be."""
    request = pb.GenerateRequest(prompt=prompt, seed=secrets.randbits(32), request_id=uuid.uuid4().hex)
    for name, value in options.items():
        if name not in DrawOptions.__annotations__:
            near = difflib.get_close_matches(name, DrawOptions.__annotations__, n=1)
            raise TypeError(f"unexpected argument '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        if value is not None:
            _set(request, name, value)
    return request


def _set(request: pb.GenerateRequest, name: str, value: Any) -> None:
    enum = pb.GenerateRequest.DESCRIPTOR.fields_by_name[name].enum_type
    if enum is not None:
        values = {known.name.split("_")[-1].lower(): known.number for known in enum.values if known.number != 0}
        if value not in values:
            raise ValueError(f"{name}: expected one of {', '.join(values)}, got {value!r}")
        value = values[value]
    try:
        setattr(request, name, value)
    except (TypeError, ValueError) as wrong:
        raise type(wrong)(f"{name}: {value!r}: {wrong}") from None

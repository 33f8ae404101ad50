"""Messages as the plain values of _types.py: field by field, by name."""

import dataclasses
import datetime
import enum
import functools
import typing
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

T = TypeVar("T")


def from_wire(kind: type[T], message: Message) -> T:
    """The dataclass `kind` of a message that has fields of the same names; those that `kind` lacks are left out."""
    fields = message.DESCRIPTOR.fields_by_name
    hints: dict[str, Any] = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    return kind(**{name: _value(hint, getattr(message, name), fields[name]) for name, hint in hints.items()})


def seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _value(hint: Any, value: Any, field: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_single(item, one, field) for one in value)
    return _single(hint, value, field)


def _single(hint: Any, value: Any, field: Any) -> Any:
    if isinstance(value, Duration):
        return seconds(value)
    if isinstance(value, Timestamp):
        return value.ToDatetime(tzinfo=datetime.timezone.utc)
    if isinstance(value, Message):
        return from_wire(hint, value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum(hint, value, field)
    return value


def _enum(kind: type[enum.Enum], number: int, field: Any) -> enum.Enum:
    """By the value's name, which may begin with its enum's: PRIORITY_BATCH, READY."""
    known = field.enum_type.values_by_number.get(number) if field.enum_type else None
    name = known.name if known else ""
    found = (member for member in kind if name == member.value or name.endswith(f"_{member.value}"))
    return next(found, kind["UNSPECIFIED"])

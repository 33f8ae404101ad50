"""What a change takes from callers: rules of buf's WIRE_JSON by their names there, those of PACKAGE about what must not go, and routes.

Callers send and read bytes, JSON and, through the edge, JSON with the protos' own names; so names count as much as numbers.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from google.protobuf import descriptor_pb2

import descriptors
from descriptors import Element
from findings import Finding

# Types of one group read each other's bytes and JSON.
_COMPATIBLE = [{"int32", "uint32"}, {"int64", "uint64"}, {"fixed32", "sfixed32"}, {"fixed64", "sfixed64"}]

RULES = """PACKAGE_MESSAGE_NO_DELETE PACKAGE_ENUM_NO_DELETE PACKAGE_SERVICE_NO_DELETE RPC_NO_DELETE
  FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED FIELD_NO_DELETE_UNLESS_NAME_RESERVED FIELD_SAME_NAME FIELD_SAME_JSON_NAME
  FIELD_WIRE_JSON_COMPATIBLE_TYPE FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY FIELD_SAME_ONEOF
  ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED ENUM_VALUE_SAME_NAME
  RESERVED_MESSAGE_NO_DELETE RESERVED_ENUM_NO_DELETE
  RPC_SAME_REQUEST_TYPE RPC_SAME_RESPONSE_TYPE RPC_SAME_CLIENT_STREAMING RPC_SAME_SERVER_STREAMING
  RPC_SAME_IDEMPOTENCY_LEVEL RPC_SAME_ROUTE""".split()


@dataclasses.dataclass(frozen=True)
class Planned:
    """Numbers and names that are reserved for fields to come, so that a field may take them."""

    numbers: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()


def compare(before: Iterable[descriptor_pb2.FileDescriptorProto], after: Iterable[descriptor_pb2.FileDescriptorProto],
            planned: dict[str, Planned] | None = None) -> list[Finding]:
    """What in `after` breaks a caller made for `before`."""
    new = {element.name: element for file in after for element in descriptors.elements(file) if element.kind != "file"}
    found: list[Finding] = []
    for file in before:
        for old in descriptors.elements(file):
            if old.kind in _COMPARED:
                found += _compare_element(old, new.get(old.name), (planned or {}).get(old.name, Planned()))
    return found


def _compare_element(old: Element, new: Element | None, planned: Planned) -> Iterator[Finding]:
    if new is None or new.kind != old.kind:
        rule = "RPC_NO_DELETE" if old.kind == "method" else f"PACKAGE_{old.kind.upper()}_NO_DELETE"
        yield Finding(rule, old.name, old.file.name, f"the {old.kind} is gone")
        return
    for rule, element, message in _COMPARED[old.kind](old, new, planned):
        yield Finding(rule, element, f"{new.file.name}:{new.line}", message)


Broken = Iterator[tuple[str, str, str]]


def _compare_message(old: Element, new: Element, planned: Planned) -> Broken:
    fields = {field.number: field for field in new.proto.field}
    numbers, names = _reserved(new.proto.reserved_range), set(new.proto.reserved_name)
    for field in old.proto.field:
        name = f"{old.name}.{field.name}"
        if field.number in fields:
            yield from _compare_field(name, old.proto, field, new.proto, fields[field.number])
            continue
        if field.number not in numbers:
            yield "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED", name, f"is gone, and its number {field.number} is not reserved"
        if field.name not in names:
            yield "FIELD_NO_DELETE_UNLESS_NAME_RESERVED", name, "is gone, and its name is not reserved"
    freed = _reserved(old.proto.reserved_range) - numbers - planned.numbers
    if freed:
        yield "RESERVED_MESSAGE_NO_DELETE", old.name, f"numbers are reserved no more: {_list(freed)}"
    if lost := set(old.proto.reserved_name) - names - planned.names:
        yield "RESERVED_MESSAGE_NO_DELETE", old.name, f"names are reserved no more: {_list(lost)}"


def _compare_field(name: str, old_in: descriptor_pb2.DescriptorProto, old: descriptor_pb2.FieldDescriptorProto,
                   new_in: descriptor_pb2.DescriptorProto, new: descriptor_pb2.FieldDescriptorProto) -> Broken:
    if old.name != new.name:
        yield "FIELD_SAME_NAME", name, f"number {old.number} is called {new.name} now"
    if old.json_name != new.json_name:
        yield "FIELD_SAME_JSON_NAME", name, f"is {new.json_name} in JSON, was {old.json_name}"
    types = {descriptors.type_name(old), descriptors.type_name(new)}
    if len(types) > 1 and not any(types <= group for group in _COMPATIBLE):
        yield "FIELD_WIRE_JSON_COMPATIBLE_TYPE", name, f"is {descriptors.type_name(new)} now, was {descriptors.type_name(old)}"
    if _repeated(old) != _repeated(new):
        yield "FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY", name, "is one now, was many" if _repeated(old) else "is many now, was one"
    if _oneof(old_in, old) != _oneof(new_in, new):
        yield "FIELD_SAME_ONEOF", name, f"is in {_oneof(new_in, new) or 'no oneof'} now, was in {_oneof(old_in, old) or 'none'}"


def _compare_enum(old: Element, new: Element, planned: Planned) -> Broken:
    values = {value.number: value.name for value in new.proto.value}
    numbers, names = _reserved(new.proto.reserved_range, inclusive=True), set(new.proto.reserved_name)
    for value in old.proto.value:
        name = f"{old.name}.{value.name}"
        if value.number in values:
            if values[value.number] != value.name:
                yield "ENUM_VALUE_SAME_NAME", name, f"number {value.number} is called {values[value.number]} now"
            continue
        if value.number not in numbers:
            yield "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED", name, f"is gone, and its number {value.number} is not reserved"
        if value.name not in names:
            yield "ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED", name, "is gone, and its name is not reserved"
    freed = _reserved(old.proto.reserved_range, inclusive=True) - numbers - planned.numbers
    lost = set(old.proto.reserved_name) - names - planned.names
    if freed or lost:
        yield "RESERVED_ENUM_NO_DELETE", old.name, f"reserved no more: {_list(freed | lost)}"


def _compare_service(old: Element, new: Element, planned: Planned) -> Broken:
    yield from ()


def _compare_method(old: Element, new: Element, planned: Planned) -> Broken:
    a, b = old.proto, new.proto
    for rule, what, before, after in (
        ("RPC_SAME_REQUEST_TYPE", "takes", a.input_type, b.input_type),
        ("RPC_SAME_RESPONSE_TYPE", "returns", a.output_type, b.output_type),
        ("RPC_SAME_CLIENT_STREAMING", "streams requests:", a.client_streaming, b.client_streaming),
        ("RPC_SAME_SERVER_STREAMING", "streams answers:", a.server_streaming, b.server_streaming),
        ("RPC_SAME_IDEMPOTENCY_LEVEL", "has the idempotency level", a.options.idempotency_level, b.options.idempotency_level),
    ):
        if before != after:
            yield rule, old.name, f"{what} {str(after).removeprefix('.')} now, was {str(before).removeprefix('.')}"
    if descriptors.route(a) and descriptors.route(a) != descriptors.route(b):
        yield "RPC_SAME_ROUTE", old.name, f"is reached at {descriptors.route(b) or 'no route'} now, was {descriptors.route(a)}"


_COMPARED = {"message": _compare_message, "enum": _compare_enum, "service": _compare_service, "method": _compare_method}


def _reserved(ranges: Iterable[object], inclusive: bool = False) -> set[int]:
    return {number for one in ranges for number in range(one.start, one.end + (1 if inclusive else 0))}


def _repeated(field: descriptor_pb2.FieldDescriptorProto) -> bool:
    return field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def _oneof(message: descriptor_pb2.DescriptorProto, field: descriptor_pb2.FieldDescriptorProto) -> str:
    """Its oneof's name; `optional` is none."""
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ""
    return message.oneof_decl[field.oneof_index].name


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, sorted(values, key=str)))

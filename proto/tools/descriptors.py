"""The protos as descriptors: protoc's view of them, and each named thing with its comment and line."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator

import google.api.annotations_pb2  # noqa: F401 (so that routes are parsed, not unknown bytes)
import google.rpc
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[1]  # proto/


class CompileError(Exception):
    """protoc refused the files; it has said why on standard error."""


def compile_protos(root: pathlib.Path = ROOT) -> descriptor_pb2.FileDescriptorSet:
    """All .proto files under `root`, with comments and what they import."""
    includes = [root, pathlib.Path(protoc.__file__).parent / "_proto", pathlib.Path(list(google.rpc.__path__)[0]).parents[1]]
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.proto"))
    if not files:
        raise CompileError(f"no .proto files in {root}")
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "set"
        arguments = ["protoc", *(f"-I{include}" for include in includes), "--include_imports", "--include_source_info"]
        if protoc.main([*arguments, f"--descriptor_set_out={out}", *files]) != 0:
            raise CompileError(f"protoc refuses {', '.join(files)}")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def own_files(everything: descriptor_pb2.FileDescriptorSet, root: pathlib.Path = ROOT) -> list[descriptor_pb2.FileDescriptorProto]:
    """Those of the set that lie under `root`: not google's."""
    return [file for file in everything.file if (root / file.name).exists()]


@dataclasses.dataclass(frozen=True)
class Element:
    """A named thing: a file, message, field, oneof, enum, enum_value, service or method."""

    kind: str
    name: str  # in full: fresco.v1.GenerateRequest.seed; a file's path
    proto: object  # its descriptor: DescriptorProto, FieldDescriptorProto, …
    file: descriptor_pb2.FileDescriptorProto
    line: int  # from 1
    comment: str  # before it, or behind it on its line; "" where there is none
    parent: "Element | None"

    @property
    def own_name(self) -> str:
        return self.name.rsplit(".", 1)[-1]


# Field numbers of descriptor.proto, by which source locations are found.
_FILE = {"message": 4, "enum": 5, "service": 6}
_MESSAGE = {"field": 2, "message": 3, "enum": 4, "oneof": 8}
_SYNTAX = 12


def elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[Element]:
    """Every element of a file, parents first, in the file's order of kinds."""
    locations = {tuple(location.path): location for location in file.source_code_info.location}

    def element(kind, path, proto, parent):
        location = locations.get(path)
        comment = (location.leading_comments or location.trailing_comments) if location else ""
        scope = parent.name if parent.kind != "file" else file.package
        return Element(kind, f"{scope}.{proto.name}" if scope else proto.name, proto, file, location.span[0] + 1 if location else 0,
                       _clean(comment), parent)

    def enum(path, proto, parent):
        yield (own := element("enum", path, proto, parent))
        for i, value in enumerate(proto.value):
            yield element("enum_value", (*path, 2, i), value, own)

    def message(path, proto, parent):
        if proto.options.map_entry:
            return
        yield (own := element("message", path, proto, parent))
        synthetic = {field.oneof_index for field in proto.field if field.proto3_optional}
        for i, field in enumerate(proto.field):
            yield element("field", (*path, _MESSAGE["field"], i), field, own)
        for i, oneof in enumerate(proto.oneof_decl):
            if i not in synthetic:
                yield element("oneof", (*path, _MESSAGE["oneof"], i), oneof, own)
        for i, nested in enumerate(proto.nested_type):
            yield from message((*path, _MESSAGE["message"], i), nested, own)
        for i, nested in enumerate(proto.enum_type):
            yield from enum((*path, _MESSAGE["enum"], i), nested, own)

    head = locations.get((_SYNTAX,))
    top = Element("file", file.name, file, file, 1, _clean(head.leading_comments if head else ""), None)
    yield top
    for i, service in enumerate(file.service):
        own = element("service", (_FILE["service"], i), service, top)
        yield own
        for k, method in enumerate(service.method):
            yield element("method", (_FILE["service"], i, 2, k), method, own)
    for i, proto in enumerate(file.enum_type):
        yield from enum((_FILE["enum"], i), proto, top)
    for i, proto in enumerate(file.message_type):
        yield from message((_FILE["message"], i), proto, top)


def _clean(comment: str) -> str:
    """Without the space that follows the slashes; indentation beyond it stays."""
    return "\n".join(line.removeprefix(" ").rstrip() for line in comment.splitlines()).strip("\n")


def route(method: descriptor_pb2.MethodDescriptorProto) -> str:
    """ "POST /v1/images/generations", or "" where it is not reached over HTTP."""
    rule = method.options.Extensions[google.api.annotations_pb2.http]
    kind = rule.WhichOneof("pattern")
    if kind is None:
        return ""
    return f"{rule.custom.kind} {rule.custom.path}" if kind == "custom" else f"{kind.upper()} {getattr(rule, kind)}"


def type_name(field: descriptor_pb2.FieldDescriptorProto) -> str:
    """As the .proto says it: "string", "fresco.v1.Priority"."""
    if field.type_name:
        return field.type_name.removeprefix(".")
    return descriptor_pb2.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


@dataclasses.dataclass(frozen=True)
class RpcError:
    """A line of a method's "Errors:"."""

    code: str
    text: str


def split_errors(comment: str) -> tuple[str, list[RpcError]]:
    """A method's comment as what it says before "Errors:", and the list after it; lines that are indented deeper go on."""
    text, _, tail = comment.partition("\nErrors:\n")
    errors: list[RpcError] = []
    for line in tail.splitlines():
        if line.startswith("    ") and errors:
            errors[-1] = RpcError(errors[-1].code, f"{errors[-1].text} {line.strip()}")
        elif line.strip():
            code, _, rest = line.strip().partition(": ")
            errors.append(RpcError(code, rest))
    return text.strip(), errors

"""How the protos are written: buf's STANDARD and COMMENTS rules by their names there, and a few of our own.

Other than buf, a comment behind an element on its line counts too.
"""

import collections
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator

import google.protobuf.any_pb2
import google.protobuf.duration_pb2
import google.protobuf.empty_pb2
import google.protobuf.field_mask_pb2
import google.protobuf.struct_pb2
import google.protobuf.timestamp_pb2
import google.protobuf.wrappers_pb2  # noqa: F401 (all of these: so that their types' files are known)
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

import descriptors
from descriptors import Element
from findings import Finding

Check = Callable[[Element], Iterator[str]]
_CHECKS: dict[str, list[tuple[str, Check]]] = collections.defaultdict(list)
RULES: list[str] = []

CODES = ("CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED "
         "FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED").split()
_NUMBERS = {getattr(FieldDescriptorProto, f"TYPE_{name}") for name in
            "DOUBLE FLOAT INT32 INT64 UINT32 UINT64 SINT32 SINT64 FIXED32 FIXED64 SFIXED32 SFIXED64".split()}
# What a number counts or measures; one of these must be in its comment.
_UNITS = re.compile(r"pixel|byte|step|token|image|picture|request|layer|guidance|seed|second|the fewest|the most|average|1 to 100",
                    re.IGNORECASE)


def rule(name: str, kind: str) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        _CHECKS[kind].append((name, check))
        RULES.append(name)
        return check
    return add


def check_files(files: Iterable[FileDescriptorProto]) -> list[Finding]:
    """Everything that is not as the rules have it. What else the files import is looked at only where it is among them."""
    files = list(files)
    found = []
    for file in files:
        for element in descriptors.elements(file):
            for name, check in _CHECKS[element.kind]:
                found += [Finding(name, element.name, f"{file.name}:{element.line}", message) for message in check(element)]
    return found + list(_across_files(files))


def _across_files(files: list[FileDescriptorProto]) -> Iterator[Finding]:
    packages: dict[str, set[str]] = collections.defaultdict(set)
    folders: dict[str, set[str]] = collections.defaultdict(set)
    options: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    uses: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    for file in files:
        folder = str(pathlib.PurePosixPath(file.name).parent)
        packages[folder].add(file.package)
        folders[file.package].add(folder)
        for option in _PACKAGE_OPTIONS:
            options[file.package, option].add(str(getattr(file.options, option)))
        for service in file.service:
            for method in service.method:
                for used in {method.input_type, method.output_type}:
                    uses[used].append((f"{file.package}.{service.name}.{method.name}", file.name))
    for folder, names in packages.items():
        if len(names) > 1:
            yield Finding("DIRECTORY_SAME_PACKAGE", folder, folder, f"has files of several packages: {', '.join(sorted(names))}")
    for package, places in folders.items():
        if len(places) > 1:
            yield Finding("PACKAGE_SAME_DIRECTORY", package, min(places), f"its files are in several folders: {', '.join(sorted(places))}")
    for (package, option), values in options.items():
        if len(values) > 1:
            yield Finding("PACKAGE_SAME_OPTIONS", package, min(folders[package]), f"{option} is not the same in all files: {', '.join(sorted(values))}")
    for file in files:
        for unused in sorted(set(file.dependency) - set(_imports_used(file, files))):
            yield Finding("IMPORT_USED", file.name, file.name, f"imports {unused} and uses nothing of it")
    for used, methods in uses.items():
        for method, place in methods[1:]:
            yield Finding("RPC_REQUEST_RESPONSE_UNIQUE", method, place, f"{used.removeprefix('.')} is {methods[0][0]}'s already")


RULES += ["DIRECTORY_SAME_PACKAGE", "PACKAGE_SAME_DIRECTORY", "PACKAGE_SAME_OPTIONS", "IMPORT_USED", "RPC_REQUEST_RESPONSE_UNIQUE"]
# PACKAGE_SAME_OPTIONS is buf's PACKAGE_SAME_CSHARP_NAMESPACE, _GO_PACKAGE and so on.
_PACKAGE_OPTIONS = ("csharp_namespace", "go_package", "java_multiple_files", "java_package", "php_namespace", "ruby_package", "swift_prefix")


def _imports_used(file: FileDescriptorProto, files: list[FileDescriptorProto]) -> Iterator[str]:
    """The files that define the types and the options which `file` uses."""
    known = {f".{element.name}": other.name for other in files for element in descriptors.elements(other) if element.kind in ("message", "enum")}
    for element in descriptors.elements(file):
        if element.kind == "field":
            types = [element.proto.type_name]
        elif element.kind == "method":
            types = [element.proto.input_type, element.proto.output_type]
        else:
            types = []
        yield from (known.get(used) or _google_file(used) for used in types if used)
        if element.kind != "file":
            yield from (option.file.name for option, _ in element.proto.options.ListFields() if option.is_extension)


def _google_file(type_name: str) -> str:
    """Of a type that is not the protos' own, like .google.protobuf.Duration: the file of the descriptors that this program has loaded."""
    try:
        return descriptor_pool.Default().FindMessageTypeByName(type_name.removeprefix(".")).file.name
    except KeyError:
        return ""

# ---- names -----------------------------------------------------------------------------------------------------------

_LOWER_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_UPPER_SNAKE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
_PASCAL = re.compile(r"([A-Z][a-z0-9]*)+")


def _upper_snake(pascal: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", pascal).upper()


def _named(name: str, kind: str, shape: re.Pattern[str], wanted: str) -> None:
    @rule(name, kind)
    def check(element: Element) -> Iterator[str]:
        if not shape.fullmatch(element.own_name):
            yield f"'{element.own_name}' is not {wanted}"


_named("MESSAGE_PASCAL_CASE", "message", _PASCAL, "PascalCase")
_named("ENUM_PASCAL_CASE", "enum", _PASCAL, "PascalCase")
_named("SERVICE_PASCAL_CASE", "service", _PASCAL, "PascalCase")
_named("RPC_PASCAL_CASE", "method", _PASCAL, "PascalCase")
_named("FIELD_LOWER_SNAKE_CASE", "field", _LOWER_SNAKE, "lower_snake_case")
_named("ONEOF_LOWER_SNAKE_CASE", "oneof", _LOWER_SNAKE, "lower_snake_case")
_named("ENUM_VALUE_UPPER_SNAKE_CASE", "enum_value", _UPPER_SNAKE, "UPPER_SNAKE_CASE")


@rule("SERVICE_SUFFIX", "service")
def _(service: Element) -> Iterator[str]:
    if not service.own_name.endswith("Service"):
        yield "its name does not end in Service"


@rule("RPC_REQUEST_STANDARD_NAME", "method")
def _(method: Element) -> Iterator[str]:
    yield from _standard_name(method, method.proto.input_type, "Request")


@rule("RPC_RESPONSE_STANDARD_NAME", "method")
def _(method: Element) -> Iterator[str]:
    yield from _standard_name(method, method.proto.output_type, "Response")


def _standard_name(method: Element, type_name: str, suffix: str) -> Iterator[str]:
    own = type_name.rsplit(".", 1)[-1]
    wanted = method.own_name + suffix
    if own not in (wanted, method.parent.own_name + wanted):
        yield f"its {suffix.lower()} is {own}, not {wanted}"


@rule("FIELD_NO_DESCRIPTOR", "field")
def _(field: Element) -> Iterator[str]:
    if field.own_name.strip("_").lower() == "descriptor":
        yield "'descriptor' cannot be used in some languages"


@rule("FIELD_NOT_REQUIRED", "field")
def _(field: Element) -> Iterator[str]:
    if field.proto.label == FieldDescriptorProto.LABEL_REQUIRED:
        yield "is required, and so for ever"


# ---- enums -----------------------------------------------------------------------------------------------------------


@rule("ENUM_NO_ALLOW_ALIAS", "enum")
def _(enum: Element) -> Iterator[str]:
    if enum.proto.options.allow_alias:
        yield "two of its values may have one number"


@rule("ENUM_FIRST_VALUE_ZERO", "enum")
def _(enum: Element) -> Iterator[str]:
    if enum.proto.value[0].number != 0:
        yield f"its first value is {enum.proto.value[0].number}, not 0"


@rule("ENUM_VALUE_PREFIX", "enum_value")
def _(value: Element) -> Iterator[str]:
    prefix = _upper_snake(value.parent.own_name) + "_"
    if not value.own_name.startswith(prefix):
        yield f"'{value.own_name}' does not begin with {prefix}"


@rule("ENUM_ZERO_VALUE_SUFFIX", "enum_value")
def _(value: Element) -> Iterator[str]:
    if value.proto.number == 0 and not value.own_name.endswith("_UNSPECIFIED"):
        yield f"'{value.own_name}' is 0 and does not end in _UNSPECIFIED"


# ---- files -----------------------------------------------------------------------------------------------------------


@rule("PACKAGE_DEFINED", "file")
def _(file: Element) -> Iterator[str]:
    if not file.proto.package:
        yield "it says no package"


@rule("PACKAGE_DIRECTORY_MATCH", "file")
def _(file: Element) -> Iterator[str]:
    wanted = file.proto.package.replace(".", "/") or "."
    if str(pathlib.PurePosixPath(file.name).parent) != wanted:
        yield f"files of the package {file.proto.package} are in {wanted}/"


@rule("PACKAGE_LOWER_SNAKE_CASE", "file")
def _(file: Element) -> Iterator[str]:
    if file.proto.package and not all(_LOWER_SNAKE.fullmatch(part) for part in file.proto.package.split(".")):
        yield f"the package '{file.proto.package}' is not lower_snake.case"


@rule("PACKAGE_VERSION_SUFFIX", "file")
def _(file: Element) -> Iterator[str]:
    if not re.fullmatch(r"v\d+((alpha|beta)\d+)?", file.proto.package.rsplit(".", 1)[-1]):
        yield f"the package '{file.proto.package}' does not end in a version"


@rule("FILE_LOWER_SNAKE_CASE", "file")
def _(file: Element) -> Iterator[str]:
    if not _LOWER_SNAKE.fullmatch(pathlib.PurePosixPath(file.name).stem):
        yield "the file's name is not lower_snake_case.proto"


@rule("SYNTAX_SPECIFIED", "file")
def _(file: Element) -> Iterator[str]:
    if file.proto.syntax not in ("proto3", "editions"):
        yield 'it does not say syntax = "proto3"'


@rule("IMPORT_NO_PUBLIC", "file")
def _(file: Element) -> Iterator[str]:
    yield from (f"imports {file.proto.dependency[i]} publicly" for i in file.proto.public_dependency)


@rule("IMPORT_NO_WEAK", "file")
def _(file: Element) -> Iterator[str]:
    yield from (f"imports {file.proto.dependency[i]} weakly" for i in file.proto.weak_dependency)


# ---- comments --------------------------------------------------------------------------------------------------------


def _commented(name: str, kind: str) -> None:
    @rule(name, kind)
    def check(element: Element) -> Iterator[str]:
        if not element.comment:
            yield "has no comment"


for _name, _kind in {"MESSAGE": "message", "FIELD": "field", "ONEOF": "oneof", "ENUM": "enum", "ENUM_VALUE": "enum_value",
                     "SERVICE": "service", "RPC": "method", "FILE": "file"}.items():
    _commented(f"COMMENT_{_name}", _kind)  # COMMENT_FILE is ours: a page begins with it


@rule("FIELD_UNIT", "field")  # ours
def _(field: Element) -> Iterator[str]:
    if field.proto.type in _NUMBERS and field.comment and not _UNITS.search(field.comment):
        yield "its comment does not say what it counts or measures"


@rule("RPC_ERRORS", "method")  # ours
def _(method: Element) -> Iterator[str]:
    for error in descriptors.split_errors(method.comment)[1]:
        if error.code not in CODES and not error.code.startswith("as "):
            yield f"'{error.code}' is no gRPC code"
        elif not error.text:
            yield f"{error.code} is not explained"

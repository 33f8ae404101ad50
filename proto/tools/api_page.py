#!/usr/bin/env python3
"""Writes docs/API.md from the protos: services with routes and errors, messages with their fields, enums.

  api_page.py            writes it
  api_page.py --check    exits with 1 where it is not what would be written

Needs grpcio-tools and googleapis-common-protos (.deps/venv/bin/python has them after ./dev test).
"""

import pathlib
import re
import sys
import textwrap

from google.protobuf.descriptor_pb2 import FieldDescriptorProto

import descriptors
from descriptors import Element

PAGE = descriptors.ROOT.parent / "docs" / "API.md"

HEAD = """<!-- Written by proto/tools/api_page.py from the comments in proto/fresco/v1: change those, and run it again. -->
# API

gRPC, package `fresco.v1`: {files}.
First requests from Python, Go, a shell, a browser or OpenAI's client: [client/python/README.md](../client/python/README.md).
The server also has `grpc.health.v1.Health` (each model by its name, `""` for the whole) and reflection."""


def page() -> str:
    """The page's text."""
    files = sorted(descriptors.own_files(descriptors.compile_protos()), key=lambda file: _place(file.name))
    everything = [element for file in files for element in descriptors.elements(file)]

    def children(parent: Element) -> list[Element]:
        return [element for element in everything if element.parent is parent]

    def of_kind(kind: str) -> list[Element]:
        return [element for element in everything if element.kind == kind]

    def section(element: Element) -> list[str]:
        """A message or enum, and behind it those within it. One without fields has nothing to say."""
        own = children(element)
        if element.kind == "enum":
            return [enum(element, own)]
        inner = [text for child in own if child.kind in ("message", "enum") for text in section(child)]
        return [message(element, own), *inner] if element.proto.field else inner

    empty = {element.name for element in of_kind("message") if not element.proto.field}
    top = [element for element in everything if element.parent and element.parent.kind == "file"]
    parts = [HEAD.format(files=", ".join(f"[{file.name.split('/')[-1]}](../proto/{file.name})" for file in files))]
    # The first paragraph of a file's comment is its title.
    parts += [paragraph(text) for file in of_kind("file") for text in file.comment.split("\n\n")[1:]]
    parts.append(overview(of_kind("method")))
    parts += [service(element, children(element), empty) for element in of_kind("service")]
    parts.append("## Messages and enums\n\n`optional`: whether it is set makes a difference. `repeated`: any number of them.")
    parts += [text for element in top if element.kind in ("message", "enum") for text in section(element)]
    return "\n\n".join(parts) + "\n"


def _place(name: str) -> tuple[int, str]:
    """What callers need comes first."""
    order = ["image_generation", "operations"]
    stem = pathlib.PurePosixPath(name).stem
    return (order.index(stem) if stem in order else len(order), name)


def overview(methods: list[Element]) -> str:
    rows = [(f"[{m.parent.own_name}.{m.own_name}](#{anchor(m.own_name)})", code(descriptors.route(m.proto)),
             marked(first_sentence(m.comment))) for m in methods]
    return table(("Call", "Over HTTP, where the edge transcodes", "What it does"), rows)


def service(element: Element, methods: list[Element], empty: set[str]) -> str:
    return "\n\n".join([f"## {element.own_name}", paragraph(element.comment), *(method(one, empty) for one in methods)])


def method(element: Element, empty: set[str]) -> str:
    """`empty`: names of messages without fields."""
    text, errors = descriptors.split_errors(element.comment)
    proto = element.proto
    stream = ("stream " if proto.client_streaming else "", "stream " if proto.server_streaming else "")
    signature = f"{stream[0]}{link(proto.input_type, empty)} → {stream[1]}{link(proto.output_type, empty)}"
    if route := descriptors.route(proto):
        signature += f" · {code(route)}"
    parts = [f"### {element.own_name}", signature, paragraph(text)]
    if errors:
        parts.append(table(("Error", "When"), [(marked(e.code), cell(e.text)) for e in errors]))
    return "\n\n".join(parts)


def message(element: Element, children: list[Element]) -> str:
    parts = [f"### {title(element)}", paragraph(element.comment)]
    fields = [child for child in children if child.kind == "field"]
    oneofs = {child.own_name: child for child in children if child.kind == "oneof"}
    if oneofs:
        parts += [f"One of (`{name}`): {paragraph(oneof.comment)}" for name, oneof in oneofs.items()]
    if fields:
        parts.append(table(("#", "Field", "Type", "Meaning"), [(str(f.proto.number), code(f.own_name), field_type(f.proto), cell(f.comment))
                                                        for f in fields]))
    if element.proto.reserved_range:
        parts.append("Reserved: " + ", ".join(f"{r.start}–{r.end - 1}" if r.end - r.start > 1 else str(r.start)
                                              for r in element.proto.reserved_range) + ".")
    return "\n\n".join(parts)


def enum(element: Element, values: list[Element]) -> str:
    rows = [(str(value.proto.number), code(value.own_name), cell(value.comment)) for value in values]
    return "\n\n".join([f"### {title(element)}", paragraph(element.comment), table(("#", "Value", "Meaning"), rows)])


# ---- Markdown --------------------------------------------------------------------------------------------------------


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def title(element: Element) -> str:
    """Without the package, with the messages around it: Model.State."""
    return element.name.removeprefix(f"{element.file.package}.")


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def link(type_name: str, empty: set[str] = frozenset()) -> str:
    """A type of ours as a link to its section, google's by its own name."""
    name = type_name.removeprefix(".")
    own = name.removeprefix("fresco.v1.")
    if name in empty:
        return f"`{own}` (no fields)"
    return f"[{own}](#{anchor(own)})" if own != name else code(name.removeprefix("google.protobuf."))


def field_type(field: FieldDescriptorProto) -> str:
    own = link(field.type_name) if field.type_name else code(descriptors.type_name(field))
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {own}"
    return f"optional {own}" if field.proto3_optional else own


def code(text: str) -> str:
    return f"`{text}`" if text else ""


# Settings, fields, enum values and codes, as comments name them.
_NAMES = re.compile(r"\b([a-z]+\.[a-z_]*_[a-z_]+|[a-z0-9]+(?:_[a-z0-9]+)+|[A-Z]+(?:_[A-Z0-9]+)+|UNAVAILABLE|CANCELLED|UNAUTHENTICATED|INTERNAL)\b")


def marked(text: str) -> str:
    """With names as code."""
    return _NAMES.sub(r"`\1`", text)


def joined(comment: str) -> str:
    return " ".join(comment.split())


def paragraph(comment: str) -> str:
    """Lines filled anew; a paragraph's own breaks stay."""
    return "\n\n".join(textwrap.fill(marked(joined(part)), 150, break_long_words=False, break_on_hyphens=False) for part in comment.split("\n\n"))


def cell(comment: str) -> str:
    """As a sentence, on one line."""
    text = joined(comment)
    if re.match(r"[a-z]+\b[^/_.]", text):
        text = text[0].upper() + text[1:]
    if text and text[-1].isalnum() or text.endswith(")"):
        text += "."
    return marked(text).replace("|", "\\|")


def first_sentence(comment: str) -> str:
    return re.split(r"(?<=[.])\s", joined(comment), maxsplit=1)[0]


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    text = page()
    if not arguments:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE} is not what the protos say: run proto/tools/api_page.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What the printers have in common."""

import re

import gdb

# What no vector or string here has, nor a shared object owners. gdb itself ends where it is to read more than there is
# memory, as a variable that is not initialised yet may ask for.
_MOST_BYTES = 1 << 31
_MOST_LETTERS = 1 << 24
_MOST_OWNERS = 1 << 24


def _unmade():
    return gdb.error("not initialised yet, or destroyed?")


def plain(value):
    """What a reference refers to."""
    if value.type.strip_typedefs().code in (gdb.TYPE_CODE_REF, gdb.TYPE_CODE_RVALUE_REF):
        return value.referenced_value()
    return value


def elements_of(container):
    """Of a container of the standard library, by its own printer: what it holds, of a map keys and values in turn."""
    _check_vector(container)
    printer = gdb.default_visualizer(container)
    if printer is None or not hasattr(printer, "children"):
        raise gdb.error("libstdc++'s printers are not loaded (package libstdc++6 has them): %s cannot be read" % container.type)
    return [value for _, value in printer.children()]


def _check_vector(container):
    if plain(container).type.strip_typedefs().unqualified().name.startswith("std::vector<"):
        begin, end = (container["_M_impl"][name] for name in ("_M_start", "_M_finish"))
        if not 0 <= int(end) - int(begin) <= _MOST_BYTES:
            raise _unmade()


def pairs_of(map_):
    flat = elements_of(map_)
    return list(zip(flat[::2], flat[1::2]))


def text_of(string):
    """A std::string's or std::string_view's, without quotes and what a terminal would not show."""
    names = {field.name for field in plain(string).type.strip_typedefs().fields()}
    if "_M_str" in names:
        pointer, length = string["_M_str"], int(string["_M_len"])
    else:
        pointer, length = string["_M_dataplus"]["_M_p"], int(string["_M_string_length"])
    if not 0 <= length <= _MOST_LETTERS:
        raise _unmade()
    text = bytes(gdb.selected_inferior().read_memory(int(pointer), length)).decode(errors="replace") if length else ""
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)


def excerpt(text, most=48):
    return '"%s"' % (text if len(text) <= most else text[: most - 3] + "...")


def enumerator(value):
    """ "kResident" of an enum's value, "resident" to a person."""
    name = str(value).rpartition("::")[2]
    return name[1:].lower() if name[:1] == "k" and name[1:2].isupper() else name


def target_of(smart_pointer):
    """What a std::unique_ptr or std::shared_ptr points to; None: nothing."""
    type_ = smart_pointer.type.strip_typedefs()
    if type_.unqualified().name.startswith("std::unique_ptr<"):
        pointer = _unique_pointer(smart_pointer)
    else:
        pointer = smart_pointer["_M_ptr"]
        if int(pointer):
            count = smart_pointer["_M_refcount"]["_M_pi"]
            if int(count) and not 0 < int(count["_M_use_count"]) <= _MOST_OWNERS:
                raise _unmade()
    return pointer.dereference() if int(pointer) else None


def _unique_pointer(value):
    # Its printer's only child is the pointer.
    children = list(gdb.default_visualizer(value).children())
    return children[0][1]


def fields_of(value):
    """The members of a class, those of its bases first, as children of a printer."""
    for field in value.type.strip_typedefs().fields():
        if field.is_base_class:
            yield from fields_of(value.cast(field.type))
        elif not hasattr(field, "bitpos"):
            continue  # static
        elif not field.artificial:  # no virtual table
            yield field.name or "(unnamed)", value[field]


def _serves_an_ide():
    """Whether gdb was started for a program to talk to (MI), as IDEs start it: gdb itself does not tell."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return re.search(rb"\0--?i(nterpreter)?[=\0]mi", file.read()) is not None
    except OSError:
        return False


class Line:
    """One line. `line` may fail: then it says why."""

    def __init__(self, value):
        self.value = plain(value)

    def line(self):
        raise NotImplementedError

    def to_string(self):
        try:
            return self.line()
        except Exception as error:  # of whatever kind: what is not made yet may be anything
            return "%s (not to be read: %s)" % (self.value.type.strip_typedefs().name, error)


class Printer(Line):
    """One line and the members below it."""

    def members(self):
        return fields_of(self.value)

    def children(self):
        """The members as far as they can be read: the line says why they cannot. An IDE shows no line of what has children,
        so that there the line is the first of them."""
        try:
            if _IDE:
                yield "summary", self.to_string()
            yield from self.members()
        except gdb.error:
            return


class Text:
    """A printer's own text as a child: an IDE would show the array of characters that gdb makes of it."""

    def __init__(self, value):
        self._value = value

    def to_string(self):
        return self._value.string(errors="replace")

    def display_hint(self):
        return "string"


def text_printer(value):
    """For what printers' texts have become: arrays of characters that are nowhere in the program's memory."""
    type_ = value.type.strip_typedefs()
    if type_.code != gdb.TYPE_CODE_ARRAY or value.address is not None:
        return None
    return Text(value) if type_.target().strip_typedefs().unqualified().name == "char" else None


_IDE = _serves_an_ide()

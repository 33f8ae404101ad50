"""What the printers have in common."""

import gdb


def plain(value):
    """What a reference refers to."""
    if value.type.strip_typedefs().code in (gdb.TYPE_CODE_REF, gdb.TYPE_CODE_RVALUE_REF):
        return value.referenced_value()
    return value


def elements_of(container):
    """Of a container of the standard library, by its own printer: what it holds, of a map keys and values in turn."""
    printer = gdb.default_visualizer(container)
    if printer is None or not hasattr(printer, "children"):
        raise gdb.error("libstdc++'s printers are not loaded (package libstdc++6 has them): %s cannot be read" % container.type)
    return [value for _, value in printer.children()]


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
            yield field.name, value[field]


class Printer:
    """One line and the members below it. `line` may fail: then the line says why, and the members are there all the same."""

    def __init__(self, value):
        self.value = plain(value)

    def line(self):
        raise NotImplementedError

    def to_string(self):
        try:
            return self.line()
        except (gdb.error, KeyError, AttributeError) as error:
            return "%s (not to be read: %s)" % (self.value.type.strip_typedefs().name, error)

    def children(self):
        return fields_of(self.value)

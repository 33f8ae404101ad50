"""How an at::Tensor is printed."""

from fresco_gdb import memory, parameters
from fresco_gdb.statistics import number, summary
from fresco_gdb.tensor import Tensor, TensorError

# Values that are shown.
_FIRST = 8


def line_of(tensor, source):
    """A defined tensor's. `source`: where its values are; None: they are not looked at."""
    words = tensor.describe()
    if not tensor.count:
        return words + ", no values"
    if tensor.missing:
        return "%s, no values to show: %s" % (words, tensor.missing)
    if source is None:
        return words + ", values in the GPU's memory (fresco-stats shows them)"
    if parameters.elements() == 0:
        return words
    found = tensor.statistics(source, most=parameters.elements())
    words += ", " + summary(found)
    if found.count < tensor.count:
        words += " (of the first %d of %d values; fresco-stats looks at all)" % (found.count, tensor.count)
    return words


class TensorPrinter:
    """All of it in one line, without children: an IDE shows no line of what has some."""

    def __init__(self, value):
        self._value = value

    def to_string(self):
        try:
            return "at::Tensor " + self._line()
        except TensorError as error:
            return "at::Tensor (%s)" % error

    def _line(self):
        tensor = Tensor(self._value)
        if not tensor.defined:
            return "undefined"
        if tensor.missing or not tensor.count or not (tensor.on_host or parameters.device_values()):
            return line_of(tensor, None)
        with memory.of(tensor) as source:
            return "%s = {%s}" % (line_of(tensor, source), _first_values(tensor, source))


def _first_values(tensor, source):
    """In the order of the tensor's dimensions."""
    values = [number(tensor.value_at(index, source)) for index in tensor.first_indices(_FIRST)]
    return ", ".join(values + ["..."] * (tensor.count > _FIRST))

"""How an at::Tensor is printed."""

from fresco_gdb import memory, parameters
from fresco_gdb.statistics import number, summary
from fresco_gdb.tensor import Tensor, TensorError

# Values that are shown below the line.
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
    found = tensor.statistics(source, most=parameters.elements())
    words += ", " + summary(found)
    if found.count < tensor.count:
        words += " (of the first %d of %d values; fresco-stats looks at all)" % (found.count, tensor.count)
    return words


class TensorPrinter:
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
        if tensor.missing or not tensor.count or not _shows_values(tensor):
            return line_of(tensor, None)
        with memory.of(tensor) as source:
            return line_of(tensor, source)

    def children(self):
        """The first values, by their indices."""
        try:
            tensor = Tensor(self._value)
            if not tensor.defined or tensor.missing or not tensor.count or not _shows_values(tensor):
                return
            with memory.of(tensor) as source:
                for index in tensor.first_indices(_FIRST):
                    yield str(index), number(tensor.value_at(index, source))
        except TensorError:
            return  # the line has said it

    def display_hint(self):
        return None


def _shows_values(tensor):
    return tensor.on_host or parameters.device_values()

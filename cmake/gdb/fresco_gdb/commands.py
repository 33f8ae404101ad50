"""fresco-stats and fresco-show."""

import math
import os
import shlex

import gdb

from fresco_gdb import layout, memory, picture
from fresco_gdb.statistics import number, percentile, share, summary
from fresco_gdb.tensor import Tensor, TensorError

# Planes of a picture, and values of it, at most: more would take minutes.
_MOST_PLANES = 64
_MOST_VALUES = 1 << 24
# Values that percentiles are taken of.
_MOST_SORTED = 1 << 20


def _tensor(expression):
    """Raises gdb.GdbError, with a reason, where there is nothing to look at."""
    try:
        tensor = Tensor(gdb.parse_and_eval(expression))
    except (TensorError, gdb.error) as error:
        raise gdb.GdbError("%s: %s" % (expression, error)) from None
    if not tensor.defined:
        raise gdb.GdbError("%s: the tensor is undefined" % expression)
    if not tensor.count:
        raise gdb.GdbError("%s: %s has no values" % (expression, tensor.describe()))
    return tensor


class _Finder:
    """Where the largest magnitude and the first value that is not finite are, and a sample for percentiles."""

    def __init__(self, tensor):
        self._tensor = tensor
        self._element = tensor.element
        self.step = -(-tensor.count // _MOST_SORTED)
        self.sample = []
        self.amax, self.amax_at, self.not_finite_at = -1.0, None, None

    def visit(self, run, raw):
        values = self._element.values(raw)
        self.sample.extend(value for value in values[:: self.step] if math.isfinite(value))
        finite = values
        if not math.isfinite(sum(values)):
            self._find_not_finite(run, values)
            finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return
        strongest = max(max(finite), min(finite), key=abs)
        if abs(strongest) > self.amax:
            self.amax = abs(strongest)
            self.amax_at = self._index(run, list(values).index(strongest))

    def _find_not_finite(self, run, values):
        if self.not_finite_at is None:
            for place, value in enumerate(values):
                if not math.isfinite(value):
                    self.not_finite_at = self._index(run, place)
                    return

    def _index(self, run, place):
        return layout.index_of(run.offset + place * run.stride, self._tensor.shape, self._tensor.strides)


class Stats(gdb.Command):
    """Everything about the values of a tensor: fresco-stats EXPRESSION

    All its values are looked at, wherever they are: those in a GPU's memory are copied by the process, which waits for the
    GPU. Shown are the range, NaN and infinite values, what E4M3 cannot hold, mean, deviation, percentiles of the magnitudes,
    and where the largest magnitude is. Percentiles of more than a million values are of every nth."""

    def __init__(self):
        super().__init__("fresco-stats", gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        del from_tty
        if not argument.strip():
            raise gdb.GdbError("fresco-stats takes a tensor: fresco-stats x")
        tensor = _tensor(argument)
        finder = _Finder(tensor)
        try:
            with memory.of(tensor) as source:
                found = tensor.statistics(source, moments=True, visit=finder.visit)
        except TensorError as error:
            raise gdb.GdbError("%s: %s" % (argument, error)) from None
        for line in _report(tensor, found, finder):
            gdb.write(line + "\n")


def _report(tensor, found, finder):
    yield "%s, %d values" % (tensor.describe(), tensor.count)
    yield "  " + summary(found)
    if not found.finite:
        return
    yield "  mean %s, standard deviation %s, zero %s" % (
        number(found.mean), number(found.deviation), share(found.finite - found.nonzero, found.count))
    magnitudes = sorted(map(abs, finder.sample))
    if magnitudes:
        parts = ["%s %% %s" % (number(100 * part), number(percentile(magnitudes, part))) for part in (0.5, 0.9, 0.99, 0.999)]
        yield "  magnitudes: %s%s" % (", ".join(parts), " (of every %dth)" % finder.step if finder.step > 1 else "")
    if finder.amax_at is not None:
        yield "  largest magnitude at %s" % finder.amax_at
    if finder.not_finite_at is not None:
        yield "  first value that is not finite at %s" % finder.not_finite_at


_USAGE = "fresco-show EXPRESSION FILE.png [--channel N] [--range LOW HIGH]"


class _Request:
    """The words of fresco-show: the expression may have spaces, the file and the options come after it."""

    def __init__(self, argument):
        try:
            words = shlex.split(argument, posix=False)
        except ValueError as error:
            raise gdb.GdbError("%s: %s" % (argument, error)) from None
        self.channel, self.range = None, None
        options = next((i for i, word in enumerate(words) if word.startswith("--") and word != "--"), len(words))
        self._read_options(words[options:])
        if options < 2:
            raise gdb.GdbError("fresco-show takes a tensor and a file: " + _USAGE)
        self.file = os.path.expanduser(words[options - 1].strip("\"'"))
        if not self.file.endswith(".png"):
            raise gdb.GdbError("'%s' does not end in .png: %s" % (self.file, _USAGE))
        self.expression = argument[: argument.rindex(words[options - 1])].strip()

    def _read_options(self, words):
        while words:
            option, words = words[0], words[1:]
            try:
                if option == "--channel" and words[0] == "all":
                    words = words[1:]
                elif option == "--channel":
                    self.channel, words = int(words[0]), words[1:]
                elif option == "--range":
                    self.range, words = (float(words[0]), float(words[1])), words[2:]
                else:
                    raise gdb.GdbError("unknown option '%s': %s" % (option, _USAGE))
            except (IndexError, ValueError):
                raise gdb.GdbError("%s takes %s: %s" % (option, "LOW and HIGH" if option == "--range" else "a number", _USAGE)) from None
        if self.range and not self.range[0] < self.range[1]:
            raise gdb.GdbError("--range: LOW %s is not below HIGH %s" % tuple(map(number, self.range)))


def _planes_of(tensor, channel):
    """The indices of the planes to draw: of all dimensions but the last two."""
    outer = tensor.shape[:-2]
    planes = math.prod(outer)
    if channel is None:
        numbers = range(min(planes, _MOST_PLANES))
    elif 0 <= channel < planes:
        numbers = [channel]
    else:
        raise gdb.GdbError("--channel %d: %s has channels 0 to %d" % (channel, tensor.describe(), planes - 1))
    indices = []
    for plane in numbers:
        index = []
        for size in reversed(outer):
            plane, rest = divmod(plane, size)
            index.insert(0, rest)
        indices.append(index)
    return indices, planes


def _lines(tensor, first, lines, elements, source):
    """The values of parallel lines in memory; `lines` and `elements` (of each): how many, and how far apart."""
    (count, apart), (length, step) = lines, elements
    for start in range(first, first + count * apart, apart) if apart else [first] * count:
        if step * tensor.element.bytes <= layout.WIDE_STRIDE:
            raw = tensor.read(start, (length - 1) * step + 1, source)
            raw = raw[::step] if step else raw * length
        else:
            raw = [tensor.read(start + i * step, 1, source)[0] for i in range(length)]
        yield list(tensor.element.values(raw))


def _rows_of(tensor, plane, source):
    """The values of one plane, row by row; read along the dimension that lies closer in memory."""
    height, width = ([1, 1] + tensor.shape)[-2:]
    down, along = ([0, 0] + tensor.strides)[-2:]
    first = layout.offset_of(plane, tensor.strides)
    if 0 < down < along:
        return [list(row) for row in zip(*_lines(tensor, first, (width, along), (height, down), source))]
    return list(_lines(tensor, first, (height, down), (width, along), source))


class Show(gdb.Command):
    """Draw a tensor as a picture: fresco-show EXPRESSION FILE.png [--channel N] [--range LOW HIGH]

    The last two dimensions are the picture's height and width; of all others each place is a picture of its own, a channel,
    and up to 64 of them are drawn beside each other, in reading order. --channel draws one, counted from 0 over all
    dimensions but the last two. Blue is below zero, white zero, red above; magenta is NaN, green infinite. The colours' range
    is, on either side of zero, what 99.5 % of the magnitudes do not pass, or --range. Planes of more than 1024 a side are
    made smaller: a pixel is then the largest magnitude of its values."""

    def __init__(self):
        super().__init__("fresco-show", gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        del from_tty
        request = _Request(argument)
        tensor = _tensor(request.expression)
        indices, channels = _planes_of(tensor, request.channel)
        height, width = ([1, 1] + tensor.shape)[-2:]
        if height * width * len(indices) > _MOST_VALUES:
            raise gdb.GdbError("%s: %d values are too many for a picture (at most %d): draw one with --channel, or a slice"
                               % (tensor.describe(), height * width * len(indices), _MOST_VALUES))
        times = picture.reduction(height, width)
        try:
            with memory.of(tensor) as source:
                planes = [picture.shrink(_rows_of(tensor, index, source), times) for index in indices]
        except TensorError as error:
            raise gdb.GdbError("%s: %s" % (request.expression, error)) from None
        low, high = request.range or picture.robust_range(planes)
        sheet = picture.Sheet(planes, picture.Scale(low, high))
        _write(request.file, sheet.encode())
        gdb.write(_caption(request, tensor, sheet, times, (len(planes), channels), (low, high)) + "\n")


def _write(file, data):
    try:
        with open(file, "wb") as out:
            out.write(data)
    except OSError as error:
        raise gdb.GdbError("%s: %s" % (file, error.strerror)) from None


def _caption(request, tensor, sheet, times, channels, range_):
    words = "%s: %s" % (request.file, tensor.describe())
    if request.channel is not None:
        words += ", channel %d" % request.channel
    elif channels[1] > 1:
        words += ", %s%d channels in lines of %d" % ("the first " if channels[0] < channels[1] else "", channels[0], sheet.columns)
        words += " (of %d)" % channels[1] if channels[0] < channels[1] else ""
    if times > 1:
        words += ", each pixel the largest magnitude of %d x %d values" % (times, times)
    elif sheet.enlarged > 1:
        words += ", each value %d pixels" % sheet.enlarged
    return words + ", colours from %s (blue) to %s (red)" % tuple(map(number, range_))


def register():
    Stats()
    Show()

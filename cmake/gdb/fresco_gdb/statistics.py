"""What is said of many numbers: their range, what is not finite, and what E4M3 cannot hold."""

import math
from collections import Counter

from fresco_gdb.elements import E4M3, E4M3_LIMIT


def _finite(values):
    return [value for value in values if math.isfinite(value)]


class Statistics:
    """Of the elements that were added, all of one type. Ranges, and with `moments` mean and deviation, are of those that are
    finite."""

    def __init__(self, element, moments=False):
        self.element = element
        self.moments = moments
        self.count = 0
        self.nan = 0
        self.infinite = 0
        self.nonzero = 0
        self.min = math.inf
        self.max = -math.inf
        self.sum = 0.0
        self.squares = 0.0
        # Of E4M3 elements those at its limit, of other floats those beyond it.
        self.at_limit = 0

    @property
    def finite(self):
        return self.count - self.nan - self.infinite

    @property
    def amax(self):
        return max(abs(self.min), abs(self.max))

    def add(self, raw, times=1):
        """An array of the element's raw type, each of whose elements counts as so many."""
        self.count += len(raw) * times
        if self.element.bytes <= 2:  # few different codes: each is looked at once
            for code, number in Counter(raw).items():
                self._add_equal(self.element.value(code), number * times)
        else:
            self._add_wide(raw, times)

    def _add_equal(self, value, number):
        if value != value:
            self.nan += number
        elif math.isinf(value):
            self.infinite += number
            self._count_limit(value, number)
        else:
            self.min = min(self.min, value)
            self.max = max(self.max, value)
            self.sum += value * number
            self.squares += float(value) * value * number
            self.nonzero += number if value else 0
            self._count_limit(value, number)

    def _count_limit(self, value, number):
        if abs(value) > E4M3_LIMIT or (self.element is E4M3 and abs(value) == E4M3_LIMIT):
            self.at_limit += number

    def _add_wide(self, raw, times):
        """Elements of 4 or 8 bytes: by the built-in functions, which are quick, where all are finite."""
        total = sum(raw)
        values = raw
        if self.element.kind == "float" and not math.isfinite(total):
            self.nan += times * sum(1 for value in raw if value != value)
            self.infinite += times * sum(1 for value in raw if math.isinf(value))
            self.at_limit += times * sum(1 for value in raw if math.isinf(value))
            values = _finite(raw)
            total = sum(values)
        if not values:
            return
        least, most = min(values), max(values)
        self.min = min(self.min, least)
        self.max = max(self.max, most)
        self.sum += total * times
        if self.moments:
            self.squares += times * math.fsum(float(value) ** 2 for value in values)
        self.nonzero += times * (len(values) - values.count(0))
        if least < -E4M3_LIMIT or most > E4M3_LIMIT:
            self.at_limit += times * sum(1 for value in values if not -E4M3_LIMIT <= value <= E4M3_LIMIT)

    @property
    def mean(self):
        return self.sum / self.finite if self.finite else math.nan

    @property
    def deviation(self):
        return math.sqrt(max(self.squares / self.finite - self.mean**2, 0)) if self.finite else math.nan


def number(value):
    """As a person reads it: 6 digits, whole numbers as such."""
    if isinstance(value, int):
        return str(value)
    return "%.6g" % value


def share(part, whole):
    if part == 0:
        return "0"
    percent = 100.0 * part / whole
    return "%d (%s %%)" % (part, "%.3g" % percent)


def summary(statistics):
    """ "min -3.2, max 4.1, amax 4.1, NaN 0, inf 0, beyond E4M3 0"."""
    element = statistics.element
    if element.kind == "bool":
        return "true %s" % share(statistics.nonzero, statistics.count)
    words = []
    if statistics.finite:
        words.append("min %s, max %s, amax %s" % tuple(number(v) for v in (statistics.min, statistics.max, statistics.amax)))
    if element.kind == "float":
        words.append("NaN %s, inf %s" % (share(statistics.nan, statistics.count), share(statistics.infinite, statistics.count)))
        words.append("%s %s" % (limit_words(element), share(statistics.at_limit, statistics.count)))
    return ", ".join(words)


def limit_words(element):
    """What Statistics.at_limit counts: of codes those that may have been clamped, of other floats those that would be."""
    return "at E4M3's limit" if element is E4M3 else "beyond E4M3"


def percentile(ordered, share_below):
    """Of sorted values, the nearest one."""
    return ordered[min(len(ordered) - 1, int(share_below * len(ordered)))]

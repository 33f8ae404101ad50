"""Abseil's and libtorch's small types: Status, StatusOr, Duration, Time, Span and ArrayRef."""

import datetime

import gdb

from fresco_gdb import printing

_CODES = {
    0: "OK", 1: "CANCELLED", 2: "UNKNOWN", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND", 6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED", 9: "FAILED_PRECONDITION", 10: "ABORTED", 11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED", 13: "INTERNAL", 14: "UNAVAILABLE", 15: "DATA_LOSS", 16: "UNAUTHENTICATED",
}
_TICKS = 4_000_000_000  # of absl::Duration, in a second
_INFINITE_TICKS = 0xFFFFFFFF


def seconds_of(duration):
    """Of an absl::Duration; infinite ones as floats are."""
    high, low = duration["rep_hi_"], int(duration["rep_lo_"])
    if high.type.strip_typedefs().code != gdb.TYPE_CODE_INT:  # newer Abseils keep it in two halves
        high = (int(high["hi_"]) << 32) + int(high["lo_"])
    if low == _INFINITE_TICKS:
        return float("-inf") if int(high) < 0 else float("inf")
    return int(high) + low / _TICKS


def time_of(time):
    """Seconds since 1970 of an absl::Time."""
    return seconds_of(time["rep_"])


def duration_text(seconds):
    if seconds in (float("inf"), float("-inf")):
        return "infinite" if seconds > 0 else "-infinite"
    if seconds == 0:
        return "0 s"
    if abs(seconds) < 1e-3:
        return "%.6g us" % (seconds * 1e6)
    if abs(seconds) < 1:
        return "%.6g ms" % (seconds * 1e3)
    return "%.6g s" % seconds


def time_text(seconds):
    if seconds == float("inf"):
        return "infinite future"
    if seconds == float("-inf"):
        return "infinite past"
    date = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    return date.isoformat(sep=" ", timespec="milliseconds") + " UTC"


def status_text(status):
    """ "OK", or "NOT_FOUND: no model of this name"."""
    rep = int(status["rep_"])
    if rep & 1 == 0:
        return "moved from" if rep & 2 else _CODES.get(rep >> 2, "code %d" % (rep >> 2))
    # Of the same inline namespace: absl::debian3::Status.
    namespace = status.type.strip_typedefs().unqualified().name.rpartition("::")[0]
    stored = gdb.Value(rep - 1).cast(gdb.lookup_type(namespace + "::status_internal::StatusRep").pointer()).dereference()
    return "%s: %s" % (_code(stored["code"]), printing.text_of(stored["message"]))


def _code(value):
    return _CODES.get(int(value), "code %d" % int(value))


class StatusPrinter(printing.Line):
    def line(self):
        return "absl::Status " + status_text(self.value)


class _Refused(printing.Line):
    def line(self):
        return "absl::StatusOr " + status_text(self.value["status_"])


class _Granted(printing.Printer):
    def line(self):
        return "absl::StatusOr OK"

    def members(self):
        yield "value", self.value["data_"]


def status_or_printer(value):
    value = printing.plain(value)
    return _Granted(value) if int(value["status_"]["rep_"]) == 0 else _Refused(value)


class DurationPrinter(printing.Line):
    def line(self):
        return duration_text(seconds_of(self.value))


class TimePrinter(printing.Line):
    def line(self):
        return time_text(time_of(self.value))


class SpanPrinter:
    """absl::Span and c10::ArrayRef: a pointer and a number."""

    def __init__(self, value):
        value = printing.plain(value)
        self._is_span = value.type.strip_typedefs().unqualified().name.startswith("absl::")
        pointer, length = ("ptr_", "len_") if self._is_span else ("Data", "Length")
        self._data, self._length = value[pointer], int(value[length])

    def to_string(self):
        return "%s of %d" % ("absl::Span" if self._is_span else "c10::ArrayRef", self._length)

    def children(self):
        for i in range(self._length):
            yield "[%d]" % i, self._data[i]

    def display_hint(self):
        return "array"


PRINTERS = {
    "^absl::([a-z0-9_]+::)?Status$": StatusPrinter,
    "^absl::([a-z0-9_]+::)?StatusOr<.*>$": status_or_printer,
    "^absl::([a-z0-9_]+::)?Duration$": DurationPrinter,
    "^absl::([a-z0-9_]+::)?Time$": TimePrinter,
    "^absl::([a-z0-9_]+::)?Span<.*>$": SpanPrinter,
    "^c10::(ArrayRef|HeaderOnlyArrayRef)<.*>$": SpanPrinter,
}

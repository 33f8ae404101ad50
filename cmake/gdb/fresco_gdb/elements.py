"""The types that a tensor's elements can have, and how their bytes are read."""

import functools
import struct
from array import array


def _float16(code):
    return struct.unpack("<e", struct.pack("<H", code))[0]


def _bfloat16(code):
    return struct.unpack("<f", struct.pack("<I", code << 16))[0]


def _float8(code, exponent_bits, bias, has_infinity):
    """A float of a byte; without infinity (E4M3FN) the largest exponent is of numbers too, but for the one code of NaN."""
    mantissa_bits = 7 - exponent_bits
    sign = -1.0 if code & 0x80 else 1.0
    exponent = (code & 0x7F) >> mantissa_bits
    mantissa = code & ((1 << mantissa_bits) - 1)
    if has_infinity and exponent == (1 << exponent_bits) - 1:
        return float("nan") if mantissa else sign * float("inf")
    if not has_infinity and code & 0x7F == 0x7F:
        return float("nan")
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)


class ElementType:
    """`raw`: the array type code that an element's bytes are read as. `decode`: its value from that number; None: it is the
    value. `kind`: "float", "int" or "bool"."""

    def __init__(self, name, raw, kind, decode=None):
        self.name = name
        self.raw = raw
        self.kind = kind
        self.bytes = array(raw).itemsize
        self.decode = functools.lru_cache(maxsize=1 << 16)(decode) if decode else None

    def read(self, memory):
        """The elements of some bytes as an array of `raw`."""
        values = array(self.raw)
        values.frombytes(bytes(memory))
        return values

    def value(self, raw):
        return self.decode(raw) if self.decode else raw

    def values(self, raw):
        return [self.decode(code) for code in raw] if self.decode else raw


E4M3 = ElementType("float8_e4m3fn", "B", "float", lambda code: _float8(code, 4, 7, False))
# The largest magnitude that E4M3 holds.
E4M3_LIMIT = 448.0

# By c10::ScalarType; what is not here (complex, 4 bits, libtorch's own quantised types) no part of Fresco uses.
BY_SCALAR_TYPE = {
    0: ElementType("uint8", "B", "int"),
    1: ElementType("int8", "b", "int"),
    2: ElementType("int16", "h", "int"),
    3: ElementType("int32", "i", "int"),
    4: ElementType("int64", "q", "int"),
    5: ElementType("float16", "H", "float", _float16),
    6: ElementType("float32", "f", "float"),
    7: ElementType("float64", "d", "float"),
    11: ElementType("bool", "B", "bool"),
    15: ElementType("bfloat16", "H", "float", _bfloat16),
    23: ElementType("float8_e5m2", "B", "float", lambda code: _float8(code, 5, 15, True)),
    24: E4M3,
}

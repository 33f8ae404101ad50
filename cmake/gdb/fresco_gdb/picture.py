"""Planes of numbers as a picture: blue below zero, white at it, red above; magenta is NaN, green infinite."""

import math

from fresco_gdb import png

_NAN = (255, 0, 255)
_INFINITE = (0, 200, 0)
_GAP = (64, 64, 64)
_GAP_PIXELS = 2
_LEAST_TILE = 96  # pixels: smaller planes are enlarged by a whole factor
_MOST_TILE = 1024  # pixels: larger ones are made smaller
_BELOW = (5, 48, 150)  # at the range's end
_ABOVE = (170, 10, 20)
_SHADES = 128  # on either side of zero


def _palette():
    def shade(end, part):
        return bytes(round(255 + (channel - 255) * part) for channel in end)

    below = [shade(_BELOW, i / _SHADES) for i in range(_SHADES, 0, -1)]
    return below + [b"\xff\xff\xff"] + [shade(_ABOVE, i / _SHADES) for i in range(1, _SHADES + 1)]


class Scale:
    """From a value to a colour. `low` to `high` is the range; the middle of it is white."""

    def __init__(self, low, high):
        self.low, self.high = low, high
        self._palette = _palette()
        self._middle = (low + high) / 2
        self._factor = _SHADES / max((high - low) / 2, 1e-30)

    def colour(self, value):
        if value != value:
            return bytes(_NAN)
        if math.isinf(value):
            return bytes(_INFINITE)
        place = max(-_SHADES, min(_SHADES, (value - self._middle) * self._factor))
        return self._palette[_SHADES + round(place)]


def robust_range(planes):
    """Even about zero, to the magnitude that 995 of 1000 finite values do not pass: one outlier does not make all else white."""
    magnitudes = sorted(abs(value) for plane in planes for row in plane for value in row if math.isfinite(value))
    if not magnitudes:
        return -1.0, 1.0
    high = magnitudes[min(len(magnitudes) - 1, int(0.995 * len(magnitudes)))] or magnitudes[-1] or 1.0
    return -float(high), float(high)


def _strongest(block):
    """What must not be lost where many values share a pixel: what is not finite, else the largest magnitude."""
    for value in block:
        if not math.isfinite(value):
            return value
    return max(block, key=abs)


def shrink(plane, times):
    """Each square of `times` times `times` values as one, the strongest."""
    if times == 1:
        return plane
    return [
        [_strongest([v for row in plane[y : y + times] for v in row[x : x + times]]) for x in range(0, len(plane[0]), times)]
        for y in range(0, len(plane), times)
    ]


def reduction(height, width):
    """How many values of a plane share a pixel, per side, so that it is no larger than a tile may be."""
    return max(1, -(-max(height, width) // _MOST_TILE))


class Sheet:
    """Planes of equal size beside each other, in reading order."""

    def __init__(self, planes, scale):
        self._planes = planes
        self._scale = scale
        height, width = len(planes[0]), len(planes[0][0])
        self.enlarged = max(1, _LEAST_TILE // max(height, width))
        # About as wide as it is high.
        self.columns = max(1, min(len(planes), math.ceil(math.sqrt(len(planes) * height / width))))
        self.lines = -(-len(planes) // self.columns)
        self._tile_width, self._tile_height = width * self.enlarged, height * self.enlarged
        self.width = self.columns * (self._tile_width + _GAP_PIXELS) - _GAP_PIXELS
        self.height = self.lines * (self._tile_height + _GAP_PIXELS) - _GAP_PIXELS

    def encode(self):
        return png.encode(self.width, self.height, self._rows())

    def _rows(self):
        gap, empty = bytes(_GAP), bytes(_GAP) * self._tile_width
        for line in range(self.lines):
            if line:
                yield from [gap * self.width] * _GAP_PIXELS
            tiles = self._planes[line * self.columns : (line + 1) * self.columns]
            for y in range(len(self._planes[0])):
                parts = [b"".join(self._scale.colour(value) * self.enlarged for value in tile[y]) for tile in tiles]
                parts += [empty] * (self.columns - len(parts))
                yield from [(gap * _GAP_PIXELS).join(parts)] * self.enlarged

"""Where a tensor's elements lie: walks over shapes and strides, without gdb. Offsets, sizes and strides are in elements."""

import itertools

# Beyond so many bytes from one element to the next, each is read by itself.
WIDE_STRIDE = 256


class Run:
    """`count` elements from `offset` on, `stride` apart."""

    def __init__(self, offset, count, stride):
        self.offset = offset
        self.count = count
        self.stride = stride

    @property
    def span(self):
        return (self.count - 1) * self.stride + 1


def multiplicity(shape, strides):
    """How often each element in memory is one of the tensor's: the sizes of what is expanded."""
    times = 1
    for size, stride in zip(shape, strides):
        if stride == 0:
            times *= size
    return times


def _dense_dims(shape, strides):
    """The dimensions in the order of memory, the widest stride first, those that adjoin as one, without what is expanded."""
    dims = sorted(((stride, size) for size, stride in zip(shape, strides) if size != 1 and stride != 0), reverse=True)
    merged = []
    for stride, size in dims:
        if merged and merged[-1][0] == stride * size:
            merged[-1] = (stride, merged[-1][1] * size)
        else:
            merged.append((stride, size))
    return merged


def runs(shape, strides, element_bytes, chunk):
    """All that a tensor without a size of 0 has, what is expanded once, in the order of memory as far as it does not overlap.
    At most `chunk` elements a run, or spanned by one."""
    dims = _dense_dims(shape, strides)
    stride, size = dims.pop() if dims and dims[-1][0] * element_bytes <= WIDE_STRIDE else (1, 1)
    at_once = max(1, chunk // stride)
    for place in itertools.product(*(range(0, outer * step, step) for step, outer in dims)):
        for first in range(0, size, at_once):
            yield Run(sum(place) + first * stride, min(at_once, size - first), stride)


def index_of(offset, shape, strides):
    """The place of the element at an offset; None where strides overlap, so that it has no single one."""
    index = [0] * len(shape)
    for dim in sorted(range(len(shape)), key=lambda dim: strides[dim], reverse=True):
        if strides[dim] == 0 or shape[dim] == 1:
            continue
        index[dim], offset = divmod(offset, strides[dim])
        if index[dim] >= shape[dim]:
            return None
    return index if offset == 0 else None


def offset_of(index, strides):
    return sum(place * stride for place, stride in zip(index, strides))


def is_contiguous(shape, strides):
    expected = 1
    for size, stride in reversed(list(zip(shape, strides))):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True

"""An at::Tensor as gdb sees it: its description out of libtorch's structures, its elements out of memory. Works on a live
process and on a core file alike; what a GPU holds only where a live process can be made to copy it (memory.py)."""

import gdb

from fresco_gdb import layout
from fresco_gdb.elements import BY_SCALAR_TYPE
from fresco_gdb.statistics import Statistics

# Elements that are read at once.
CHUNK = 1 << 20
# Reads that a printer makes at most: each of a few elements takes as long as one of many.
_MOST_READS = 1 << 14

_DEVICES = {0: "cpu", 1: "cuda", 14: "meta"}

_NO_LAYOUT = "libtorch's classes are not in this program's debug information: build it with ./dev debug (preset debug)"

_NO_TENSOR = "no tensor can be read here: %s (not initialised yet, or destroyed?)"


class TensorError(Exception):
    """Why there is nothing to show, for the user."""


def _complete(value, type_name):
    """`value`, which must have its members: those of a class that is only declared are looked up by its name."""
    if value.type.strip_typedefs().fields():
        return value
    try:
        return value.cast(gdb.lookup_type(type_name))
    except gdb.error:
        raise TensorError(_NO_LAYOUT) from None


def _impl_of(value):
    """The TensorImpl of a tensor, a pointer or reference to one, or what wraps it; None: it is undefined."""
    for _ in range(4):
        type_ = value.type.strip_typedefs()
        if type_.code in (gdb.TYPE_CODE_REF, gdb.TYPE_CODE_RVALUE_REF):
            value = value.referenced_value()
        elif type_.code == gdb.TYPE_CODE_PTR:
            if int(value) == 0:
                raise TensorError("the pointer is null")
            value = value.dereference()
        else:
            break
    name = value.type.strip_typedefs().unqualified().name or str(value.type)
    if name in ("at::Tensor", "at::TensorBase"):
        try:
            target = value["impl_"]["target_"]
        except (gdb.error, KeyError):
            raise TensorError(_NO_LAYOUT) from None
        if int(target) == 0:
            return None
        return _complete(target.dereference(), "c10::TensorImpl")
    if name == "c10::TensorImpl":
        return value
    raise TensorError("this is %s, no at::Tensor" % name)


class Tensor:
    """What is read is read once, at the start: shape, strides (in elements), element type, device and address."""

    def __init__(self, value):
        """Raises TensorError for what is none or cannot be read."""
        try:
            self._read(_impl_of(value))
        except gdb.MemoryError as error:
            raise TensorError(_NO_TENSOR % error) from None
        except gdb.error as error:
            raise TensorError("%s: %s" % (_NO_LAYOUT, error)) from None

    def _read(self, impl):
        self.defined = impl is not None and not _is_undefined(impl)
        if not self.defined:
            return
        _check_owners(impl)
        self.element = BY_SCALAR_TYPE.get(int(impl["data_type_"]["index_"]))
        self.scalar_type = int(impl["data_type_"]["index_"])
        self._read_sizes(impl["sizes_and_strides_"])
        self.count = int(impl["numel_"])
        self.device = _device_of(impl)
        self.missing = ""  # why there are no elements to read
        self.address = self._address_of(impl)

    def _read_sizes(self, sizes_and_strides):
        dims = int(sizes_and_strides["size_"])
        if not 0 <= dims <= 64:
            raise TensorError(_NO_TENSOR % ("it would have %d dimensions" % dims))
        inline = sizes_and_strides["inlineStorage_"]
        most_inline = (inline.type.range()[1] + 1) // 2
        if dims <= most_inline:
            numbers, strides_at = inline, most_inline
        else:
            numbers, strides_at = sizes_and_strides["outOfLineStorage_"], dims
        self.shape = [int(numbers[i]) for i in range(dims)]
        self.strides = [int(numbers[strides_at + i]) for i in range(dims)]
        if any(size < 0 for size in self.shape):
            raise TensorError(_NO_TENSOR % ("its shape would be %s" % self.shape))

    def _address_of(self, impl):
        """Of the first element."""
        storage = impl["storage_"]["storage_impl_"]["target_"]
        offset = int(impl["storage_offset_"])
        if self.device == "meta":
            self.missing = "a tensor without memory"
            return 0
        if not self.on_host and not self.device.startswith("cuda"):
            self.missing = "on a device whose memory is not read"
            return 0
        if int(storage) == 0:
            self.missing = "its memory is not libtorch's: packed for oneDNN, or sparse"
            return 0
        if self.element is None:
            self.missing = "of a type (c10::ScalarType %d) whose values are not shown" % self.scalar_type
            return 0
        data = int(storage.dereference()["data_ptr_"]["ptr_"]["data_"])
        if data == 0 and self.count > 0:
            self.missing = "its memory has been let go of"
        return data + offset * self.element.bytes

    @property
    def on_host(self):
        return self.device == "cpu"

    @property
    def type_name(self):
        return self.element.name if self.element else "c10::ScalarType %d" % self.scalar_type

    def describe(self):
        """ "[1, 16, 64, 64] float32 cpu"."""
        words = "%s %s %s" % (self.shape, self.type_name, self.device)
        if self.count and not layout.is_contiguous(self.shape, self.strides):
            words += " strides %s" % self.strides
        return words

    def read(self, offset, count, memory):
        """Elements as they lie in memory, from `offset` on, as an array of raw ones."""
        bytes_ = self.element.bytes
        return self.element.read(memory.read(self.address + offset * bytes_, count * bytes_))

    def statistics(self, memory, most=None, moments=False, visit=None):
        """Of at most `most` elements (None: of all); `visit` sees each run and its raw elements."""
        found = Statistics(self.element, moments)
        if not self.count:
            return found
        times = layout.multiplicity(self.shape, self.strides)
        chunk = CHUNK if most is None else max(1, min(CHUNK, most))
        for reads, run in enumerate(layout.runs(self.shape, self.strides, self.element.bytes, chunk)):
            if most is not None and (found.count >= most or reads >= _MOST_READS):
                break
            raw = self.read(run.offset, run.span, memory)[:: run.stride]
            found.add(raw, times)
            if visit:
                visit(run, raw)
        return found

    def value_at(self, index, memory):
        return self.element.value(self.read(layout.offset_of(index, self.strides), 1, memory)[0])

    def first_indices(self, number):
        """In the order of the tensor's own dimensions."""
        indices = []
        for place in range(min(number, self.count)):
            index = []
            for size in reversed(self.shape):
                place, rest = divmod(place, size)
                index.insert(0, rest)
            indices.append(index)
        return indices


def _is_undefined(impl):
    """libtorch's undefined tensor is an object of its own, of which there is one."""
    return "c10::UndefinedTensorImpl::_singleton" in gdb.execute("info symbol 0x%x" % int(impl.address), to_string=True)


def _check_owners(impl):
    """What is no tensor (yet, or any more) has hardly a number of owners that is one."""
    owners = int(impl["combined_refcount_"]["_M_i"]) & 0xFFFFFFFF
    if not 0 < owners < 1 << 24:
        raise TensorError(_NO_TENSOR % ("it would have %d owners" % owners))


def _device_of(impl):
    optional = impl["device_opt_"]
    payload = optional["_M_payload"]
    if not bool(payload["_M_engaged"]):
        return "no device"
    device = payload["_M_payload"]["_M_value"]
    kind = _DEVICES.get(int(device["type_"]), "device type %d" % int(device["type_"]))
    index = int(device["index_"])
    return kind if kind != "cuda" else "cuda:%d" % max(index, 0)

"""Where a tensor's bytes are read from: the process's memory, or a GPU's by way of it."""

import gdb

from fresco_gdb.tensor import CHUNK, TensorError

# cudaMemcpyKind
_DEVICE_TO_HOST = 2


class HostMemory:
    """Of the process or core file that gdb looks at."""

    def read(self, address, length):
        if length == 0:
            return b""
        try:
            return gdb.selected_inferior().read_memory(address, length)
        except gdb.MemoryError:
            words = "memory at 0x%x (%d bytes) cannot be read" % (address, length)
            raise TensorError(words + ("; is it in the core file?" if not is_live() else "")) from None


class DeviceMemory:
    """Of a GPU: the process is made to call cudaMemcpy, on the thread that gdb looks at, while the others stay as they are.
    As a context manager: the buffer in the process is given back at the end."""

    def __init__(self):
        self._buffer = 0
        self._capacity = 0
        self._locking = None

    def __enter__(self):
        if not is_live():
            raise TensorError("its values are in the GPU's memory, which a core file does not hold")
        self._locking = gdb.parameter("scheduler-locking")
        gdb.execute("set scheduler-locking on", to_string=True)
        return self

    def __exit__(self, *_):
        try:
            if self._buffer:
                _call("void (*)(void*)", "free", self._buffer)
        finally:
            gdb.execute("set scheduler-locking %s" % self._locking, to_string=True)

    def read(self, address, length):
        pieces = []
        while length > 0:
            piece = min(length, CHUNK * 8)
            pieces.append(self._read_piece(address, piece))
            address += piece
            length -= piece
        return b"".join(pieces)

    def _read_piece(self, address, length):
        if length > self._capacity:
            if self._buffer:
                _call("void (*)(void*)", "free", self._buffer)
            self._buffer = int(_call("void* (*)(unsigned long)", "malloc", length))
            if self._buffer == 0:
                raise TensorError("the process has no %d bytes left to copy the tensor to" % length)
            self._capacity = length
        error = int(_call("int (*)(void*, void*, unsigned long, int)", "cudaMemcpy", self._buffer, address, length, _DEVICE_TO_HOST))
        if error != 0:
            raise TensorError("cudaMemcpy in the process: " + _cuda_error(error))
        return bytes(gdb.selected_inferior().read_memory(self._buffer, length))


def _call(type_, function, *arguments):
    try:
        return gdb.parse_and_eval("((%s)%s)(%s)" % (type_, function, ", ".join(str(argument) for argument in arguments)))
    except gdb.error as error:
        raise TensorError("the process cannot be made to call %s: %s" % (function, error)) from None


def _cuda_error(code):
    try:
        return _call("char* (*)(int)", "cudaGetErrorString", code).string()
    except TensorError:
        return "CUDA error %d" % code


def is_live():
    """Whether gdb looks at a process, not at a core file."""
    connection = gdb.selected_inferior().connection
    return connection is not None and connection.type != "core"


class _Host:
    """HostMemory as a context manager."""

    def __enter__(self):
        return HostMemory()

    def __exit__(self, *_):
        pass


def of(tensor):
    """The memory that holds the tensor, as a context manager."""
    if tensor.missing:
        raise TensorError(tensor.missing)
    return _Host() if tensor.on_host else DeviceMemory()

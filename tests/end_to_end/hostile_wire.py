"""What no client library sends: protobuf, HTTP/2 and plain bytes made by hand."""

import re
import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
GENERATE = "/fresco.v1.ImageGeneration/Generate"

# ---- protobuf ----------------------------------------------------------------------------------------------------


def varint(value):
    value &= (1 << 64) - 1
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value)


def real(field, value):
    return varint(field << 3 | 5) + struct.pack("<f", value)


def text(field, value):
    value = value if isinstance(value, bytes) else value.encode()
    return varint(field << 3 | 2) + varint(len(value)) + value


def message(content, compressed=False):
    """With gRPC's five bytes before it."""
    return bytes([compressed]) + struct.pack(">I", len(content)) + content


# ---- HTTP/2 ------------------------------------------------------------------------------------------------------


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def field(name, value):
    """A header that no table knows, without Huffman's code."""

    def piece(content):
        content = content if isinstance(content, bytes) else content.encode()
        if len(content) < 127:
            return bytes([len(content)]) + content
        rest, out = len(content) - 127, b"\x7f"
        while rest >= 128:
            out += bytes([rest & 127 | 128])
            rest >>= 7
        return out + bytes([rest]) + content

    return b"\x00" + piece(name) + piece(value)


def call_headers(path=GENERATE, method="POST", content_type="application/grpc", more=()):
    named = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost"), ("te", "trailers")]
    if content_type:
        named.append(("content-type", content_type))
    return b"".join(field(*pair) for pair in [*named, *more])


class Connection:
    """A connection, and what has come back on it."""

    def __init__(self, address, greet=True):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.received = b""
        if greet:
            self.send(PREFACE + frame(SETTINGS, 0, 0))
            self.read(lambda frames: any(kind == SETTINGS for kind, *_ in frames))
            self.send(frame(SETTINGS, ACK, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, content):
        """False where the server has closed."""
        try:
            self.socket.sendall(content)
            return True
        except OSError:
            return False

    def call(self, headers, body=None, stream=1):
        """Sends a call, whole; returns how it ends, as answer()."""
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if body is None else 0), stream, headers))
        for start in range(0, max(1, len(body)), 1 << 14) if body is not None else ():
            self.send(frame(DATA, END_STREAM if start + (1 << 14) >= len(body) else 0, stream, body[start:start + (1 << 14)]))
        return self.answer(stream)

    def read(self, until, seconds=30):
        """Reads until `until(frames)` or the end; returns the frames: (kind, flags, stream, payload)."""
        self.socket.settimeout(seconds)
        while not until(self.frames()):
            try:
                piece = self.socket.recv(1 << 16)
            except TimeoutError:
                raise AssertionError(f"the server neither answers nor closes: {self.received[:200]!r}") from None
            except OSError:
                break
            if not piece:
                break
            self.received += piece
        return self.frames()

    def pour(self, streams, body):
        """Sends the body on each stream, without an end, as fast as the server lets it, until it has sent all or been answered on each; returns how
        many bytes it has sent. The frames that come are dropped as they are read."""
        total, windows, initial, left = 0, {0: 65535}, 65535, {stream: memoryview(body) for stream in streams}
        while left:
            for kind, flags, stream, payload in self.frames():
                if kind == SETTINGS and not flags & ACK:
                    initial = next((int.from_bytes(payload[i + 2:i + 6], "big") for i in range(0, len(payload), 6) if payload[i:i + 2] == b"\0\x04"), initial)
                elif kind == WINDOW_UPDATE:
                    windows[stream] = windows.get(stream, 0) + int.from_bytes(payload, "big")
                elif kind in (RST_STREAM, HEADERS):
                    left.pop(stream, None)
            self.received = self._rest()
            sent = False
            for stream in list(left):
                size = min(len(left[stream]), windows[0], initial + windows.get(stream, 0), 1 << 14)
                if size <= 0:
                    continue
                if not self.send(frame(DATA, 0, stream, bytes(left[stream][:size]))):
                    return total
                total += size
                windows[0], windows[stream], left[stream] = windows[0] - size, windows.get(stream, 0) - size, left[stream][size:]
                if not left[stream]:
                    del left[stream]
                sent = True
            if left and not sent:
                seen = len(self.received)
                self.read(lambda _, seen=seen: len(self.received) > seen)
                if len(self.received) == seen:
                    break  # closed
        return total

    def _rest(self):
        """What has come of a frame that is not whole yet."""
        return self.received[sum(9 + len(payload) for *_, payload in self.frames()):]

    def frames(self):
        found, rest = [], self.received
        while len(rest) >= 9:
            size = int.from_bytes(rest[:3], "big")
            if len(rest) < 9 + size:
                break
            found.append((rest[3], rest[4], int.from_bytes(rest[5:9], "big") & 0x7FFFFFFF, rest[9:9 + size]))
            rest = rest[9 + size:]
        return found

    def answer(self, stream=1):
        """How a call ends: gRPC's status as its name, "reset", "HTTP 415", or "closed" with the connection."""
        frames = self.read(lambda frames: any(f[2] == stream and (f[0] == RST_STREAM or f[0] in (DATA, HEADERS) and f[1] & END_STREAM) for f in frames))
        headers = b"".join(payload for kind, _, of, payload in frames if of == stream and kind in (HEADERS, CONTINUATION))
        status = re.search(rb"grpc-status.(\d+)", headers, re.DOTALL)
        if status:
            return CODES[int(status[1])]
        if any(kind == RST_STREAM and of == stream for kind, _, of, _ in frames):
            return "reset"
        http = re.search(rb"([45]\d\d)", headers)
        return f"HTTP {http[1].decode()}" if http else "closed"

    def closes(self):
        """Reads to the end of the connection: "closed", or "GOAWAY" where the server has said why."""
        frames = self.read(lambda _: False)
        return "GOAWAY" if any(kind == GOAWAY for kind, *_ in frames) else "closed"


CODES = ["OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
         "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"]

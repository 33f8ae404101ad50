"""HTTP/2 by hand (RFC 9113): clients that a gRPC library would never be."""

import socket
import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
INITIAL_WINDOW_SIZE = 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """A header field, neither indexed nor compressed (RFC 7541, 6.2.2); both shorter than 127 bytes."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class Connection:
    """Has sent its preface; the window is what the server may send of each stream before it is told to go on, which it never is."""

    def __init__(self, port, window=65535):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.buffer = b""
        self.stream = -1
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def agree(self):
        """Waits for the server's settings and acknowledges them: from then on they bind us."""
        for kind, flags, _, _ in self.frames():
            if kind == SETTINGS and not flags & ACK:
                return

    def call(self, path, message):
        """Begins a unary-request call; returns its stream's number."""
        self.stream += 2
        headers = b"".join(literal(*field) for field in [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "127.0.0.1"),
            ("te", "trailers"), ("content-type", "application/grpc")])
        body = b"\0" + struct.pack(">I", len(message)) + message
        self.socket.sendall(frame(HEADERS, END_HEADERS, self.stream, headers) + frame(DATA, END_STREAM, self.stream, body))
        return self.stream

    def frames(self):
        """Yields (kind, flags, stream, payload) until the server closes; acknowledges settings and pings."""
        while True:
            while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
                try:
                    more = self.socket.recv(65536)
                except ConnectionError:
                    return
                if not more:
                    return
                self.buffer += more
            size, kind, flags = int.from_bytes(self.buffer[:3], "big"), self.buffer[3], self.buffer[4]
            stream = int.from_bytes(self.buffer[5:9], "big") & 0x7FFFFFFF
            payload, self.buffer = self.buffer[9:9 + size], self.buffer[9 + size:]
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.socket.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            yield kind, flags, stream, payload

"""Requests that nobody means well with, each with its status: the table of docs/FUZZING.md, row by row, against the real server, which draws the same
picture afterwards as before."""

import contextlib
import math
import pathlib
import re
import tempfile
import unittest

import grpc

from hostile_wire import DATA, END_HEADERS, HEADERS, PING, RST_STREAM, SETTINGS, Connection, call_headers, frame, message, number, real, text
from service import ROOT, running_service

PROMPT = text(2, "a red apple on a light blue background")
QUICK = number(6, 1)  # one step
CREATE = "/fresco.v1.ImageGeneration/CreateImage"
CANCEL = "/fresco.v1.ImageGeneration/Cancel"
MIB = 1 << 20

# ---- what is sent: functions of the server, which return what comes back --------------------------------------------


def status_of(call):
    try:
        for _ in call:
            pass
        return "OK"
    except grpc.RpcError as error:
        return error.code().name


def generate(content, **options):
    """A call of Generate with these bytes, by gRPC's own client."""

    def send(server):
        return status_of(server.channel.unary_stream("/fresco.v1.ImageGeneration/Generate")(content, timeout=60, **options))

    return send


def unary(method, content):
    def send(server):
        try:
            server.channel.unary_unary(method)(content, timeout=60)
            return "OK"
        except grpc.RpcError as error:
            return error.code().name

    return send


def raw(body=None, **headers):
    """A call on a connection of its own, by hand."""

    def send(server):
        with Connection(server.address) as connection:
            return connection.call(call_headers(**headers), body)

    return send


def bytes_first(content):
    """What is no HTTP/2 from the first byte on."""

    def send(server):
        with Connection(server.address, greet=False) as connection:
            connection.send(content)
            return connection.closes()

    return send


def frames(content):
    """Frames that no call is made of."""

    def send(server):
        with Connection(server.address) as connection:
            connection.send(content)
            return connection.closes()

    return send


def twice(server):
    """The id of a request that runs, with another prompt."""
    call = server.channel.unary_stream("/fresco.v1.ImageGeneration/Generate")
    name = text(13, "hostile-1")
    running = call(PROMPT + number(6, 150) + name, timeout=60)
    next(running)  # it has been accepted
    answer = status_of(call(text(2, "another") + name, timeout=60))
    running.cancel()
    return answer


def silent_calls(server):
    """Calls that are begun and never say what they want, beside one that does."""
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(Connection(server.address))
            connection.send(b"".join(frame(HEADERS, END_HEADERS, stream, call_headers()) for stream in range(1, 41, 2)))
        return generate(PROMPT + QUICK)(server)


def reset_calls(server):
    """Calls that are taken back as soon as they are made, beside one that is not."""
    with Connection(server.address) as connection:
        for first in range(1, 10001, 200):
            connection.send(b"".join(frame(HEADERS, END_HEADERS, stream, call_headers()) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
                                     for stream in range(first, first + 200, 2)))
        return generate(PROMPT + QUICK)(server)


def half_open(server):
    """Connections that say nothing, beside one that does."""
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(Connection(server.address, greet=False))
        return generate(PROMPT + QUICK)(server)


def metrics(content):
    """The status line with which the metrics port answers."""

    def send(server):
        with Connection(server.metrics_address, greet=False) as connection:
            connection.send(content)
            connection.read(lambda _: b"\r\n" in connection.received)
            line = connection.received.split(b"\r\n")[0].decode(errors="replace")
            return re.sub(r"HTTP/1\.\d (\d+).*", r"HTTP \1", line) or "closed"

    return send


CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(180))

# What the documentation calls it, what comes back, what is sent.
TABLE = [
    ("a width that is no multiple of 16 (17)", "INVALID_ARGUMENT", generate(PROMPT + number(4, 17))),
    ("a negative height (-512)", "INVALID_ARGUMENT", generate(PROMPT + number(5, -512))),
    ("2³¹ - 1 pixels a side", "INVALID_ARGUMENT", generate(PROMPT + number(4, 2**31 - 1) + number(5, 2**31 - 1))),
    ("-1 steps", "INVALID_ARGUMENT", generate(PROMPT + number(6, -1))),
    ("a billion steps", "INVALID_ARGUMENT", generate(PROMPT + number(6, 10**9))),
    ("guidance that is not a number", "INVALID_ARGUMENT", generate(PROMPT + real(7, math.nan))),
    ("infinite guidance", "INVALID_ARGUMENT", generate(PROMPT + real(7, math.inf))),
    ("10,000 images", "INVALID_ARGUMENT", generate(PROMPT + number(9, 10000))),
    ("a preview every -1 steps", "INVALID_ARGUMENT", generate(PROMPT + number(11, -1))),
    ("a priority and a format that there are not", "INVALID_ARGUMENT", generate(PROMPT + number(12, 99) + number(10, 99))),
    ("a prompt of 100 kB", "INVALID_ARGUMENT", generate(text(2, "fox " * 25000))),
    ("a prompt that is not UTF-8", "INVALID_ARGUMENT", generate(text(2, b"a red \xff\xfe"))),
    ("a prompt of control characters and NULs", "OK", generate(text(2, bytes(range(32)) * 8) + QUICK)),
    ("a model that there is not", "NOT_FOUND", generate(PROMPT + text(1, "no-such-model"))),
    ("a model's name of 200 kB", "NOT_FOUND", generate(PROMPT + text(1, "x" * 200_000))),
    ("a request_id of other characters", "INVALID_ARGUMENT", generate(PROMPT + text(13, "../id\n"))),
    ("a request_id of 10 kB", "INVALID_ARGUMENT", generate(PROMPT + text(13, "x" * 10000))),
    ("the request_id of another request that runs", "ALREADY_EXISTS", twice),
    ("fields that there are not", "OK", generate(PROMPT + QUICK + text(999, "x") + number(2000, 7) + text(20, "reserved"))),
    ("240 kB of fields that there are not", "OK", generate(text(999, "") * 80_000 + PROMPT + QUICK)),
    ("240 kB of groups in the place of a text", "OK", generate(b"\x1b\x1c" * 120_000 + PROMPT + QUICK)),
    ("a field of another type than it has", "INVALID_ARGUMENT", generate(PROMPT + text(4, "512") + number(9, 10000))),
    ("bytes that are no message", "INVALID_ARGUMENT", generate(bytes(range(255, 0, -1)))),
    ("groups nested 10,000 deep", "INVALID_ARGUMENT", generate(b"\x0b" * 10000)),
    ("a message of 5 MiB (`server.max_request_bytes` is 256 KiB)", "RESOURCE_EXHAUSTED", generate(text(2, b"x" * (5 * MIB)))),
    ("a message of 257 KiB, all of it fields that there are not", "RESOURCE_EXHAUSTED", generate(text(999, b"x" * (257 << 10)))),
    ("240 MiB of zeros, which gzip makes 240 KiB of", "UNIMPLEMENTED", generate(text(2, bytes(240 * MIB)), compression=grpc.Compression.Gzip)),
    ("a deadline that has passed", "DEADLINE_EXCEEDED", raw(message(PROMPT), more=[("grpc-timeout", "1n")])),
    ("`CreateImage` of size `99999999999x1`", "INVALID_ARGUMENT", unary(CREATE, text(2, "x") + text(4, "99999999999x1"))),
    ("`CreateImage` asked for a URL", "INVALID_ARGUMENT", unary(CREATE, text(2, "x") + text(5, "url"))),
    ("`Cancel` of a request that there is not", "NOT_FOUND", unary(CANCEL, text(1, "nobody"))),
    ("`Cancel` of bytes", "INVALID_ARGUMENT", unary(CANCEL, b"\xff" * 100)),
    ("a service or a method that there is not", "UNIMPLEMENTED", raw(message(PROMPT), path="/fresco.v1.ImageGeneration/Nope")),
    ("GET instead of POST", "UNKNOWN", raw(message(PROMPT), method="GET")),
    ("another content-type (`text/plain`), and a bad request in it", "INVALID_ARGUMENT", raw(message(number(4, 17)), content_type="text/plain")),
    ("a call without a message", "INVALID_ARGUMENT", raw(b"")),
    ("a message that claims 4 GiB and has 10 bytes", "INVALID_ARGUMENT", raw(b"\0\xff\xff\xff\xff" + b"x" * 10)),
    ("a message that ends in its middle", "INVALID_ARGUMENT", raw(message(PROMPT)[:20])),
    ("100 kB of headers", "RESOURCE_EXHAUSTED", raw(message(PROMPT), more=[(f"x-{i}", "y" * 1000) for i in range(100)])),
    ("400 calls that never send their message", "OK (the call beside them)", silent_calls),
    ("5,000 calls that are reset as soon as they are made", "OK (the call beside them)", reset_calls),
    ("100 connections that say nothing", "OK (the call beside them)", half_open),
    ("1,000 pings at once", "GOAWAY", frames(b"".join(frame(PING, 0, 0, bytes(8)) for _ in range(1000)))),
    ("frames of types that there are not", "closed", frames(frame(99, 255, 7, b"x" * 100) + frame(DATA, 0, 5, b"x") + frame(SETTINGS, 0, 0, b"12345"))),
    ("a frame of 16 MiB", "closed", frames(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")),
    ("an HTTP/1.1 request", "closed", bytes_first(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
    ("a TLS handshake where there is no TLS", "closed", bytes_first(CLIENT_HELLO)),
    ("what port scanners send (`SSH-2.0`, NULs, `\\x16\\x03`)", "closed", bytes_first(b"SSH-2.0-scan\r\n" + bytes(64))),
    ("the metrics port: a path that there is not", "HTTP 404", metrics(b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n")),
    ("the metrics port: bytes", "HTTP 400", metrics(bytes(range(256)) * 8)),
]


class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.enterClassContext(folder)
        cls.out = pathlib.Path(folder.name)
        cls.service = cls.enterClassContext(running_service())
        cls.service.channel = cls.enterClassContext(grpc.insecure_channel(cls.service.address, [("grpc.max_send_message_length", -1)]))
        cls.draw("before.png")

    @classmethod
    def peak_bytes(cls, service=None):
        """The most memory that the server has had."""
        status = pathlib.Path(f"/proc/{(service or cls.service).process.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10

    @classmethod
    def draw(cls, name):
        cls.service.client("generate", "--wait", 60, "--prompt", "a red apple on a light blue background", "--seed", 1, "--steps", 2, "--output", cls.out / name)
        return (cls.out / name).read_bytes()

    def test_each_gets_its_status(self):
        before = self.peak_bytes()
        for title, expected, send in TABLE:
            with self.subTest(title):
                self.assertEqual(send(self.service), expected.split(" (")[0])
                self.assertIsNone(self.service.process.poll(), f"the server has ended after {title}")
        self.assertEqual(self.draw("after.png"), (self.out / "before.png").read_bytes())
        # The least of what would be wrong is the 240 MiB that the zeros unpack to; connections and the drawing between take up to 140.
        self.assertLess(self.peak_bytes() - before, 192 * MIB, "what is refused took memory")

    def test_a_message_without_an_end_is_given_up(self):
        """gRPC looks at max_request_bytes only when a message is whole: what ends this one is memory_bytes."""
        config = self.out / "small.yaml"
        config.write_text("server: {memory_bytes: 64MiB}\n", encoding="utf-8")
        with running_service("--config", config) as service, Connection(service.address) as connection:
            service.client("generate", "--wait", 60, "--prompt", "a red apple", "--steps", 1, "--output", self.out / "first.png")
            before = self.peak_bytes(service)
            self.assertTrue(connection.send(frame(HEADERS, END_HEADERS, 1, call_headers())))
            sent = connection.pour([1], b"\0\xff\xff\xff\xff" + bytes(400 * MIB))
            self.assertLess(sent, 400 * MIB, "it has taken all of it")
            self.assertLess(self.peak_bytes(service) - before, 256 * MIB)
            with grpc.insecure_channel(service.address) as service.channel:
                self.assertEqual(generate(PROMPT + QUICK)(service), "OK")

    def test_nobody_writes_lines_of_the_log(self):
        """gRPC puts what it does not understand into lines of its own."""
        forged = b'\n2026-11-30T00:00:00.000Z INFO  forged id=1\n{"time":"2026-11-30T00:00:00.000Z","level":"info","event":"forged"}\n'
        for name in ("content-type", "te", "grpc-encoding", "grpc-timeout", "x-any", "x\nforged"):
            raw(message(PROMPT), more=[(name, b"x" + forged)], content_type=None if name == "content-type" else "application/grpc")(self.service)
        self.draw("logged.png")
        lines = self.service.log.read_text(encoding="utf-8").splitlines()
        self.assertTrue(any("forged" in line for line in lines), "gRPC has said nothing: the test is none")
        for line in lines:
            self.assertRegex(line, r"^\d{4}-\d\d-\d\dT[\d:.]+Z (DEBUG|INFO |WARN |ERROR) [a-z_]+( |$)")
            self.assertFalse("forged" in line and " grpc source=" not in line, line)

    def test_the_documentation_has_this_table(self):
        page = (ROOT / "docs/FUZZING.md").read_text(encoding="utf-8")
        rows = [f"| {title} | {expected} |" for title, expected, _ in TABLE]
        documented = [line for line in page.split("## Hostile requests")[1].splitlines() if line.startswith("| ") and not line.startswith("| What")]
        self.assertEqual(documented, rows)


if __name__ == "__main__":
    unittest.main()

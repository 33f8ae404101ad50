"""What goes wrong around a server, and what it has promised to do then (docs/RELIABILITY.md), on a real one with the demo model."""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import unittest

import grpc
from PIL import Image
from google.rpc import error_details_pb2, status_pb2

import raw_http2
from raw_http2 import Connection
from server import Server, eventually, stub
from service import BIN, ROOT

GENERATE = "/fresco.v1.ImageGeneration/Generate"


def request(steps=2, **fields):
    return stub("image_generation_pb2").GenerateRequest(prompt="a red apple", width=64, height=64, steps=steps, seed=1, **fields)


def endless(**fields):
    """What is not finished before somebody ends it."""
    return request(steps=1000, **fields)


def generate(channel, message, **options):
    """The call, of which nothing has been read yet."""
    return stub("image_generation_pb2_grpc").ImageGenerationStub(channel).Generate(message, **options)


def picture(events):
    """Reads to the end: the picture's pixels, which Completed must follow."""
    data, last = b"", None
    for last in events:
        data += last.image.data
    assert last is not None and last.HasField("completed"), last
    return Image.open(io.BytesIO(data)).tobytes()  # the file says with how many others it was drawn, too


def status(channel):
    pb = stub("operations_pb2")
    return stub("operations_pb2_grpc").OperationsStub(channel).GetStatus(pb.GetStatusRequest())


def retry_info(error):
    """What a refusal says about coming back; None: nothing."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    for detail in status_pb2.Status.FromString(details).details if details else ():
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return info
    return None


LIMITS = "limits: {max_steps: 1000}\n"


class Process(unittest.TestCase):
    """Of the process as a whole: each test has its own."""

    def test_killed_and_started_again_it_draws_the_same_picture(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        # Steps are not measured anew: what was measured is kept at once, and not only by a process that ends in order.
        config = LIMITS + f"scheduler: {{cost_model: {folder}/costs.json}}\n"
        with Server(config) as first:
            with first.channel() as channel:
                before = picture(generate(channel, request(steps=4)))
                cut_off = generate(channel, endless(request_id="mine"))
                eventually(lambda: next(cut_off).HasField("progress"))
                first.kill()
                with self.assertRaises(grpc.RpcError) as error:
                    picture(cut_off)
                self.assertEqual(error.exception.code(), grpc.StatusCode.UNAVAILABLE)
                self.assertGreater(len(json.loads(pathlib.Path(folder, "costs.json").read_text())["steps"]), 0)
                # On the same port at once, though connections of the dead one may not be gone yet; the same channel finds it.
                with Server(config, address=first.address) as second:
                    print(f"started anew: listens after {second.listening_seconds:.2f} s, ready after {second.ready_seconds:.2f} s")
                    self.assertEqual(picture(generate(channel, request(steps=4, request_id="mine"), wait_for_ready=True)), before)

    def test_sigterm_under_load_finishes_what_it_has_taken(self):
        # On a machine with other work twelve pictures take longer than the grace that is usual.
        with Server(LIMITS + "server: {grace_period: 10m}\n") as server, server.channel() as channel:
            calls = [generate(channel, request(steps=12, request_id=f"load-{i}")) for i in range(12)]
            pictures = [None] * len(calls)

            def read(index):
                pictures[index] = picture(calls[index])
            readers = [threading.Thread(target=read, args=(i,)) for i in range(len(calls))]
            for reader in readers:
                reader.start()
            eventually(lambda: len(status(channel).requests) == len(calls))
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: "stopping" in server.log())
            with self.assertRaises(grpc.RpcError) as error:
                picture(generate(channel, request()))
            self.assertEqual(error.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertGreater(retry_info(error.exception).retry_delay.ToNanoseconds(), 0)
            for reader in readers:
                reader.join()
            self.assertTrue(all(pictures) and len(set(pictures)) == 1)
            self.assertEqual(server.process.wait(), 0)

    def test_a_full_disk_costs_the_log_only(self):
        with open("/dev/full", "wb") as full, Server(stderr=full) as server, server.channel() as channel:
            lost = server.metric("fresco_log_lines_lost_total")
            self.assertGreater(lost, 0)  # of the start
            picture(generate(channel, request()))
            eventually(lambda: server.metric("fresco_log_lines_lost_total") > lost)

    def test_a_disk_that_has_room_again_gets_the_log_again(self):
        with tempfile.TemporaryFile() as log:
            def text():
                log.seek(0)
                return log.read().decode()
            size = 1000  # bytes: enough for the start
            with Server(stderr=log, limits=[(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))]) as server, server.channel() as channel:
                def draw_until(condition):
                    while not condition():
                        picture(generate(channel, request()))
                draw_until(lambda: server.metric("fresco_log_lines_lost_total") > 1)
                self.assertEqual(len(text()), size)
                server.limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
                draw_until(lambda: "log_lines_lost count=" in text())
                self.assertIn("request id=", text().split("log_lines_lost")[1])

    def test_a_log_that_nobody_reads_holds_nobody_up(self):
        for reader_stays in (True, False):
            with self.subTest(reader_stays=reader_stays):
                mine, its = os.pipe()
                with contextlib.ExitStack() as ends:
                    ends.callback(os.close, its)
                    # As small as the kernel makes it, so that it is full soon.
                    fcntl.fcntl(its, fcntl.F_SETPIPE_SZ, 4096)
                    if reader_stays:
                        ends.callback(os.close, mine)
                    else:
                        os.close(mine)
                    with Server(stderr=its) as server, server.channel() as channel:
                        while server.metric("fresco_log_lines_lost_total") == 0:
                            picture(generate(channel, request()))
                        picture(generate(channel, request()))

    def test_a_port_that_is_taken_is_said_and_nothing_is_served(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            for flag, other in (("--metrics-address", "--address"), ("--address", "--metrics-address")):
                with self.subTest(flag):
                    result = subprocess.run([BIN / "fresco-server", "--model-path", ROOT / "models/demo", flag, address, other, "127.0.0.1:0"],
                                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                    self.assertEqual(result.returncode, 1, result.stdout)
                    self.assertIn(f"cannot listen on {address}", result.stdout)
                    self.assertEqual("metrics" in result.stdout, flag == "--metrics-address", result.stdout)
                    self.assertNotIn(" listening ", result.stdout)


class Callers(unittest.TestCase):
    """Of those who call: one server takes them all, and has nothing of them left at the end."""

    # Nobody is refused because of who waits.
    CONFIG = LIMITS + "server: {max_concurrent_streams: 16}\n" \
        "scheduler: {slow_reader_limit: 1s, classes: {interactive: {max_wait: 10h}, standard: {max_wait: 10h}, batch: {max_wait: 10h}}}\n"

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.CONFIG))

    def setUp(self):
        self.channel = self.enterContext(self.server.channel())
        picture(generate(self.channel, request()))
        self.files = self.server.open_files()

    def assert_nothing_left(self):
        """Nobody is drawn for, no connection is open but ours, and whoever comes is served."""
        eventually(lambda: len(status(self.channel).requests) == 0)
        eventually(lambda: self.server.open_files() <= self.files)
        picture(generate(self.channel, request()))

    def test_a_slow_reader_loses_its_own_call_only(self):
        with Connection(self.server.port, window=0) as slow:
            call = slow.call(GENERATE, endless(preview_every=1).SerializeToString())
            other = generate(self.channel, request(steps=40))
            ending = next(payload for kind, flags, stream, payload in slow.frames()
                          if kind == raw_http2.HEADERS and stream == call and flags & raw_http2.END_STREAM)
            self.assertIn(b"grpc-status\x018", ending)  # RESOURCE_EXHAUSTED
            picture(other)
        self.assertIn("code=RESOURCE_EXHAUSTED", self.server.log())
        self.assert_nothing_left()

    def test_a_caller_who_opens_more_streams_than_agreed_hurts_itself_only(self):
        with Connection(self.server.port) as rude:
            rude.agree()
            for _ in range(17):
                with contextlib.suppress(ConnectionError):
                    rude.call(GENERATE, endless().SerializeToString())
            for _ in rude.frames():  # until the server hangs up
                pass
        self.assert_nothing_left()

    def test_calls_beyond_the_limit_of_a_connection_wait_at_the_caller(self):
        calls = [generate(self.channel, request(steps=8)) for _ in range(40)]
        with self.server.channel() as other:
            seen = [len(status(other).requests)]
            for call in calls:
                picture(call)
                seen.append(len(status(other).requests))
        self.assertLessEqual(max(seen), 16)
        self.assert_nothing_left()

    def test_many_connections_that_say_next_to_nothing(self):
        with contextlib.ExitStack() as sockets:
            for _ in range(200):
                sockets.enter_context(socket.create_connection(("127.0.0.1", self.server.port))).sendall(b"P")
            eventually(lambda: self.server.open_files() >= self.files + 200)
            picture(generate(self.channel, request()))
            with self.server.channel() as newcomer:
                picture(generate(newcomer, request()))
        self.assert_nothing_left()

    def test_scrapers_that_ask_for_nothing_keep_nobody_from_the_metrics(self):
        with contextlib.ExitStack() as sockets:
            for _ in range(40):
                sockets.enter_context(socket.create_connection(("127.0.0.1", self.server.metrics_port)))
            picture(generate(self.channel, request()))
            self.assertGreater(self.server.metric("fresco_images_total"), 0)
        self.assert_nothing_left()

    def test_without_file_descriptors_those_who_are_there_are_served_and_others_later(self):
        limit = resource.prlimit(self.server.process.pid, resource.RLIMIT_NOFILE)[0]
        running = generate(self.channel, request(steps=60))
        eventually(lambda: next(running).HasField("progress"))
        self.server.limit(resource.RLIMIT_NOFILE, self.server.open_files() + 2)
        with contextlib.ExitStack() as sockets:
            for _ in range(10):
                sockets.enter_context(socket.create_connection(("127.0.0.1", self.server.port)))
            eventually(lambda: "connections_not_accepted" in self.server.log())
            picture(running)
            picture(generate(self.channel, request()))  # a new call of an old connection
        # The others have left: there is room, and whoever comes is served, without the limit being touched.
        with self.server.channel() as newcomer:
            picture(generate(newcomer, request(), wait_for_ready=True))
        eventually(lambda: "connections_accepted_again" in self.server.log())
        self.server.limit(resource.RLIMIT_NOFILE, limit)
        self.assert_nothing_left()


class Silence(unittest.TestCase):
    """Of connections that are there and say nothing: how long a server waits for them is configured, here as little as may be."""

    CONFIG = LIMITS + "server: {keepalive: {time: 1s, timeout: 1s}, handshake_timeout: 1s, idle_timeout: 1s}\n"

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.CONFIG))

    def setUp(self):
        self.channel = self.enterContext(self.server.channel())
        self.files = self.server.open_files()  # without a connection yet

    def assert_hung_up(self):
        """While the test still has its sockets: it is the server that has closed."""
        eventually(lambda: self.server.open_files() <= self.files)
        picture(generate(self.channel, request()))

    def test_a_caller_who_vanishes_is_not_drawn_for(self):
        with Connection(self.server.port) as vanished:
            vanished.agree()
            vanished.call(GENERATE, endless(request_id="vanished").SerializeToString())
            eventually(lambda: any(running.request_id == "vanished" for running in status(self.channel).requests))
            # It says nothing from now on, and reads nothing.
            eventually(lambda: len(status(self.channel).requests) == 0)
            self.assertRegex(self.server.log(), "request id=vanished .*code=CANCELLED")
            self.assert_hung_up()

    def test_connections_that_never_begin_are_closed(self):
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", self.server.port))) for _ in range(100)]
            for connection in sockets:
                connection.sendall(b"P")
            for connection in sockets:
                with contextlib.suppress(ConnectionError):
                    while connection.recv(1 << 16):  # the server's settings, until it hangs up
                        pass
            self.assert_hung_up()

    def test_idle_connections_are_closed(self):
        with Connection(self.server.port) as idle:
            for _ in idle.frames():  # which answers pings, until the server hangs up
                pass
            self.assert_hung_up()


if __name__ == "__main__":
    unittest.main()

"""Several servers behind Envoy under steady load: how evenly it falls, and that no request is lost when one is killed and one drained.

The servers are fresco-fake-server, the real service with an engine that sleeps instead of computing: three that compute would share two
cores, and the test would measure those.
"""

import base64
import contextlib
import http.client
import io
import json
import random
import signal
import threading
import unittest

import grpc
import openai
from PIL import Image

from edge import running_envoy, running_server, wait_until
from stubs import pb, rpc

PLAIN = {"tls": False, "upstream_tls": False, "metrics_port": None, "require_token": False, "client_rate": None, "rate": 100000, "burst": 100000}
# Requests of minutes are let in.
PATIENT = "scheduler: {classes: {interactive: {max_wait: 24h}, standard: {max_wait: 24h}, batch: {max_wait: 24h}}}\n"
SIZE = 64
STEPS = 5


def fake_server(*arguments, config=None):
    return running_server("fresco-fake-server", config=config, arguments=arguments)


def colour_of(file):
    """A picture's one colour; the fake engine's pictures have that of their seed."""
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    if picture.size != (SIZE, SIZE):
        raise AssertionError(f"a picture of {picture.size}")
    colours = picture.getcolors()
    if len(colours) != 1:
        raise AssertionError("not one colour")
    return colours[0][1]


class Load:
    """Callers that each begin the next request when the last is done, until `enough` of them are; every picture is looked at."""

    def __init__(self, envoy, expected):
        self.envoy = envoy
        self.expected = expected  # by seed
        self.done = 0
        self.interrupted = 0  # streams that broke off, and were asked for again by the same request_id
        self.failures = []
        self.changed = threading.Condition()
        self.stopping = False

    def plain_caller(self, number):
        """OpenAI's client without retries: each call has to go well by itself."""
        client = openai.OpenAI(base_url=f"http://{self.envoy.address}/v1", api_key="x", max_retries=0)
        for seed in self.seeds(number):
            answer = client.images.generate(prompt="x", size=f"{SIZE}x{SIZE}", extra_body={"seed": seed, "steps": STEPS})
            self.check(seed, base64.b64decode(answer.data[0].b64_json))

    def streaming_caller(self, number):
        """Generate with what every client of a stream needs: after a break, the same again."""
        with grpc.insecure_channel(self.envoy.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = rpc.ImageGenerationStub(channel)
            for index, seed in enumerate(self.seeds(number)):
                request = pb.GenerateRequest(prompt="x", width=SIZE, height=SIZE, steps=STEPS, seed=seed, request_id=f"load-{number}-{index}")
                self.check(seed, self.stream(stub, request))

    def stream(self, stub, request):
        for _ in range(10):
            picture, ended = b"", False
            try:
                for event in stub.Generate(request):
                    picture += event.image.data
                    ended = event.WhichOneof("event") == "completed"
                if not ended:
                    raise AssertionError("OK without completed")
                return picture
            except grpc.RpcError as error:
                # UNAVAILABLE, or INTERNAL for a stream whose server vanished (docs/EDGE.md).
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
                    raise
                with self.changed:
                    self.interrupted += 1
        raise AssertionError("ten times interrupted")

    def seeds(self, number):
        choice = random.Random(number)
        while not self.stopping:
            yield choice.choice(sorted(self.expected))

    def check(self, seed, picture):
        if colour_of(picture) != self.expected[seed]:
            raise AssertionError(f"seed {seed}: not its picture")
        with self.changed:
            self.done += 1
            self.changed.notify_all()

    def guarded(self, caller, number):
        try:
            caller(number)
        except Exception as error:  # noqa: BLE001: whatever a caller sees is what the test is about
            with self.changed:
                self.failures.append(f"{caller.__name__} {number}: {type(error).__name__}: {error}")
                self.changed.notify_all()

    @contextlib.contextmanager
    def running(self, plain, streaming):
        callers = [self.plain_caller] * plain + [self.streaming_caller] * streaming
        threads = [threading.Thread(target=self.guarded, args=(caller, number)) for number, caller in enumerate(callers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping = True
            for thread in threads:
                thread.join()

    def wait_for(self, more):
        """Until so many more requests are done, or one has failed."""
        with self.changed:
            target = self.done + more
            self.changed.wait_for(lambda: self.done >= target or self.failures, timeout=300)


def expected_colours(server, seeds):
    """What each seed's picture looks like, asked of a server itself."""
    with grpc.insecure_channel(server.address) as channel:
        stub, pictures = rpc.ImageGenerationStub(channel), {}
        for seed in seeds:
            request = pb.CreateImageRequest(prompt="x", size=f"{SIZE}x{SIZE}", seed=seed, steps=STEPS)
            pictures[seed] = colour_of(stub.CreateImage(request, wait_for_ready=True).data[0].b64_json)
    return pictures


def drawn(server):
    return server.metric("images_total")


class Resilience(unittest.TestCase):
    def setUp(self):
        self.servers = [self.enterContext(fake_server("--step", "15ms")) for _ in range(3)]
        self.envoy = self.enterContext(running_envoy("production", [server.address for server in self.servers], **PLAIN))
        self.expected = expected_colours(self.servers[0], range(8))
        self.assertGreater(len(set(self.expected.values())), 1)

    def test_the_load_is_even(self):
        load = Load(self.envoy, self.expected)
        with load.running(plain=0, streaming=24):
            load.wait_for(48)  # all callers are at it
            before = [drawn(server) for server in self.servers]
            load.wait_for(1800)
            shares = [drawn(server) - start for server, start in zip(self.servers, before)]
        self.assertEqual(load.failures, [])
        mean = sum(shares) / len(shares)
        self.assertLess(max(abs(share - mean) for share in shares) / mean, 0.1, shares)

    def test_one_killed_and_one_drained_and_no_request_lost(self):
        doomed, leaving, staying = self.servers
        load = Load(self.envoy, self.expected)
        with load.running(plain=12, streaming=12):
            load.wait_for(100)
            doomed.kill()
            load.wait_for(200)
            self.assertEqual(load.failures, [])
            broken_by_the_kill = load.interrupted
            # It comes back at its address, and is used again.
            back = self.enterContext(running_server("fresco-fake-server", arguments=("--step", "15ms"), address=doomed.address))
            wait_until("the restarted server's share", lambda: drawn(back) > 20 or load.failures)
            leaving.terminate()
            load.wait_for(300)
            self.assertEqual(leaving.process.wait(timeout=120), 0, leaving.log.read_text())
            # Of the two that are left, both draw; the one that was away may be left out for a little longer.
            before = drawn(staying), drawn(back)
            wait_until("a share of both", lambda: load.failures or drawn(staying) > before[0] + 20 and drawn(back) > before[1] + 20)
        self.assertEqual(load.failures, [], "a plain call is sent elsewhere by Envoy, a stream is asked for again")
        self.assertEqual(load.interrupted, broken_by_the_kill, "a server that drains finishes its streams")
        self.assertGreater(self.envoy.stat("cluster.fresco.upstream_rq_retry_success"), 0, "the killed server had plain calls")


class Several(unittest.TestCase):
    def test_cancel_finds_the_server_that_has_the_request(self):
        servers = [self.enterContext(fake_server("--step", "1s", config=PATIENT)) for _ in range(3)]
        envoy = self.enterContext(running_envoy("production", [server.address for server in servers], **PLAIN))
        with grpc.insecure_channel(envoy.address) as channel:
            stub = rpc.ImageGenerationStub(channel)
            streams = []

            def some_on_each():
                return all(server.metric("requests_running") + server.metric("queue_depth") for server in servers)

            # Of two servers that Envoy draws by lot the idle one gets the next: of nine streams all may pass one by.
            while len(streams) < 9 or not some_on_each() and len(streams) < 60:
                streams.append(stub.Generate(pb.GenerateRequest(prompt="x", width=SIZE, height=SIZE, steps=150, request_id=f"long-{len(streams)}")))
                next(streams[-1])
            self.assertTrue(some_on_each())
            for i, stream in enumerate(streams):
                stub.Cancel(pb.CancelRequest(request_id=f"long-{i}"))
                with self.assertRaises(grpc.RpcError) as caught:
                    list(stream)
                self.assertEqual(caught.exception.code(), grpc.StatusCode.CANCELLED)
            with self.assertRaises(grpc.RpcError) as caught:
                stub.Cancel(pb.CancelRequest(request_id="long-0"))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_a_full_queue_is_a_rate_limit_error(self):
        config = "scheduler: {max_queue: 1, max_batch: 1, max_resident: 1}\n"
        server = self.enterContext(fake_server("--step", "1s", config=config))
        envoy = self.enterContext(running_envoy("production", [server.address], **PLAIN))
        client = openai.OpenAI(base_url=f"http://{envoy.address}/v1", api_key="x", max_retries=0)
        with grpc.insecure_channel(envoy.address) as channel:
            stub = rpc.ImageGenerationStub(channel)
            request = pb.GenerateRequest(prompt="x", width=SIZE, height=SIZE, steps=150)
            running = stub.Generate(request)
            wait_until("the first to run", lambda: server.metric("requests_running") == 1)
            waiting = stub.Generate(request)
            wait_until("the second to wait", lambda: server.metric("queue_depth") == 1)
            with self.assertRaises(openai.RateLimitError) as caught:
                client.images.generate(prompt="x", size=f"{SIZE}x{SIZE}")
            self.assertEqual(caught.exception.code, "rate_limit_exceeded")
            self.assertGreaterEqual(int(caught.exception.response.headers["retry-after"]), 1)
            running.cancel()
            waiting.cancel()

    def test_a_stream_cut_off_in_the_middle_says_so(self):
        """By SIGTERM with a short grace period: an event; by SIGKILL: the connection's end, before completed."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            with self.subTest(how.name), fake_server("--step", "50ms", config="server: {grace_period: 100ms}\n") as server, \
                    running_envoy("production", [server.address], **PLAIN) as envoy:
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", envoy.port, timeout=120)) as connection:
                    body = {"prompt": "x", "width": SIZE, "height": SIZE, "steps": 150}
                    connection.request("POST", "/v1/fresco/generate", json.dumps(body), {"content-type": "application/json"})
                    answer = connection.getresponse()
                    while b"progress" not in answer.readline():
                        pass
                    server.process.send_signal(how)
                    if how == signal.SIGTERM:
                        name, data = answer.read().decode().strip().split("\n\n")[-1].split("\n")
                        error = json.loads(data.removeprefix("data: "))["error"]
                        self.assertEqual((name, error["status"]), ("event: error", "UNAVAILABLE"))
                    else:
                        with self.assertRaises(http.client.IncompleteRead):
                            answer.read()


if __name__ == "__main__":
    unittest.main()

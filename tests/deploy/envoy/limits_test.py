"""Callers who mean ill, at the real Envoy: what one of them takes, with or without a token that the servers know, is not taken from the others."""

import contextlib
import hashlib
import http.client
import json
import pathlib
import select
import socket
import tempfile
import unittest

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge import PATIENCE_S, running_envoy, running_server, wait_until
from standin import running_standin
from stubs import pb, rpc

OPEN = {"tls": False, "upstream_tls": False, "metrics_port": None, "require_token": False}
DRAW = "/v1/images/generations"
# Callers' own addresses, of which loopback has many.
GOOD, BAD = "127.0.0.2", "127.0.0.3"
KIB = 1024


@contextlib.contextmanager
def connection_of(envoy, address):
    """An HTTP/1.1 connection from an address of loopback's."""
    connection = http.client.HTTPConnection("127.0.0.1", envoy.port, timeout=PATIENCE_S, source_address=(address, 0))
    with contextlib.closing(connection):
        yield connection


def status_of(connection, body='{"prompt": "x"}', path=DRAW):
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


class HalfSent:
    """Requests that never come in whole, each over a connection of its own."""

    def __init__(self, envoy, test, address):
        self.envoy = envoy
        self.test = test
        self.address = address
        self.sockets = []

    def begin(self, number, path=DRAW, kind="application/json", whole=100 * KIB):
        for _ in range(number):
            plain = self.test.enterContext(socket.create_connection(("127.0.0.1", self.envoy.port), timeout=PATIENCE_S, source_address=(self.address, 0)))
            plain.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\nte: trailers\r\ncontent-type: {kind}\r\ncontent-length: {whole}\r\n\r\n".encode())
            self.sockets.append(plain)

    def wait(self):
        """Until each has been answered, or is waited for; returns those that are."""
        wait_until("the heads", lambda: self.envoy.stat("http.edge.downstream_rq_active") + self.envoy.stat("http.edge.downstream_rq_4xx") >= len(self.sockets))
        # Envoy counts an answer before it is here.
        wait_until("the answers", lambda: len(self.answered()) >= self.envoy.stat("http.edge.downstream_rq_4xx"))
        ready = self.answered()
        return [plain for plain in self.sockets if plain not in ready]

    def answered(self):
        return select.select(self.sockets, [], [], 0)[0]


class Health(unittest.TestCase):
    def test_nobody_watches_through_the_edge(self):
        """Open for ever and by anybody, such calls would be all that the servers may have."""
        with running_standin() as (_, address), running_envoy("production", [address], **OPEN, max_requests=3) as envoy, grpc.insecure_channel(envoy.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for _ in range(10):
                with self.assertRaises(grpc.RpcError) as caught:
                    next(health.Watch(health_pb2.HealthCheckRequest()))
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
            self.assertEqual(health.Check(health_pb2.HealthCheckRequest()).status, health_pb2.HealthCheckResponse.SERVING)
            self.assertEqual(envoy.request("POST", DRAW, {"prompt": "x"})[0], 200)

    def test_on_a_workstation_one_watches_ones_own_server(self):
        with running_standin() as (_, address), running_envoy("workstation", [address]) as envoy, grpc.insecure_channel(envoy.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
            watch.cancel()

    def test_who_asks_too_often_is_refused_and_others_draw(self):
        with running_standin() as (_, address), running_envoy("production", [address], **OPEN, rate=1, burst=5, client_rate=None) as envoy, \
                grpc.insecure_channel(envoy.address) as channel:
            with self.assertRaises(grpc.RpcError) as caught:
                for _ in range(1000):
                    health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertEqual(envoy.request("POST", DRAW, {"prompt": "x"})[0], 200)


class HalfSentRequests(unittest.TestCase):
    def test_they_take_no_memory_beyond_the_rate(self):
        """Kept, they would be more than Envoy may have, and it would refuse everybody."""
        with running_standin() as (_, address), \
                running_envoy("production", [address], **OPEN, max_heap_bytes=48 << 20, client_rate=1, client_burst=10) as envoy:
            half = HalfSent(envoy, self, BAD)
            half.begin(400, whole=250 * KIB)
            kept = half.wait()
            self.assertLess(len(kept), 100)
            for plain in kept:
                with contextlib.suppress(ConnectionError):  # the answer was on its way
                    plain.sendall(b"{" * (240 * KIB))
            wait_until("their bodies", lambda: envoy.stat("http.edge.downstream_cx_rx_bytes_total") > envoy.stat("http.edge.downstream_rq_active") * 240 * KIB)
            self.assertEqual(envoy.stat("overload.envoy.overload_actions.stop_accepting_requests.active"), 0)
            with connection_of(envoy, GOOD) as good:
                self.assertEqual([status_of(good) for _ in range(5)], [200] * 5)

    def test_they_hold_no_call_to_the_servers(self):
        with running_standin() as (_, address), running_envoy("production", [address], **OPEN, max_requests=3) as envoy:
            half = HalfSent(envoy, self, BAD)
            paths = [f"/fresco.v1.ImageGeneration/{name}" for name in ("Generate", "CreateImage", "Cancel", "ListModels")] + ["/grpc.health.v1.Health/Check"]
            for path in paths:
                half.begin(5, path, "application/grpc")
            self.assertEqual(len(half.wait()), 5 * len(paths))
            with connection_of(envoy, GOOD) as good:
                self.assertEqual([status_of(good) for _ in range(5)], [200] * 5)

    def test_nothing_is_waited_for_where_nothing_is(self):
        """Such paths have no rate: they are answered at once."""
        with running_standin() as (_, address), running_envoy("production", [address], **OPEN) as envoy:
            half = HalfSent(envoy, self, BAD)
            for path in ("/nothing", "/", "/v1/nothing", "/fresco.v1.Operations/Drain", "/fresco.v1.ImageGeneration/Nothing"):
                half.begin(3, path)
            wait_until("the answers", lambda: not half.wait())

    def test_no_request_is_larger_than_prompts_are(self):
        with running_standin() as (standin, address), running_envoy("production", [address], **OPEN) as envoy, grpc.insecure_channel(envoy.address) as channel:
            longest = "x" * (200 * KIB)
            self.assertEqual(envoy.request("POST", DRAW, {"prompt": longest})[0], 200)
            self.assertEqual(standin.seen[-1][0].prompt, longest)
            for path in (DRAW, "/v1/fresco/generate", "/v1/fresco/cancel"):
                status, _, body = envoy.call("POST", path, {"prompt": "x" * (300 * KIB)})
                self.assertEqual((status, body["error"]["code"]), (413, "request_too_large"), path)
            before = len(standin.seen)
            rpc.ImageGenerationStub(channel).CreateImage(pb.CreateImageRequest(prompt="x" * (300 * KIB)))  # the server's to refuse
            with self.assertRaises(grpc.RpcError):
                rpc.ImageGenerationStub(channel).CreateImage(pb.CreateImageRequest(prompt="x" * (600 * KIB)))
            self.assertEqual(len(standin.seen), before + 1)


class Rates(unittest.TestCase):
    def test_each_of_many_addresses_has_its_own(self):
        """By turns, so that none is asked for again before all others were."""
        with running_standin() as (_, address), running_envoy("production", [address], **OPEN, client_rate=1, client_burst=2, rate=1000000, burst=1000000) as envoy:
            callers = {f"127.0.1.{n}": None for n in range(1, 61)}
            for name in callers:
                callers[name] = self.enterContext(connection_of(envoy, name))
            refused = set()
            for _ in range(200):
                # What is no JSON is counted as well, and answered by Envoy.
                refused |= {name for name, caller in callers.items() if status_of(caller, "{nonsense") == 429}
                if len(refused) == len(callers):
                    break
            self.assertEqual(refused, set(callers))

    def test_what_one_address_has_too_many_is_not_counted_for_all(self):
        with running_standin() as (_, address), running_envoy("production", [address], **OPEN, client_rate=1, client_burst=5, rate=2, burst=20) as envoy, \
                connection_of(envoy, BAD) as bad, connection_of(envoy, GOOD) as good:
            self.assertGreater([status_of(bad) for _ in range(200)].count(429), 100)
            self.assertEqual([status_of(good) for _ in range(5)], [200] * 5)

    def test_whatever_draws_draws_on_the_same(self):
        """And each is refused in its own words."""
        with running_standin() as (_, address), running_envoy("production", [address], **OPEN, client_rate=None, rate=1, burst=30) as envoy, \
                grpc.insecure_channel(envoy.address) as channel:
            stub = rpc.ImageGenerationStub(channel)

            def json_code(path):
                status, _, body = envoy.request("POST", path, {"prompt": "x"})
                return "drawn" if status == 200 else json.loads(body)["error"]["code"]

            def grpc_code(call, request):
                try:
                    list(call(request) if call is stub.Generate else [call(request)])
                    return "drawn"
                except grpc.RpcError as error:
                    return error.code().name

            def web_code(kind):
                # One empty message: five bytes before it.
                body = {"application/grpc-web+proto": b"\0" * 5, "application/grpc-web-text+proto": b"AAAAAAA="}[kind]
                return envoy.request("POST", "/fresco.v1.ImageGeneration/Generate", body, {"content-type": kind})[1]["grpc-status"] or "drawn"

            callers = {
                "json": (lambda: json_code(DRAW), "rate_limit_exceeded"),
                "events": (lambda: json_code("/v1/fresco/generate"), "rate_limit_exceeded"),
                "CreateImage": (lambda: grpc_code(stub.CreateImage, pb.CreateImageRequest()), "RESOURCE_EXHAUSTED"),
                "Generate": (lambda: grpc_code(stub.Generate, pb.GenerateRequest()), "RESOURCE_EXHAUSTED"),
                # UNAVAILABLE, which gRPC makes of HTTP's 429.
                "gRPC-Web": (lambda: web_code("application/grpc-web+proto"), "14"),
                "gRPC-Web as text": (lambda: web_code("application/grpc-web-text+proto"), "14"),
            }
            with connection_of(envoy, BAD) as bad:
                while status_of(bad) != 429:
                    pass
                for name, (ask, refusal) in callers.items():
                    # What is left is soon spent; with rates of their own, there would be thirty.
                    answers = [ask() for _ in range(15)]
                    self.assertLessEqual(set(answers), {"drawn", refusal}, name)
                    self.assertIn(refusal, answers, name)
            for name, ask in {
                "cancels": lambda: envoy.request("POST", "/v1/fresco/cancel", {"request_id": "x"})[0],
                "lists": lambda: envoy.request("GET", "/v1/fresco/models")[0],
            }.items():
                answers = [ask() for _ in range(40)]
                self.assertNotEqual(answers[0], 429, f"{name} have their own")
                self.assertIn(429, answers[10:], name)


class Tokens(unittest.TestCase):
    """Where the servers ask who calls, so that whoever shows nothing need not be asked there."""

    ASKING = {**OPEN, "require_token": True}

    def test_who_shows_none_is_told_what_the_server_says(self):
        with tempfile.TemporaryDirectory() as folder:
            tokens = pathlib.Path(folder) / "tokens.yaml"
            tokens.write_text(f"tokens: [{{name: one, sha256: {hashlib.sha256(b'secret').hexdigest()}}}]\n", encoding="utf-8")
            server = self.enterContext(running_server("fresco-fake-server", config=f"server: {{tokens: {tokens}}}\n"))
            asking = self.enterContext(running_envoy("production", [server.address], **self.ASKING))
            passing = self.enterContext(running_envoy("production", [server.address], **OPEN))
            calls = [("POST", DRAW), ("POST", "/v1/fresco/generate"), ("POST", "/v1/fresco/cancel"), ("GET", "/v1/fresco/models"), ("GET", "/v1/models")]
            for authorization in (None, "", "Basic c2VjcmV0", "Bearer", "Bearer ", "Bearer invented"):
                shown = {"authorization": authorization} if authorization is not None else {}
                for method, path in calls:
                    with self.subTest(path, authorization=authorization):
                        body = '{"prompt": "x"}' if method == "POST" else None
                        status, headers, answer = asking.call(method, path, body, shown)
                        self.assertEqual((status, headers["content-type"], answer["error"]["code"]), (401, "application/json", "invalid_api_key"))
                        self.assertEqual(answer, passing.call(method, path, body, shown)[2])
                answers = []
                for envoy in (asking, passing):
                    with grpc.insecure_channel(envoy.address) as channel, self.assertRaises(grpc.RpcError) as caught:
                        rpc.ImageGenerationStub(channel).CreateImage(pb.CreateImageRequest(prompt="x"), metadata=list(shown.items()))
                    answers.append((caught.exception.code(), caught.exception.details()))
                self.assertEqual(answers[0], answers[1], authorization)
                self.assertEqual(answers[0][0], grpc.StatusCode.UNAUTHENTICATED, authorization)
            web = asking.request("POST", "/fresco.v1.ImageGeneration/Generate", b"\0" * 5, {"content-type": "application/grpc-web+proto"})[1]
            self.assertEqual(web["grpc-status"], "16")
            for word in ("Bearer", "bearer"):
                self.assertEqual(asking.request("GET", "/v1/models", headers={"authorization": f"{word} secret"})[0], 200, word)

    def test_they_are_not_counted_for_all(self):
        with running_standin() as (standin, address), running_envoy("production", [address], **self.ASKING, rate=1, burst=5, client_rate=None) as envoy, \
                grpc.insecure_channel(envoy.address) as channel:
            self.assertEqual({envoy.request("POST", DRAW, {"prompt": "x"})[0] for _ in range(100)}, {401})
            for _ in range(100):
                with self.assertRaises(grpc.RpcError) as caught:
                    rpc.ImageGenerationStub(channel).CreateImage(pb.CreateImageRequest(prompt="x"))
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
            self.assertEqual(standin.seen, [])
            self.assertEqual([envoy.request("POST", DRAW, {"prompt": "x"}, {"authorization": "Bearer x"})[0] for _ in range(5)], [200] * 5)

    def test_what_is_nobodys_needs_none(self):
        with running_standin() as (_, address), running_envoy("production", [address], **self.ASKING) as envoy, grpc.insecure_channel(envoy.address) as channel:
            self.assertEqual((envoy.request("GET", "/")[0], envoy.request("GET", "/healthz")[0]), (200, 200))
            self.assertEqual(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status, health_pb2.HealthCheckResponse.SERVING)

    def test_other_pages_may_read_that_they_need_one(self):
        origin = "https://studio.example.com"
        with running_standin() as (_, address), running_envoy("production", [address], **self.ASKING, cors_origins=[origin]) as envoy:
            asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
            self.assertEqual(envoy.request("OPTIONS", DRAW, headers=asked)[1]["access-control-allow-origin"], origin)
            status, headers, _ = envoy.request("POST", DRAW, {"prompt": "x"}, {"origin": origin})
            self.assertEqual((status, headers["access-control-allow-origin"]), (401, origin))


class Names(unittest.TestCase):
    """Where nobody shows a token, a page on the web must not be able to pass for this machine's own: its name may lead here, but stays in Host."""

    def test_only_this_machines_own(self):
        for profile in ("workstation", "compose"):
            with running_standin() as (standin, address), running_envoy(profile, [address], metrics_port=None, names=["fresco.lan"]) as envoy:
                for name, status in [("evil.example", 404), ("evil.example:8080", 404), ("localhost.evil.example", 404), ("evil.localhost", 404), ("127.0.0.1", 200),
                                     (f"127.0.0.1:{envoy.port}", 200), ("localhost:8080", 200), ("LOCALHOST", 200), ("[::1]:8080", 200), ("fresco.lan", 200), ("fresco.lan:8080", 200)]:
                    with self.subTest(name, profile=profile):
                        before = len(standin.seen)
                        self.assertEqual(envoy.request("POST", DRAW, {"prompt": "x"}, {"host": name, "origin": f"http://{name}"})[0], status)
                        self.assertEqual(len(standin.seen) - before, status == 200)
                        self.assertEqual(envoy.request("GET", "/", headers={"host": name})[0], status)


if __name__ == "__main__":
    unittest.main()

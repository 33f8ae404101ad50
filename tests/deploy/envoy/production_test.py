"""The production bootstraps: TLS on both sides, certificates that change, what is not for the outside, limits, endpoints from a file, drain."""

import contextlib
import http.client
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.request

import grpc
import openai
import trustme
from grpc_health.v1 import health_pb2

from edge import DEPLOY, ROOT, free_port, running_envoy, wait_until
from standin import running_standin
from stubs import pb, rpc

OPEN = {"tls": False, "upstream_tls": False, "metrics_port": None, "require_token": False}


def write_certificate(folder, certificate, authority=None):
    """As Kubernetes mounts a Secret: the files are links through ..data, which a rename moves to another folder at once."""
    folder.mkdir(exist_ok=True)
    version = pathlib.Path(tempfile.mkdtemp(dir=folder, prefix="..version"))
    (version / "tls.key").write_bytes(certificate.private_key_pem.bytes())
    (version / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    if authority:
        authority.cert_pem.write_to_path(version / "ca.crt")
    link = folder / "..next"
    link.symlink_to(version.name)
    os.replace(link, folder / "..data")
    for name in os.listdir(version):
        if not (folder / name).exists():
            (folder / name).symlink_to(f"..data/{name}")


def started_then_wait(release):
    """A Generate that begins, and goes on when `release` is set."""
    def events(request, context):
        yield pb.GenerateEvent(started=pb.Started())
        release.wait(60)
        yield pb.GenerateEvent(completed=pb.Completed())

    return events


@contextlib.contextmanager
def stream_through(envoy):
    """The events of a Generate, which begins with the first that is asked for."""
    with grpc.insecure_channel(envoy.address) as channel:
        def events():
            yield from rpc.ImageGenerationStub(channel).Generate(pb.GenerateRequest(prompt="x"))

        yield events()


class Tls(unittest.TestCase):
    """From a caller with TLS through Envoy to a server with mTLS."""

    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.folder = folder
        cls.public, cls.inner = trustme.CA(), trustme.CA()
        shutil.copytree(DEPLOY / "tls", folder / "tls")
        for file in (folder / "tls").iterdir():
            file.write_text(file.read_text().replace("/etc/fresco", str(folder)))
        write_certificate(folder / "edge", cls.public.issue_cert("localhost", "127.0.0.1"))
        write_certificate(folder / "client", cls.inner.issue_cert("fresco-edge"), cls.inner)
        cls.standin, address = cls.enterClassContext(running_standin(cls.server_credentials("fresco")))
        cls.envoy = cls.enterClassContext(running_envoy("production", [address], tls_folder=str(folder / "tls"), metrics_port=None, client_rate=None, require_token=False))
        cls.context = ssl.create_default_context()
        cls.public.configure_trust(cls.context)

    @classmethod
    def server_credentials(cls, name):
        certificate = cls.inner.issue_cert(name)
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        return grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)], cls.inner.cert_pem.bytes(), require_client_auth=True)

    def channel(self):
        return grpc.secure_channel(f"localhost:{self.envoy.port}", grpc.ssl_channel_credentials(self.public.cert_pem.bytes()))

    def serial_seen(self):
        with socket.create_connection(("127.0.0.1", self.envoy.port), timeout=60) as plain, self.context.wrap_socket(plain, server_hostname="localhost") as secure:
            return secure.getpeercert()["serialNumber"]

    def test_openais_client_and_grpc(self):
        self.standin.generate = lambda request, context: iter([pb.GenerateEvent(completed=pb.Completed())])
        client = openai.OpenAI(base_url=f"https://localhost:{self.envoy.port}/v1", api_key="sk-1", max_retries=0, http_client=openai.DefaultHttpxClient(verify=self.context))
        self.assertEqual(client.images.generate(prompt="x").created, 1)
        with self.channel() as channel:
            events = list(rpc.ImageGenerationStub(channel).Generate(pb.GenerateRequest(prompt="x"), metadata=[("authorization", "Bearer sk-2")]))
        self.assertEqual([event.WhichOneof("event") for event in events], ["completed"])
        self.assertEqual([seen[1]["authorization"] for seen in self.standin.seen[-2:]], ["Bearer sk-1", "Bearer sk-2"])

    def test_the_page_says_that_it_wants_tls(self):
        with contextlib.closing(http.client.HTTPSConnection("localhost", self.envoy.port, timeout=60, context=self.context)) as connection:
            connection.request("GET", "/")
            self.assertIn("max-age=", connection.getresponse().headers["strict-transport-security"])

    def test_a_new_certificate_is_taken_up_while_calls_go_on(self):
        before = self.serial_seen()
        with self.channel() as channel:
            release = threading.Event()
            self.standin.generate = started_then_wait(release)
            events = rpc.ImageGenerationStub(channel).Generate(pb.GenerateRequest(prompt="x"))
            next(events)
            write_certificate(self.folder / "edge", self.public.issue_cert("localhost", "127.0.0.1"))
            wait_until("the new certificate", lambda: self.serial_seen() != before)
            release.set()
            self.assertEqual([event.WhichOneof("event") for event in events], ["completed"])

    def test_a_server_of_another_name_is_not_trusted(self):
        with running_standin(self.server_credentials("elsewhere")) as (standin, address), \
                running_envoy("production", [], replicas=[address], tls=False, tls_folder=str(self.folder / "tls"), metrics_port=None, require_token=False) as envoy:
            status, _, body = envoy.call("POST", "/v1/images/generations", {"prompt": "x"})
            self.assertEqual((status, body["error"]["status"]), (503, "UNAVAILABLE"))
            self.assertEqual(standin.seen, [])


class Edge(unittest.TestCase):
    def test_operations_and_reflection_are_not_for_the_outside(self):
        with running_standin() as (_, address), running_envoy("production", [address], **OPEN) as envoy, grpc.insecure_channel(envoy.address) as channel:
            from fresco.v1 import operations_pb2, operations_pb2_grpc
            for call in (lambda: operations_pb2_grpc.OperationsStub(channel).Drain(operations_pb2.DrainRequest()),
                         lambda: channel.unary_unary("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(b"")):
                with self.assertRaises(grpc.RpcError) as caught:
                    call()
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
            self.assertEqual(envoy.request("POST", "/fresco.v1.Operations/Drain", b"", {"content-type": "application/json"})[0], 404)

    def test_metrics_and_nothing_else_of_the_admin_interface(self):
        metrics = {"metrics_port": 0, "metrics_host": "127.0.0.1", "admin_port": free_port()}
        with running_standin() as (_, address), running_envoy("production", [address], **{**OPEN, **metrics}) as envoy:
            def ask(method, path):
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", envoy.ports["metrics"], timeout=60)) as connection:
                    connection.request(method, path)
                    answer = connection.getresponse()
                    return answer.status, answer.read().decode()

            self.assertIn('envoy_cluster_membership_healthy{envoy_cluster_name="fresco"} 1', ask("GET", "/stats/prometheus")[1])
            self.assertEqual(ask("GET", "/ready")[0], 200)
            for method, path in [("POST", "/quitquitquit"), ("GET", "/config_dump"), ("POST", "/ready"), ("GET", "/stats")]:
                self.assertEqual(ask(method, path)[0], 404, path)

    def test_prometheus_has_what_the_alerts_and_the_operator_go_by(self):
        """Calls that a server answers, with an error too, are none that Envoy has lost; those that find no server are."""
        tables = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8") + (ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8")
        with running_standin() as (standin, address), running_envoy("production", [address], **{**OPEN, "metrics_port": 0, "metrics_host": "127.0.0.1", "admin_port": free_port(),
                                                                                                "retry_interval": "0.001s"}) as envoy:
            def scraped():
                """{name and labels: value}"""
                with urllib.request.urlopen(f"http://127.0.0.1:{envoy.ports['metrics']}/stats/prometheus", timeout=60) as answer:
                    lines = answer.read().decode().splitlines()
                return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines if line and not line.startswith("#"))}

            def calls(kind):
                return scraped().get(f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="{kind}",envoy_cluster_name="fresco"}}', 0)

            def draw():
                return envoy.request("POST", "/v1/images/generations", {"prompt": "x"})[0]

            self.assertEqual(draw(), 200)
            for code, http in [(grpc.StatusCode.INTERNAL, 500), (grpc.StatusCode.UNAVAILABLE, 503)]:
                standin.create_image = lambda request, context, code=code: context.abort(code, "no")
                self.assertEqual(draw(), http)
            self.assertEqual(calls(5), 0)
            self.assertGreaterEqual(calls(2), 3)
            standin.well.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
            healthy = 'envoy_cluster_membership_healthy{envoy_cluster_name="fresco"}'
            wait_until("no healthy server", lambda: scraped()[healthy] == 0)
            self.assertEqual(draw(), 503)
            self.assertEqual(calls(5), 1)
            there = {series.partition("{")[0] for series in scraped()}
            self.assertEqual(set(re.findall(r"\benvoy_(?:cluster|http)_\w+(?=[`{])", tables)) - there, set())

    def test_prometheus_asks_where_envoy_answers(self):
        for file, bootstrap in [("prometheus/prometheus.yaml", "production"), ("docker/prometheus.yaml", "compose")]:
            text = (ROOT / "deploy" / file).read_text(encoding="utf-8")
            [path, port] = re.search(r'job_name: envoy\n +metrics_path: (\S+)\n +static_configs:\n +- targets: \["[\w.]+:(\d+)"\]', text).groups()
            listener = (DEPLOY / f"{bootstrap}.yaml").read_text(encoding="utf-8").partition("- name: metrics")[2]
            self.assertEqual(re.search(r"port_value: (\d+)", listener)[1], port)
            self.assertIn(f"{{path: {path},", listener)

    def test_a_client_that_asks_too_often(self):
        with running_standin() as (standin, address), running_envoy("production", [address], **{**OPEN, "client_rate": 1, "client_burst": 3, "rate": 1000, "burst": 1000}) as envoy:
            client = openai.OpenAI(base_url=f"http://{envoy.address}/v1", api_key="x", max_retries=0)
            with self.assertRaises(openai.RateLimitError) as caught:
                for _ in range(1000):
                    client.images.generate(prompt="x")
            self.assertEqual(caught.exception.code, "rate_limit_exceeded")
            self.assertEqual(caught.exception.response.headers["retry-after"], "1")
            self.assertGreaterEqual(len(standin.seen), 3)
            with grpc.insecure_channel(envoy.address) as channel, self.assertRaises(grpc.RpcError) as caught:
                for _ in range(1000):
                    rpc.ImageGenerationStub(channel).CreateImage(pb.CreateImageRequest(prompt="x"))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertNotEqual(envoy.request("GET", "/v1/fresco/models")[0], 429, "only drawing is limited")

    def test_a_server_that_hangs_is_left_out(self):
        """Its health is good and its calls never end: each try has a limit and the next is elsewhere, until there are no more tries with it."""
        hang = threading.Event()
        with running_standin() as (hanging, first), running_standin() as (well, second), \
                running_envoy("production", [first, second], **{**OPEN, "client_rate": None, "create_try_timeout": "0.1s", "retry_interval": "0.001s", "outlier_interval": "3s"}) as envoy:
            hanging.create_image = lambda request, context: hang.wait(60) and pb.CreateImageResponse()
            try:
                def left_out():
                    for _ in range(10):
                        self.assertEqual(envoy.request("POST", "/v1/images/generations", {"prompt": "x"})[0], 200, "whoever is asked first")
                    return envoy.stat("cluster.fresco.outlier_detection.ejections_active") == 1

                wait_until("the ejection", left_out)
                self.assertGreaterEqual(len(hanging.seen), 5)
            finally:
                hang.set()

    def test_what_a_server_answers_leaves_it_in(self):
        """Else a client with short deadlines, or one model that is not loaded, would take servers from all."""
        with running_standin() as (first, one), running_standin() as (second, other), \
                running_envoy("production", [one, other], **{**OPEN, "client_rate": None, "retry_interval": "0.001s", "outlier_interval": "0.1s"}) as envoy:
            for code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE):
                first.create_image = second.create_image = lambda request, context, code=code: context.abort(code, "why")
                for _ in range(20):
                    self.assertGreaterEqual(envoy.request("POST", "/v1/images/generations", {"prompt": "x"})[0], 500)
            self.assertEqual(envoy.stat("cluster.fresco.outlier_detection.ejections_enforced_total"), 0)
            self.assertEqual(envoy.healthy_servers(), 2)

    def test_no_more_calls_than_the_circuit_breaker_lets_through(self):
        release = threading.Event()
        with running_standin() as (standin, address), running_envoy("production", [address], **OPEN, max_requests=2) as envoy, \
                stream_through(envoy) as first, stream_through(envoy) as second:
            standin.generate = started_then_wait(release)
            next(first), next(second)
            status, _, body = envoy.call("POST", "/v1/images/generations", {"prompt": "x"})
            self.assertEqual((status, body["error"]["code"]), (503, "service_unavailable"))
            release.set()
            self.assertEqual([event.WhichOneof("event") for stream in (first, second) for event in stream], ["completed"] * 2)
            self.assertEqual(envoy.request("POST", "/v1/images/generations", {"prompt": "x"})[0], 200)

    def test_endpoints_from_a_file(self):
        with tempfile.TemporaryDirectory() as name, running_standin() as (first, first_address), running_standin() as (second, second_address):
            file = pathlib.Path(name) / "endpoints.yaml"

            def write(address):
                lines = (DEPLOY / "endpoints.yaml").read_text().splitlines()
                host, port = address.split(":")
                endpoints = [line for line in lines if "port_value" in line]
                text = "\n".join(line for line in lines if line not in endpoints[1:])
                (file.parent / "next").write_text(text.replace("10.0.0.11", host).replace("8500", port) + "\n")
                os.replace(file.parent / "next", file)

            write(first_address)
            with running_envoy("production-endpoints", [first_address], endpoints_file=str(file), **OPEN) as envoy:
                self.assertEqual(envoy.request("POST", "/v1/images/generations", {"prompt": "x"})[0], 200)
                self.assertEqual((len(first.seen), len(second.seen)), (1, 0))
                release = threading.Event()
                first.generate = started_then_wait(release)
                events = self.enterContext(stream_through(envoy))
                next(events)
                write(second_address)

                def reaches_second():
                    self.assertEqual(envoy.request("POST", "/v1/images/generations", {"prompt": "x"})[0], 200, "no call is lost on the way")
                    return second.seen

                wait_until("the new endpoint", reaches_second)
                release.set()
                self.assertEqual([event.WhichOneof("event") for event in events], ["completed"], "what was taken off the list finishes what it has")

    def test_drain(self):
        release = threading.Event()
        with running_standin() as (standin, address), running_envoy("production", [address], **OPEN) as envoy, stream_through(envoy) as events:
            standin.generate = started_then_wait(release)
            next(events)
            drain = subprocess.Popen([sys.executable, DEPLOY / "drain.py", "--admin", envoy.admin_address, "--settle", "0", "--grace", "60"], stderr=subprocess.PIPE, text=True)
            with drain.stderr:
                wait_until("the listener's end", lambda: not self.listens(envoy.port))
                release.set()
                self.assertEqual([event.WhichOneof("event") for event in events], ["completed"])
                self.assertEqual(drain.wait(60), 0, drain.stderr.read())
            self.assertEqual(envoy.process.wait(60), 0)

    @staticmethod
    def listens(port):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60):
            return True
        return False


if __name__ == "__main__":
    unittest.main()

"""TLS, tokens and the audit log as an operator sets them up and callers meet them: the real server, client and gRPC."""

import contextlib
import datetime
import hashlib
import json
import pathlib
import re
import subprocess
import tempfile
import time
import unittest
from xml.etree import ElementTree

import trustme
from PIL import Image

from service import BIN, running_service

PROMPT = "a red apple on a white background"


def sha256(token):
    return hashlib.sha256(token.encode()).hexdigest()


def run_server(*arguments):
    """A server that is expected to end by itself."""
    command = [BIN / "fresco-server", "--metrics-address", "127.0.0.1:0", *map(str, arguments)]
    return subprocess.run(command, timeout=120, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class SecurityTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(self.folder / "ca.pem")
        self.install(self.authority.issue_cert("localhost", "127.0.0.1"))
        self.write_tokens({"draw": ["generate"], "operate": ["operate"]})

    def install(self, certificate):
        """Each file is replaced in one step, as certificate tools do."""
        for name, text in (("server.key", certificate.private_key_pem.bytes()),
                           ("server.pem", b"".join(blob.bytes() for blob in certificate.cert_chain_pems))):
            (self.folder / "partial").write_bytes(text)
            (self.folder / "partial").rename(self.folder / name)

    def write_tokens(self, scopes, **settings):
        lines = ["tokens:"]
        for name, allowed in scopes.items():
            lines += [f"  - name: {name}", f"    sha256: {sha256(name + '-secret')}", f"    scopes: [{', '.join(allowed)}]"]
            lines += [f"    {key}: {value}" for key, value in settings.items()]
            (self.folder / f"{name}.token").write_text(f"{name}-secret\n")
        (self.folder / "partial").write_text("\n".join(lines) + "\n")
        (self.folder / "partial").rename(self.folder / "tokens.yaml")

    def config(self, **server):
        server = {"tls": {"certificate": "server.pem", "key": "server.key"}, "tokens": "tokens.yaml", "reload_interval": "1s", **server}
        path = self.folder / "server.yaml"
        # JSON is YAML.
        path.write_text(json.dumps({"server": server, "log": {"audit_file": "audit.jsonl", "format": "json"}}))
        return path

    @contextlib.contextmanager
    def service(self, **server):
        with running_service("--config", self.config(**server)) as service:
            yield service

    def fresco(self, service, *arguments, token="draw", check=True):
        extra = ["--ca", self.folder / "ca.pem"] + (["--token-file", self.folder / f"{token}.token"] if token else [])
        return service.client(*arguments, *extra, check=check)

    def draw(self, service, name="apple.png", **options):
        return self.fresco(service, "generate", "-p", PROMPT, "--seed", 1, "--steps", 4, "--wait", 60, "-o", self.folder / name, "-q", **options)

    def audit(self):
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]

    def test_draws_over_tls_with_a_token(self):
        with self.service() as service:
            self.draw(service)
            self.assertEqual((self.folder / "apple.png").read_bytes()[:4], b"\x89PNG")
            refused = self.draw(service, name="none.png", token=None, check=False)
            self.assertEqual(refused.returncode, 3)
            self.assertIn("authorization: Bearer TOKEN", refused.stderr)
            denied = self.fresco(service, "status", check=False)
            self.assertEqual(denied.returncode, 3)
            self.assertIn("'draw' is not one of those that may operate", denied.stderr)
            self.assertIn("cpu", self.fresco(service, "status", token="operate").stdout)
            # Without TLS the port says nothing.
            plain = service.client("models", check=False)
            self.assertEqual(plain.returncode, 4)
            events = [(line["event"], line.get("method"), line["code"]) for line in self.audit()]
            self.assertIn(("denied", "Generate", "UNAUTHENTICATED"), events)
            self.assertIn(("denied", "GetStatus", "PERMISSION_DENIED"), events)
            self.assertNotIn("secret", (self.folder / "audit.jsonl").read_text())

    def test_files_that_change_are_taken_up_and_bad_ones_are_not(self):
        with self.service() as service:
            self.draw(service)
            # A token is rotated; the mistake before that leaves the old one.
            (self.folder / "tokens.yaml").write_text("tokens: [{name: draw}]\n")
            self.await_metric(service, 'fresco_reloads_total{outcome="failed",setting="tokens"}', 1)
            self.fresco(service, "models")
            self.write_tokens({"night": ["generate"]})
            self.await_metric(service, 'fresco_reloads_total{outcome="ok",setting="tokens"}', 1)
            self.assertEqual(self.fresco(service, "models", check=False).returncode, 3)
            self.fresco(service, "models", token="night")
            # Certificates of another authority.
            self.authority = trustme.CA()
            self.authority.cert_pem.write_to_path(self.folder / "ca.pem")
            self.install(self.authority.issue_cert("localhost", "127.0.0.1"))
            deadline = time.monotonic() + 120
            while self.fresco(service, "models", token="night", check=False).returncode != 0:
                self.assertLess(time.monotonic(), deadline, "the new certificate is not taken up")
                time.sleep(0.2)
            self.await_metric(service, 'fresco_reloads_total{outcome="ok",setting="tls"}', 1)

    def test_an_expired_certificate_is_refused_at_the_start_and_told_while_running(self):
        now = datetime.datetime.now(datetime.timezone.utc)
        expired = self.authority.issue_cert("localhost", "127.0.0.1", not_before=now - datetime.timedelta(2), not_after=now - datetime.timedelta(1))
        with self.service() as service:
            expiry = self.metric(service, 'fresco_tls_certificate_expiry_timestamp_seconds{file="certificate"}')
            self.assertGreater(expiry, time.time())
            self.install(expired)
            self.await_metric(service, 'fresco_reloads_total{outcome="failed",setting="tls"}', 1, at_least=True)
            for _ in range(15):  # for longer than gRPC would take to take it up
                self.fresco(service, "models")
                time.sleep(0.1)
            self.assertEqual(self.metric(service, 'fresco_tls_certificate_expiry_timestamp_seconds{file="certificate"}'), expiry)
        refused = run_server("--address", "127.0.0.1:0", "--config", self.config())
        self.assertEqual(refused.returncode, 1)
        self.assertRegex(refused.stderr, r"server\.pem: the certificate of .* has expired on 20")

    def test_mutual_tls(self):
        tls = {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"}
        own = self.authority.issue_cert("backend@example.org")
        own.private_key_pem.write_to_path(self.folder / "own.key")
        own.cert_chain_pems[0].write_to_path(self.folder / "own.pem")
        (self.folder / "tokens.yaml").write_text("tokens: [{name: backend, certificate: backend@example.org}]\n")
        with self.service(tls=tls) as service:
            identity = ["--certificate", self.folder / "own.pem", "--key", self.folder / "own.key"]
            service.client("models", "--ca", self.folder / "ca.pem", *identity, "--wait", 60)
            without = service.client("models", "--ca", self.folder / "ca.pem", check=False)
            self.assertEqual(without.returncode, 4)

    def test_other_machines_are_served_only_in_as_many_words(self):
        for arguments, told in (([], ["without TLS", "nobody is asked who calls"]),
                                (["--allow-plaintext"], ["nobody is asked who calls"]),
                                (["--allow-anonymous"], ["without TLS"])):
            refused = run_server("--address", "0.0.0.0:0", *arguments)
            self.assertEqual(refused.returncode, 1, refused.stderr)
            for words in told:
                self.assertIn(words, refused.stderr)
        allowed = run_server("--address", "0.0.0.0:0", "--allow-plaintext", "--allow-anonymous", "--check-config")
        self.assertEqual(allowed.returncode, 0, allowed.stderr)
        config = self.config()
        secure = run_server("--address", "0.0.0.0:0", "--config", config, "--check-config")
        self.assertEqual(secure.returncode, 0, secure.stderr)

    def test_a_new_token_works_as_printed(self):
        made = run_server("--new-token", "fresh")
        self.assertEqual(made.returncode, 0, made.stderr)
        token = re.search(r"^fresco_\S+$", made.stdout, re.M).group()
        entry = made.stdout[made.stdout.index("  - name:"):]
        (self.folder / "tokens.yaml").write_text("tokens:\n" + entry)
        (self.folder / "fresh.token").write_text(token)
        with self.service() as service:
            self.fresco(service, "models", "--wait", 60, token="fresh")
            self.assertEqual(self.fresco(service, "models", check=False).returncode, 3)

    def test_the_client_sends_no_token_that_others_could_read(self):
        command = [BIN / "fresco", "models", "--server", "gpu.example:8500", "--token", "secret"]
        refused = subprocess.run(command, timeout=60, stderr=subprocess.PIPE, text=True)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("without --tls everybody on the way could read the token", refused.stderr)

    def test_usage_is_counted_by_tenant(self):
        self.write_tokens({"draw": ["generate"]}, tenant="studio")
        with self.service() as service:
            self.draw(service)
            self.await_metric(service, 'fresco_tenant_images_total{tenant="studio"}', 1)
            self.assertEqual(self.metric(service, 'fresco_tenant_steps_total{tenant="studio"}'), 4)
            self.assertGreater(self.metric(service, 'fresco_tenant_device_seconds_total{tenant="studio"}'), 0)
            self.assertEqual(self.metric(service, 'fresco_tenant_images_total{tenant="(none)"}'), 0)

    def test_pictures_are_marked_as_a_models(self):
        """By Pillow and Python's XML parser, after the IPTC Photo Metadata Standard."""
        name = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
        with self.service() as service:
            for extension, key in (("png", "XML:com.adobe.xmp"), ("jpg", "xmp"), ("webp", "xmp")):
                self.draw(service, name=f"apple.{extension}")
                with Image.open(self.folder / f"apple.{extension}") as picture:
                    packet = picture.info[key]
                root = ElementTree.fromstring(packet.decode() if isinstance(packet, bytes) else packet)
                values = [element.text for element in root.iter(name)]
                self.assertEqual(values, ["http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"], extension)

    def metric(self, service, series):
        return service.metrics().get(series)

    def await_metric(self, service, series, value, at_least=False):
        deadline = time.monotonic() + 120
        while self.metric(service, series) != value and not (at_least and (self.metric(service, series) or 0) > value):
            self.assertLess(time.monotonic(), deadline, f"{series} is {self.metric(service, series)}, not {value}")
            time.sleep(0.1)


if __name__ == "__main__":
    unittest.main()

"""Every file of deploy/envoy is whole, current, and accepted by Envoy itself."""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from edge import DEPLOY, ROOT, envoy_binary, generate

BOOTSTRAPS = sorted(path for path in DEPLOY.glob("*.yaml") if "static_resources:" in path.read_text())


def validate(path):
    return subprocess.run([envoy_binary(), "--mode", "validate", "-c", path], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Bootstraps(unittest.TestCase):
    def accepted(self, profile, **changes):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "envoy.yaml"
            path.write_text(generate.bootstrap(profile, changes))
            result = validate(path)
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_envoy_accepts_each_from_the_repository_root(self):
        self.assertEqual([path.name for path in BOOTSTRAPS], ["compose.yaml", "kubernetes-mtls.yaml", "kubernetes.yaml", "production-endpoints.yaml", "production.yaml", "workstation.yaml"])
        for path in BOOTSTRAPS:
            with self.subTest(path.name):
                result = validate(path.relative_to(ROOT))
                self.assertEqual(result.returncode, 0, result.stdout)
                self.assertIn("OK", result.stdout)
                self.assertNotIn("deprecated", result.stdout.lower())

    def test_envoy_refuses_what_is_wrong(self):
        text = (DEPLOY / "workstation.yaml").read_text()
        for right, wrong in [("num_retries: 5", "num_tries: 5"), ("deploy/envoy/fresco.binpb", "deploy/envoy/none.binpb"), ("[fresco.v1.ImageGeneration]", "[fresco.v1.Nothing]")]:
            with self.subTest(wrong), tempfile.TemporaryDirectory() as folder:
                self.assertIn(right, text)
                path = pathlib.Path(folder) / "envoy.yaml"
                path.write_text(text.replace(right, wrong))
                self.assertNotEqual(validate(path).returncode, 0)

    def test_they_are_what_the_template_makes(self):
        result = subprocess.run([sys.executable, DEPLOY / "generate.py", "--check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_envoy_accepts_other_settings(self):
        self.accepted("production", replicas=["fresco-replicas:8500", "10.0.0.7:8500"], cors_origins=["https://studio.example.com"], client_rate=None, metrics_port=None)
        self.accepted("production", tls=False, upstream_tls=False, rate=1, burst=1)
        self.accepted("workstation", client_rate=3, metrics_port=9902)

    def test_mistakes_in_settings_are_named(self):
        for setting, message in [("replica=a:1", "unknown setting: replica"), ("replicas=a", "expected HOST:PORT, found 'a'"), ("rate=fast", "rate: expected a number, found 'fast'"),
                                 ("tls=maybe", "tls: expected true or false"), ("rate", "expected NAME=VALUE"), ("host=none", "{{host}} has no value"), ("names=fresco.lan", "names: it answers by any name")]:
            with self.subTest(setting):
                result = subprocess.run([sys.executable, DEPLOY / "generate.py", "--print", "production", setting], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                self.assertEqual(result.returncode, 1)
                self.assertIn(message, result.stderr)


class Descriptors(unittest.TestCase):
    """deploy/envoy/fresco.binpb is committed, so that the bootstraps need no build; it must be the protos'."""

    def files(self, path):
        return {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file}

    def test_the_committed_set_is_current(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([DEPLOY / "descriptors.sh", pathlib.Path(folder) / "fresh"], check=True)
            fresh = self.files(pathlib.Path(folder) / "fresh")
        committed = self.files(DEPLOY / "fresco.binpb")
        hint = "run deploy/envoy/descriptors.sh"
        self.assertEqual(sorted(committed), sorted(fresh), hint)
        # google's own differ a little from release to release.
        for name in (name for name in fresh if name.startswith("fresco/")):
            self.assertEqual(committed[name], fresh[name], f"{name}: {hint}")

    def test_every_call_has_a_route(self):
        """In gRPC and, where the transcoder has a path for it, in JSON. (OpenAI's models are one that openai.lua makes of another.)"""
        text = (DEPLOY / "production.yaml").read_text()
        routes = re.findall(r'match: {(path: [^,}]+|safe_regex: {regex: "[^"]+"})', text)
        [service] = self.files(DEPLOY / "fresco.binpb")["fresco/v1/image_generation.proto"].service
        wanted = [f"/fresco.v1.ImageGeneration/{method.name}" for method in service.method]
        for method in service.method:
            rule = method.options.Extensions[annotations_pb2.http]
            wanted.append(getattr(rule, rule.WhichOneof("pattern")))
        self.assertIn("/v1/fresco/generate", wanted)
        for path in wanted:
            found = [route for route in routes if route == f"path: {path}" or (route.startswith("safe_regex") and re.fullmatch(route.split('"')[1], path))]
            self.assertEqual(len(found), 1, path)


if __name__ == "__main__":
    unittest.main()

"""The typed helper against the real server with TLS and tokens, as docs/SECURITY.md sets them up: either client draws with the right token, and
says what is wrong with another."""

import asyncio
import hashlib
import json
import pathlib
import sys
import tempfile
import unittest

import grpc

import installed
import fresco
from scripted_server import Certificates

sys.path.insert(0, str(installed.ROOT / "tests" / "end_to_end"))
from service import running_service  # noqa: E402

APPLE = {"prompt": "a red apple on a light blue background", "seed": 1, "steps": 4, "width": 64, "height": 64}
SCOPES = {"drawers-secret": "generate", "operators-secret": "operate"}
PATIENT = fresco.Retries(attempts=600, first_delay=0.2, max_delay=0.2, max_wait=300)
LONG = 300  # seconds, that no test is meant to take


class Secured(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        Certificates(folder)
        (folder / "elsewhere").mkdir()
        Certificates(folder / "elsewhere")
        cls.own, cls.other = fresco.TLS(ca=folder / "ca.pem"), fresco.TLS(ca=folder / "elsewhere" / "ca.pem")
        tokens = [{"name": f"{scope}-token", "sha256": hashlib.sha256(token.encode()).hexdigest(), "scopes": [scope]} for token, scope in SCOPES.items()]
        # JSON is YAML.
        (folder / "tokens.yaml").write_text(json.dumps({"tokens": tokens}))
        (folder / "server.yaml").write_text(json.dumps(
            {"server": {"tls": {"certificate": "server.pem", "key": "server.key"}, "tokens": "tokens.yaml"}}))
        cls.service = cls.enterClassContext(running_service("--config", folder / "server.yaml"))
        with fresco.Client(cls.service.address, tls=cls.own, token="drawers-secret", retries=PATIENT, timeout=LONG) as client:
            client.generate(**APPLE)  # waits until the model is loaded

    def call(self, method, *arguments, tls=None, token="drawers-secret", retries=None, **options):
        """What each of the two clients answers, or raises."""
        made = {"tls": self.own if tls is None else tls, "token": token, "retries": retries, "timeout": LONG}

        async def awaited():
            async with fresco.aio.Client(self.service.address, **made) as client:
                return await getattr(client, method)(*arguments, **options)

        def plain():
            with fresco.Client(self.service.address, **made) as client:
                return getattr(client, method)(*arguments, **options)

        for one in (plain, lambda: asyncio.run(awaited())):
            try:
                yield one()
            except fresco.Error as error:
                yield error

    def test_the_right_token_draws(self):
        (first,), (second,) = self.call("generate", **APPLE)
        self.assertEqual((first.mime_type, first.width, first.seed), ("image/png", 64, 1))
        self.assertEqual(first.data, second.data)
        for models in self.call("models"):
            self.assertEqual([model.name for model in models], ["demo"])

    def test_a_wrong_token_is_unauthenticated(self):
        for token, words in (("somebodys-secret", "the token is not known here"), (None, "authorization: Bearer TOKEN")):
            for method, arguments in (("generate", APPLE), ("models", {}), ("cancel", {"request_id": "mine"})):
                for error in self.call(method, token=token, **arguments):
                    with self.subTest(method, token=token):
                        self.assertIsInstance(error, fresco.Unauthenticated)
                        self.assertEqual(error.code, grpc.StatusCode.UNAUTHENTICATED)
                        self.assertIn(words, error.message)
                        self.assertNotIn("secret", str(error))

    def test_a_token_for_something_else_is_denied(self):
        for error in [*self.call("status"), *self.call("generate", token="operators-secret", **APPLE)]:
            self.assertIsInstance(error, fresco.PermissionDenied)
            self.assertIn("-token' is not one of those that may", error.message)
        for status in self.call("status", token="operators-secret"):
            self.assertEqual([model.name for model in status.models], ["demo"])

    def test_a_server_of_another_authority_is_not_trusted_and_that_is_said(self):
        for tls in (self.other, True):
            for error in self.call("generate", tls=tls, retries=fresco.Retries(attempts=1), **APPLE):
                self.assertIsInstance(error, fresco.Unavailable)
                self.assertIn("CERTIFICATE_VERIFY_FAILED", error.message)


if __name__ == "__main__":
    unittest.main()

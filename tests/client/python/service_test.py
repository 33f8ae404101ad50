"""The typed helper, the example scripts' ways and what the README says, against the real server with the demo model."""

import asyncio
import base64
import io
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

from PIL import Image

import grpcurl
import installed
import fresco

sys.path.insert(0, str(installed.ROOT / "tests" / "end_to_end"))
from service import BIN, running_service  # noqa: E402

PROMPT = "a red apple on a light blue background"
PATIENT = fresco.Retries(attempts=600, first_delay=0.2, max_delay=0.2, max_wait=300)
LONG = 300  # seconds, that no test is meant to take


def pixels(picture):
    return Image.open(io.BytesIO(picture.data)).convert("RGB").tobytes()


class Service(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = cls.enterClassContext(running_service())
        cls.client = cls.enterClassContext(fresco.Client(cls.service.address, retries=PATIENT, timeout=LONG))
        (cls.apple,) = cls.client.generate(PROMPT, seed=1)  # waits until the model is loaded

    def test_the_readmes_first_lines_draw(self):
        text = (installed.SOURCE / "README.md").read_text(encoding="utf-8")
        code = re.search(r"```python\n(import fresco\n.*?)```", text, re.DOTALL).group(1)
        self.assertEqual(len(code.splitlines()), 3, code)
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        code = code.replace("127.0.0.1:8500", self.service.address)
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(installed.FOLDER)})
        self.assertEqual(Image.open(folder / "apple.png").convert("RGB").tobytes(), pixels(self.apple))

    def test_the_readmes_lines_for_grpcurl_are_the_servers(self):
        text = (installed.SOURCE / "README.md").read_text(encoding="utf-8")
        lines = [shlex.split(line.rstrip("|")) for line in text.splitlines() if line.startswith("grpcurl ")]
        plain = [line[1:] for line in lines if "-plaintext" in line]
        answers = [list(grpcurl.run(line, self.service.address)) for line in plain]
        self.assertEqual(answers[0], [{"methods": ["Generate", "CreateImage", "ListModels", "Cancel"]}])
        for answer in answers[1:]:
            # As the README's jq and base64 do.
            data = b"".join(base64.b64decode(event["image"]["data"]) for event in answer if "image" in event)
            self.assertEqual(Image.open(io.BytesIO(data)).convert("RGB").tobytes(), pixels(self.apple))
            self.assertIn("completed", answer[-1])
        (secured,) = [line[1:] for line in lines if "-plaintext" not in line]
        line = grpcurl.parse(secured)
        self.assertEqual((line.cacert, line.H), ("ca.pem", ["authorization: Bearer $FRESCO_TOKEN"]))
        (status,) = grpcurl.run(["-plaintext", "-d", line.d, line.address, *line.words], self.service.address)
        self.assertEqual(status["devices"][0]["models"], ["demo"])

    def test_it_draws_what_the_command_line_client_draws(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "apple.png"
            self.service.client("generate", "--prompt", PROMPT, "--seed", 1, "--output", file)
            self.assertEqual(Image.open(file).convert("RGB").tobytes(), pixels(self.apple))

    def test_a_picture_says_what_it_is(self):
        image = Image.open(io.BytesIO(self.apple.data))
        self.assertEqual((image.format, image.size), ("PNG", (self.apple.width, self.apple.height)))
        self.assertEqual((self.apple.mime_type, self.apple.seed, self.apple.image_index), ("image/png", 1, 0))
        self.assertEqual(self.apple.provenance.model, "demo")
        self.assertRegex(self.apple.provenance.weights_digest, "^sha256:")

    def test_the_seed_that_the_client_drew_draws_the_picture_again(self):
        first, second = self.client.generate("a fox", image_count=2, steps=4)
        self.assertEqual(second.seed, first.seed + 1)
        (again,) = self.client.generate("a fox", seed=second.seed, steps=4)
        self.assertEqual(pixels(again), pixels(second))

    def test_events_previews_and_formats(self):
        events = list(self.client.stream(PROMPT, steps=6, preview_every=2, format="webp"))
        kinds = [type(event) for event in events]
        self.assertEqual((kinds[0], kinds[-1]), (fresco.Queued, fresco.Completed))
        self.assertIn(fresco.Started, kinds)
        steps = [event.step for event in events if isinstance(event, fresco.Progress)]
        self.assertEqual((steps, steps[-1]), (sorted(steps), 6))
        for preview in (event for event in events if isinstance(event, fresco.Progress) and event.preview):
            self.assertEqual((preview.preview_mime_type, Image.open(io.BytesIO(preview.preview)).format), ("image/jpeg", "JPEG"))
        (picture,) = (event for event in events if isinstance(event, fresco.Picture))
        self.assertEqual((picture.mime_type, Image.open(io.BytesIO(picture.data)).format), ("image/webp", "WEBP"))

    def test_everything_that_is_wrong_is_named(self):
        with self.assertRaises(fresco.InvalidArgument) as caught:
            self.client.generate(PROMPT, width=17, guidance_scale=99.0, quality=101)
        self.assertEqual({violation.field for violation in caught.exception.violations}, {"width", "guidance_scale", "quality"})
        with self.assertRaisesRegex(fresco.NotFound, "demo"):
            self.client.generate(PROMPT, model="no-such-model")

    def test_models_and_status(self):
        (model,) = self.client.models()
        self.assertEqual((model.name, model.state), ("demo", fresco.ModelState.READY))
        status = self.client.status()
        self.assertEqual((status.models, status.draining), ((model,), False))
        self.assertEqual(status.devices[0].models, ("demo",))

    def long_stream(self, **options):
        """A request that is not done before somebody ends it."""
        return self.client.stream(PROMPT, steps=150, image_count=16, **options)

    def await_gone(self, request_id):
        """Until the server knows the request no more."""
        deadline = time.monotonic() + LONG
        while any(request.request_id == request_id for request in self.client.status().requests):
            self.assertLess(time.monotonic(), deadline, "the request goes on")
            time.sleep(0.05)

    def test_who_leaves_cancels(self):
        with self.long_stream() as stream:
            next(event for event in stream if isinstance(event, fresco.Progress))
            self.assertIn(stream.request_id, {request.request_id for request in self.client.status().requests})
        self.await_gone(stream.request_id)

    def test_ctrl_c_cancels(self):
        script = ("import sys; sys.path.insert(0, sys.argv[1]); import fresco\n"
                  "fresco.Client(sys.argv[2]).generate('a fox', steps=150, image_count=16, request_id='ctrl-c', "
                  "on_progress=lambda _: print('step', flush=True))")
        process = subprocess.Popen([sys.executable, "-c", script, installed.FOLDER, self.service.address], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.readline(), "step\n")
        process.send_signal(signal.SIGINT)
        self.assertIn("KeyboardInterrupt", process.communicate(timeout=LONG)[1])
        self.await_gone("ctrl-c")

    def test_cancel_by_id(self):
        stream = self.long_stream(request_id="mine")
        next(event for event in stream if isinstance(event, fresco.Progress))
        self.client.cancel("mine")
        with self.assertRaises(fresco.Cancelled):
            list(stream)
        self.await_gone("mine")
        with self.assertRaises(fresco.NotFound):
            self.client.cancel("mine")

    def test_asyncio(self):
        async def draw():
            async with fresco.aio.Client(self.service.address, timeout=LONG) as client:
                same, other = await asyncio.gather(client.generate(PROMPT, seed=1), client.generate("a fox", steps=4))
                task = asyncio.create_task(client.generate(PROMPT, steps=150, image_count=16, request_id="task"))
                while "task" not in {request.request_id for request in (await client.status()).requests}:
                    await asyncio.sleep(0.05)
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
                return same[0], other[0]
        same, other = asyncio.run(draw())
        self.assertEqual(pixels(same), pixels(self.apple))
        self.assertNotEqual(pixels(other), pixels(self.apple))
        self.await_gone("task")


class Restart(unittest.TestCase):
    """kill -9 in the middle of a picture, and a new server on the same port: the caller gets its picture, and does nothing for it."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"

    def start(self):
        log = self.enterContext(open(self.folder / "log", "a", encoding="utf-8"))
        process = subprocess.Popen([BIN / "fresco-server", "--address", self.address, "--metrics-address", "127.0.0.1:0"], stdout=log, stderr=log)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_the_picture_is_the_same(self):
        server = self.start()
        with fresco.Client(self.address, retries=PATIENT, timeout=LONG) as client:
            (reference,) = client.generate(PROMPT, seed=5, steps=150)
            with client.stream(PROMPT, seed=5, steps=150) as stream:
                next(event for event in stream if isinstance(event, fresco.Progress))
                server.kill()
                server.wait()
                self.start()
                events = list(stream)
        (picture,) = (event for event in events if isinstance(event, fresco.Picture))
        self.assertTrue(any(isinstance(event, fresco.Retrying) for event in events))
        self.assertEqual(pixels(picture), pixels(reference))


if __name__ == "__main__":
    unittest.main()

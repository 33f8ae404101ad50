"""A device that is too small for a picture: what a server says and does then, on a real one with the demo model under a limit."""

import re
import unittest

import grpc
from google.rpc import error_details_pb2, status_pb2

from server import Server, eventually, stub

LIMIT = 60 << 20
# Without measuring at load nothing is known of sizes: a picture that is too large is tried, not refused.
CONFIG = f"memory: {{limit: {LIMIT}}}\nscheduler: {{measure_at_load: 0s}}\nlimits: {{max_steps: 1000}}\n"


def generate(channel, side, steps=1, **fields):
    """The call, of which nothing has been read yet."""
    request = stub("image_generation_pb2").GenerateRequest(
        prompt="a red apple", width=side, height=side, steps=steps, seed=1, **fields)
    return stub("image_generation_pb2_grpc").ImageGenerationStub(channel).Generate(request)


def error_info(error):
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    for detail in status_pb2.Status.FromString(details).details if details else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    return None


class Limited(unittest.TestCase):
    def refusal(self, call):
        with self.assertRaises(grpc.RpcError) as raised:
            list(call)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        return raised.exception

    def assert_drawn(self, call):
        self.assertTrue(list(call)[-1].HasField("completed"))

    def test_a_picture_that_is_too_large_fails_alone_and_says_what_would_fit(self):
        with Server(CONFIG, model="vae: {tiling: auto}") as server, server.channel() as channel:
            self.assert_drawn(generate(channel, 64))
            before = server.metric("fresco_device_memory_bytes", 'kind="allocated"')
            others = generate(channel, 64, steps=400, image_count=2)
            eventually(lambda: server.metric("fresco_requests_running") > 0)
            error = self.refusal(generate(channel, 512))
            text = error.details()
            self.assertRegex(text, r"decoding 512x512: out of memory on cpu: .* more were asked for, where .* are taken")
            self.assertRegex(text, r"Held: .*transformer weights .*\(bf16\)")
            self.assertIn("Largest: ", text)
            self.assertRegex(text, r"Needed: about \d+ MiB")
            self.assertIn("vae.tiling: always, vae.tile_size: 256 (", text)
            info = error_info(error)
            self.assertEqual((info.reason, info.metadata["device"]), ("OUT_OF_MEMORY", "cpu"))
            self.assertEqual(int(info.metadata["limit"]), LIMIT)
            self.assertGreater(int(info.metadata["held_transformer_weights"]), 10 << 20)
            self.assert_drawn(others)  # they went on
            # What was said of it is said again, and at once: the size is not tried for a while.
            self.assertIn("drawing 512x512 would run out of memory on cpu", self.refusal(generate(channel, 512)).details())
            # The size that was named fits.
            self.assert_drawn(generate(channel, int(re.search(r"width, height: (\d+) \(", text)[1])))
            eventually(lambda: server.metric("fresco_device_memory_bytes", 'kind="allocated"') <= before + (1 << 20))
            self.assertLess(server.metric("fresco_component_memory_bytes", 'kind="activations"'), 1 << 20)
            self.assertGreater(server.metric("fresco_component_memory_bytes", 'component="vae",kind="weights"'), 6 << 20)

    def test_the_setting_that_was_named_makes_it_fit(self):
        with Server(CONFIG, model="vae: {tiling: always, tile_size: 256}") as server, server.channel() as channel:
            self.assert_drawn(generate(channel, 512))


if __name__ == "__main__":
    unittest.main()

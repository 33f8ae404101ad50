"""The real server under all that callers do, in equal parts: nothing that it takes for a call is left when the call has ended,
and every call ends once, as it should. FRESCO_SOAK_SECONDS=3600 makes an hour of it."""

import collections
import io
import os
import random
import threading
import time
import unittest

import grpc
from PIL import Image

from server import Server, eventually, stub

VISITS = 45  # of a part, unless a time is given
SECONDS = float(os.environ.get("FRESCO_SOAK_SECONDS", 0))
CALLERS = 12  # at once
HEAP_BYTES = 4 << 20  # that the heap may grow by in two parts
# libtorch and oneDNN keep something for each new shape of a batch, and which shapes come hangs on who comes when: the parts after the
# third are for these. What leaks grows in every part.
PARTS = 3
MOST_PARTS = 7

CONFIG = """\
limits: {max_steps: 1000}
results: {keep: 1s}
server: {max_concurrent_streams: 1024}
scheduler: {max_resident: 6, max_batch: 4, classes: {interactive: {max_wait: 10h}, standard: {max_wait: 10h}, batch: {max_wait: 10h}}}
"""
PROMPTS = ["a red apple on a white background", "a fox on a green background", "a sunflower", ""]
SIZES = [(64, 64), (64, 128), (128, 64), (128, 128)]
FORMATS = {"PNG": 1, "JPEG": 2, "WEBP": 3}


class Caller:
    """One of those who call, with a connection of its own; what it does follows from the seed."""

    def __init__(self, server, seed):
        self.server = server
        self.random = random.Random(seed)
        self.name = f"caller-{seed}"
        self.calls = 0  # of Generate and CreateImage
        self.codes = collections.Counter()
        self.pb = stub("image_generation_pb2")
        self.connect()

    def connect(self):
        self.channel = self.server.channel()
        self.images = stub("image_generation_pb2_grpc").ImageGenerationStub(self.channel)
        self.operations = stub("operations_pb2_grpc").OperationsStub(self.channel)

    def request(self, **fields):
        self.calls += 1
        width, height = self.random.choice(SIZES)
        return self.pb.GenerateRequest(**{
            "prompt": self.random.choice(PROMPTS), "negative_prompt": self.random.choice(["", "a fox"]), "width": width, "height": height,
            "steps": self.random.randint(1, 6), "seed": self.random.randrange(100), "guidance_scale": self.random.choice([0, 3, 5]),
            "format": self.random.choice(list(FORMATS.values())), "preview_every": self.random.choice([0, 0, 1, 2]),
            "priority": self.random.randint(0, 3), "image_count": self.random.choice([1, 1, 1, 3]),
            "request_id": f"{self.name}-{self.calls}", **fields})

    def endless(self, **fields):
        return self.request(width=128, height=128, steps=1000, guidance_scale=4, image_count=1, **fields)

    def end(self, call, *expected):
        """The rest of a call that must end with one of these codes; all its events."""
        events = []
        try:
            for event in call:
                events.append(event)
        except grpc.RpcError:
            pass
        code = call.code()
        assert code in expected, (code, call.details(), expected)
        completed = [event.HasField("completed") for event in events]
        assert sum(completed) == (code == grpc.StatusCode.OK) and not any(completed[:-1]), completed
        self.codes[code.name] += 1
        return events

    def begin(self, request):
        """A call that has begun to draw, or has only arrived."""
        call = self.images.Generate(request)
        running = self.random.random() < 0.5
        for event in call:
            if event.HasField("progress") or not running:
                break
        return call

    def draw(self):
        request = self.request()
        files = collections.defaultdict(bytes)
        for event in self.end(self.images.Generate(request), grpc.StatusCode.OK):
            files[event.image.image_index] += event.image.data
        assert len(files) == request.image_count
        for file in files.values():
            picture = Image.open(io.BytesIO(file))
            picture.load()
            assert FORMATS[picture.format] == request.format and picture.size == (request.width, request.height)

    def draw_like_openai(self):
        self.calls += 1
        answer = self.images.CreateImage(self.pb.CreateImageRequest(prompt=self.random.choice(PROMPTS), size="64x64", n=2))
        assert [Image.open(io.BytesIO(datum.b64_json)).size for datum in answer.data] == [(64, 64)] * 2
        self.codes["OK"] += 1

    def draw_in_time(self):
        self.end(self.images.Generate(self.request(), timeout=600), grpc.StatusCode.OK)

    def cancel(self):
        request = self.endless()
        call = self.begin(request)
        self.images.Cancel(self.pb.CancelRequest(request_id=request.request_id))
        self.end(call, grpc.StatusCode.CANCELLED)

    def leave(self):
        call = self.begin(self.endless())
        call.cancel()
        self.end(call, grpc.StatusCode.CANCELLED)

    def hang_up(self):
        """The connection goes, with two calls."""
        calls = [self.begin(self.endless()) for _ in range(2)]
        self.channel.close()
        for call in calls:
            self.end(call, grpc.StatusCode.CANCELLED)
        self.connect()

    def be_late(self):
        self.end(self.images.Generate(self.endless(), timeout=self.random.uniform(1, 2)), grpc.StatusCode.DEADLINE_EXCEEDED)

    def be_wrong(self):
        fields, code = self.random.choice([
            ({"width": 65}, grpc.StatusCode.INVALID_ARGUMENT), ({"steps": -1}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"height": 1 << 20}, grpc.StatusCode.INVALID_ARGUMENT), ({"prompt": "a" * 9000}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"guidance_scale": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT), ({"model": "none"}, grpc.StatusCode.NOT_FOUND)])
        self.end(self.images.Generate(self.request(**fields)), code)

    def look_on(self):
        self.operations.GetStatus(stub("operations_pb2").GetStatusRequest())
        self.images.ListModels(self.pb.ListModelsRequest())
        self.server.metric("fresco_requests_running")

    VISITS = {draw: 8, draw_like_openai: 1, draw_in_time: 1, cancel: 2, leave: 2, hang_up: 1, be_late: 2, be_wrong: 2, look_on: 1}

    def visit(self):
        self.random.choices(list(self.VISITS), self.VISITS.values())[0](self)


class Soak(unittest.TestCase):
    def test_mixed_load_leaves_nothing_and_every_call_ends_once(self):
        with Server(CONFIG) as server:
            calls = 0
            parts = []
            idle_files = server.open_files() + 2  # the encoders' pool and gRPC may have opened something of their own since
            while len(parts) < PARTS or len(parts) < MOST_PARTS and self.growth(parts) > HEAP_BYTES:
                part = len(parts)
                callers = self.run_part(server, part)
                calls += sum(caller.calls for caller in callers)
                # The server counts a call when gRPC is done with it, a little later.
                eventually(lambda: server.metric("fresco_requests_total") >= calls)
                self.assertEqual(server.metric("fresco_requests_total"), calls)
                eventually(lambda: server.metric("fresco_requests_running") == 0 and server.metric("fresco_queue_depth") == 0)
                for caller in callers:
                    caller.channel.close()
                eventually(lambda: server.open_files() <= idle_files)
                codes = sum((caller.codes for caller in callers), collections.Counter())
                parts.append({"heap": server.metric("fresco_heap_bytes", 'kind="used"'), "descriptors": server.open_files(),
                              "resident": server.metric("process_resident_memory_bytes")})
                print(f"part {part + 1}: {dict(sorted(codes.items()))}; heap {parts[-1]['heap'] / 2**20:.1f} MiB, resident "
                      f"{parts[-1]['resident'] / 2**20:.1f} MiB, {parts[-1]['descriptors']} descriptors", flush=True)
            self.assertLessEqual(self.growth(parts), HEAP_BYTES)
            # One line for each call, none twice.
            ids = [line.split("id=")[1].split()[0] for line in server.log().splitlines() if " request id=caller-" in line]
            self.assertEqual(len(ids), len(set(ids)))
            self.assertEqual(sum(" request id=" in line for line in server.log().splitlines()), calls)

    @staticmethod
    def growth(parts):
        """Of the heap, in the last two parts."""
        return parts[-1]["heap"] - parts[-3]["heap"]

    def run_part(self, server, part):
        """Has the callers come until there were enough of them; a caller that finds a fault ends the part."""
        end = time.monotonic() + SECONDS / PARTS
        left = [VISITS]
        faults = []
        lock = threading.Lock()

        def more():
            with lock:
                left[0] -= 1
                return not faults and (time.monotonic() < end if SECONDS else left[0] >= 0)

        def run(caller):
            try:
                while more():
                    caller.visit()
            except BaseException as fault:  # for the test's own thread to raise
                faults.append(fault)
        # The same visits in each part.
        callers = [Caller(server, 100 * number) for number in range(CALLERS)]
        for caller in callers:
            caller.name += f"-{part}"
        threads = [threading.Thread(target=run, args=(caller,)) for caller in callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if faults:
            raise faults[0]
        return callers


if __name__ == "__main__":
    unittest.main()

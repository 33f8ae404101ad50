"""The typed helper against servers that answer as each test says: what it makes of answers, failures, retries, deadlines and leaving."""

import asyncio
import dataclasses
import gc
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import typing
import unittest
import warnings

import grpc

import installed
import fresco
from fresco import _drawing, _errors, _types, _wire
from fresco.v1 import image_generation_pb2 as pb
from fresco.v1 import operations_pb2
from scripted_server import Certificates, Failure, ScriptedServer, chunk, completed, progress

QUICK = fresco.Retries(attempts=4, first_delay=0.001, max_delay=0.001)
LONG = 60  # seconds, that no test is meant to take
PICTURE = [chunk(b"picture"), completed()]
TWO = [chunk(b"aa", 0, 4, 1, seed=8), chunk(b"0", 0, 2, 0), chunk(b"bb", 2, 4, 1, seed=8), chunk(b"1", 1, 2, 0), completed()]
DOWN = Failure(grpc.StatusCode.UNAVAILABLE, "down")


def kinds(events):
    return [type(event).__name__ for event in events]


class Case(unittest.TestCase):
    def serve(self, *answers, **options):
        return self.enterContext(ScriptedServer(*answers, **options))

    def client(self, server, **options):
        return self.enterContext(fresco.Client(server.address, **{"retries": QUICK, "timeout": LONG, **options}))

    def raises(self, kind, call, *arguments, **options):
        with self.assertRaises(kind) as caught:
            call(*arguments, **options)
        return caught.exception


class Drawing(Case):
    def test_parts_of_several_pictures_are_put_together(self):
        server = self.serve(TWO)
        first, second = self.client(server).generate("a fox", image_count=2)
        self.assertEqual((first.data, first.image_index, first.seed), (b"01", 0, 7))
        self.assertEqual((second.data, second.image_index, second.seed), (b"aabb", 1, 8))
        self.assertEqual((first.mime_type, first.width, first.height), ("image/png", 16, 32))
        self.assertEqual((second.provenance.model, second.provenance.steps, second.provenance.batch_size_max), ("demo", 2, 3))

    def test_events_are_typed_and_in_the_servers_order(self):
        queued = pb.GenerateEvent(queued=pb.Queued(position=3, request_id="mine"))
        queued.queued.estimated_wait.FromMilliseconds(1250)
        answer = [queued, pb.GenerateEvent(started=pb.Started(device="cpu")), pb.GenerateEvent(), progress(1), progress(2), *PICTURE]
        events = list(self.client(self.serve(answer)).stream("a fox"))
        self.assertEqual(kinds(events), ["Queued", "Started", "Progress", "Progress", "Picture", "Completed"])
        self.assertEqual(events[0], fresco.Queued(3, 1.25, "mine"))
        self.assertEqual(events[1].device, "cpu")
        self.assertEqual((events[2].step, events[2].total_steps, events[2].remaining), (1, 2, 1.5))
        self.assertEqual(events[-1].timings.queue, 0.25)

    def test_the_callback_is_told_each_step(self):
        told = []
        self.client(self.serve([progress(1), progress(2), *PICTURE])).generate("a fox", on_progress=told.append)
        self.assertEqual([one.step for one in told], [1, 2])

    def test_the_request_is_as_asked_for(self):
        server = self.serve(PICTURE)
        self.client(server).generate(
            "a fox", negative_prompt="n", model="m", width=16, height=32, steps=3, guidance_scale=0.0, seed=2**63, image_count=1, format="webp",
            quality=5, preview_every=2, priority="batch", request_id="r", max_sequence_length=9, prompt_2="p2", prompt_3=None, clip_skip=1,
            noise_correction=False, deterministic=True)
        self.assertEqual(server.calls[0].request, pb.GenerateRequest(
            prompt="a fox", negative_prompt="n", model="m", width=16, height=32, steps=3, guidance_scale=0, seed=2**63, image_count=1,
            format=pb.IMAGE_FORMAT_WEBP, quality=5, preview_every=2, priority=pb.PRIORITY_BATCH, request_id="r", max_sequence_length=9,
            prompt_2="p2", clip_skip=1, noise_correction=False, deterministic=True))

    def test_every_field_of_a_request_is_an_option(self):
        self.assertEqual(set(pb.GenerateRequest.DESCRIPTOR.fields_by_name) - {"prompt"}, set(fresco.DrawOptions.__annotations__))

    def test_a_seed_and_an_id_are_drawn_where_none_is_given(self):
        server = self.serve(PICTURE, PICTURE)
        client = self.client(server)
        streams = [client.stream("a fox"), client.stream("a fox")]
        for stream in streams:
            list(stream)
        requests = [call.request for call in server.calls]
        self.assertEqual([(r.seed, r.request_id) for r in requests], [(s.seed, s.request_id) for s in streams])
        self.assertEqual(len({r.seed for r in requests}), 2)
        self.assertEqual(len({r.request_id for r in requests}), 2)
        self.assertTrue(all(r.HasField("seed") and r.request_id for r in requests))

    def test_what_is_no_option_is_said(self):
        client = fresco.Client("127.0.0.1:1")
        self.assertIn("did you mean 'width'", str(self.raises(TypeError, client.generate, "a fox", widht=16)))
        self.assertIn("png, jpeg, webp", str(self.raises(ValueError, client.generate, "a fox", format="gif")))
        self.assertIn("width", str(self.raises(TypeError, client.generate, "a fox", width="16")))
        self.assertIn("steps", str(self.raises(ValueError, client.generate, "a fox", steps=2**40)))

    def test_the_servers_warnings_are_given(self):
        warning = pb.Warning(kind=pb.Warning.PROMPT_TRUNCATED, field="prompt", message="the prompt was cut")
        client = self.client(self.serve([chunk(b"x"), completed(warning)], [chunk(b"x"), completed(warning)]))
        with self.assertWarnsRegex(fresco.DrawWarning, "the prompt was cut") as caught:
            client.generate("a fox")
        self.assertEqual(caught.filename, __file__)
        self.assertEqual(list(client.stream("a fox"))[-1].warnings[0].kind, fresco.WarningKind.PROMPT_TRUNCATED)

    def test_what_cannot_be_is_an_error_and_no_broken_picture(self):
        for answer in ([chunk(b"abc", 0, 6), chunk(b"ef", 4, 6), completed()],  # a hole
                       [chunk(b"abcd", 0, 3), completed()],  # longer than itself
                       [chunk(b"abc", 0, 6), completed()],  # half
                       [chunk(b"abc")],  # no end
                       [chunk(b"abc"), chunk(b"abc"), completed()],  # twice
                       [completed()]):
            with self.subTest(answer):
                error = self.raises(fresco.Error, self.client(self.serve(answer)).generate, "a fox", request_id="r")
                self.assertEqual((error.code, error.request_id), (grpc.StatusCode.INTERNAL, "r"))


class Saving(Case):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.picture = self.client(self.serve(PICTURE)).generate("a fox")[0]

    def test_a_picture_is_saved_and_gets_its_extension(self):
        self.assertEqual(self.picture.save(self.folder / "fox.png").read_bytes(), b"picture")
        self.assertEqual(self.picture.save(str(self.folder / "again")), self.folder / "again.png")
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["again.png", "fox.png"])

    def test_it_is_readable_as_any_new_file_is(self):
        other = self.folder / "other"
        other.write_bytes(b"")
        self.assertEqual(self.picture.save(self.folder / "fox.png").stat().st_mode, other.stat().st_mode)

    def test_where_it_cannot_be_saved_nothing_is_left(self):
        (self.folder / "taken.png").mkdir()
        self.assertRaises(OSError, self.picture.save, self.folder / "taken.png")
        self.assertEqual([path.name for path in self.folder.iterdir()], ["taken.png"])

    def test_a_notebook_shows_it(self):
        self.assertEqual(self.picture._repr_mimebundle_(include=None, exclude=None), {"image/png": b"picture"})


class Failing(Case):
    def test_each_field_that_is_wrong_is_named(self):
        server = self.serve([Failure(grpc.StatusCode.INVALID_ARGUMENT, "width must be …", violations=[("width", "must be …"), ("steps", "too many")])])
        error = self.raises(fresco.InvalidArgument, self.client(server).generate, "a fox", request_id="r")
        self.assertEqual(error.violations, (fresco.FieldViolation("width", "must be …"), fresco.FieldViolation("steps", "too many")))
        self.assertEqual((error.code, error.message, error.request_id), (grpc.StatusCode.INVALID_ARGUMENT, "width must be …", "r"))
        self.assertEqual(str(error), "INVALID_ARGUMENT: width must be …")
        self.assertEqual(len(server.calls), 1)

    def test_each_status_is_an_exception_of_its_own_or_a_plain_one(self):
        for kind in fresco.Error.__subclasses__():
            if kind not in (fresco.Unavailable,):
                with self.subTest(kind):
                    self.raises(kind, self.client(self.serve([Failure(kind.status, "no")])).generate, "a fox")
        error = self.raises(fresco.Error, self.client(self.serve([Failure(grpc.StatusCode.DATA_LOSS, "NaN")])).generate, "a fox")
        self.assertEqual((type(error), error.code), (fresco.Error, grpc.StatusCode.DATA_LOSS))

    def test_details_that_are_none_do_no_harm(self):
        class Nonsense:
            def code(self): return grpc.StatusCode.NOT_FOUND
            def details(self): return None
            def trailing_metadata(self): return (("other", "x"), ("grpc-status-details-bin", b"\xff\xff\xff"))
        self.assertEqual(str(_errors.from_call(Nonsense())), "NOT_FOUND")


class Retrying(Case):
    def test_a_call_is_made_again_with_the_same_seed_and_id_when_the_server_says(self):
        busy = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", retry_after=0.002)
        loading = Failure(grpc.StatusCode.UNAVAILABLE, "loading", retry_after=0.003)
        server = self.serve([busy], [loading], [DOWN], PICTURE)
        events = list(self.client(server).stream("a fox"))
        self.assertEqual(kinds(events), ["Retrying"] * 3 + ["Picture", "Completed"])
        self.assertEqual([one.failures for one in events[:3]], [1, 2, 3])
        self.assertGreaterEqual(events[0].delay, 0.002)
        self.assertGreaterEqual(events[1].delay, 0.003)
        self.assertEqual(events[0].reason.retry_delay, 0.002)
        self.assertIsInstance(events[0].reason, fresco.ResourceExhausted)
        self.assertEqual(len({call.request.SerializeToString(deterministic=True) for call in server.calls}), 1)
        self.assertTrue(server.calls[0].request.HasField("seed"))

    def test_each_picture_is_given_once_however_often_it_comes(self):
        first = [chunk(b"01"), chunk(b"aa", 0, 4, 1, seed=8), DOWN]
        server = self.serve(first, TWO)
        events = list(self.client(server).stream("a fox", image_count=2))
        self.assertEqual(kinds(events), ["Picture", "Retrying", "Picture", "Completed"])
        self.assertEqual([e.data for e in events if isinstance(e, fresco.Picture)], [b"01", b"aabb"])
        self.assertEqual([p.data for p in self.client(self.serve(first, TWO)).generate("a fox", image_count=2)], [b"01", b"aabb"])

    def test_an_id_that_is_taken_is_an_error_unless_the_call_before_was_lost(self):
        taken = Failure(grpc.StatusCode.ALREADY_EXISTS, "running already")
        self.raises(fresco.AlreadyExists, self.client(self.serve([taken])).generate, "a fox")
        self.assertEqual(len(self.client(self.serve([progress(1), DOWN], [taken], PICTURE)).generate("a fox")), 1)

    def test_it_ends(self):
        server = self.serve(*[[DOWN]] * 9)
        self.raises(fresco.Unavailable, self.client(server).generate, "a fox")
        self.assertEqual(len(server.calls), QUICK.attempts)

    def test_never_where_that_is_asked_for(self):
        for failure in (DOWN, Failure(grpc.StatusCode.UNAVAILABLE, "loading", retry_after=0.001)):
            server = self.serve([failure], PICTURE)
            self.raises(fresco.Unavailable, self.client(server, retries=fresco.Retries(attempts=1)).generate, "a fox")
            self.assertEqual(len(server.calls), 1)

    def test_what_waiting_does_not_mend_is_raised_at_once(self):
        for code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.FAILED_PRECONDITION):
            server = self.serve([Failure(code, "no")], PICTURE)
            self.raises(fresco.Error, self.client(server).generate, "a fox")
            self.assertEqual(len(server.calls), 1)

    def test_other_calls_are_made_again_too(self):
        server = self.serve()
        server.failures.put(DOWN)
        self.assertEqual(self.client(server).models(), [])
        self.assertEqual(len(server.calls), 2)


class Schedules(unittest.TestCase):
    """The arithmetic of waiting, by a clock that stands still."""

    def schedule(self, timeout=None, jitter=0.0, **retries):
        self.now = 100.0
        return _drawing.Schedule(fresco.Retries(**retries), timeout, lambda: self.now, lambda: jitter)

    @staticmethod
    def unavailable(retry_delay=None):
        return fresco.Unavailable(grpc.StatusCode.UNAVAILABLE, "down", retry_delay=retry_delay)

    def test_waits_grow_to_a_bound(self):
        schedule = self.schedule(attempts=6, first_delay=1, growth=3, max_delay=10)
        self.assertEqual([schedule.delay_after(self.unavailable()) for _ in range(5)], [1, 3, 9, 10, 10])
        self.assertRaises(fresco.Unavailable, schedule.delay_after, self.unavailable())

    def test_the_servers_word_counts_and_takes_no_attempt(self):
        schedule = self.schedule(attempts=2, max_delay=1, max_wait=1000)
        self.assertEqual([schedule.delay_after(self.unavailable(40)) for _ in range(20)], [40] * 20)

    def test_all_waits_together_are_bounded(self):
        schedule = self.schedule(max_wait=100)
        self.assertEqual([schedule.delay_after(self.unavailable(40)) for _ in range(2)], [40, 40])
        self.assertRaises(fresco.Unavailable, schedule.delay_after, self.unavailable(40))

    def test_some_of_the_wait_is_random(self):
        self.assertEqual(self.schedule(jitter=1.0).delay_after(self.unavailable(10)), 12)

    def test_nobody_waits_beyond_the_deadline(self):
        schedule = self.schedule(timeout=30)
        self.assertEqual(schedule.delay_after(self.unavailable(20)), 20)
        self.now += 20
        self.assertEqual(schedule.time_left(), 10)
        self.assertRaises(fresco.Unavailable, schedule.delay_after, self.unavailable(20))
        self.now += 10
        self.assertRaises(fresco.DeadlineExceeded, schedule.time_left)

    def test_impossible_retries_are_refused(self):
        for wrong in ({"attempts": 0}, {"first_delay": -1}, {"growth": 0.5}, {"max_wait": -1}):
            self.assertRaises(ValueError, fresco.Retries, **wrong)


class Deadlines(Case):
    def test_the_server_knows_the_callers_deadline(self):
        server = self.serve(PICTURE, PICTURE, PICTURE)
        self.client(server, timeout=None).generate("a fox")
        self.client(server, timeout=1000).generate("a fox")
        self.client(server, timeout=1000).generate("a fox", timeout=200)
        none, longer, shorter = (call.time_left for call in server.calls)
        self.assertTrue(none is None or none > 1e6, none)
        # gRPC rounds what it sends up, by a hundredth at most.
        self.assertTrue(500 < longer <= 1011, longer)
        self.assertTrue(0 < shorter <= 203, shorter)

    def test_a_server_that_does_not_answer_is_left(self):
        server = self.serve([ScriptedServer.HANG])
        self.raises(fresco.DeadlineExceeded, self.client(server).generate, "a fox", timeout=0.5)
        self.assertTrue(server.calls[0].gone.wait(LONG))


class Leaving(Case):
    def hanging(self):
        return self.serve([progress(1), ScriptedServer.HANG])

    def assert_told(self, server):
        self.assertTrue(server.calls[0].gone.wait(LONG), "the server was not told that its caller has gone")

    def test_a_stream_that_is_closed(self):
        server = self.hanging()
        stream = self.client(server).stream("a fox")
        next(stream)
        stream.close()
        self.assert_told(server)
        self.assertRaises(StopIteration, next, stream)

    def test_a_loop_that_is_left(self):
        server = self.hanging()
        client = self.client(server)
        for _ in client.stream("a fox"):
            break
        gc.collect()
        self.assert_told(server)

    def test_a_callback_that_raises(self):
        server = self.hanging()

        def stop(_):
            raise RuntimeError("enough")
        self.assertEqual(str(self.raises(RuntimeError, self.client(server).generate, "a fox", on_progress=stop)), "enough")
        self.assert_told(server)

    def test_ctrl_c(self):
        server = self.serve([progress(1), ScriptedServer.HANG])
        script = "import sys; sys.path.insert(0, sys.argv[1]); import fresco; fresco.Client(sys.argv[2]).generate('a fox')"
        process = subprocess.Popen([sys.executable, "-c", script, installed.FOLDER, server.address], stderr=subprocess.PIPE, text=True)
        self.assertTrue(server.hanging.acquire(timeout=LONG))
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=LONG)[1]
        self.assertIn("KeyboardInterrupt", output)
        self.assert_told(server)

    def test_a_request_that_somebody_cancels(self):
        server = self.serve([progress(1), Failure(grpc.StatusCode.CANCELLED, "cancelled by its caller's Cancel")])
        self.raises(fresco.Cancelled, self.client(server).generate, "a fox")


class Connecting(Case):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def test_who_calls_is_said_with_each_call(self):
        server = self.serve(PICTURE)
        tokens = iter(["first", "second"])
        client = self.client(server, token=lambda: next(tokens), tenant="studio")
        client.generate("a fox")
        client.models()
        self.assertEqual([call.metadata["authorization"] for call in server.calls], ["Bearer first", "Bearer second"])
        self.assertEqual([call.metadata["fresco-tenant"] for call in server.calls], ["studio"] * 2)
        self.client(server).cancel("x")
        self.assertNotIn("authorization", server.calls[-1].metadata)
        self.assertNotIn("fresco-tenant", server.calls[-1].metadata)

    def test_a_proxy_is_not_asked_for_this_machine(self):
        server = self.serve()
        script = "import sys; sys.path.insert(0, sys.argv[1]); import fresco; fresco.Client(sys.argv[2], timeout=60).models()"
        proxied = {**os.environ, "http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1", "no_proxy": ""}
        subprocess.run([sys.executable, "-c", script, installed.FOLDER, server.address], check=True, env=proxied)
        self.assertEqual(len(server.calls), 1)

    def test_tls_with_an_authority_of_ones_own(self):
        certificates = Certificates(self.folder)
        server = self.serve(PICTURE, credentials=certificates.server_credentials())
        tls = fresco.TLS(ca=certificates.path("ca.pem"))
        self.assertEqual(len(self.client(server, tls=tls, token="t").generate("a fox")), 1)
        self.assertEqual(server.calls[0].metadata["authorization"], "Bearer t")
        named = fresco.TLS(ca=certificates.read("ca.pem"), server_name="fresco.test")
        self.assertEqual(self.client(server, tls=named).models(), [])
        for stranger in (True, fresco.TLS(ca=certificates.path("ca.pem"), server_name="other.test"), None):
            self.raises(fresco.Unavailable, self.client(server, tls=stranger).models)
        self.assertEqual(len(server.calls), 2)

    def test_mutual_tls(self):
        certificates = Certificates(self.folder)
        server = self.serve(credentials=certificates.server_credentials(mutual=True))
        own = {"certificate": certificates.path("client.pem"), "key": certificates.path("client.key")}
        self.assertEqual(self.client(server, tls=fresco.TLS(ca=certificates.path("ca.pem"), **own)).models(), [])
        self.raises(fresco.Unavailable, self.client(server, tls=fresco.TLS(ca=certificates.path("ca.pem"))).models)
        self.assertRaises(ValueError, fresco.Client, "localhost:1", tls=fresco.TLS(certificate=certificates.path("client.pem")))

    def test_a_token_does_not_cross_the_network_in_plain_text_unless_told_so(self):
        for address in ("10.0.0.1:8500", "fresco.example:443", "dns:///fresco.example:443", "[2001:db8::1]:1"):
            self.assertRaises(ValueError, fresco.Client, address, token="secret")
            fresco.Client(address, token="secret", plaintext_token=True).close()
            fresco.Client(address, token="secret", tls=True).close()
        for address in ("127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/tmp/x", "dns:///localhost:1"):
            fresco.Client(address, token="secret").close()

    def test_what_can_be_no_token_or_tenant_is_refused_and_not_said_back(self):
        self.assertNotIn("sec ret", str(self.raises(ValueError, fresco.Client("localhost:1", token="sec ret").models)))
        self.assertRaises(ValueError, fresco.Client, "localhost:1", tenant="no spaces")
        secretive = fresco.Client("localhost:1", token="secret", tls=fresco.TLS(certificate=b"own", key=b"secret"))
        self.assertNotIn("secret", repr(vars(secretive)))
        self.assertNotIn("secret", repr(self.raises(ValueError, fresco.Client, "10.0.0.1:1", token="secret")))


class Asking(Case):
    def test_models_and_status_are_plain_values(self):
        server = self.serve()
        model = pb.Model(name="demo", state=pb.Model.READY, devices=["cpu"], default_width=256, default_guidance_scale=4.5)
        server.models.models.append(model)
        server.status.version = "0.1.0"
        server.status.models.append(model)
        server.status.started_at.FromSeconds(1_700_000_000)
        server.status.requests.add(request_id="r", priority=pb.PRIORITY_BATCH).age.FromMilliseconds(1500)
        server.status.devices.add(name="cpu", notes=["a", "b"])
        client = self.client(server)
        (got,) = client.models()
        self.assertEqual((got.name, got.state, got.devices, got.default_width, got.default_guidance_scale), ("demo", fresco.ModelState.READY, ("cpu",), 256, 4.5))
        status = client.status()
        self.assertEqual(status.models, (got,))
        self.assertEqual(status.started_at.isoformat(), "2023-11-14T22:13:20+00:00")
        self.assertEqual((status.requests[0].age, status.requests[0].priority), (1.5, fresco.Priority.BATCH))
        self.assertEqual(status.devices[0].notes, ("a", "b"))

    def test_cancel_names_the_request(self):
        server = self.serve()
        self.client(server).cancel("mine")
        self.assertEqual(server.calls[0].request.request_id, "mine")
        server.failures.put(Failure(grpc.StatusCode.NOT_FOUND, "no request with the id 'mine' is waiting or running"))
        self.raises(fresco.NotFound, self.client(server).cancel, "mine")

    def test_a_value_of_a_newer_server_is_unspecified(self):
        self.assertEqual(_wire.from_wire(fresco.Model, pb.Model(state=77)).state, fresco.ModelState.UNSPECIFIED)

    def test_no_field_and_no_value_is_left_out(self):
        pairs = {fresco.Queued: pb.Queued, fresco.Started: pb.Started, fresco.Progress: pb.Progress, fresco.Provenance: pb.Provenance,
                 fresco.Completed: pb.Completed, fresco.Timings: pb.Timings, fresco.BatchSizes: pb.BatchSizes, fresco.Warning: pb.Warning,
                 fresco.Model: pb.Model, fresco.Device: operations_pb2.Device, fresco.RunningRequest: operations_pb2.RunningRequest,
                 fresco.Status: operations_pb2.GetStatusResponse}
        for ours, message in pairs.items():
            self.assertEqual([field.name for field in dataclasses.fields(ours)], [field.name for field in message.DESCRIPTOR.fields], ours)
        for ours, prefix, enum in ((fresco.ModelState, "STATE_", pb.Model.State), (fresco.Priority, "PRIORITY_", pb.Priority),
                                   (fresco.WarningKind, "KIND_", pb.Warning.Kind)):
            self.assertEqual([member.value for member in ours], [name.removeprefix(prefix) for name in enum.keys()])
        self.assertEqual(set(typing.get_args(fresco.Event)), {fresco.Queued, fresco.Started, fresco.Progress, fresco.Picture, fresco.Completed,
                                                              _types.Retrying})


class Asyncio(Case, unittest.IsolatedAsyncioTestCase):
    async def connect(self, server, **options):
        return await self.enterAsyncContext(fresco.aio.Client(server.address, **{"retries": QUICK, "timeout": LONG, **options}))

    async def told(self, server):
        return await asyncio.to_thread(server.calls[0].gone.wait, LONG)

    async def test_pictures_events_and_retries_are_as_of_the_other_client(self):
        server = self.serve([DOWN], [progress(1), *TWO])
        client = await self.connect(server, token="t", tenant="studio")
        async with client.stream("a fox", image_count=2) as stream:
            events = [event async for event in stream]
        self.assertEqual(kinds(events), ["Retrying", "Progress", "Picture", "Picture", "Completed"])
        self.assertEqual(len({call.request.SerializeToString(deterministic=True) for call in server.calls}), 1)
        self.assertEqual(server.calls[0].request.request_id, stream.request_id)
        self.assertEqual((server.calls[1].metadata["authorization"], server.calls[1].metadata["fresco-tenant"]), ("Bearer t", "studio"))

    async def test_generate(self):
        told = []
        warning = pb.Warning(kind=pb.Warning.VALUE_CLAMPED, field="steps", message="fewer steps")
        client = await self.connect(self.serve([progress(1), chunk(b"x"), completed(warning)]))
        with self.assertWarnsRegex(fresco.DrawWarning, "fewer steps"):
            (picture,) = await client.generate("a fox", on_progress=told.append)
        self.assertEqual((picture.data, [one.step for one in told]), (b"x", [1]))

    async def test_several_at_once(self):
        server = self.serve(*[PICTURE] * 5)
        client = await self.connect(server)
        pictures = await asyncio.gather(*(client.generate("a fox") for _ in range(5)))
        self.assertEqual([len(one) for one in pictures], [1] * 5)

    async def test_errors(self):
        server = self.serve([Failure(grpc.StatusCode.INVALID_ARGUMENT, "no", violations=[("width", "must be …")])])
        client = await self.connect(server)
        with self.assertRaises(fresco.InvalidArgument) as caught:
            await client.generate("a fox")
        self.assertEqual(caught.exception.violations[0].field, "width")
        with self.assertRaises(fresco.DeadlineExceeded):
            server.answers.put([ScriptedServer.HANG])
            await client.generate("a fox", timeout=0.5)

    async def test_a_task_that_is_cancelled(self):
        server = self.serve([progress(1), ScriptedServer.HANG])
        client = await self.connect(server)
        task = asyncio.create_task(client.generate("a fox"))
        await asyncio.to_thread(server.hanging.acquire, timeout=LONG)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertTrue(await self.told(server))

    async def test_a_stream_that_is_closed(self):
        server = self.serve([progress(1), ScriptedServer.HANG])
        client = await self.connect(server)
        async with client.stream("a fox") as stream:
            await anext(stream)
        self.assertTrue(await self.told(server))

    async def test_asking(self):
        server = self.serve()
        server.models.models.add(name="demo")
        server.failures.put(DOWN)
        client = await self.connect(server)
        self.assertEqual([model.name for model in await client.models()], ["demo"])
        self.assertEqual((await client.status()).models, ())
        await client.cancel("mine")
        self.assertEqual(server.calls[-1].request.request_id, "mine")


if __name__ == "__main__":
    warnings.simplefilter("error")
    unittest.main()

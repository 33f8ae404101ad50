"""The real server with the demo model behind the real Envoy, called as people call it: OpenAI's client as it is, a browser's requests, gRPC."""

import base64
import concurrent.futures
import contextlib
import http.client
import io
import json
import unittest
import uuid

import grpc
import openai
from PIL import Image

from edge import ROOT, running_envoy, running_server, wait_until
from stubs import pb, rpc

PROMPT = "a red apple on a light blue background"
SLOW = {"prompt": PROMPT, "steps": 150, "width": 512, "height": 512}


def picture_of(datum):
    return Image.open(io.BytesIO(base64.b64decode(datum.b64_json)))


def pixels(file):
    return Image.open(io.BytesIO(file)).tobytes()


class Http(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(running_server())
        cls.envoy = cls.enterClassContext(running_envoy("workstation", [cls.server.address]))
        cls.openai = openai.OpenAI(base_url=f"http://{cls.envoy.address}/v1", api_key="none", max_retries=0)
        wait_until("the demo model", lambda: cls.envoy.call("GET", "/v1/fresco/models")[2]["models"][0]["state"] == "READY")
        cls.channel = cls.enterClassContext(grpc.insecure_channel(cls.envoy.address))
        cls.stub = rpc.ImageGenerationStub(cls.channel)

    def drawn_by_grpc(self, **fields):
        """The picture that plain gRPC through Envoy gives."""
        chunks = [event.image for event in self.stub.Generate(pb.GenerateRequest(prompt=PROMPT, **fields)) if event.WhichOneof("event") == "image"]
        return b"".join(chunk.data for chunk in chunks)

    # ---- OpenAI's client

    def test_openai_draws(self):
        answer = self.openai.images.generate(prompt=PROMPT, model="demo", size="64x64", response_format="b64_json", extra_body={"seed": 7, "steps": 4})
        self.assertEqual(picture_of(answer.data[0]).size, (64, 64))
        self.assertIn(PROMPT, picture_of(answer.data[0]).text["parameters"])
        self.assertEqual(base64.b64decode(answer.data[0].b64_json), self.drawn_by_grpc(seed=7, steps=4, width=64, height=64), "the same seed, the same picture, to the byte")
        self.assertGreater(answer.created, 1_700_000_000)

    def test_openai_draws_several_in_another_format(self):
        answer = self.openai.images.generate(prompt=PROMPT, n=3, size="64x96", output_format="jpeg", output_compression=70, extra_body={"seed": 1, "steps": 2})
        pictures = [picture_of(datum) for datum in answer.data]
        self.assertEqual([(picture.format, picture.size) for picture in pictures], [("JPEG", (64, 96))] * 3)
        self.assertEqual(len({datum.b64_json for datum in answer.data}), 3)
        self.assertEqual([datum.model_extra["seed"] for datum in answer.data], ["1", "2", "3"])
        self.assertEqual(answer.output_format, "jpeg")

    def test_openai_lists_models(self):
        self.assertEqual([(model.id, model.object) for model in self.openai.models.list()], [("demo", "model")])
        self.assertEqual(self.openai.models.retrieve("demo").id, "demo")
        with self.assertRaises(openai.NotFoundError) as caught:
            self.openai.models.retrieve("dall-e-3")
        self.assertEqual((caught.exception.code, caught.exception.param), ("model_not_found", "model"))

    def test_openai_is_told_what_is_wrong(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.openai.images.generate(prompt=PROMPT, size="63x64", n=99)
        error = caught.exception
        self.assertEqual((error.param, error.code, error.type), ("size", "invalid_value", "invalid_request_error"))
        self.assertIn("size must be a multiple of 16, got 63; n must be from 1 to 16, got 99", error.message)
        with self.assertRaises(openai.NotFoundError) as caught:
            self.openai.images.generate(prompt=PROMPT, model="dall-e-3")
        self.assertEqual((caught.exception.param, caught.exception.code), ("model", "model_not_found"))
        self.assertIn("there is no model 'dall-e-3'; this server has demo", caught.exception.message)

    def test_openai_is_told_where_pictures_are_streamed(self):
        for field, value in [("stream", True), ("partial_images", 2)]:
            with self.subTest(field):
                with self.assertRaises(openai.BadRequestError) as caught:
                    self.openai.images.generate(prompt=PROMPT, **{field: value})
                self.assertEqual((caught.exception.param, caught.exception.code, caught.exception.type), (field, "invalid_value", "invalid_request_error"))
                self.assertIn("POST /v1/fresco/generate", caught.exception.message)
        answer = self.openai.images.generate(prompt=PROMPT, size="64x64", stream=False, partial_images=0, extra_body={"steps": 2})
        self.assertEqual(picture_of(answer.data[0]).size, (64, 64))

    # ---- the same again

    def test_a_key_is_drawn_for_once(self):
        """Without a seed, so that only what is drawn for all, or kept, can be the same picture. By a client that sends again what it is told to."""
        client = self.openai.with_options(max_retries=2)

        def draw(key, prompt=PROMPT):
            answer = client.images.generate(prompt=prompt, size="64x64", extra_headers={"Idempotency-Key": key}, extra_body={"steps": 2})
            return answer.data[0].b64_json

        key = str(uuid.uuid4())
        before = self.server.metric("images_total")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            together = list(pool.map(draw, [key] * 4))
        self.assertEqual(len({*together, draw(key)}), 1)
        self.assertEqual(self.server.metric("images_total"), before + 1)
        with self.assertRaises(openai.ConflictError) as caught:
            draw(key, "another prompt")
        error = caught.exception
        self.assertEqual((error.status_code, error.code, error.type, error.param), (409, "already_exists", "invalid_request_error", None))
        self.assertIn(key, error.message)
        self.assertIn("differs from this one in prompt", error.message)
        self.assertEqual(error.response.request.headers["x-stainless-retry-count"], "0", "what cannot become right is sent once")
        self.assertNotEqual(draw(str(uuid.uuid4())), together[0], "another key, another picture")

    # ---- server-sent events

    @contextlib.contextmanager
    def event_stream(self, request):
        """Sends the request; yields an iterator of (event's name, data), each as it arrives, and the answer."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.envoy.port, timeout=120)) as connection:
            connection.request("POST", "/v1/fresco/generate", json.dumps(request), {"content-type": "application/json", "accept": "text/event-stream"})
            answer = connection.getresponse()

            def events():
                name, data = "message", []
                while line := answer.readline().decode():
                    field, _, value = line.rstrip("\n").partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        data.append(value)
                    elif not field:
                        yield name, json.loads("\n".join(data))
                        name, data = "message", []

            yield events(), answer

    def test_generate_as_server_sent_events(self):
        with self.event_stream({"prompt": PROMPT, "steps": 4, "width": 64, "height": 64, "seed": 7, "image_count": 2, "preview_every": 2}) as (events, answer):
            self.assertEqual((answer.status, answer.headers["content-type"], answer.headers["cache-control"]), (200, "text/event-stream", "no-store"))
            received = list(events)
        self.assertEqual({name for name, _ in received}, {"message"})
        kinds = [next(iter(event)) for _, event in received]
        self.assertEqual(kinds[0], "queued")
        self.assertEqual((kinds.count("progress"), kinds.count("image"), kinds[-1]), (8, 2, "completed"))
        self.assertTrue(all(len(event) == 1 for _, event in received))
        self.assertTrue(any("preview" in event.get("progress", {}) for _, event in received))
        images = {event["image"].get("image_index", 0): event["image"] for _, event in received if "image" in event}
        self.assertEqual(pixels(base64.b64decode(images[0]["data"])), pixels(self.drawn_by_grpc(seed=7, steps=4, width=64, height=64)))
        self.assertEqual((images[1]["seed"], images[1]["mime_type"], images[1]["total_bytes"]), ("8", "image/png", str(len(base64.b64decode(images[1]["data"])))))
        self.assertIn("timings", received[-1][1]["completed"])

    def test_events_arrive_while_it_draws_and_a_reader_that_leaves_ends_it(self):
        with self.event_stream({**SLOW, "request_id": "leaves"}) as (events, _):
            self.assertIn("queued", next(events)[1])
            while "progress" not in next(events)[1]:
                pass
            self.assertEqual(self.server.metric("requests_running"), 1, "it has begun, and is far from its end")
        wait_until("the end of what nobody reads", lambda: self.server.metric("requests_running") == 0)

    def test_cancel(self):
        with self.event_stream({**SLOW, "request_id": "cancelled-1"}) as (events, _):
            while "progress" not in next(events)[1]:
                pass
            self.assertEqual(self.envoy.call("POST", "/v1/fresco/cancel", {"request_id": "cancelled-1"})[::2], (200, {}))
            name, last = list(events)[-1]
        self.assertEqual((name, last["error"]["code"]), ("error", "cancelled"))
        status, _, body = self.envoy.call("POST", "/v1/fresco/cancel", {"request_id": "cancelled-1"})
        self.assertEqual((status, body["error"]["code"]), (404, "not_found"))

    def test_refused_before_the_first_event(self):
        status, headers, body = self.envoy.call("POST", "/v1/fresco/generate", {"prompt": PROMPT, "width": 65, "steps": 1000})
        self.assertEqual((status, headers["content-type"], body["error"]["param"]), (400, "application/json", "width"))
        self.assertEqual([v["field"] for v in body["error"]["details"][0]["field_violations"]], ["width", "steps"])

    # ---- gRPC-Web

    def grpc_web(self, method, request, text=False):
        """Frames the call by hand; returns the messages' bytes, and the trailers that the last frame holds."""
        frame = b"\0" + len(request).to_bytes(4, "big") + request
        kind = "application/grpc-web-text+proto" if text else "application/grpc-web+proto"
        status, headers, body = self.envoy.request("POST", f"/fresco.v1.ImageGeneration/{method}", base64.b64encode(frame) if text else frame,
                                                   {"content-type": kind, "accept": kind, "x-grpc-web": "1"})
        self.assertEqual((status, headers["content-type"]), (200, kind))
        if text:  # base64 may be padded at the end of every chunk
            body = b"".join(base64.b64decode(part + b"=" * (-len(part) % 4)) for part in body.replace(b"==", b"=").split(b"=") if part)
        messages, trailers = [], {}
        while body:
            flag, size = body[0], int.from_bytes(body[1:5], "big")
            payload, body = body[5:5 + size], body[5 + size:]
            if flag & 0x80:
                trailers = dict(line.split(":", 1) for line in payload.decode().split("\r\n") if line)
            else:
                messages.append(payload)
        return messages, {name.strip(): value.strip() for name, value in {**dict(headers), **trailers}.items()}

    def test_grpc_web(self):
        request = pb.GenerateRequest(prompt=PROMPT, steps=2, width=64, height=64, seed=7)
        for text in (False, True):
            with self.subTest(text=text):
                messages, trailers = self.grpc_web("Generate", request.SerializeToString(), text)
                events = [pb.GenerateEvent.FromString(message) for message in messages]
                self.assertEqual(trailers["grpc-status"], "0")
                self.assertEqual((events[0].WhichOneof("event"), events[-1].WhichOneof("event")), ("queued", "completed"))
                self.assertEqual([event.image.data for event in events if event.HasField("image")], [self.drawn_by_grpc(seed=7, steps=2, width=64, height=64)])
        messages, trailers = self.grpc_web("Generate", pb.GenerateRequest(model="none").SerializeToString())
        self.assertEqual((messages, trailers["grpc-status"]), ([], str(grpc.StatusCode.NOT_FOUND.value[0])))

    # ---- the rest

    def test_plain_grpc_reaches_all_services(self):
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
        self.assertIn("fresco.v1.Operations", ProtoReflectionDescriptorDatabase(self.channel).get_services())

    def test_the_studio_is_served(self):
        status, headers, body = self.envoy.request("GET", "/")
        self.assertEqual((status, headers["content-type"], headers["x-content-type-options"]), (200, "text/html; charset=utf-8", "nosniff"))
        self.assertEqual(body, (ROOT / "deploy/studio/index.html").read_bytes())
        self.assertEqual(self.envoy.request("HEAD", "/")[0], 200)

    def test_what_is_not_there(self):
        for method, path in [("GET", "/v1/images/edits"), ("GET", "/v1/images/generations"), ("DELETE", "/v1/models/demo"), ("POST", "/"), ("GET", "/etc/passwd"), ("GET", "/v1/../..%2fadmin")]:
            with self.subTest(path):
                status, _, body = self.envoy.request(method, path)
                self.assertIn(status, (400, 404))
                if body:
                    self.assertIn("message", json.loads(body)["error"])

    def test_other_pages_may_not_call(self):
        """Nor read, nor send what a browser sends without asking, nor come by a name of their own for this machine."""
        status, headers, _ = self.envoy.request("GET", "/v1/fresco/models", headers={"origin": "https://elsewhere.example.com"})
        self.assertEqual((status, headers["access-control-allow-origin"]), (200, None))
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            status, _, body = self.envoy.call("POST", "/v1/fresco/generate", {"prompt": "x"}, {"content-type": kind, "origin": "https://elsewhere.example.com"})
            self.assertEqual((status, body["error"]["code"]), (415, "unsupported_media_type"), kind)
        self.assertEqual(self.envoy.request("GET", "/v1/fresco/models", headers={"host": "elsewhere.example.com"})[0], 404)
        self.assertEqual(self.envoy.request("GET", "/v1/fresco/models", headers={"host": "localhost"})[0], 200)
        self.assertEqual(self.envoy.request("POST", "/v1/images/generations", {"n": -1}, {"content-type": "application/json; charset=utf-8"})[0], 400)

    def test_the_access_log_is_json_without_prompts(self):
        secret = "xyzzy-in-the-prompt"
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        self.envoy.request("POST", "/v1/images/generations?user=" + secret, {"prompt": secret, "size": "17x17"}, {"traceparent": trace})
        self.envoy.request("POST", "/v1/images/generations", {"prompt": secret, "size": "17x17"}, {"traceparent": trace})
        entry = wait_until("the log's line", lambda: [e for e in self.envoy.access_log_entries() if e["traceparent"] == trace and e["error"]])[-1]
        self.assertEqual((entry["method"], entry["path"], entry["code"], entry["error"], entry["server"]), ("POST", "/v1/images/generations", 400, "invalid_value", self.server.address))
        self.assertNotIn(secret, self.envoy.access_log.read_text())

    def test_healthz(self):
        self.assertEqual(self.envoy.request("GET", "/healthz")[0], 200)


class Cors(unittest.TestCase):
    def test_only_pages_that_are_configured(self):
        settings = {"tls": False, "upstream_tls": False, "metrics_port": None, "require_token": False, "cors_origins": ["https://studio.example.com"]}
        ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type, idempotency-key"}
        server = self.enterContext(running_server())
        for profile in ("workstation", "compose", "production", "kubernetes"):
            with running_envoy(profile, [server.address], **settings) as envoy:
                for origin, allowed in [("https://studio.example.com", "https://studio.example.com"), ("https://elsewhere.example.com", None), ("https://studio.example.com.evil.example", None)]:
                    with self.subTest(origin, profile=profile):
                        headers = envoy.request("OPTIONS", "/v1/fresco/generate", headers={"origin": origin, **ask})[1]
                        self.assertEqual(headers["access-control-allow-origin"], allowed)
                        for name in ask["access-control-request-headers"].split(", "):
                            self.assertEqual(name in (headers["access-control-allow-headers"] or "").split(", "), bool(allowed), name)
                        status, headers, _ = envoy.request("POST", "/v1/fresco/generate", {"width": 1}, {"origin": origin})
                        self.assertEqual((status, headers["access-control-allow-origin"]), (400, allowed))


if __name__ == "__main__":
    unittest.main()

"""What callers of HTTP get for each of gRPC's statuses, what reaches the server of what they send, and answers of the largest size."""

import base64
import json
import os
import unittest

import grpc
import openai

from edge import running_envoy
from standin import details_of, running_standin
from stubs import pb

# gRPC's code: HTTP's status, OpenAI's type and code, as docs/EDGE.md has them.
TABLE = {
    grpc.StatusCode.CANCELLED: (499, "server_error", "cancelled"),
    grpc.StatusCode.UNKNOWN: (500, "server_error", "internal_error"),
    grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error", "invalid_value"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "server_error", "deadline_exceeded"),
    grpc.StatusCode.NOT_FOUND: (404, "invalid_request_error", "model_not_found"),
    grpc.StatusCode.ALREADY_EXISTS: (409, "invalid_request_error", "already_exists"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "invalid_request_error", "permission_denied"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "requests", "rate_limit_exceeded"),
    grpc.StatusCode.FAILED_PRECONDITION: (400, "invalid_request_error", "failed_precondition"),
    grpc.StatusCode.ABORTED: (409, "server_error", "aborted"),
    grpc.StatusCode.UNIMPLEMENTED: (501, "invalid_request_error", "unsupported"),
    grpc.StatusCode.INTERNAL: (500, "server_error", "internal_error"),
    grpc.StatusCode.UNAVAILABLE: (503, "server_error", "service_unavailable"),
    grpc.StatusCode.DATA_LOSS: (500, "server_error", "data_loss"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "invalid_request_error", "invalid_api_key"),
}

# Quotes, a backslash, control characters, a surrogate pair, percent signs: all that escaping can get wrong.
AWKWARD = 'no "such" \\ thing:\n\t100 % of 𝄞, é and \u2028, %41'


class Statuses(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.standin, address = cls.enterClassContext(running_standin())
        cls.envoy = cls.enterClassContext(running_envoy("workstation", [address], rate=100000, burst=100000, retry_interval="0.001s"))

    def setUp(self):
        self.standin.seen.clear()
        self.standin.create_image = lambda request, context: pb.CreateImageResponse(created=1)

    def client(self, key="sk-test"):
        return openai.OpenAI(base_url=f"http://{self.envoy.address}/v1", api_key=key, max_retries=0)

    def fail_with(self, code, message, **details):
        def fail(_, context):
            if details:
                context.set_trailing_metadata([details_of(code, message, **details)])
            context.abort(code, message)

        self.standin.create_image = fail

    def test_each_status_in_openais_shape(self):
        for code, (http, kind, name) in TABLE.items():
            for details in ({}, {"retry_seconds": 0.25}):
                with self.subTest(code.name, **details):
                    self.fail_with(code, AWKWARD, **details)
                    status, headers, body = self.envoy.call("POST", "/v1/images/generations", {"prompt": "x"})
                    self.assertEqual(status, http)
                    self.assertEqual(headers["content-type"], "application/json")
                    self.assertEqual((body["error"]["message"], body["error"]["type"], body["error"]["code"], body["error"]["status"]), (AWKWARD, kind, name, code.name))
                    self.assertEqual(headers["retry-after"], "1" if details else None, "seconds, rounded up")

    def test_the_same_for_generate_before_its_first_event(self):
        for code, (http, kind, name) in TABLE.items():
            with self.subTest(code.name):
                self.standin.generate = lambda _, context, code=code: context.abort(code, "why")
                status, headers, body = self.envoy.call("POST", "/v1/fresco/generate", {"prompt": "x"})
                self.assertEqual((status, headers["content-type"]), (http, "application/json"))
                self.assertEqual((body["error"]["message"], body["error"]["code"]), ("why", name))

    def test_an_error_amid_the_events_is_an_event(self):
        def fail(_, context):
            yield pb.GenerateEvent(started=pb.Started(device="cpu"))
            context.abort(grpc.StatusCode.DATA_LOSS, AWKWARD)

        self.standin.generate = fail
        status, headers, body = self.envoy.request("POST", "/v1/fresco/generate", {"prompt": "x"})
        self.assertEqual((status, headers["content-type"]), (200, "text/event-stream"))
        first, second, rest = body.decode().split("\n\n")
        self.assertEqual(json.loads(first.removeprefix("data: ")), {"started": {"device": "cpu"}})
        self.assertEqual(rest, "")
        name, data = second.split("\n")
        self.assertEqual(name, "event: error")
        self.assertEqual(json.loads(data.removeprefix("data: "))["error"],
                         {"message": AWKWARD, "type": "server_error", "param": None, "code": "data_loss", "status": "DATA_LOSS"})

    def test_openais_exceptions(self):
        self.fail_with(grpc.StatusCode.UNAUTHENTICATED, "this token is unknown")
        with self.assertRaises(openai.AuthenticationError) as caught:
            self.client().images.generate(prompt="x")
        self.assertEqual((caught.exception.code, caught.exception.status_code), ("invalid_api_key", 401))
        self.assertIn("this token is unknown", caught.exception.message)
        self.fail_with(grpc.StatusCode.PERMISSION_DENIED, "this token may not generate")
        with self.assertRaises(openai.PermissionDeniedError):
            self.client().images.generate(prompt="x")
        self.fail_with(grpc.StatusCode.INVALID_ARGUMENT, "must be a multiple of 16, got 63", field="size")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client().images.generate(prompt="x")
        self.assertEqual((caught.exception.param, caught.exception.code, caught.exception.type), ("size", "invalid_value", "invalid_request_error"))
        self.assertEqual(caught.exception.body["details"][0]["field_violations"], [{"field": "size", "description": "must be a multiple of 16, got 63"}])

    def test_the_key_and_the_trace_reach_the_server_and_the_tenant_does_not(self):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        self.client("sk-fresco-1").images.generate(prompt="x", extra_headers={"traceparent": trace, "tracestate": "a=b", "fresco-tenant": "somebody"})
        metadata = self.standin.seen[0][1]
        self.assertEqual((metadata["authorization"], metadata["traceparent"], metadata["tracestate"]), ("Bearer sk-fresco-1", trace, "a=b"))
        self.assertNotIn("fresco-tenant", metadata)

    def test_openais_parameters_reach_the_server(self):
        self.client().images.generate(prompt="a fox", n=2, size="1024x768", model="demo", response_format="b64_json", output_format="webp", output_compression=80,
                                      extra_body={"seed": 2**63 + 1, "steps": 5, "guidance_scale": 3.5, "negative_prompt": "rain", "unheard_of": {"x": [1]}})
        self.assertEqual(self.standin.seen[0][0], pb.CreateImageRequest(
            prompt="a fox", n=2, size="1024x768", model="demo", response_format="b64_json", output_format="webp", output_compression=80, seed=2**63 + 1, steps=5,
            guidance_scale=3.5, negative_prompt="rain"))

    def test_deadlines_reach_the_server(self):
        left = []

        def note(_, context):
            left.append(context.time_remaining())
            return pb.CreateImageResponse()

        def note_stream(_, context):
            left.append(context.time_remaining())
            yield pb.GenerateEvent()

        self.standin.create_image, self.standin.generate = note, note_stream
        for path in ("/v1/images/generations", "/v1/fresco/generate"):
            self.envoy.request("POST", path, {"prompt": "x"}, {"grpc-timeout": "100S"})
        self.assertEqual([seconds is not None and 0 < seconds <= 100 for seconds in left], [True, True], left)

    def test_a_stream_that_began_is_not_tried_again(self):
        def fail(_, context):
            yield pb.GenerateEvent(started=pb.Started())
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

        self.standin.generate = fail
        self.assertIn(b"event: error", self.envoy.request("POST", "/v1/fresco/generate", {"prompt": "x"})[2])
        self.assertEqual(len(self.standin.seen), 1)

    def test_what_was_refused_for_now_is_tried_again(self):
        def fail_twice(_, context):
            if len(self.standin.seen) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the model is loading")
            return pb.CreateImageResponse(created=7)

        self.standin.create_image = fail_twice
        self.assertEqual(self.client().images.generate(prompt="x").created, 7)

    def test_what_is_no_request(self):
        for body, message in [("{nonsense", "Expected : between key:value pair"), ('{"n": "many"}', 'invalid value "many"'), ("[]", ""), ("", "")]:
            with self.subTest(body):
                status, _, answer = self.envoy.call("POST", "/v1/images/generations", body)
                if not body:
                    continue  # an empty one has every default
                self.assertEqual(status, 400)
                self.assertEqual(answer["error"]["type"], "invalid_request_error")
                self.assertIn(message, answer["error"]["message"])
        self.assertEqual(self.envoy.call("POST", "/v1/images/generations", '{"n": "many"}')[2]["error"]["param"], "n")
        status, _, answer = self.envoy.call("POST", "/v1/images/generations", json.dumps({"prompt": "x" * (5 << 20)}))
        self.assertEqual((status, answer["error"]["code"]), (413, "request_too_large"), answer)

    def test_the_largest_answer(self):
        """Sixteen pictures of 2048 x 2048 that cannot be compressed: what docs/EDGE.md reckons, and the bootstraps allow."""
        rows = 2048 * (3 * 2048 + 1)
        picture = os.urandom(rows + rows * 15 // 10000 + 256 * 1024)
        answer = pb.CreateImageResponse(created=1, size="2048x2048", output_format="png")
        answer.data.extend([pb.CreateImageResponse.Datum(b64_json=picture, seed=2**64 - 1)] * 16)
        self.standin.create_image = lambda request, context: answer
        status, _, body = self.envoy.request("POST", "/v1/images/generations", {"prompt": "x", "n": 16, "size": "2048x2048"})
        self.assertEqual(status, 200, body[:300])
        encoded = base64.b64encode(picture)
        self.assertEqual(body.count(encoded), 16)
        self.assertGreater(len(body), 16 * len(encoded))


if __name__ == "__main__":
    unittest.main()

"""The protos are as their rules have it, each rule can find something, and docs/API.md says what they say."""

import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "proto" / "tools"))
import api_page  # noqa: E402
import breaking  # noqa: E402
import descriptors  # noqa: E402
import lint  # noqa: E402
import style  # noqa: E402

HEAD = '// About.\nsyntax = "proto3";\npackage a.v1;\n'
GOOD = HEAD + '''
import "google/protobuf/duration.proto";
import "google/api/annotations.proto";

// Draws.
service DrawService {
  // Draws one.
  //
  // Errors:
  //   NOT_FOUND: it is not there,
  //     nowhere.
  rpc Draw(DrawRequest) returns (stream DrawResponse) { option (google.api.http) = {post: "/v1/draw"}; }
}
// How.
enum Kind {
  KIND_UNSPECIFIED = 0;  // whichever
  KIND_OIL = 1;          // slow
  reserved 5;
  reserved "KIND_CHALK";
}
// What.
message DrawRequest {
  // Pixels.
  int32 width = 1;
  // Which.
  oneof either {
    string left = 2;   // this
    string right = 3;  // or that
  }
  // How.
  Kind kind = 4;
  // Seconds and more of them.
  optional google.protobuf.Duration wait = 5;
  // Names by number.
  map<string, string> names = 6;
  reserved 20 to 29;
  reserved "old";
}
// That.
message DrawResponse {
  // All.
  repeated string parts = 1;
}
'''


def compile_text(text, path="a/v1/a.proto", **others):
    """The files' descriptors; `others` are files beside it, like b="…"."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write(root, text, path)
        for name, other in others.items():
            write(root, other, f"a/v1/{name}.proto")
        return descriptors.own_files(descriptors.compile_protos(root), root)


def write(root, text, path="a/v1/a.proto"):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def run_lint(*arguments):
    """Its exit code and what it printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = lint.main(list(map(str, arguments)))
    return code, output.getvalue()


class Protos(unittest.TestCase):
    def test_ours_are_as_the_rules_have_it_and_break_no_caller(self):
        code, output = run_lint()
        self.assertEqual(code, 0, output)

    def test_the_api_page_says_what_the_protos_say(self):
        self.assertEqual(api_page.PAGE.read_text(encoding="utf-8"), api_page.page(),
                         "docs/API.md is old: run proto/tools/api_page.py (.deps/venv/bin/python has what it needs)")

    def test_the_api_pages_links_lead_somewhere(self):
        text = api_page.page()
        headings = {api_page.anchor(line.lstrip("# ")) for line in text.splitlines() if line.startswith("#")}
        links = {part.split(")")[0] for part in text.split("](#")[1:]}
        self.assertTrue(links)
        self.assertEqual(links - headings, set())


class Style(unittest.TestCase):
    # One change to GOOD that the rule must find; where there are several files, all of them.
    BAD = {
        "MESSAGE_PASCAL_CASE": [("DrawResponse", "draw_response")],
        "ENUM_PASCAL_CASE": [("enum Kind", "enum KIND_"), ("  Kind kind", "  KIND_ kind")],
        "SERVICE_PASCAL_CASE": [("DrawService", "draw_Service")],
        "RPC_PASCAL_CASE": [("rpc Draw(", "rpc draw(")],
        "FIELD_LOWER_SNAKE_CASE": [("string left", "string leftHand")],
        "ONEOF_LOWER_SNAKE_CASE": [("oneof either", "oneof Either")],
        "ENUM_VALUE_UPPER_SNAKE_CASE": [("KIND_OIL", "KIND_oil")],
        "SERVICE_SUFFIX": [("DrawService", "Draws")],
        "RPC_REQUEST_STANDARD_NAME": [("DrawRequest", "Order")],
        "RPC_RESPONSE_STANDARD_NAME": [("DrawResponse", "Answer")],
        "FIELD_NO_DESCRIPTOR": [("string left", "string descriptor")],
        "FIELD_NOT_REQUIRED": [('syntax = "proto3";', 'syntax = "proto2";'), ("int32 width", "required int32 width"), ("  Kind kind", "  optional Kind kind")],
        "ENUM_NO_ALLOW_ALIAS": [("enum Kind {", "enum Kind {\n  option allow_alias = true;\n  KIND_ANY_UNSPECIFIED = 0;  // any\n")],
        "ENUM_FIRST_VALUE_ZERO": [('syntax = "proto3";', 'syntax = "proto2";'), ("KIND_UNSPECIFIED = 0", "KIND_UNSPECIFIED = 2"),
                                  ("int32 width", "optional int32 width"), ("  Kind kind", "  optional Kind kind")],
        "ENUM_VALUE_PREFIX": [("KIND_OIL", "OIL")],
        "ENUM_ZERO_VALUE_SUFFIX": [("KIND_UNSPECIFIED", "KIND_NONE")],
        "PACKAGE_DEFINED": [("package a.v1;", "")],
        "PACKAGE_DIRECTORY_MATCH": [("package a.v1;", "package b.v1;")],
        "PACKAGE_LOWER_SNAKE_CASE": [("package a.v1;", "package A.v1;")],
        "PACKAGE_VERSION_SUFFIX": [("package a.v1;", "package a.one;")],
        "SYNTAX_SPECIFIED": [('syntax = "proto3";', ""), ("int32 width", "optional int32 width"), ("  Kind kind", "  optional Kind kind")],
        "IMPORT_NO_PUBLIC": [('import "google/protobuf', 'import public "google/protobuf')],
        "IMPORT_NO_WEAK": [('import "google/protobuf', 'import weak "google/protobuf')],
        "IMPORT_USED": [('import "google/api', 'import "google/protobuf/timestamp.proto";\nimport "google/api')],
        "COMMENT_MESSAGE": [("// That.", "")],
        "COMMENT_FIELD": [("  // All.", "")],
        "COMMENT_ONEOF": [("  // Which.", "")],
        "COMMENT_ENUM": [("\n// How.\n", "\n")],
        "COMMENT_ENUM_VALUE": [("// slow", "")],
        "COMMENT_SERVICE": [("// Draws.", "")],
        "COMMENT_RPC": [("""  // Draws one.
  //
  // Errors:
  //   NOT_FOUND: it is not there,
  //     nowhere.
""", "")],
        "COMMENT_FILE": [("// About.", "")],
        "FIELD_UNIT": [("// Pixels.", "// Width.")],
        "RPC_ERRORS": [("NOT_FOUND", "LOST")],
    }

    def rules_found(self, *arguments, **others):
        return {finding.rule for finding in style.check_files(compile_text(*arguments, **others))}

    def test_nothing_is_found_where_nothing_is_wrong(self):
        self.assertEqual(list(map(str, style.check_files(compile_text(GOOD)))), [])

    def test_each_rule_finds_what_it_is_for(self):
        for rule, changes in self.BAD.items():
            text = GOOD
            for old, new in changes:
                self.assertIn(old, text, rule)
                text = text.replace(old, new)
            with self.subTest(rule), contextlib.redirect_stderr(io.StringIO()):
                self.assertIn(rule, self.rules_found(text))

    def test_rules_about_files_names_and_about_several_files(self):
        self.assertEqual(self.rules_found(GOOD, "a/v1/CamelCase.proto"), {"FILE_LOWER_SNAKE_CASE"})
        second = HEAD + '''import "a/v1/a.proto";
// Draws too.
service AgainService {
  // Draws.
  rpc Draw(DrawRequest) returns (DrawResponse);
}
'''
        self.assertEqual(self.rules_found(GOOD, b=second), {"RPC_REQUEST_RESPONSE_UNIQUE"})
        empty = '// About.\nsyntax = "proto3";\npackage a.v1;\n'
        self.assertIn("PACKAGE_SAME_OPTIONS", self.rules_found(GOOD, b=empty + 'option go_package = "x";\n'))
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            write(root, GOOD)
            write(root, empty, "b/v1/b.proto")
            found = style.check_files(descriptors.own_files(descriptors.compile_protos(root), root))
        self.assertEqual({finding.rule for finding in found}, {"PACKAGE_SAME_DIRECTORY", "PACKAGE_DIRECTORY_MATCH"})
        self.assertIn("DIRECTORY_SAME_PACKAGE", self.rules_found(GOOD, b='// About.\nsyntax = "proto3";\npackage b.v1;\n'))

    def test_no_rule_is_left_out(self):
        elsewhere = {"FILE_LOWER_SNAKE_CASE", "RPC_REQUEST_RESPONSE_UNIQUE", "DIRECTORY_SAME_PACKAGE", "PACKAGE_SAME_DIRECTORY", "PACKAGE_SAME_OPTIONS"}
        self.assertEqual(set(style.RULES), set(self.BAD) | elsewhere)

    def test_an_error_goes_on_over_indented_lines(self):
        method = next(e for e in descriptors.elements(compile_text(GOOD)[0]) if e.kind == "method")
        text, errors = descriptors.split_errors(method.comment)
        self.assertEqual(text, "Draws one.")
        self.assertEqual(errors, [descriptors.RpcError("NOT_FOUND", "it is not there, nowhere.")])


class Breaking(unittest.TestCase):
    BAD = {
        "PACKAGE_MESSAGE_NO_DELETE": [("// That.\nmessage DrawResponse {\n  // All.\n  repeated string parts = 1;\n}", ""), ("DrawResponse", "DrawRequest")],
        "PACKAGE_ENUM_NO_DELETE": [("enum Kind", "enum Sort"), ("  Kind kind", "  Sort kind")],
        "PACKAGE_SERVICE_NO_DELETE": [("DrawService", "OtherService")],
        "RPC_NO_DELETE": [("rpc Draw(", "rpc Paint(")],
        "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED": [("  int32 width = 1;\n", "  reserved \"width\";\n")],
        "FIELD_NO_DELETE_UNLESS_NAME_RESERVED": [("  int32 width = 1;\n", "  reserved 1;\n")],
        "FIELD_SAME_NAME": [("width = 1", "breadth = 1")],
        "FIELD_SAME_JSON_NAME": [("width = 1", 'width = 1 [json_name = "w"]')],
        "FIELD_WIRE_JSON_COMPATIBLE_TYPE": [("int32 width", "int64 width")],
        "FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY": [("repeated string parts", "string parts")],
        "FIELD_SAME_ONEOF": [("    string right = 3;  // or that\n  }", "  }\n  string right = 3;")],
        "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED": [("  KIND_OIL = 1;          // slow\n", "  reserved \"KIND_OIL\";\n")],
        "ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED": [("  KIND_OIL = 1;          // slow\n", "  reserved 1;\n")],
        "ENUM_VALUE_SAME_NAME": [("KIND_OIL", "KIND_INK")],
        "RESERVED_MESSAGE_NO_DELETE": [("reserved 20 to 29", "reserved 22 to 29")],
        "RESERVED_ENUM_NO_DELETE": [("  reserved 5;\n", "")],
        "RPC_SAME_REQUEST_TYPE": [("Draw(DrawRequest)", "Draw(DrawResponse)")],
        "RPC_SAME_RESPONSE_TYPE": [("returns (stream DrawResponse)", "returns (stream DrawRequest)")],
        "RPC_SAME_CLIENT_STREAMING": [("Draw(DrawRequest)", "Draw(stream DrawRequest)")],
        "RPC_SAME_SERVER_STREAMING": [("returns (stream DrawResponse)", "returns (DrawResponse)")],
        "RPC_SAME_IDEMPOTENCY_LEVEL": [('post: "/v1/draw"}; }', 'post: "/v1/draw"}; option idempotency_level = IDEMPOTENT; }')],
        "RPC_SAME_ROUTE": [("/v1/draw", "/v1/paint")],
    }

    def changed(self, changes, planned=None):
        text = GOOD
        for old, new in changes:
            self.assertIn(old, text)
            text = text.replace(old, new)
        return breaking.compare(compile_text(GOOD), compile_text(text), planned)

    def test_each_rule_finds_what_it_is_for(self):
        for rule, changes in self.BAD.items():
            with self.subTest(rule):
                self.assertIn(rule, {finding.rule for finding in self.changed(changes)})
        self.assertEqual(set(breaking.RULES), set(self.BAD))

    def test_nothing_is_found_where_callers_go_on_as_before(self):
        for changes in (
            [],
            [("  int32 width = 1;\n", '  reserved 1;\n  reserved "width";\n')],  # gone for good
            [("int32 width", "uint32 width")],
            [("int32 width", "optional int32 width")],
            [("  reserved 20 to 29;", "  // Pixels.\n  int32 height = 7;\n  reserved 20 to 30;")],
            [("KIND_OIL = 1; ", "KIND_OIL = 1;  // slow\n  KIND_INK = 2; ")],
            [("// Pixels.", "// Pixels, at most 2048.")],
        ):
            with self.subTest(changes):
                self.assertEqual(list(map(str, self.changed(changes))), [])

    def test_what_is_reserved_for_fields_to_come_may_be_taken_and_nothing_else(self):
        taken = [("reserved 20 to 29;", "// Pixels.\n  int32 height = 20;\n  reserved 21 to 29;")]
        planned = {"a.v1.DrawRequest": breaking.Planned(frozenset({20}))}
        self.assertEqual(self.changed(taken, planned), [])
        self.assertEqual([f.rule for f in self.changed(taken)], ["RESERVED_MESSAGE_NO_DELETE"])
        reused = [('  reserved "old";\n', "  // An old name, new meaning.\n  string old = 30;\n")]
        self.assertEqual([f.rule for f in self.changed(reused, planned)], ["RESERVED_MESSAGE_NO_DELETE"])


class Command(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        write(self.root, GOOD)
        self.assertEqual(run_lint("--root", self.root, "--accept")[0], 0)

    def change(self, old, new):
        write(self.root, GOOD.replace(old, new))

    def test_what_was_accepted_passes(self):
        code, output = run_lint("--root", self.root)
        self.assertEqual((code, "1 protos" in output), (0, True), output)

    def test_an_addition_passes_once_it_is_accepted(self):
        self.change("KIND_OIL = 1; ", "KIND_OIL = 1;  // slow\n  KIND_INK = 2; ")
        code, output = run_lint("--root", self.root)
        self.assertEqual(code, 1)
        self.assertIn("lint.py --accept", output)
        self.assertEqual(run_lint("--root", self.root, "--accept")[0], 0)
        self.assertEqual(run_lint("--root", self.root)[0], 0)

    def test_what_breaks_is_not_accepted_unless_it_must_be(self):
        self.change("width = 1", "width = 9")
        code, output = run_lint("--root", self.root)
        self.assertEqual(code, 1)
        self.assertIn("FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED: a.v1.DrawRequest.width", output)
        self.assertEqual(run_lint("--root", self.root, "--accept")[0], 1)
        self.assertEqual(run_lint("--root", self.root, "--accept", "--breaking")[0], 0)
        self.assertEqual(run_lint("--root", self.root)[0], 0)

    def test_a_finding_says_where(self):
        self.change("  // All.\n", "")
        code, output = run_lint("--root", self.root)
        line = GOOD.splitlines().index("  // All.") + 1
        self.assertEqual(code, 1)
        self.assertIn(f"a/v1/a.proto:{line}: COMMENT_FIELD: a.v1.DrawResponse.parts: has no comment", output)

    def test_an_exception_needs_a_reason_a_rule_and_something_to_except(self):
        self.change("  // All.\n", "")
        rules = self.root / "lint.toml"
        rules.write_text('[exceptions.COMMENT_FIELD]\n"a.v1.DrawResponse.parts" = "it is all"\n', encoding="utf-8")
        self.assertEqual(run_lint("--root", self.root)[0], 0)
        rules.write_text('[exceptions.COMMENT_FIELD]\n"a.v1.DrawResponse.parts" = " "\n', encoding="utf-8")
        self.assertEqual(run_lint("--root", self.root)[0], 2)
        rules.write_text('[exceptions.COMMENT_FELD]\n"a.v1.DrawResponse.parts" = "it is all"\n', encoding="utf-8")
        self.assertEqual(run_lint("--root", self.root)[0], 2)
        write(self.root, GOOD)
        rules.write_text('[exceptions.COMMENT_FIELD]\n"a.v1.DrawResponse.parts" = "it is all"\n', encoding="utf-8")
        code, output = run_lint("--root", self.root)
        self.assertEqual((code, "excepts nothing" in output), (1, True), output)

    def test_against_a_commit(self):
        git = ["git", "-C", self.root, "-c", "user.name=x", "-c", "user.email=x@example.invalid"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
            subprocess.run([*git, *command], check=True)
        self.change("int32 width", "string width")
        code, output = run_lint("--root", self.root, "--against", "HEAD")
        self.assertEqual(code, 1)
        self.assertIn("FIELD_WIRE_JSON_COMPATIBLE_TYPE: a.v1.DrawRequest.width: is string now, was int32", output)
        self.assertEqual(run_lint("--root", self.root, "--against", "no-such-commit")[0], 2)

    def test_what_is_no_proto_is_said(self):
        write(self.root, "syntax = nonsense")
        self.assertEqual(run_lint("--root", self.root)[0], 2)


if __name__ == "__main__":
    unittest.main()

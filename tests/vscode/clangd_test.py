"""clangd with .clangd, over sources of every kind: it reads gcc's compile commands, finds what is generated, and has nothing to say of good code."""

import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import workspace


def check(file, root=workspace.ROOT):
    """What clangd finds in a file, as the editor shows it: lines of errors and warnings."""
    result = subprocess.run(["clangd", f"--check={file}", "--check-lines=1-1"], cwd=root, check=False, timeout=300, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)
    if "All checks completed" not in result.stdout:
        raise AssertionError(f"clangd has not read {file}:\n{result.stdout[-3000:]}")
    return re.findall(r"^[EW]\[[^\]]*\] (.*)$", result.stdout, flags=re.MULTILINE), result.stdout


@unittest.skipUnless((workspace.ROOT / "build" / "compile_commands.json").exists(), ".clangd names build/, and the tests are not of that build")
class ClangdTest(unittest.TestCase):
    def assert_clean(self, file):
        found, output = check(workspace.ROOT / file)
        self.assertEqual(found, [], output)
        # Of the compile database itself, not guessed from a file of a like name.
        self.assertIn("Compile command from CDB is", output)

    def test_a_source_with_libtorch(self):
        self.assert_clean("pipeline/models/mmdit.cc")

    def test_a_source_with_grpc_and_generated_headers(self):
        self.assert_clean("server/rpc/call.cc")

    def test_a_test(self):
        self.assert_clean("tests/server/log/line_file_test.cc")

    def test_a_header(self):
        """In no compile database: clangd takes the command of a source like it, which has to be one with the same include roots."""
        found, output = check(workspace.ROOT / "pipeline" / "models" / "mmdit.h")
        self.assertEqual(found, [], output)

    def test_faults_are_seen(self):
        """A warning of ours, which is an error in the build and a warning in the editor; and an error."""
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            shutil.copy(workspace.ROOT / ".clangd", folder)
            (folder / "build").mkdir()
            source = folder / "fault.cc"
            source.write_text("int main() {\n  int unused = 1;\n  return missing;\n}\n", encoding="utf-8")
            (folder / "build" / "compile_commands.json").write_text(
                f'[{{"directory": "{folder}/build", "file": "{source}", "command": "/usr/bin/c++ -Wall -Werror -fopenmp '
                f'-femit-class-debug-always -Wno-dangling-pointer -std=gnu++20 -c {source}"}}]', encoding="utf-8")
            result = subprocess.run(["clangd", f"--check={source}"], cwd=folder, check=False, timeout=120, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True)
        self.assertIn("use of undeclared identifier 'missing'", result.stdout)
        self.assertNotIn("unknown argument", result.stdout)
        self.assertNotIn("unknown warning option", result.stdout)


if __name__ == "__main__":
    unittest.main()

"""The package: it has all that it needs, and its types are right, in itself and for those who use it."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import installed

USER = '''
import asyncio
import fresco

def told(progress: fresco.Progress) -> None:
    print(progress.step + 1)

with fresco.Client("127.0.0.1:8500", tls=fresco.TLS(ca="ca.pem"), token=lambda: "t") as client:
    pictures: list[fresco.Picture] = client.generate("a fox", width=512, seed=None, on_progress=told)
    with client.stream("a fox", priority="batch") as stream:
        for event in stream:
            if isinstance(event, fresco.Retrying):
                delay: float = event.delay

async def main() -> bytes:
    async with fresco.aio.Client() as client:
        return (await client.generate("a fox"))[0].data
'''

WRONG = {
    'client.generate("a fox", width="512")': "arg-type",
    'client.generate("a fox", widht=512)': "call-arg",
    'client.generate("a fox", format="gif")': "arg-type",
    'client.generate("a fox")[0].dat': "attr-defined",
    "fresco.Client(8500)": "arg-type",
}


class Package(unittest.TestCase):
    def run_python(self, *arguments, **options):
        return subprocess.run([sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)

    def mypy(self, *arguments):
        """Its exit code and output, with the installed package in reach."""
        cache = self.enterContext(tempfile.TemporaryDirectory())
        configuration = installed.SOURCE / "pyproject.toml"
        result = self.run_python("-m", "mypy", "--strict", "--config-file", configuration, "--cache-dir", cache, *arguments, cwd=cache,
                                 env={**os.environ, "MYPYPATH": str(installed.FOLDER)})
        return result.returncode, result.stdout

    def test_it_has_the_stubs_and_says_that_it_is_typed(self):
        files = {str(path.relative_to(installed.FOLDER)) for path in installed.FOLDER.rglob("*") if "__pycache__" not in path.parts}
        stubs = {f"fresco/v1/{name}{end}" for name in ("image_generation", "operations") for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")}
        self.assertEqual(stubs - files, set())
        self.assertIn("fresco/py.typed", files)
        self.assertEqual({name.split("/")[0] for name in files}, {"fresco", "fresco-0.1.0.dist-info"})

    def test_its_types_are_right(self):
        code, output = self.mypy("-p", "fresco")
        self.assertEqual(code, 0, output)

    def test_its_types_are_right_for_users_and_find_their_mistakes(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "user.py").write_text(USER)
        code, output = self.mypy(folder / "user.py")
        self.assertEqual(code, 0, output)
        (folder / "user.py").write_text("import fresco\nclient = fresco.Client()\n" + "\n".join(WRONG))
        code, output = self.mypy(folder / "user.py")
        for line, (text, error) in enumerate(WRONG.items(), start=3):
            self.assertRegex(output, rf"user\.py:{line}: error: .*\[{error}\]", text)

    def test_its_source_distribution_is_whole(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        built = self.run_python("-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=installed.SOURCE)
        self.assertEqual(built.returncode, 0, built.stdout)
        (archive,) = folder.glob("*.tar.gz")
        shutil.unpack_archive(archive, folder)
        target = folder / "target"
        result = self.run_python("-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation", "--quiet",
                                 "--target", target, folder / archive.name.removesuffix(".tar.gz"))
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertTrue((target / "fresco/v1/image_generation_pb2.py").exists())


if __name__ == "__main__":
    unittest.main()

"""Makes the stubs of fresco.v1 when the package is built, from ../../proto or, in a source distribution, from proto."""

import pathlib
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = pathlib.Path(self.root)
        proto = next((folder for folder in (root / "proto", root.parents[1] / "proto") if (folder / "fresco/v1").is_dir()), None)
        if proto is None:
            raise FileNotFoundError(f"the protos are neither in {root / 'proto'} nor in {root.parents[1] / 'proto'}")
        if version == "editable":
            make_stubs(proto, root / "src")
            return
        self.folder = tempfile.TemporaryDirectory()
        made = pathlib.Path(self.folder.name)
        make_stubs(proto, made)
        for path in made.rglob("*_pb2*.py*"):
            build_data["force_include"][str(path)] = str(path.relative_to(made))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.folder.cleanup()


def make_stubs(proto: pathlib.Path, out: pathlib.Path) -> None:
    # Here, as the build's dependencies are installed only for the build.
    import google.rpc
    from grpc_tools import protoc

    includes = [proto, pathlib.Path(protoc.__file__).parent / "_proto", pathlib.Path(list(google.rpc.__path__)[0]).parents[1]]
    files = sorted(str(path.relative_to(proto)) for path in (proto / "fresco/v1").glob("*.proto"))
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", *(f"-I{include}" for include in includes), *outputs, *files]) != 0:
        raise RuntimeError("protoc failed; its message is above")

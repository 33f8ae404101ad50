#!/usr/bin/env python3
"""collect.py --build DIR --site-packages DIR --output DIR [--cuda]: lays out what an image of Fresco holds, under OUTPUT/opt/fresco.

  bin/    fresco-server, fresco and fresco-model, stripped
  lib/    of libtorch and CUDA, from Python's wheels, the libraries that these load and no others; with --cuda also our own (KERNELS)
  share/fresco/models/demo

The wheels' layout is kept below lib/, since their libraries find each other by relative paths. What comes from the distribution is not copied:
collect.py --build DIR --site-packages DIR --needs prints the names of those libraries, and the Dockerfile installs their packages.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ("fresco-server", "fresco", "fresco-model")
# What is loaded by name at run time, so that no file says that it needs it: pipeline/engine/cuda_runtime.cc loads libtorch_cuda, libtorch loads
# its linear algebra (fresco-model quantize) and the compiler of kernels, and cuDNN its parts.
LOADED_BY_NAME = ("torch/lib/libtorch_cuda.so", "torch/lib/libtorch_cuda_linalg.so", "torch/lib/libcaffe2_nvrtc.so",
                  "nvidia/*/lib/libcudnn*.so.*", "nvidia/*/lib/libnvrtc.so.*", "nvidia/*/lib/libnvrtc-builtins.so.*")
# The GPU's driver, which the host gives to a container.
OF_THE_DRIVER = ("libcuda.so.1",)
# Whose libraries no distribution has.
OF_THE_WHEELS = re.compile(r"lib(torch|c10|cuda|cudart|cudnn|cublas|cufft|cufile|cupti|curand|cusolver|cusparse|nv|nccl)")
# Where the programs find libtorch: as from bin/.
RUNPATH = "$ORIGIN/../lib/torch/lib"
# What of ours is loaded where there is a GPU, and where that finds CUDA's and libtorch's libraries.
KERNELS = ("libfresco_cuda.so", "libfresco_cuda_graph.so")
KERNELS_RUNPATH = "$ORIGIN/nvidia/cu13/lib:$ORIGIN/torch/lib"


class CollectError(Exception):
    """Something that an image would lack."""


def dynamic_section(file):
    """What a program or library needs, and the folders that it names for finding that."""
    text = subprocess.run(["readelf", "-d", file], check=True, stdout=subprocess.PIPE, text=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", text)
    folders = [folder for paths in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.+)\]", text) for folder in paths.split(":")]
    origin = str(file.resolve().parent)
    return needed, [pathlib.Path(folder.replace("$ORIGIN", origin).replace("${ORIGIN}", origin)) for folder in folders]


def closure(files, site_packages):
    """Of all that the files load, directly or not: the wheels' libraries, and the names of the others."""
    ours, others, waiting = set(), set(), [file.resolve() for file in files]
    while waiting:
        needed, folders = dynamic_section(waiting.pop())
        for name in needed:
            found = [(folder / name).resolve() for folder in folders if (folder / name).exists()]
            if not found or site_packages not in found[0].parents:
                others.add(name)
            elif found[0] not in ours:
                ours.add(found[0])
                waiting.append(found[0])
    # One library's folders may not lead to what another's do: by its name it is the same.
    return ours, others - {file.name for file in ours}


def roots_of(build, site_packages, cuda):
    """The files that everything else follows from."""
    roots = [build / "bin" / name for name in PROGRAMS]
    if cuda:
        roots += [build / "lib" / name for name in KERNELS]
        for pattern in LOADED_BY_NAME:
            found = sorted(site_packages.glob(pattern))
            if not found:
                raise CollectError(f"{site_packages} has no {pattern}: install all of libtorch (FRESCO_TORCH=cuda ./dev setup)")
            roots += found
    for root in roots:
        if not root.exists():
            raise CollectError(f"{root} is missing: build it first")
    return roots


def copy(source, target, strip=False):
    target.parent.mkdir(parents=True, exist_ok=True)
    if strip:
        subprocess.run(["strip", "--strip-debug", "-o", target, source], check=True)
    else:
        shutil.copyfile(source, target)
    target.chmod(0o755)


def collect(build, site_packages, output, cuda):
    prefix = output / "opt" / "fresco"
    roots = roots_of(build, site_packages, cuda)
    libraries, others = closure(roots, site_packages)
    libraries |= {root.resolve() for root in roots if site_packages in root.resolve().parents}
    if missing := sorted(name for name in others if OF_THE_WHEELS.match(name) and name not in OF_THE_DRIVER):
        raise CollectError(f"{site_packages} lacks {', '.join(missing)}")
    for library in sorted(libraries):
        copy(library, prefix / "lib" / library.relative_to(site_packages))
    for name in PROGRAMS:
        copy(build / "bin" / name, prefix / "bin" / name, strip=True)
        subprocess.run(["patchelf", "--set-rpath", RUNPATH, prefix / "bin" / name], check=True)
    if cuda:
        for name in KERNELS:
            copy(build / "lib" / name, prefix / "lib" / name, strip=True)
            subprocess.run(["patchelf", "--set-rpath", KERNELS_RUNPATH, prefix / "lib" / name], check=True)
    shutil.copytree(ROOT / "models" / "demo", prefix / "share" / "fresco" / "models" / "demo", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("card", "reference"))
    return prefix


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="./dev build's folder")
    parser.add_argument("--site-packages", type=pathlib.Path, required=True, help="where the torch wheel is installed")
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--cuda", action="store_true", help="also what computes on NVIDIA's GPUs")
    parser.add_argument("--needs", action="store_true", help="only print what the distribution has to have")
    arguments = parser.parse_args()
    build, site_packages = arguments.build.resolve(), arguments.site_packages.resolve()
    try:
        if arguments.needs:
            print("\n".join(sorted(closure(roots_of(build, site_packages, arguments.cuda), site_packages)[1])))
        elif arguments.output is None:
            parser.error("--output or --needs is needed")
        else:
            print(collect(build, site_packages, arguments.output.resolve(), arguments.cuda))
    except (CollectError, subprocess.CalledProcessError) as error:
        sys.exit(f"collect.py: {error}")


if __name__ == "__main__":
    main()

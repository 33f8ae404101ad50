#!/usr/bin/env python3
"""Runs the fuzzers, and says what came of it: tests/fuzz/run.py BUILD SECONDS [TARGET...]

Each goes on from what earlier runs have found (BUILD/fuzz/corpus); an input that breaks something is left in
BUILD/fuzz/findings. `--table BUILD` prints what the last run of each has said, as a table for docs/FUZZING.md.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def run(build, seconds, target):
    """Returns whether nothing was found."""
    place = pathlib.Path(build).resolve() / "fuzz"
    corpus, findings, log = place / "corpus" / target, place / "findings" / target, place / "logs" / f"{target}.log"
    for folder in (corpus, findings, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    inputs = [str(HERE / kind / target) for kind in ("corpus", "regressions") if (HERE / kind / target).is_dir()]
    limits = (place / f"{target}.arguments").read_text(encoding="utf-8").split()
    command = [place / f"fuzz_{target}", *limits, f"-max_total_time={seconds}", "-print_final_stats=1", f"-artifact_prefix={findings}/", corpus, *inputs]
    with open(log, "w", encoding="utf-8", errors="replace") as out:
        code = subprocess.run(command, stdout=out, stderr=out, check=False).returncode
    print(row(build, target), flush=True)
    if code:
        print(f"{target}: see {log}; the input is in {findings}", file=sys.stderr, flush=True)
    return code == 0


def row(build, target):
    """| target | inputs run | a second | edges | features | corpus | result |"""
    text = (pathlib.Path(build) / "fuzz/logs" / f"{target}.log").read_text(encoding="utf-8", errors="replace")
    last = {key: value for key, value in re.findall(r"\b(cov|ft|corp): (\S+)", text)}  # of the last line that has it
    runs = re.findall(r"number_of_executed_units: (\d+)", text)
    rate = re.findall(r"average_exec_per_sec: +(\d+)", text)
    done = re.findall(r"Done \d+ runs in (\d+) second", text)
    found = re.search(r"FINDING: (.*)|ERROR: (libFuzzer|AddressSanitizer|LeakSanitizer): (.*)|runtime error: (.*)", text)
    result = "clean" if done and not found else "found: " + (next((g for g in found.groups()[::-1] if g), "?")[:80] if found else "did not end")
    values = [f"`{target}`", done[-1] + " s" if done else "-", runs[-1] if runs else "-", rate[-1] if rate else "-", last.get("cov", "-"), last.get("ft", "-"), last.get("corp", "-"), result]
    return "| " + " | ".join(values) + " |"


def targets(build):
    """Those that are built."""
    return sorted(path.stem for path in (pathlib.Path(build) / "fuzz").glob("*.arguments"))


def main():
    if sys.argv[1:2] == ["--table"]:
        build = pathlib.Path(sys.argv[2])
        for target in targets(build):
            if (build / "fuzz/logs" / f"{target}.log").exists():
                print(row(build, target))
        return 0
    build, seconds = sys.argv[1], int(sys.argv[2])
    known = targets(build)
    wanted = sys.argv[3:] or known
    unknown = set(wanted) - set(known)
    if unknown:
        sys.exit(f"there is no fuzzer {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    jobs = int(os.environ.get("FRESCO_JOBS", os.cpu_count()))
    print("| Fuzzer | Time | Inputs | a second | Edges | Features | Corpus | Result |\n|---|---|---|---|---|---|---|---|", flush=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        clean = list(pool.map(lambda target: run(build, seconds, target), wanted))
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())

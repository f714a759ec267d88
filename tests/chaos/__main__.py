"""python -m tests.chaos --minutes 60 [--seed 7] [--report FILE] [--keep FOLDER]

Exit status: 0 nothing was violated, 1 something was, 2 bad usage or a machine without namespaces. It runs in namespaces
of its own (mounts and processes too), so nothing is left of it, however it ends.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from locum.demo.enter import CannotIsolate, ensure_isolated
from tests.chaos import report
from tests.chaos.kinds import KINDS
from tests.chaos.run import INJECTIONS, Run

FOLDER = Path("/mnt")
"""Where the clusters' files are: an empty folder of every system, under a mount of our own."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos", description="A real cluster in a lab, under random faults.")
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("MINUTES", "10")))
    parser.add_argument("--seed", type=int, help="the sequence of faults; random without")
    parser.add_argument("--report", type=Path, help="write the results there, as Markdown, after every cluster")
    parser.add_argument("--keep", type=Path, help="a folder for the logs of every cluster and of every violation")
    parser.add_argument("--injections", type=int, default=INJECTIONS, help="faults for each cluster")
    parser.add_argument("--only", default="", help='faults with these words in "holder: cable cut" and so on')
    options = parser.parse_args()
    if not any(options.only in f"{kind.whom}: {kind.name}" for kind in KINDS):
        parser.error(f"--only {options.only!r}: there is no such fault")
    for path in (options.report, options.keep):
        if path is not None and path.resolve().is_relative_to(FOLDER):
            parser.error(f"{path}: {FOLDER} is used by the run itself, and gone when it ends")
    try:
        ensure_isolated([sys.executable, "-m", "tests.chaos", *sys.argv[1:]])
    except CannotIsolate as error:
        print(error, file=sys.stderr)
        return 2
    seed = random.randrange(10_000) if options.seed is None else options.seed
    print(f"chaos for {options.minutes:g} minutes, seed {seed}", flush=True)
    # What the clusters write stays in memory, and goes with us: this mount shows nowhere else.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "chaos", str(FOLDER)], check=True, timeout=10)
    tempfile.tempdir = str(FOLDER)
    run = Run(seed, FOLDER, lambda line: print(line, flush=True), options.keep, options.only)

    def write() -> None:
        if options.report is not None:
            options.report.write_text(report.markdown(run))

    try:
        run.run(options.minutes, write, options.injections)
    finally:
        write()
        print(report.text(run), flush=True)
    return 1 if run.violations else 0


if __name__ == "__main__":
    sys.exit(main())

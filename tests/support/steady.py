"""Runs tests again and again on a busy machine, and counts which of them fail.

``python tests/support/steady.py --help`` tells how.
"""

import argparse
import collections
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_BUSY = "while True: pass"
# What pytest's exit codes mean beside 0 and 1: it was interrupted, broke, was misused, or found no test.
_NO_TESTS = "(pytest itself ended with exit code {code})"


@contextlib.contextmanager
def load(loops: int) -> Iterator[None]:
    """Keep so many cores busy meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def failed(report: Path, code: int) -> list[str]:
    """Return the tests that failed in a run, each once.

    Args:
        report: pytest's report in JUnit's format; there is none if pytest did not get that far.
        code: pytest's exit code.
    """
    names = []
    if report.exists():
        for case in ET.parse(report).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                names.append(f"{case.get('classname')}::{case.get('name')}")
    if code not in (0, 1) or (code == 1 and not names):
        names.append(_NO_TESTS.format(code=code))
    return list(dict.fromkeys(names))


def summary(runs: int, failures: Mapping[str, int]) -> str:
    """Return each failing test with the number of runs in which it failed, the worst first."""
    if not failures:
        return f"No test failed in {runs} runs."
    worst = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    return "\n".join([f"Tests that failed in some of {runs} runs:", *(f"{count:4d}  {name}" for name, count in worst)])


def main(arguments: Sequence[str] | None = None, *, folder: Path | None = None) -> int:
    """Run the tests, and report.

    Args:
        arguments: of the command line.
        folder: for the output of the runs in which something failed; a temporary one unless it is given.

    Returns:
        The exit code: 1 if any test failed in any run, or no run was seen.
    """
    parser = argparse.ArgumentParser(prog="steady", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="how often (default: 20)")
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="busy loops beside (default: one a core)")
    parser.add_argument("pytest", nargs="+", help="what pytest is called with, after --")
    options = parser.parse_args(arguments)
    failures: collections.Counter[str] = collections.Counter()
    seen = 0
    folder = folder or Path(tempfile.mkdtemp(prefix="fleet-steady-"))
    try:
        with load(options.busy):
            for number in range(1, options.runs + 1):
                report, output = folder / f"{number}.xml", folder / f"{number}.txt"
                started = time.monotonic()
                command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *options.pytest]
                with output.open("w", encoding="utf-8") as stream:
                    code = subprocess.run(command, stdout=stream, stderr=stream, check=False).returncode
                names = failed(report, code)
                failures.update(names)
                seen = number
                said = f"failed: {', '.join(names)} (see {output})" if names else "all passed"
                print(f"run {number} of {options.runs}, {time.monotonic() - started:.0f} s: {said}", flush=True)
                if not names:
                    output.unlink()
                    report.unlink()
    except KeyboardInterrupt:
        print("interrupted")
    print(summary(seen, failures))
    if not any(folder.iterdir()):
        folder.rmdir()
    return 1 if failures or not seen else 0


if __name__ == "__main__":
    sys.exit(main())

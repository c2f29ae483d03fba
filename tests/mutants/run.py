"""Break one line after the other that carries a rule, and see that the test fails which is named for it.

``python tests/mutants/run.py [WORD]`` does so in copies of the tree, several at a time; with a word only for mutants
whose file or test has it. It ends with 1 if a mutant survives, if a line is not there any more, or if there is no such
test.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

sys.path.insert(0, str(Path(__file__).parent))

from table import MUTANTS, Mutant  # type: ignore[import-not-found, unused-ignore]

ROOT = Path(__file__).parents[2]
COPIED = ("lib", "tests", "cookbooks", "config", "runbooks", "pyproject.toml", "setup.py", "README.md")
LONGEST = 120.0
"""Seconds for one test."""
FAILED = 1
"""The exit code of pytest where a test failed; others tell that nothing was tried."""


def copy(folder: Path) -> None:
    """Copy what tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif source.exists():
            shutil.copy(source, folder / name)


def judge(mutant: Mutant, folder: Path) -> str:
    """Return what is wrong with a mutant, or nothing if its test kills it."""
    path = folder / mutant.file
    before = path.read_text(encoding="utf-8")
    if before.count(mutant.line) != 1:
        return f"its line is there {before.count(mutant.line)} times"
    if not (ROOT / mutant.test.partition("::")[0]).exists():
        return "there is no such test"
    path.write_text(before.replace(mutant.line, mutant.mutated), encoding="utf-8")
    try:
        code, output = _test(mutant.test, folder)
    finally:
        path.write_text(before, encoding="utf-8")
        shutil.copystat(ROOT / mutant.file, path)  # Compiled files go by that.
    if code == FAILED:
        return ""
    return "it survives" if code == 0 else f"pytest ended with {code}: {output[-300:]}"


def _test(test: str, folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", test]
    paths = {"PYTHONPATH": f"{folder / 'lib'}:{folder / 'tests'}", "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / ".h")}
    environment = {**os.environ, **paths}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, "it takes too long"
    return done.returncode, done.stdout


def main(words: Sequence[str]) -> int:
    """Try all mutants, or those that a word is about."""
    chosen = [mutant for mutant in MUTANTS if all(word in f"{mutant.file} {mutant.test}" for word in words)]
    began, workers = time.monotonic(), os.cpu_count() or 1
    problems = 0
    with tempfile.TemporaryDirectory() as top:
        free: SimpleQueue[Path] = SimpleQueue()
        for number in range(workers):
            folder = Path(top) / str(number)
            folder.mkdir()
            copy(folder)
            free.put(folder)

        def work(mutant: Mutant) -> str:
            folder = free.get()
            try:
                return judge(mutant, folder)
            finally:
                free.put(folder)

        with ThreadPoolExecutor(workers) as pool:
            for mutant, problem in zip(chosen, pool.map(work, chosen), strict=True):
                if problem:
                    problems += 1
                    lines = (f"{mutant.file}: {problem}", mutant.line.strip(), mutant.mutated.strip(), mutant.test)
                    print("\n  ".join(lines), flush=True)
    took = time.monotonic() - began
    print(f"{len(chosen) - problems} of {len(chosen)} mutants killed, in {took:.0f} s")
    return 1 if problems or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

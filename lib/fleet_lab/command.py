"""Runs commands of the machine."""

import subprocess
from collections.abc import Sequence

from fleet_lab.errors import LabError


def run(command: Sequence[str], *, timeout: float = 60.0) -> str:
    """Run a command of the machine.

    Args:
        command: the program and its arguments.
        timeout: seconds until it is killed.

    Returns:
        Its standard output.

    Raises:
        LabError: it failed, could not be started or took too long; with the end of what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except OSError as error:
        raise LabError(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(command)}` took more than {timeout:.0f} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise LabError(f"`{' '.join(command)}` failed with exit code {done.returncode}: {said}")
    return done.stdout

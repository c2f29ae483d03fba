"""The lab for its tests: one that is running, or one that is brought up for the session and taken down after it."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet_lab import boot, workload
from fleet_lab.lab import Lab
from fleet_lab.paths import Paths

_HERE = Path(__file__).parent
_NOT_RUN = pytest.StashKey[list[str]]()
_EXISTED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without root there is no lab: its tests are deselected, and named at the end."""
    if os.geteuid() == 0:
        return
    ours = [item for item in items if item.path.is_relative_to(_HERE)]
    items[:] = [item for item in items if not item.path.is_relative_to(_HERE)]
    config.hook.pytest_deselected(items=ours)
    config.stash[_NOT_RUN] = sorted({item.path.name for item in ours})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly what was not run."""
    not_run = config.stash.get(_NOT_RUN, [])
    if not_run:
        terminalreporter.section("THE LAB'S TESTS WERE NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.write_line(f"They need root. Not run: {', '.join(not_run)}.", red=True, bold=True)


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab, with no faults; brought up if it is not running, and taken down again in that case."""
    paths = Paths.from_environment()
    with Path(tempfile.gettempdir(), "fleet-lab-tests.lock").open("w", encoding="ascii") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # Faults and reboots of two test sessions would meet.
        request.config.stash[_EXISTED] = Lab(paths).exists
        yield from _lab(paths)


def _lab(paths: Paths) -> Iterator[Lab]:
    existed = Lab(paths).exists
    running = boot.up(paths, print)
    running.heal()
    yield running
    if not existed:
        boot.down(paths, print)


@pytest.fixture(scope="session")
def running_workload(lab: Lab, request: pytest.FixtureRequest) -> Iterator[None]:
    """Services on the lab's nodes, as an operator would find them."""
    workload.create(lab)
    yield
    if request.config.stash[_EXISTED]:  # Otherwise they go with the lab.
        workload.delete(lab)


@pytest.fixture
def healed(lab: Lab) -> Iterator[Lab]:
    """The lab for a test that injects faults: they are undone after it, all nodes are Ready, all sessions are up."""
    yield lab
    lab.heal()
    lab.wait_for_nodes(lab.names("worker"), timeout=60)
    lab.wait_for_sessions()

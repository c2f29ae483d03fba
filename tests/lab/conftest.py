"""The lab for its tests: one that is running, or one that is brought up for the session and taken down after it.

With pytest-xdist there are several labs: the first process has the usual one, every other one a lab of its own.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest
import yaml

from fleet_lab import boot, preflight, reinitialized, topology, workload
from fleet_lab.lab import Lab
from fleet_lab.paths import Paths

_HERE = Path(__file__).parent
_LABS = 2
"""How many labs two cores carry: their hosts mostly wait."""
_SMALL = 6
"""The hosts of the small lab that the tests of up and down make beside them."""
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
"""The kernel's default is enough for one lab, but not for two and the small one."""
_INSTANCES = 512
_BEFORE = pytest.StashKey[int]()
_LARGEST = ["test_reboot_nodes", "test_reinitialize", "test_control_plane", "test_restart_calico", "test_etcd"]
_LARGEST += ["test_lab", "test_lab_lifecycle"]
"""The files that take longest: of two processes none is to be left with one of them when the other is done."""
_NOT_RUN = pytest.StashKey[list[str]]()
_EXISTED = pytest.StashKey[bool]()
_OURS = pytest.StashKey[list[Paths]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the largest files; without root there is no lab: its tests are deselected, and named at the end."""
    if os.geteuid() == 0:
        items.sort(key=lambda item: _LARGEST.index(item.path.stem) if item.path.stem in _LARGEST else len(_LARGEST))
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


def _allow_hosts(config: pytest.Config) -> None:
    """Raise the limit of the kernel that as many hosts exceed, where that can be done."""
    before = int(_INOTIFY.read_text(encoding="ascii"))
    if before < _INSTANCES and os.geteuid() == 0:
        with suppress(OSError):
            _INOTIFY.write_text(str(_INSTANCES), encoding="ascii")
            config.stash[_BEFORE] = before


def _put_limit_back(config: pytest.Config) -> None:
    """Put the limit back, unless somebody else runs more by now: no host of theirs could reboot."""
    before = config.stash.get(_BEFORE, None)
    if before is not None and preflight.inotify_instances()[1] <= before:
        _INOTIFY.write_text(str(before), encoding="ascii")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """With ``-n auto``: as many labs as there may be, but one if the machine has no room for them; and say why."""
    _allow_hosts(config)
    usual = Paths.from_environment()
    default = topology.load(topology.DEFAULT)
    hosts = (_LABS - Lab(usual).exists) * len(default.hosts) + _SMALL
    missing = preflight.missing(usual.state, usual.cache, hosts=hosts, bridge=default.network.bridge)
    if missing:
        print("There is room for one lab only, with which the tests take twice the time:", *missing, sep="\n  - ")
    return 1 if missing else _LABS


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember, where processes of pytest-xdist are about to be started, which labs they will make."""
    config = session.config
    if os.geteuid() == 0 and config.getoption("numprocesses", None):
        _allow_hosts(config)
        labs = [_paths(number) for number in range(config.getoption("numprocesses"))]
        config.stash[_OURS] = [paths for paths in labs if not Lab(paths).exists]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take down what those processes have left: when they are interrupted, they are not given the time for it."""
    for paths in config.stash.get(_OURS, []):
        with _turn(paths) as turn, suppress(BlockingIOError):
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Otherwise another session has made it meanwhile.
            if Lab(paths).exists:
                boot.down(paths, print)
    _put_limit_back(config)


def _number() -> int:
    """Return which of the test processes this is; 0 for the first, and for the only one."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def _paths(number: int) -> Paths:
    """Return the folders of a test process's lab: the usual ones for the first, others beside them for the rest."""
    usual = Paths.from_environment()
    return Paths(usual.state.with_name(f"{usual.state.name}-tests{number}"), usual.cache) if number else usual


def _turn(paths: Paths) -> TextIO:
    """Open the file that one session of tests at a time may lock: faults and reboots of two would meet."""
    return Path(tempfile.gettempdir(), f"{paths.state.name}.tests.lock").open("w", encoding="ascii")


def _topology(number: int, folder: Path) -> Path:
    """Return the usual topology on networks of the process's own; those that exist in the API alone may be the same."""
    data = yaml.safe_load(topology.DEFAULT.read_text(encoding="utf-8"))
    part = 177 + number
    data["network"] |= {"bridge": f"fleetlab{number}", "ipv4": f"10.{part}.0.0/24", "ipv6": f"fd00:{part}::/64"}
    path = folder / "topology.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab, with no faults; brought up if it is not running, and taken down again in that case."""
    number = _number()
    paths = _paths(number)
    topology_file = _topology(number, tmp_path_factory.mktemp("lab")) if number else None
    with _turn(paths) as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if number:
            boot.down(paths, print)  # Of a session that was killed; it is nobody's.
        keep = request.config.stash[_EXISTED] = Lab(paths).exists
        running = boot.up(paths, print, topology_file=topology_file)
        running.heal()
        if keep and reinitialized.is_begun(running):
            reinitialized.restore(running)  # Somebody has left a rehearsal half way.
        yield running
        if not keep:
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

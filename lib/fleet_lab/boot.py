"""Brings the lab up and takes it down."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fleet_lab import binaries, cgroups, datastore, deployment, image, objects, operator, preflight, topology
from fleet_lab.container import Spec
from fleet_lab.context import make as make_context
from fleet_lab.errors import LabError
from fleet_lab.files import Disk
from fleet_lab.guest.kubelet.api import TROUBLE
from fleet_lab.lab import Lab
from fleet_lab.machine import Machine
from fleet_lab.paths import Paths
from fleet_lab.roles import ROLES, Context, common, control_plane, netconf, packages, puppet, puppet_code
from fleet_lab.roles.alertmanager import PORT
from fleet_lab.topology import Host, RoleName
from fleet_lab.waiting import is_listening, wait_for

Say = Callable[[str], None]
"""Says what is being done, for people."""

_SSH = 90.0
_API = 180.0
_NODES = 90.0
_PUPPET = 180.0
_SESSIONS = 60.0


def up(paths: Paths, say: Say, *, topology_file: Path | None = None) -> Lab:
    """Bring the lab up: make what is missing, start what is not running, wait until all of it works.

    It may be called at any time, also after a crash of any part; what runs and answers is left alone.

    Args:
        paths: the lab's folders.
        say: told what is being done.
        topology_file: the topology of a new lab; the default one if none is given.

    Raises:
        LabError: something is missing on the machine, or a part does not come up.
    """
    started = time.monotonic()
    lab = Lab(paths)
    given = topology.load(paths.topology if lab.exists else topology_file or topology.DEFAULT)
    silent = frozenset(lab.silent() if lab.exists and os.geteuid() == 0 else ())
    starting = sum(lab.supervisor(name) is None or name in silent for name in given.hosts)
    preflight.check(paths.state, paths.cache, hosts=starting, bridge=given.network.bridge)

    def timed(text: str) -> None:
        say(f"{time.monotonic() - started:6.1f} s  {text}")

    with _locked(paths, say):
        _settle_topology(paths, topology_file)
        wanted = packages()
        if not image.path(paths.cache, wanted).is_dir():
            timed("building the base image of all hosts from Debian's packages (once)")
        base = image.ensure(paths.cache, wanted)
        _settle_kubernetes(paths, timed)
        context = make_context(paths, topology.load(paths.topology))
        context.ssh.write_config(context.topology)
        operator.write(context)
        puppet_code.create(context, _puppet_settings(context))
        Machine(paths.state).create_bridge(context.topology.network)
        new = [host for host in context.topology.hosts.values() if lab.supervisor(host.name) is None]
        timed(f"starting {len(new)} hosts" if new else "all hosts have been started")
        frozen = [host for host in context.topology.hosts.values() if host.name in silent and host not in new]
        if frozen:
            timed(f"starting anew, as they run and do not answer: {', '.join(host.name for host in frozen)}")
        for host in (*new, *frozen):
            _start(context, host, base)
        _wait(lab, timed)
        timed("the lab is up")
    return lab


def down(paths: Paths, say: Say) -> None:
    """Take the lab down: nothing of it is left but the cache.

    Args:
        paths: the lab's folders.
        say: told what is being done.

    Raises:
        LabError: this is not root, or something cannot be removed.
    """
    if os.geteuid() != 0:
        raise LabError("Only root can take the lab down: run it with sudo.")
    with _locked(paths, say):
        Machine(paths.state).remove()
        if paths.state.exists():
            shutil.rmtree(paths.state)
        paths.lock.unlink()
    say("The lab is down; the cache stays in " + str(paths.cache))


@contextlib.contextmanager
def _locked(paths: Paths, say: Say) -> Iterator[None]:
    """Hold the lab's lock: of several ``up`` and ``down``, one is at work."""
    paths.lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as lock:  # noqa: PTH123
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another fleet-lab is at work: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            # `down` removes the file: the lock counts only if this still is the one that others will find.
            with contextlib.suppress(FileNotFoundError):
                if paths.lock.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                    yield
                    return


def _settle_topology(paths: Paths, given: Path | None) -> None:
    """Keep the topology that a new lab is made from; an existing lab has its own."""
    if paths.topology.exists():
        if given and topology.load(given) != topology.load(paths.topology):
            raise LabError("The lab was made from another topology: take it down first, with `fleet-lab down`.")
        return
    Machine(paths.state).remove()  # of a lab whose state folder was deleted
    source = given or topology.DEFAULT
    topology.load(source)
    paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths.state.chmod(0o700)
    temporary = paths.topology.with_suffix(".new")
    shutil.copyfile(source, temporary)
    temporary.replace(paths.topology)


def _settle_kubernetes(paths: Paths, say: Say) -> None:
    """Find the Kubernetes binaries, once for a lab: it does not change them when it is started again."""
    if all((paths.kubernetes / name).exists() for name in binaries.CONTROL_PLANE):
        return
    say("finding the Kubernetes binaries (if they have to be downloaded or built: minutes, once)")
    paths.kubernetes.mkdir(exist_ok=True)
    for name, path in binaries.find(binaries.CONTROL_PLANE, cache=paths.cache).items():
        link = paths.kubernetes / name
        link.unlink(missing_ok=True)
        link.symlink_to(path.absolute())


def _puppet_settings(context: Context) -> dict[str, dict[str, object]]:
    """Return what Puppet's code says of single hosts."""
    settings: dict[str, dict[str, object]] = {}
    for host in context.topology.bgp_nodes:
        settings[host.name] = {"calico": True}
        if host.role == "control-plane":
            settings[host.name]["kube_apiserver::flags"] = control_plane.apiserver_flags(context, host)
    return settings


def _start(context: Context, host: Host, base: Path) -> None:
    """Write a host's disk and start its supervisor."""
    paths = context.paths.host(host.name)
    role = ROLES[host.role]
    paths.faults.mkdir(parents=True, exist_ok=True)
    paths.upper.mkdir(exist_ok=True)
    machine = Machine(context.paths.state)
    cgroup = machine.host_cgroup(host.name)
    if cgroup.exists():  # of a supervisor that was killed: the disk must not be in use
        cgroups.kill(cgroup)
    disk = Disk(base, paths.upper)
    disk.write(common.files(context, host, [*common.UNITS, *role.units]))
    disk.write(role.files(context, host))
    Spec(
        name=host.name,
        machine=machine.name(host.name),
        image=str(base),
        bridge=context.topology.network.bridge,
        cgroup=f"{machine.cgroup_name}/{host.name}",
        firmware_delay=context.topology.firmware_delay,
        binds=role.binds(context),
    ).write(paths.spec)
    with paths.log.open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "fleet_lab.supervisor", str(paths.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )


def _wait(lab: Lab, say: Say) -> None:
    """Wait until everything works that no injected fault keeps from working."""
    faulty = {status.host.name for status in lab.status() if status.faults}
    if faulty:
        say(f"not waiting for {', '.join(sorted(faulty))}: faults are injected (`fleet-lab heal` undoes them)")
    lab.wait_for_ssh([name for name in lab.hosts if name not in faulty], timeout=_SSH)
    say("all hosts answer")
    control_planes = [name for name in lab.names("control-plane") if name not in faulty]
    if control_planes:
        wait_for(
            lambda: _unfilled(lab, control_planes[0]), what="Calico's datastore", timeout=_API, trouble=(LabError,)
        )
        say("Calico's datastore is filled")
    wait_for(
        lambda: "" if lab.api().request("GET", "/version") else "no version",
        what="the Kubernetes API",
        timeout=_API,
        trouble=TROUBLE,
    )
    say("the Kubernetes API answers")
    wait_for(lambda: _uninitialized(lab), what="the cluster to be initialised", timeout=_API, trouble=TROUBLE)
    lab.wait_for_nodes([name for name in lab.names("worker") if name not in faulty], timeout=_NODES)
    say("all nodes are Ready")
    if lab.names("router"):
        lab.wait_for_sessions(without=faulty, timeout=_SESSIONS)
        say("all BGP sessions are established")
    configured = [
        host.name
        for host in lab.hosts.values()
        if puppet.UNITS[0] in ROLES[host.role].units and host.name not in faulty
    ]
    wait_for(
        lambda: ", ".join(name for name in configured if not puppet.has_run(lab.paths.host(name).upper)),
        what="the first run of Puppet",
        timeout=_PUPPET,
    )
    say("Puppet has run everywhere")
    ports: dict[RoleName, int] = {"alertmanager": PORT, "lock-store": 2379, "router": netconf.PORT}
    listening = [(host, ports[host.role]) for host in lab.hosts.values() if host.role in ports]
    wait_for(
        lambda: ", ".join(
            f"{host.name} does not listen on port {port}"
            for host, port in listening
            if host.name not in faulty and not is_listening(host.ipv4, port)
        ),
        what="the hosts' services",
        timeout=_SSH,
    )
    if not faulty.intersection(lab.names("lock-store")):
        wait_for(lambda: _unwritten(lab), what="the load balancer's objects", timeout=_SSH, trouble=(LabError,))


def _uninitialized(lab: Lab) -> str:
    deployment.initialize(lab.api())
    return ""


def _unfilled(lab: Lab, host: str) -> str:
    datastore.fill(lab, host)
    return ""


def _unwritten(lab: Lab) -> str:
    objects.write(lab.context)
    return ""

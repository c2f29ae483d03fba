"""What others do to a cluster, and what breaks there, while a run is at work."""

from collections.abc import Callable
from dataclasses import dataclass

from fleet.adapters.k8s.model import parse_node
from fleet.adapters.k8s.nodes import ownership
from worlds.alertmanager import OTHERS, URLS, Kept
from worlds.kubernetes import BUDGETS, NODES, PODS
from worlds.machines import Machine
from worlds.nodes import NAMES, World
from worlds.rules import LEASE


@dataclass(frozen=True)
class Trouble:
    """Something that happens.

    Attributes:
        after: seconds after its session began.
        what: a name in :data:`TROUBLES`.
        node: the index of the node that it is about.
        lasts: seconds until it is over, where it ends by itself.
    """

    after: float
    what: str
    node: int
    lasts: float


def schedule(world: World, trouble: Trouble) -> None:
    """Let something happen."""
    world.at(trouble.after, lambda: TROUBLES[trouble.what](world, NAMES[trouble.node], trouble.lasts))


def _cordon(world: World, node: str, lasts: float) -> None:
    world.kubernetes.patch(NODES, node, {"spec": {"unschedulable": True}})


def _uncordon(world: World, node: str, lasts: float) -> None:
    world.kubernetes.patch(NODES, node, {"spec": {"unschedulable": None}})


def _cordon_for_a_while(world: World, node: str, lasts: float) -> None:
    _cordon(world, node, lasts)
    world.at(lasts, lambda: _uncordon(world, node, lasts))


def _replace(world: World, node: str, lasts: float) -> None:
    """Put another machine in the place of one, under the same name."""
    world.kubernetes.remove(NODES, node)
    machine = world.machines.machines[node]
    machine.number, machine.booted, machine.is_up = machine.number + 100, world.now, True
    machine.starts, machine.started, machine.is_moving, machine.ran = 1, world.now, False, 0.0
    world.network.forget(node)
    world.at(5.0, lambda: world.components.register(node))
    world.at(6.0, lambda: world.network.come_up(node))


def _reboot(world: World, node: str, lasts: float) -> None:
    if world.machines.machines[node].is_up:
        world.machines.go_down(node)


def _close_budgets(world: World, node: str, lasts: float) -> None:
    for budget in world.kubernetes.all(BUDGETS):
        name, before = budget["metadata"]["name"], budget["spec"]["minAvailable"]
        world.kubernetes.patch(BUDGETS, name, {"spec": {"minAvailable": 100}}, "default")
        back = {"spec": {"minAvailable": before}}
        if before != 100:
            world.at(lasts, lambda name=name, back=back: world.kubernetes.patch(BUDGETS, name, back, "default"))  # type: ignore[misc]


def _expire(world: World, node: str, lasts: float) -> None:
    for member in world.alertmanagers.members.values():
        for silence in world.alertmanagers.in_force(member):
            if silence.host == node:
                world.alertmanagers.end(silence.id)


def _silence(world: World, node: str, lasts: float) -> None:
    alertmanagers = world.alertmanagers
    alertmanagers.numbers += 1
    matcher = {"name": "instance", "value": f"{node}.*", "isRegex": True, "isEqual": True}
    number, comment = f"s{alertmanagers.numbers}", f"see run {world.run} - {node}"
    alertmanagers.add(Kept(number, node, comment, OTHERS, (matcher,), world.now + lasts))


def _take_lease(world: World, node: str, lasts: float) -> None:
    if (lease := world.kubernetes.find(*LEASE)) is None:
        return
    until = world.now + lasts

    def write() -> None:
        found = world.kubernetes.find(*LEASE)
        alive = world.now < until
        spec = {"holderIdentity": "r2@there" if alive else "", "renewTime": str(world.now), "leaseDurationSeconds": 60}
        assert found is not None
        if found["spec"].get("holderIdentity") in ("r2@there", lease["spec"]["holderIdentity"]):
            notes = {"annotations": {"alive": "yes" if alive else ""}}
            world.kubernetes.put(LEASE[0], {**found, "metadata": {**found["metadata"], **notes}, "spec": spec})
            if alive:
                world.at(10.0, write)

    write()


def _of_machine(change: Callable[[Machine], None], back: Callable[[Machine], None]) -> "Act":
    def act(world: World, node: str, lasts: float) -> None:
        machine = world.machines.machines[node]
        change(machine)
        world.at(lasts, lambda: back(machine))

    return act


def _set(**values: object) -> Callable[[Machine], None]:
    def change(machine: Machine) -> None:
        for name, value in values.items():
            setattr(machine, name, value)

    return change


def _nothing(machine: Machine) -> None:
    """Leave it as it is."""


def _silent_router(world: World, node: str, lasts: float) -> None:
    world.network.silent.add("cr1")
    world.at(lasts, lambda: world.network.silent.discard("cr1"))


def _lying_router(world: World, node: str, lasts: float) -> None:
    world.network.lie("cr2")
    world.at(lasts, world.network.liars.clear)


def _flap(world: World, node: str, lasts: float) -> None:
    world.network.go_down(node, "cr1")
    world.at(lasts, lambda: world.network.come_up(node, "cr1") if world.machines.machines[node].is_up else None)


def _alert(url: str) -> "Act":
    def fire(world: World, node: str, lasts: float) -> None:
        member = world.alertmanagers.members[url]
        member.firing.setdefault(node, set()).add("DiskFull")
        world.rules.fires(node, f"DiskFull at {url}", firing=True)

        def clear() -> None:
            member.firing[node].discard("DiskFull")
            world.rules.fires(node, f"DiskFull at {url}", firing=False)

        world.at(lasts, clear)

    return fire


def _member(url: str, name: str, value: object, back: object) -> "Act":
    def act(world: World, node: str, lasts: float) -> None:
        setattr(world.alertmanagers.members[url], name, value)

        def over() -> None:
            setattr(world.alertmanagers.members[url], name, back)
            world.alertmanagers.gossip()

        world.at(lasts, over)

    return act


def _cut(world: World, node: str, lasts: float) -> None:
    world.alertmanagers.is_meshed = False

    def back() -> None:
        world.alertmanagers.is_meshed = True
        world.alertmanagers.gossip()

    world.at(lasts, back)


def _outage(world: World, node: str, lasts: float) -> None:
    world.kubernetes.is_up = False

    def back() -> None:
        world.kubernetes.is_up, world.kubernetes.last_up = True, world.now

    world.at(lasts, back)


def _finalizer(world: World, node: str, lasts: float) -> None:
    for pod in world.kubernetes.all(PODS):
        if pod["spec"].get("nodeName") == node and pod["metadata"]["labels"]["app"] == "batch":
            name = pod["metadata"]["name"]
            world.kubernetes.patch(PODS, name, {"metadata": {"finalizers": ["stuck"]}}, "default")

            def free(name: str = name) -> None:
                world.kubernetes.patch(PODS, name, {"metadata": {"finalizers": None}}, "default")
                if (found := world.kubernetes.find(PODS, name, "default")) and "deletionTimestamp" in found["metadata"]:
                    world.kubernetes.end_pod(found)

            world.at(lasts, free)


def _volumes(world: World, node: str, lasts: float) -> None:
    world.components.detaches = lasts
    world.at(lasts, lambda: setattr(world.components, "detaches", 1.0))


def _break(world: World, node: str, lasts: float) -> None:
    world.components.breaks.add(node)
    world.at(lasts, lambda: world.components.breaks.discard(node))


Act = Callable[[World, str, float], None]
TROUBLES: dict[str, Act] = {
    "cordon": _cordon,
    "uncordon": _uncordon,
    "cordon for a while": _cordon_for_a_while,
    "delete node": lambda world, node, lasts: world.kubernetes.remove(NODES, node),
    "replace node": _replace,
    "reboot": _reboot,
    "close budgets": _close_budgets,
    "expire silences": _expire,
    "silence": _silence,
    "take the Lease": _take_lease,
    "host does not answer": _of_machine(_set(answers=False), _set(answers=True)),
    "host never comes back": _of_machine(_set(lasts=None), _nothing),
    "host is slow to boot": _of_machine(_set(lasts=400.0), _set(lasts=20.0)),
    "host's clock is ahead": _of_machine(_set(lies=7200.0), _nothing),
    "host's clock is behind": _of_machine(_set(lies=-7200.0), _nothing),
    "orders are late": _of_machine(_set(delay=9.0), _set(delay=0.5)),
    "host refuses": _of_machine(_set(refuses=True), _set(refuses=False)),
    "puppet is disabled": _of_machine(_set(puppet="by hand"), _set(puppet=None)),
    "puppet fails": _of_machine(_set(puppet_fails=True), _set(puppet_fails=False)),
    "router does not answer": _silent_router,
    "router lies": _lying_router,
    "session flaps": _flap,
    "alert": _alert(URLS[0]),
    "alert at one member": _alert(URLS[1]),
    "Alertmanager is away": _member(URLS[0], "is_up", False, True),
    "the other Alertmanager is away": _member(URLS[1], "is_up", False, True),
    "the mesh is cut": _cut,
    "API is away": _outage,
    "finalizer": _finalizer,
    "volumes stay attached": _volumes,
    "pods do not become Ready": _break,
}


def heal(world: World) -> None:
    """Let all troubles be over, as an operator does who looks after everything."""
    world.advance(1500.0)
    for name, machine in world.machines.machines.items():
        _set(answers=True, lasts=20.0, lies=0.0, ahead=0.0, delay=0.5, refuses=False, puppet=None, puppet_fails=False)(
            machine
        )
        if machine.is_up:
            world.network.come_up(name)
        else:
            world.machines.come_up_after(name, 20.0)
        if world.kubernetes.find(NODES, name) is None:
            world.components.register(name)
    uncordon_what_no_run_owns(world)
    world.advance(700.0)


def uncordon_what_no_run_owns(world: World) -> None:
    """Uncordon what others have cordoned, what was given up, and what a run has left cordoned, as it was found."""
    for name in world.machines.machines:
        node = world.kubernetes.find(NODES, name)
        owner = ownership(parse_node(node)) if node else None
        if node and (owner is None or owner.given_up):
            _uncordon(world, name, 0.0)

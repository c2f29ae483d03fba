"""Hosts in memory, which understand the library's real commands: boots, Puppet, the unit that keeps BGP sessions."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fleet.adapters.hosts import probe
from fleet.execution import Result
from support import answers
from worlds.timeline import Time

UNIT = "calico-node.service"


@dataclass
class Machine:
    """A host.

    Attributes:
        number: of its boot.
        booted: when, by the world's time.
        is_up: whether it runs; ``answers`` says whether SSH does, too.
        ahead: seconds that its clock is ahead of the world's time.
        lies: what ``ahead`` is going to be right after the next boot, until the clock is set.
        lasts: seconds that its boots take; None for those that never end.
        delay: seconds that orders are on their way to it.
        refuses: whether reboot-host fails.
        puppet: why Puppet is disabled.
        ran: when Puppet last ended well, by the host's own clock.
        can_reboot: whether there is a reboot-host.
        starts: how often the unit was started in this boot.
        started: when it was the last time.
    """

    name: str
    index: int
    number: int = 1
    booted: float = 0.0
    is_up: bool = True
    answers: bool = True
    ahead: float = 0.0
    lies: float = 0.0
    lasts: float | None = 20.0
    delay: float = 0.5
    refuses: bool = False
    puppet: str | None = None
    puppet_fails: bool = False
    ran: float = 0.0
    starts: int = 1
    started: float = 0.0
    is_moving: bool = False
    can_reboot: bool = True

    @property
    def boot_id(self) -> str:
        return f"{self.index:08x}-0000-0000-0000-{self.number:012x}"

    @property
    def invocation(self) -> str:
        return f"{self.index:08x}{self.number:012x}{self.starts:012x}"


@dataclass
class Machines:
    """The hosts; a :class:`fleet.execution.Runner`.

    Attributes:
        moment: called before and after each command that changes something.
        on_order: called at the moment when an order is about to be given that a host is going to obey.
        on_down: called when a host goes down, and ``on_up`` when it is up again.
        on_restart: called when the unit ends (False) and when it is up again (True).
        acts: reboots and restarts that were carried out, by host.
    """

    time: Time
    machines: dict[str, Machine]
    moment: Callable[[], None]
    on_order: Callable[[str], None]
    on_down: Callable[[str], None]
    on_up: Callable[[str], None]
    on_restart: Callable[[str, bool], None]
    acts: Counter[str] = field(default_factory=Counter)

    def query(self, query: str) -> list[str]:
        return [] if query.startswith("cp") else sorted(self.machines)

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        if not safe:
            self.moment()
        silent = [host for host in hosts if not self._hears(host)]
        results = {host: self._run(self.machines[host], command) for host in hosts if host not in silent}
        if silent:
            self.time.advance(timeout)
        if not safe:
            self.moment()
        return {host: results.get(host, Result(None, f"no answer within {timeout:g} s")) for host in hosts}

    def _hears(self, host: str) -> bool:
        return self.machines[host].is_up and self.machines[host].answers

    def _run(self, machine: Machine, command: str) -> Result:
        if command == probe._COMMAND:
            return Result(0, self._state(machine))
        if "reboot-host ;;" in command:
            return self._order(machine, command)
        if "systemctl restart" in command:
            return self._order_restart(machine, command)
        if "ExecMainStartTimestamp" in command:
            return Result(0, self._unit(machine))
        if shlex.split(command.splitlines()[0])[0] == "run-puppet-agent":
            return self._run_puppet(machine)
        raise AssertionError(command)

    def _state(self, machine: Machine) -> str:
        now = self.time.now
        lines = [
            f"fleet-boot-id={machine.boot_id}",
            f"fleet-uptime={now - machine.booted:.2f}",
            f"fleet-now={now + machine.ahead:.3f}",
            "fleet-puppet=installed",
            *(["fleet-reboot-host=yes"] if machine.can_reboot else []),
        ]
        if machine.puppet is not None:
            lines.append(f"fleet-puppet-lock={json.dumps({'disabled_message': machine.puppet})}")
        if machine.ran:
            lines += [f"fleet-puppet-run={machine.ran:.0f}", "fleet-puppet-success=yes"]
        return "\n".join(lines)

    def _run_puppet(self, machine: Machine) -> Result:
        if machine.puppet_fails or machine.puppet is not None:
            return Result(1, "failed")
        machine.ran = self.time.now + machine.ahead + 1.0
        return Result(0, "fleet-puppet=installed")

    # Boots.

    def _order(self, machine: Machine, command: str) -> Result:
        named = re.findall(r"^ +(\S+)\) reboot-host", command, re.MULTILINE)[0].split("|")
        if machine.boot_id not in named:
            return Result(0, "not rebooted: this is another boot")
        if machine.refuses:
            return Result(1, "reboot-host: not now")
        self.on_order(machine.name)
        boot = machine.boot_id
        self.time.at(machine.delay, lambda: self._end(machine, boot))
        return Result(0, "") if machine.delay < 5 else Result(None, "no answer within 30 s")

    def _end(self, machine: Machine, boot: str) -> None:
        if machine.is_up and machine.boot_id == boot:
            self.acts[machine.name] += 1
            self.go_down(machine.name)

    def go_down(self, host: str) -> None:
        """Let a host go down, and boot if it ever comes back."""
        machine = self.machines[host]
        machine.is_up = False
        self.on_down(host)
        if machine.lasts is not None:
            self.come_up_after(host, machine.lasts)

    def come_up_after(self, host: str, seconds: float) -> None:
        """Let a host that is down be up after a while."""
        machine, number = self.machines[host], self.machines[host].number

        def up() -> None:
            if machine.is_up or machine.number != number:
                return
            machine.number, machine.booted, machine.is_up = number + 1, self.time.now, True
            machine.starts, machine.started, machine.is_moving = 1, self.time.now, False
            if machine.lies:
                machine.ahead, machine.lies = machine.lies, 0.0
                self.time.at(120.0, lambda: setattr(machine, "ahead", 0.0))
            self.on_up(host)

        self.time.at(seconds, up)

    # The unit.

    def _unit(self, machine: Machine) -> str:
        return answers.of_unit(
            boot_id=machine.boot_id,
            uptime=self.time.now - machine.booted,
            started=machine.started - machine.booted,
            invocation=machine.invocation,
            active="deactivating" if machine.is_moving else "active",
            in_transition=machine.is_moving,
        )

    def _order_restart(self, machine: Machine, command: str) -> Result:
        named = re.findall(r"^ +(\S+)\) current && systemctl", command, re.MULTILINE)[0].split("|")
        if machine.invocation not in named:
            return Result(0, "not restarted: it was started again already")
        if machine.refuses:
            return Result(1, "Failed to restart: Connection refused")
        if machine.is_moving:
            return Result(0, "")  # systemd merges it into the restart that is under way.
        self.on_order(machine.name)
        self.time.at(machine.delay, lambda: self._restart(machine, named))
        return Result(0, "") if machine.delay < 5 else Result(None, "no answer within 30 s")

    def _restart(self, machine: Machine, named: Sequence[str]) -> None:
        if not machine.is_up or machine.is_moving or machine.invocation not in named:
            return
        self.acts[machine.name] += 1
        machine.is_moving = True
        number = machine.number
        self.on_restart(machine.name, False)

        def begin() -> None:
            if machine.is_up and machine.number == number:
                machine.starts, machine.started, machine.is_moving = machine.starts + 1, self.time.now, False
                self.on_restart(machine.name, True)

        self.time.at(1.0, begin)

"""Units of systemd on hosts: their state, and restarts that happen at most once."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fleet.execution import TIMEOUT, RemoteError, Result, Runner, Unreachable

NEVER = "never-started"
"""Stands for the invocation of a unit that has not been started since the boot."""

ORDER_TIMEOUT = 30.0
"""Seconds until the order must have been taken."""

_INVOCATION = re.compile(rf"[0-9a-f]{{32}}|{NEVER}")
_PROPERTIES = (
    "LoadState,LoadError,ActiveState,SubState,Type,Result,InvocationID,InactiveExitTimestampMonotonic,Job,"
    "NeedDaemonReload,FragmentPath,DropInPaths,ExecMainStartTimestamp,"
    "ConditionResult,ConditionTimestampMonotonic,AssertResult,AssertTimestampMonotonic"
)
_GENERATED = "/run/systemd/generator*|/run/systemd/transient/*|*/system.control/*"
"""Where systemd writes parts of definitions by itself, at any time."""

_STALE = """\
stale() {
    local loaded base file
    [ "$(systemctl show --property=NeedDaemonReload --value -- "$1")" != yes ] || return 0
    loaded=$(systemctl show --property=DropInPaths --value -- "$1")
    for base in /etc /run /usr/local/lib /usr/lib /lib; do
        for file in "$base/systemd/system/$1.d"/*.conf; do
            [ -f "$file" ] && [ -s "$file" ] || continue
            case " $loaded " in *"/${file##*/} "*) ;; *) return 0 ;; esac
        done
    done
    loaded=$(systemctl show --property=FragmentPath --value -- "$1")
    case $loaded in ''|/run/systemd/generator.early/*|/run/systemd/transient/*|*/system.control/*) return 1 ;; esac
    for base in /etc /run /usr/local/lib /usr/lib /lib; do
        file=$base/systemd/system/$1
        if [ -e "$file" ]; then
            [ ! "$file" -ef "$loaded" ]
            return
        fi
    done
    return 1
}"""
"""A shell function: whether another definition of a unit is on disk than systemd has loaded.

Of new drop-ins, and of new files that take precedence over the one that was loaded, NeedDaemonReload says nothing.
"""

_LINE = re.compile(r"^fleet-([A-Za-z-]+)=(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class ServiceState:
    """What systemd says about a unit."""

    load: str
    """Whether there is such a unit: ``loaded``, ``not-found``, ``masked``, ``bad-setting``, ``error``."""
    active: str
    """``active``, ``activating``, ``deactivating``, ``inactive`` or ``failed``."""
    result: str
    """Why it ended: ``success``, ``exit-code``, ``signal``, …"""
    invocation: str
    """The id of its last start, :data:`NEVER` if there is none; every start has another one."""
    age: float
    """Seconds since it was last started; since the boot if never."""
    boot_id: str
    """The id of the host's boot."""
    transitioning: bool
    """Whether it is being started or stopped, or is about to be: what it is now is not what it will be."""
    error: str = ""
    """Why it could not be loaded, in systemd's words."""
    ended: bool = False
    """Whether nothing runs though it is active, which is right only for units that do their work once."""
    unmet: bool = False
    """Whether a condition or an assertion of its definition was not met when it was last to be started."""
    stale: bool = False
    """Whether its definition on disk is another one than systemd has loaded."""
    newer: str = ""
    """A file of its definition that was changed after its process was started, by the host's own clock."""

    @property
    def loaded(self) -> bool:
        """Whether there is such a unit, and it can be started."""
        return self.load == "loaded"

    @property
    def up(self) -> bool:
        """Whether it is active, and runs if it is meant to."""
        return self.active == "active" and not self.ended

    def unusable(self) -> str:
        """Return why it cannot be started at all, as the end of a sentence about it; nothing if it can."""
        words = {"loaded": "", "not-found": "is not there", "masked": "is masked", "bad-setting": "has a bad setting"}
        told = words.get(self.load, f"cannot be loaded ({self.load})")
        return f"{told}: {self.error}" if told and self.error and self.load not in ("not-found", "masked") else told

    def trouble(self) -> str:
        """Return why it does not do its work, as the end of a sentence about it; nothing if it is up."""
        if self.up:
            return ""
        if self.active == "active":
            return "is active, but its process has ended"
        if self.active == "failed":
            again = ": it was started too often, see systemctl reset-failed" if "limit" in self.result else ""
            return f"is failed ({self.result}){again}"
        if self.active == "inactive" and not self.transitioning and (why := self.unusable()):
            return why
        if self.active == "inactive" and self.transitioning:
            return "is inactive, and a job is queued for it"
        if self.active == "inactive" and self.unmet:
            return "is inactive, as a condition of its definition is not met"
        return f"is {self.active}"

    def outdated(self) -> str:
        """Return in what it does not run the definition that is on disk, as a sentence's end; nothing if it does."""
        if self.stale:
            return "was changed on disk, and nobody ran systemctl daemon-reload"
        return f"was started before {self.newer} was changed" if self.newer else ""


def state(remote: Runner, hosts: Sequence[str], unit: str) -> dict[str, ServiceState | Unreachable]:
    """Ask hosts for the state of a unit, all at the same time; nothing is changed, in a dry-run as well.

    Args:
        remote: runs the command.
        hosts: their names, as Cumin knows them.
        unit: the unit's full name.

    Raises:
        RemoteError: Cumin could not run anything.
    """
    results = remote.run(hosts, _state_command(unit), timeout=TIMEOUT, safe=True)
    return {
        host: Unreachable(result.output) if result.exit_code is None else parse(result.output)
        for host, result in results.items()
    }


def restart(remote: Runner, unit: str, invocations: Mapping[str, str], *, reload: bool) -> dict[str, Result]:
    """Order the restart of a unit where it still runs as it did, all in one execution; it is not waited for.

    The order names the start that is to end, and the host compares: a unit that was started again meanwhile is left
    alone. So an order may be given again after a crash, or arrive late, without a second restart. The proof is another
    invocation (:func:`state`). What is started is what is on disk: a host whose systemd has loaded another definition
    refuses, or loads it first.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        unit: the unit's full name.
        invocations: the invocation that each host has now, by its name.
        reload: whether systemd is told to load its units again where their files have changed.

    Raises:
        RemoteError: an invocation is none, or Cumin could not run anything.
    """
    for host, invocation in invocations.items():
        if not _INVOCATION.fullmatch(invocation):
            raise RemoteError(f"{unit} is not restarted on {host}: {invocation!r} is no invocation; ask again.")
    command = _restart_command(unit, invocations, reload=reload)
    return remote.run(list(invocations), command, timeout=ORDER_TIMEOUT, safe=False)


def order(
    remote: Runner, verb: Literal["start", "stop", "restart"], units: Mapping[str, Sequence[str]], *, reload: bool
) -> dict[str, Result]:
    """Order units to be started or stopped, in one execution for all hosts that have the same; it is not waited for.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        verb: what is ordered; a unit that is as it should be stays so, unless it is restarted.
        units: the units' full names, by host.
        reload: whether systemd is told to load its units again where files of those to start have changed; otherwise a
            host with such files refuses.

    Raises:
        RemoteError: Cumin could not run anything.
    """
    return {
        host: result
        for names in dict.fromkeys(map(tuple, units.values()))
        if names
        for host, result in remote.run(
            [host for host, its in units.items() if tuple(its) == names],
            _order_command(verb, shlex.join(names), reload=reload),
            timeout=ORDER_TIMEOUT,
            safe=False,
        ).items()
    }


def _state_command(unit: str) -> str:
    return f"""\
read -r uptime _ </proc/uptime
echo "fleet-boot-id=$(cat /proc/sys/kernel/random/boot_id)"
echo "fleet-uptime=$uptime"
show() {{ TZ=UTC systemctl show --property={_PROPERTIES} "$@" -- {shlex.quote(unit)}; }}
known=$(show --timestamp=us 2>/dev/null) || known=$(show) || exit  # that option came with systemd 247
printf '%s\\n' "$known" | sed 's/^/fleet-/'
{_STALE}
stale {shlex.quote(unit)} && echo fleet-stale=yes
value() {{ printf '%s\\n' "$known" | sed -n "s/^$1=//p"; }}
started=$(value ExecMainStartTimestamp)
[ -z "$started" ] || echo "fleet-started=$(date --date="$started" +%s.%N)"
for file in $(value FragmentPath) $(value DropInPaths); do
    case $file in {_GENERATED}) ;; *) stat --dereference --format='fleet-file=%.6Z %n' -- "$file" 2>/dev/null ;; esac
done
exit 0
"""


def _order_command(verb: str, names: str, *, reload: bool) -> str:
    order = f"systemctl {verb} --no-block -- {names}"
    return order if verb == "stop" else f"{_current_function(names, reload=reload)}\ncurrent && {order}"


def _current_function(names: str, *, reload: bool) -> str:
    """Return a shell function that fails, and says why, unless what systemd has loaded is what is on disk."""
    refuse = "echo 'unit files were changed on disk: run systemctl daemon-reload'; return 1"
    todo = "systemctl daemon-reload || return" if reload else refuse
    return f"""\
{_STALE}
current() {{
    local name
    for name in {names}; do
        if stale "$name"; then
            {todo}
        fi
    done
}}"""


def _restart_command(unit: str, invocations: Mapping[str, str], *, reload: bool) -> str:
    name = shlex.quote(unit)
    pattern = "|".join(sorted(set(invocations.values())))
    return f"""\
{_current_function(name, reload=reload)}
invocation=$(systemctl show --property=InvocationID --value -- {name}) || exit 1
case ${{invocation:-{NEVER}}} in
    {pattern}) current && systemctl restart --no-block -- {name} ;;
    *) echo "not restarted: it was started again already, as $invocation" ;;
esac
"""


def parse(output: str) -> ServiceState | Unreachable:
    """Read the answer of a host.

    Args:
        output: all that it printed.
    """
    said = {key: value.strip() for key, value in _LINE.findall(output)}
    try:
        uptime = float(said["uptime"])
        started = float(said["InactiveExitTimestampMonotonic"]) / 1e6
        return ServiceState(
            load=said["LoadState"],
            active=said["ActiveState"],
            result=said["Result"],
            invocation=said["InvocationID"] or NEVER,
            # systemd's monotonic clock and the uptime are the same on hosts that are not suspended.
            age=uptime - started,
            boot_id=said["boot-id"],
            transitioning=said.get("Job", "") not in ("", "0")
            or said["ActiveState"] not in ("active", "inactive", "failed"),
            error=said.get("LoadError", "").partition(" ")[2].strip('"'),
            ended=said.get("SubState") == "exited" and said.get("Type") != "oneshot",
            unmet=any(_unmet(said, kind) for kind in ("Condition", "Assert")),
            stale="yes" in (said["NeedDaemonReload"], said.get("stale")),
            newer=_newer(output, said.get("started", "")),
        )
    except (KeyError, ValueError):
        return Unreachable(f"its answer cannot be read: {output.strip()[:200]!r}")


def _unmet(said: Mapping[str, str], kind: str) -> bool:
    """Say whether a check of a unit has failed; those of a unit that nobody has started are "no" as well."""
    return said.get(f"{kind}Result") == "no" and said.get(f"{kind}TimestampMonotonic", "0") != "0"


def _newer(output: str, started: str) -> str:
    """Return a file that was changed after a process was started; nothing if there is none, or no process."""
    files = [value.partition(" ") for key, value in _LINE.findall(output) if key == "file"]
    return next((name for changed, _, name in files if started and float(changed) > float(started)), "")

"""The members of an etcd cluster: what ``etcdctl`` says on their hosts, leadership and snapshots.

``etcdctl`` runs on each member's host and asks that member alone (``etcd.environment``), so that certificates stay
where they are, and nobody else answers for a member that is ill. Versions 3.4 to 3.6 are understood.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.adapters.etcd.health import Answer, Member, NoAnswer, Status, View
from fleet.config.reinitialize import EtcdConfig
from fleet.errors import FleetError
from fleet.execution import Result, Runner, failures
from fleet.text import count

TIMEOUT = 20.0
"""Seconds that a host has for its answer: three questions of :data:`_QUESTION` seconds, and the connection."""

MOVE_TIMEOUT = 20.0
"""Seconds for a change of the leader, the connection included; etcd itself gives up after one election timeout."""

SNAPSHOT_TIMEOUT = 900.0
"""Seconds for a snapshot. etcd advises against databases of more than 8 GiB: that is 14 MiB/s to save it."""

_SAVE, _VERIFY, _SYNC = 600, 100, 30
"""Seconds of it for saving it, for each of the two ways to verify it, and for writing it to the disk."""

_QUESTION, _MOVE = 5, 14
"""Seconds for one question, and for the change of the leader."""

_SNAPSHOT = '^[{]("(hash|revision|totalKey|totalSize)":[0-9]+,?){4}.*[}]$'
"""What a snapshot's status looks like in JSON, as an extended regular expression; 3.6 adds a version."""

_LINE = re.compile(r"^fleet-etcd-([a-z]+)=(.*)$", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


class EtcdError(FleetError):
    """Something could not be done with a member."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that has been verified."""

    host: str
    path: Path
    """Where it is on that host."""
    hash: int
    """The checksum of its content, as etcd's tools show it."""
    revision: int
    """The last revision in it."""
    keys: int
    size: int
    """In bytes."""


def view(remote: Runner, hosts: Sequence[str], config: EtcdConfig) -> View:
    """Ask all members about themselves and their cluster, in one execution; nothing is changed, in a dry-run as well.

    A member that hangs is given up after :data:`TIMEOUT`; nothing that happens to one of them raises an error.

    Args:
        remote: runs the command.
        hosts: their names, as Cumin knows them.
        config: how to run etcdctl there.

    Raises:
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    results = remote.run(hosts, _view_command(config), timeout=TIMEOUT, safe=True)
    return {host: parse(host, result) for host, result in results.items()}


def move_leader(remote: Runner, host: str, config: EtcdConfig, to: int) -> None:
    """Let the leader hand leadership over to another member; the members' own view of it is the proof.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        host: the host of the leader.
        config: how to run etcdctl there.
        to: the id of the member that takes over.

    Raises:
        EtcdError: it did not; perhaps it is the leader no more.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    command = f"{ask_function(config)}\nask {_MOVE} move-leader {to:x}\n"
    results = remote.run([host], command, timeout=MOVE_TIMEOUT, safe=False)
    for reason in failures(results).values():
        raise EtcdError(
            f"{host} did not hand etcd's leadership over to the member {to:x}: {reason}. Look on it with: etcdctl"
            " endpoint status"
        )


def snapshot(remote: Runner, host: str, config: EtcdConfig, name: str) -> Snapshot | None:
    """Save a member's database in a file on its host; a snapshot of that name that is there already is taken for it.

    It has its name only once it is verified: the checksum at its end is right, and etcd's tools can read all of it. So
    may it be asked for again after a crash, at any point of it. Only root can read it, as all secrets are in it.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        host: the member's host.
        config: how to run etcdctl there, and the folder for snapshots.
        name: the file's name.

    Returns:
        The snapshot; ``None`` in a dry-run.

    Raises:
        EtcdError: it could not be saved or verified, the disk has less room than twice the size of the database, or the
            file of that name is no sound snapshot.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    if not _NAME.fullmatch(name):
        raise EtcdError(f"{name!r} is no name for a snapshot: letters, digits, dots, dashes and underscores make one.")
    path = config.snapshots / name
    results = remote.run([host], _snapshot_command(config, path), timeout=SNAPSHOT_TIMEOUT, safe=False)
    for reason in failures(results).values():
        raise EtcdError(f"No snapshot of etcd on {host} could be taken to {path}: {reason}")
    return parse_snapshot(host, path, results[host].output) if results else None


def ask_function(config: EtcdConfig) -> str:
    """Return a shell function: ``ask SECONDS WORDS`` runs etcdctl as it is configured, no longer than that.

    It prints JSON, and what goes wrong on standard error.

    What is configured as variables is given as options: with any of those ``move-leader`` of 3.5 fails, as it takes its
    options for a conflict with them.

    Args:
        config: what etcdctl is given on each member.
    """
    options = {"ETCDCTL_ENDPOINTS": "127.0.0.1:2379", **config.environment}
    options |= {"ETCDCTL_WRITE_OUT": "json", "ETCDCTL_DIAL_TIMEOUT": "2s"}
    options.pop("ETCDCTL_COMMAND_TIMEOUT", None)
    names = {key: key.removeprefix("ETCDCTL_").lower().replace("_", "-") for key in options if key != "ETCDCTL_API"}
    words = " ".join(f"--{name}={shlex.quote(options[key])}" for key, name in names.items())
    return f"""\
unset "${{!ETCDCTL_@}}"
export ETCDCTL_API=3
ask() {{
    local seconds=$1
    shift
    # It gives up earlier, as it says what went wrong.
    timeout --kill-after=1 "$seconds" etcdctl {words} --command-timeout="$((seconds - 2))s" "$@"
}}"""


def _view_command(config: EtcdConfig) -> str:
    # The last one says in JSON whether the member is healthy, and fails if it is not: what it says is what counts.
    return f"""\
{ask_function(config)}
status=$(ask {_QUESTION} endpoint status) || exit
echo "fleet-etcd-status=$status"
# A learner serves neither of the others: they are answered by those that vote.
case $status in *'"isLearner":true'*) exit 0 ;; esac
members=$(ask {_QUESTION} member list) || exit
echo "fleet-etcd-members=$members"
health=$(ask {_QUESTION} endpoint health)
echo "fleet-etcd-health=$health"
"""


def _snapshot_command(config: EtcdConfig, path: Path) -> str:
    folder, file = shlex.quote(str(path.parent)), shlex.quote(str(path))
    # Of all names there is one unverified file, so that not more than one is left behind; the lock is the folder's, and
    # is kept by an etcdctl that lives longer than its shell.
    unverified = shlex.quote(str(path.parent / ".unverified"))
    return f"""\
{ask_function(config)}
fail() {{ echo "$1"; exit 1; }}
verify() {{
    # The server ends a snapshot with the SHA-256 of all that is before it, which is a multiple of 512.
    why="it is not complete, as it ends without a checksum"
    [ $(($(stat --format=%s -- "$1") % 512)) = 32 ] || return
    why="its checksum is wrong"
    expected=$(tail --bytes=32 -- "$1" | od -An -v -tx1 | tr -d ' \\n')
    [ "$(timeout {_VERIFY} head --bytes=-32 -- "$1" | sha256sum)" = "$expected  -" ] || return
    # Only now, as that of 3.4 opens it for writing, and makes a database of an empty file. etcdctl of 3.6 cannot read
    # snapshots any more: it prints its help, and succeeds. What is read is what counts.
    why="there is no etcdutl there to read it with, and no etcdctl before 3.6: install etcdutl of etcd's release"
    for tool in etcdutl etcdctl; do
        command -v $tool >/dev/null || continue
        status=$(timeout {_VERIFY} $tool snapshot status -w json "$1" 2>&1)
        told=$(printf '%s\n' "$status" | grep -E '{_SNAPSHOT}' | tail -n 1)
        [ -z "$told" ] || {{ echo "fleet-etcd-snapshot=$told"; return 0; }}
        case $status in *USAGE:*|*Usage:*|*'unknown command'*) ;; *)
            why="$tool cannot read it: $(printf '%s' "$status" | tail -n 1 | cut --bytes=-300)"
            return 1 ;;
        esac
    done
    return 1
}}
umask 077
install --directory --mode=0700 -- {folder} && exec 9<{folder} || exit
flock --nonblock 9 || fail "another snapshot is being taken there"
if [ -e {file} ]; then
    verify {file} || fail "there is such a file already, and $why: look at it, and remove it"
    exit 0
fi
clean() {{ rm -f -- {unverified} {unverified}.part; }}
clean || exit
status=$(ask {_QUESTION} endpoint status) || exit
size=$(printf %s "$status" | sed -n 's/.*"dbSize":\\([0-9]*\\).*/\\1/p')
available=$(df --output=avail --block-size=1 -- {folder} | tail -n 1)
[ "$available" -ge $((2 * ${{size:?etcd does not say how large its database is}})) ] ||
    fail "the disk has room for $available bytes, which is less than twice the database's $size"
trap clean EXIT
ask {_SAVE} snapshot save {unverified} || exit
verify {unverified} || fail "it was saved, and $why"
timeout {_SYNC} sync -- {unverified} || fail "it could not be written to the disk"
mv -- {unverified} {file} && timeout {_SYNC} sync -- {folder}
"""


def parse(host: str, result: Result) -> Answer | NoAnswer:
    """Read what a host said about its member.

    Args:
        host: its name.
        result: what came of the command that :func:`view` runs.
    """
    if result.exit_code is None:
        return NoAnswer(result.output)
    said = {key: value.strip() for key, value in _LINE.findall(result.output)}
    if "health" not in said and not _is_learner(said.get("status", "")):
        return NoAnswer(failures({host: result}).get(host) or "its answer is cut off")
    try:
        statuses = json.loads(said["status"])
        if len(statuses) != 1:
            return NoAnswer(
                f"etcd.environment leads to {count(statuses, 'member')}: name in it the host's own one alone"
            )
        status = _status(host, statuses[0]["Status"])
        if status.is_learner:
            return Answer(status, (), "")
        members = tuple(sorted(map(_member, json.loads(said["members"])["members"]), key=lambda member: member.id))
        return Answer(status, members, _unhealthy(said["health"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return NoAnswer(f"its answer cannot be read: {result.output.strip()[:200]!r}")


def _is_learner(text: str) -> bool:
    return '"isLearner":true' in text


def _status(host: str, status: dict[str, Any]) -> Status:
    # Whatever is zero, false or empty is left out.
    return Status(
        host=host,
        member_id=int(status["header"]["member_id"]),
        leader=int(status.get("leader", 0)),
        raft_term=int(status.get("raftTerm", 0)),
        raft_index=int(status.get("raftIndex", 0)),
        raft_applied_index=int(status.get("raftAppliedIndex", 0)),
        db_size=int(status.get("dbSize", 0)),
        is_learner=bool(status.get("isLearner", False)),
        errors=tuple(str(error).strip() for error in status.get("errors") or ()),
        version=str(status["version"]),
    )


def _member(member: dict[str, Any]) -> Member:
    return Member(
        id=int(member["ID"]),
        name=str(member.get("name", "")),
        client_urls=tuple(map(str, member.get("clientURLs") or ())),
        learner=bool(member.get("isLearner", False)),
    )


def _unhealthy(text: str) -> str:
    """Return why ``endpoint health`` calls a member unhealthy; it says nothing in JSON if it was ended itself."""
    if not text:
        return f"no answer within {_QUESTION} s"
    (health,) = json.loads(text)
    return "" if health["health"] is True else str(health.get("error") or "it does not say why")


def parse_snapshot(host: str, path: Path, output: str) -> Snapshot:
    """Read what a host said about a snapshot.

    Args:
        host: its name.
        path: where the snapshot is.
        output: all that the host printed.

    Raises:
        EtcdError: it cannot be read.
    """
    try:
        status = json.loads(dict(_LINE.findall(output))["snapshot"])
        return Snapshot(
            host=host,
            path=path,
            hash=int(status["hash"]),
            revision=int(status["revision"]),
            keys=int(status["totalKey"]),
            size=int(status["totalSize"]),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise EtcdError(
            f"What {host} says about the snapshot {path} cannot be read: {output.strip()[-200:]!r}. Look at it there"
            f" with etcdutl, or where there is none with etcdctl: snapshot status {shlex.quote(str(path))}"
        ) from error

"""The keys of an etcd: how many there are, one of them, a proof that nobody wrote, and the end of a whole prefix.

Each question is one run of ``etcdctl`` on the host of one member, which answers for the cluster: reads are linearizable
(they see all that was written before), so they need a quorum.
"""

import base64
import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from fleet.adapters.etcd.members import EtcdError, ask_function
from fleet.config.reinitialize import EtcdConfig
from fleet.execution import Runner, failures

TIMEOUT = 20.0
"""Seconds for an answer, the connection included."""

HASH_TIMEOUT = 90.0
"""Seconds for a fingerprint: the member reads its whole database, of 8 GiB at most as etcd advises."""

DELETE_TIMEOUT = 90.0
"""Seconds for a deletion, which etcd does in one transaction."""

_READ, _HASH, _DELETE = 10, 70, 80
"""Seconds of these for etcdctl."""

_LINE = re.compile(r"^fleet-etcd-([a-z]+)=(.*)$", re.MULTILINE)
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._-]+)+/?")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a key space was at a moment. Whether it still is: :func:`touched`."""

    cluster: int
    """The cluster's id, which a restored or a new one does not have."""
    revision: int
    """The last revision: every transaction that writes makes another one, and none comes again."""
    hash: int
    """etcd's own checksum of all keys and values from after the compacted revision up to the last one, and of those
    before that are still current."""
    compacted: int
    """The revision up to which superseded values are thrown away; -1 if none ever were."""


def count(remote: Runner, host: str, config: EtcdConfig) -> int:
    """Return how many keys the whole cluster has; an empty one has none. Nothing is changed, in a dry-run as well.

    Args:
        remote: runs the command.
        host: the host of a member.
        config: how to run etcdctl there.

    Raises:
        EtcdError: there is no answer, or it cannot be read.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    # Of a range with a limit, etcd says how many keys it has without.
    answer = _read(remote, host, config, "get --from-key --keys-only --limit=1 -- ''")
    return int(answer.get("count", 0))


def some(remote: Runner, host: str, config: EtcdConfig, limit: int) -> list[str]:
    """Return the first of all keys, in their order, for people to look at. Nothing is changed, in a dry-run as well.

    Args:
        remote: runs the command.
        host: the host of a member.
        config: how to run etcdctl there.
        limit: how many at most, at least one.

    Raises:
        EtcdError: there is no answer, or it cannot be read.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    answer = _read(remote, host, config, f"get --from-key --keys-only --limit={max(1, limit):d} -- ''")
    return [_decode(host, found["key"]).decode(errors="backslashreplace") for found in answer.get("kvs", [])]


def exists(remote: Runner, host: str, config: EtcdConfig, folder: str) -> bool:
    """Say whether there is any key below a folder, such as ``/registry/minions``. Nothing is changed.

    Args:
        remote: runs the command, in a dry-run as well.
        host: the host of a member.
        config: how to run etcdctl there.
        folder: what its keys begin with, before a slash.

    Raises:
        EtcdError: there is no answer, or it cannot be read.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    prefix = shlex.quote(folder.rstrip("/") + "/")
    return bool(_read(remote, host, config, f"get --prefix --keys-only --limit=1 -- {prefix}").get("kvs"))


def read(remote: Runner, host: str, config: EtcdConfig, key: str) -> bytes | None:
    """Return the value of a key. Nothing is changed, in a dry-run as well.

    It is not for secrets: what hosts print may be logged.

    Args:
        remote: runs the command.
        host: the host of a member.
        config: how to run etcdctl there.
        key: the whole key.

    Returns:
        The value; ``None`` if there is no such key.

    Raises:
        EtcdError: there is no answer, or it cannot be read.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    answer = _read(remote, host, config, f"get -- {shlex.quote(key)}")
    return next((_decode(host, found.get("value", "")) for found in answer.get("kvs", [])), None)


def fingerprint(remote: Runner, host: str, config: EtcdConfig) -> Fingerprint:
    """Return what the key space is now, as a member sees it that has all that is written. Nothing is changed.

    Fingerprints that are to be compared are taken of the same member: each has its own copy.

    Args:
        remote: runs the command, in a dry-run as well.
        host: the host of a member.
        config: how to run etcdctl there.

    Raises:
        EtcdError: there is no answer, or it cannot be read.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    # A member hashes what it has, without asking the others: after a linearizable read that is all there is.
    command = f"""\
{ask_function(config)}
ask {_READ} get --from-key --keys-only --limit=1 -- '' >/dev/null || exit
hash=$(ask {_HASH} endpoint hashkv) || exit
echo "fleet-etcd-answer=$hash"
"""
    answer = _run(remote, host, command, timeout=HASH_TIMEOUT, safe=True)
    try:
        (endpoint,) = answer
        said = endpoint["HashKV"]
        return Fingerprint(
            cluster=int(said["header"]["cluster_id"]),
            revision=int(said["header"]["revision"]),
            # Whatever is zero is left out.
            hash=int(said.get("hash", 0)),
            compacted=int(said.get("compact_revision", 0)),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(host, answer) from error


def newest(remote: Runner, host: str, config: EtcdConfig) -> int:
    """Return the revision in which the key was written that was written last, of those that are there; 0 for none.

    What expires by itself (Kubernetes' events do) makes a new revision, and leaves no key of it.

    Args:
        remote: runs the command, in a dry-run as well.
        host: the host of a member.
        config: how to run etcdctl there.

    Raises:
        EtcdError: there is no answer, or it cannot be read.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    words = "get --from-key --keys-only --sort-by=MODIFY --order=DESCEND --limit=1 -- ''"
    return max((int(found["mod_revision"]) for found in _read(remote, host, config, words).get("kvs", [])), default=0)


def lasting(remote: Runner, host: str, config: EtcdConfig) -> int:
    """Return how many keys there are that do not expire by themselves: those without a lease. Nothing is changed.

    They are counted on the host: a large cluster has a million.

    Args:
        remote: runs the command, in a dry-run as well.
        host: the host of a member.
        config: how to run etcdctl there.

    Raises:
        EtcdError: there is no answer, or it cannot be read.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    command = f"""\
{ask_function(config)}
answer=$({{ ask {_HASH} get --from-key --keys-only -- '' || echo '"failed":'; }} | tr '{{' '\n' |
    awk '/"failed":/ {{ failed = 1 }} /"key":/ && !/"lease":/ {{ n++ }} END {{ print n + 0; exit failed }}') || exit
echo "fleet-etcd-answer=$answer"
"""
    answer = _run(remote, host, command, timeout=HASH_TIMEOUT, safe=True)
    if not isinstance(answer, int):
        raise _unreadable(host, answer)
    return answer


def touched(before: Fingerprint, after: Fingerprint) -> str:
    """Say what shows that an etcd was written to.

    A compaction writes nothing, but changes the hash of the same revision, as superseded values are no longer part of
    it (so it is with 3.4 and 3.5). etcd compacts by itself if it is told to, and an idle one as well. Hashes are
    therefore compared only if the compacted revision is the same; otherwise that no revision was made is the proof.

    Args:
        before: what it was.
        after: what it is.

    Returns:
        A sentence without its full stop; nothing if nothing was written.
    """
    if before.cluster != after.cluster:
        return f"it is the etcd cluster {after.cluster:x}, and was {before.cluster:x}"
    if before.revision != after.revision:
        return f"its revision is {after.revision}, and was {before.revision}"
    if before.compacted == after.compacted and before.hash != after.hash:
        return f"the hash of its keys is {after.hash}, and was {before.hash}, both at revision {after.revision}"
    return ""


def delete_prefix(remote: Runner, host: str, config: EtcdConfig, prefix: str) -> int | None:
    """Delete all keys below a prefix, which is taken for a folder: of ``/registry`` not ``/registry-of-others/x``.

    All of them go in one transaction. So may it be asked for again after a crash, at any point of it.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        host: the host of a member.
        config: how to run etcdctl there.
        prefix: such as ``/registry``.

    Returns:
        How many there were; ``None`` in a dry-run.

    Raises:
        EtcdError: the prefix is none, there is no answer (then they may be gone nevertheless), or it cannot be read.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    if not _PREFIX.fullmatch(prefix):
        raise EtcdError(
            f"Nothing is deleted below {prefix!r}: a prefix is / and a name of letters, digits, dots, dashes and"
            " underscores, such as /registry."
        )
    folder = shlex.quote(prefix.rstrip("/") + "/")
    command = _command(config, f"ask {_DELETE} del --prefix -- {folder}")
    answer = _run(remote, host, command, timeout=DELETE_TIMEOUT, safe=False)
    return None if answer is None else int(_mapping(host, answer).get("deleted", 0))


def _command(config: EtcdConfig, ask: str) -> str:
    return f'{ask_function(config)}\nanswer=$({ask}) || exit\necho "fleet-etcd-answer=$answer"\n'


def _read(remote: Runner, host: str, config: EtcdConfig, words: str) -> dict[str, Any]:
    command = _command(config, f"ask {_READ} {words}")
    return _mapping(host, _run(remote, host, command, timeout=TIMEOUT, safe=True))


def _run(remote: Runner, host: str, command: str, *, timeout: float, safe: bool) -> Any:
    """Return what etcdctl printed, read as JSON; ``None`` if a dry-run left it out."""
    results = remote.run([host], command, timeout=timeout, safe=safe)
    for reason in failures(results).values():
        raise EtcdError(f"etcdctl failed on {host}: {reason}. Look on it with: etcdctl endpoint status")
    if not results:
        return None
    try:
        return json.loads(dict(_LINE.findall(results[host].output))["answer"])
    except (ValueError, LookupError) as error:
        raise _unreadable(host, results[host].output.strip()) from error


def _mapping(host: str, answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise _unreadable(host, answer)
    return answer


def _decode(host: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _unreadable(host, text) from error


def _unreadable(host: str, answer: object) -> EtcdError:
    return EtcdError(
        f"What etcdctl says on {host} cannot be read: {str(answer)[:200]!r}. Look on it with: etcdctl endpoint status"
    )

"""What HAProxy says over its runtime socket, and what it is told there. Pure functions over text.

Read are ``show servers state`` (what was told, whether health checks are carried out) and ``show stat`` (sessions, the
last check), by the names in their headings, as columns are added with every release. Facts: HAProxy's management.txt
(9.1 and 9.3), ``enum srv_admin`` and ``CHK_ST_*`` in its source; tried with 2.6.
"""

import csv
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleet.text import count

_TOLD_OUT = 0x01 | 0x02 | 0x08 | 0x10
"""Administrative states: maintenance and drain, of the server itself or of another one that it tracks."""
_RUNNING = 2
"""Operational state; others are stopped, starting slowly, and stopping."""
_CONFIGURED, _ENABLED, _PAUSED = 0x02, 0x04, 0x08
"""States of health checks."""

_QUESTION = "show servers state; show stat -1 4 -1"


@dataclass(frozen=True, slots=True)
class Server:
    """A server of a backend.

    Attributes:
        told: whether it is to get new connections.
        running: whether it would, by its health.
        checkable: whether it has health checks.
        checked: whether they are carried out at the moment.
        status: HAProxy's own word for all of that, such as ``UP``, ``DRAIN`` or ``DOWN 1/2``.
        check: the result of the last check, such as ``L7OK``; empty while there are none.
        sessions: those that are open on it, except for those of a HAProxy that was reloaded and lets them end.
    """

    told: bool
    running: bool
    checkable: bool
    checked: bool
    status: str
    check: str
    sessions: int

    @property
    def up(self) -> bool:
        """Whether it gets new connections, and the last check found it well."""
        return self.told and self.running and self.checked and self.check.endswith("OK")

    def __str__(self) -> str:
        check = self.check or "health checks paused"
        return f"{self.status}, {check}, {count(self.sessions, 'connection')}"


def question(socket: str) -> str:
    """Return the command that asks for all servers; :func:`parse` reads what it prints."""
    return _command(socket, _QUESTION)


def drain(socket: str, backend: str, server: str) -> str:
    """Return the command that keeps new connections from a server while those it has go on.

    Health checks are paused. They fail from the moment that a kube-apiserver is told to stop, though it answers on for
    ``--shutdown-delay-duration``; and with ``on-marked-down shutdown-sessions`` a server that is found down loses its
    sessions in ``drain`` as well: measured, requests that were under way failed 2 s after the order to stop.
    """
    name = f"{backend}/{server}"
    return _command(socket, f"disable health {name}; set server {name} state drain")


def ready(socket: str, backend: str, server: str) -> str:
    """Return the command that gives a server new connections, once a health check of now has found it well.

    What HAProxy thought of it when its checks were paused is old. So it is marked as ``stopping``, which keeps its
    sessions: the next check that succeeds ends that (measured: 0.4 s to 0.7 s with ``inter 1s``), and checks that fail
    mark it as down. For one that is up already this would be a short gap.
    """
    name = f"{backend}/{server}"
    return _command(socket, f"set server {name} health stopping; enable health {name}; set server {name} state ready")


def watch(socket: str, backend: str, server: str) -> str:
    """Return the command that has a server's health checked again; nothing else is changed."""
    return _command(socket, f"enable health {backend}/{server}")


def _command(socket: str, orders: str) -> str:
    # HAProxy closes the connection when it has answered; -T is for one that does not.
    return f"echo {shlex.quote(orders)} | socat -t 5 -T 10 - {shlex.quote(f'UNIX-CONNECT:{socket}')}"


def parse(text: str, backend: str) -> dict[str, Server]:
    """Read the answer to :func:`question`.

    Args:
        text: all of it.
        backend: the backend of the servers.

    Returns:
        The backend's servers, by name.

    Raises:
        ValueError: there is no such backend, or this is no answer of HAProxy's; in half a sentence.
    """
    lines = text.splitlines()
    states = _table(line.split() for line in _part(lines, "# be_id "))
    stats = _table(csv.reader(_part(lines, "# pxname,")))
    backends = {row.get("be_name", "") for row in states}
    if backend not in backends:
        raise ValueError(f"it has no backend {backend} with servers, but {', '.join(sorted(backends)) or 'none'}")
    try:
        counted = {row["svname"]: row for row in stats if row.get("pxname") == backend}
        return {row["srv_name"]: _server(row, counted[row["srv_name"]]) for row in states if row["be_name"] == backend}
    except (KeyError, ValueError) as error:
        raise ValueError(f"its answer lacks something: {error}") from error


def _server(state: Mapping[str, str], stat: Mapping[str, str]) -> Server:
    checks = int(state["srv_check_state"])
    return Server(
        told=not int(state["srv_admin_state"]) & _TOLD_OUT and int(state["srv_uweight"]) > 0,
        running=int(state["srv_op_state"]) == _RUNNING,
        checkable=bool(checks & _CONFIGURED),
        checked=bool(checks & _ENABLED) and not checks & _PAUSED,
        status=stat["status"],
        check=stat["check_status"].removeprefix("* "),  # that one is under way
        sessions=int(stat["scur"]),
    )


def _part(lines: list[str], heading: str) -> list[str]:
    """Return the lines of a table, with its heading's mark removed."""
    start = next((number for number, line in enumerate(lines) if line.startswith(heading)), None)
    if start is None:
        said = " ".join(" ".join(lines).split())[:200]
        raise ValueError(f"its answer cannot be read: {said!r}")
    end = next((number for number, line in enumerate(lines) if number > start and not line.strip()), len(lines))
    return [lines[start].removeprefix("# "), *lines[start + 1 : end]]


def _table(rows: Iterable[list[str]]) -> list[dict[str, str]]:
    names, *others = rows
    return [dict(zip(names, row, strict=False)) for row in others]

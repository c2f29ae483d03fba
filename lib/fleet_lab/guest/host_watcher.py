"""Raises the alert HostDown at Alertmanagers for hosts that do not answer to ICMP echo: ``host_watcher.py SETTINGS``.

It stands for the site's monitoring, which tells every Alertmanager, as Prometheus does. The settings are a JSON file:
the URLs of the Alertmanagers and the hosts' addresses.
"""

import json
import select
import socket
import struct
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

_INTERVAL = 1.0
_MISSES = 2
"""Rounds without an answer before a host counts as down."""
_RESEND = 30.0
"""Seconds between two reports of an alert that goes on; Alertmanager is told that it lasts twice as long."""


def echo_request(number: int) -> bytes:
    """Return an ICMP echo request with its checksum."""
    head = struct.pack("!BBHHH", 8, 0, 0, 0x1AB, number)
    total = sum(struct.unpack("!4H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", 8, 0, ~total & 0xFFFF, 0x1AB, number)


def ping(raw: socket.socket, addresses: set[str], number: int) -> set[str]:
    """Return the addresses that answer within a round."""
    for address in addresses:
        try:
            raw.sendto(echo_request(number), (address, 0))
        except OSError:
            continue
    answered: set[str] = set()
    end = time.monotonic() + _INTERVAL
    while (rest := end - time.monotonic()) > 0 and answered != addresses:
        if not select.select([raw], [], [], rest)[0]:
            break
        packet, (address, _) = raw.recvfrom(1024)
        kind, _, _, identifier, sequence = struct.unpack("!BBHHH", packet[20:28])
        if (kind, identifier, sequence) == (0, 0x1AB, number):
            answered.add(address)
    time.sleep(max(0.0, end - time.monotonic()))
    return answered


def post(alertmanagers: list[str], since: dict[str, datetime], ended: dict[str, datetime]) -> bool:
    """Tell all Alertmanagers of the hosts that are down, and of those that are back; return whether one listened."""
    now = datetime.now(UTC)
    alerts: list[dict[str, object]] = []
    for hosts, end in ((since, now + timedelta(seconds=2 * _RESEND)), (ended, now)):
        for host, start in hosts.items():
            alerts.append(
                {
                    "labels": {"alertname": "HostDown", "instance": host, "severity": "critical"},
                    "annotations": {"summary": f"{host} does not answer"},
                    "startsAt": start.isoformat(),
                    "endsAt": end.isoformat(),
                }
            )
    # One that is away is told again with the next report, as it would be by Prometheus.
    listened = [tell(alertmanager, alerts) for alertmanager in alertmanagers]
    return any(listened)


def tell(alertmanager: str, alerts: list[dict[str, object]]) -> bool:
    """Tell an Alertmanager of alerts; return whether it listened."""
    request = urllib.request.Request(  # noqa: S310
        f"{alertmanager}/api/v2/alerts", json.dumps(alerts).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2):  # noqa: S310
            return True
    except OSError as error:
        print(f"{alertmanager} cannot be told: {error}", flush=True)
        return False


def main() -> None:
    """Watch for ever."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    hosts: dict[str, str] = settings["hosts"]
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    misses = dict.fromkeys(hosts, 0)
    down: dict[str, datetime] = {}
    back: dict[str, datetime] = {}
    told = time.monotonic()
    changed = False
    number = 0
    while True:
        number = (number + 1) & 0xFFFF
        answered = ping(raw, set(hosts.values()), number)
        for host, address in hosts.items():
            misses[host] = 0 if address in answered else misses[host] + 1
            if misses[host] >= _MISSES and host not in down:
                down[host] = datetime.now(UTC)
                changed = True
            elif not misses[host] and host in down:
                back[host] = down.pop(host)
                changed = True
        if (changed or (down and time.monotonic() - told > _RESEND)) and post(settings["alertmanagers"], down, back):
            told = time.monotonic()
            back = {}
            changed = False


if __name__ == "__main__":
    main()

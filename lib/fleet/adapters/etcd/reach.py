"""Whether hosts reach an etcd with the certificates that they will use themselves.

Every host asks every endpoint for ``/health``, which says whether the member is well: it could do a linearizable read,
and there is no alarm. It takes a certificate where the members want one of every client.
"""

import json
import re
import shlex
from collections.abc import Sequence

from fleet.adapters.etcd.members import EtcdError
from fleet.config.certificates import Certificates
from fleet.execution import Result, Runner

TIMEOUT = 15.0
"""Seconds that a host has for its answer, the connection included."""

_EACH = 3
"""Seconds for each endpoint, all at the same time."""

_LINE = re.compile(r"^fleet-etcd-([0-9]+)=(.*)$", re.MULTILINE)


def reachable(
    remote: Runner, hosts: Sequence[str], endpoints: Sequence[str], certificates: Certificates | None
) -> dict[str, str]:
    """Say which hosts do not reach which endpoints, or hear that they are ill; one execution for all of them.

    Nothing is changed, in a dry-run as well. Members' certificates are verified; proxies and ``.curlrc`` are ignored.

    Args:
        remote: runs the command.
        hosts: their names, as Cumin knows them.
        endpoints: URLs such as ``https://etcd4:2379``.
        certificates: what each of the hosts shows and trusts; ``None`` for etcd without TLS.

    Returns:
        What is wrong for each host, in a line without its full stop; nothing if all endpoints say that they are well.

    Raises:
        EtcdError: no endpoint is named, so that nothing would be proven.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    if not endpoints:
        raise EtcdError("No endpoint of etcd is named: see reinitialize.etcds.NAME.endpoints.")
    results = remote.run(hosts, _command(endpoints, certificates), timeout=TIMEOUT, safe=True)
    return {host: judge(endpoints, result) for host, result in results.items()}


def _command(endpoints: Sequence[str], certificates: Certificates | None) -> str:
    # --disable has to come first. Of what curl says, the first line tells what is wrong, and others what could be done
    # about it. A line that is printed in one piece is not mixed up with those of the others.
    options = f"--disable --silent --show-error --globoff --noproxy '*' --max-time {_EACH}"
    if certificates:
        paths = {"cacert": certificates.ca, "cert": certificates.cert, "key": certificates.key}
        options += "".join(f" --{name} {shlex.quote(str(path))}" for name, path in paths.items())
    urls = [shlex.quote(f"{endpoint.rstrip('/')}/health") for endpoint in endpoints]
    checks = "\n".join(f"check {number} {url} &" for number, url in enumerate(urls))
    return f"""\
check() {{
    local answer
    answer=$(curl {options} --url "$2" 2>&1 | sed -n '/./{{p;q}}' | cut --bytes=-300)
    echo "fleet-etcd-$1=$answer"
}}
{checks}
wait
"""


def judge(endpoints: Sequence[str], result: Result) -> str:
    """Return what is wrong with the endpoints, as a host has seen them.

    Args:
        endpoints: their URLs, in the order in which they were asked.
        result: what came of the command that :func:`reachable` runs.
    """
    if result.exit_code is None:
        return result.output
    said = dict(_LINE.findall(result.output))
    wrong = [
        f"{endpoint}: {why}"
        for number, endpoint in enumerate(endpoints)
        if (why := _unhealthy(said.get(str(number), "").strip()))
    ]
    return "; ".join(wrong)


def _unhealthy(answer: str) -> str:
    """Return why an answer is none of a member that is well: ``{"health":"true"}``, and a reason from 3.5 on."""
    try:
        if json.loads(answer)["health"] == "true":
            return ""
    except (ValueError, LookupError, TypeError):
        pass
    return answer or "no answer"

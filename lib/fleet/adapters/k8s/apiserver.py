"""The health of each kube-apiserver, asked on its host's own address: what a load balancer hides."""

import re
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import urllib3

from fleet import execution
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.errors import ApiError, ApiUnreachable, KubernetesError, UntrustedCertificate
from fleet.config.model import ControlPlaneConfig, LeaseConfig
from fleet.execution import Runner, Unreachable

TIMEOUT = 5.0
"""Seconds for each connection and each answer. An apiserver itself gives etcd 2 s, and says then that it failed."""

_DELAY = """\
pid=$(systemctl show --property=MainPID --value -- {unit}) || exit 1
tr '\\0' '\\n' <"/proc/$pid/cmdline" | awk -F= '
    $1 == "--shutdown-delay-duration" {{ if (NF > 1) print $2; else {{ getline; print }} }}'
"""

_TOGETHER = 16  # hosts that are asked at the same time


@dataclass(frozen=True, slots=True)
class Health:
    """What a kube-apiserver says of itself.

    Attributes:
        ready: whether it serves requests: ``/readyz`` is ok, and it reads from etcd.
        failing: the names of the checks of ``/readyz`` that fail, such as ``etcd`` or ``shutdown``, or why it does not
            read from etcd.
        etcd: whether etcd answers it now.
    """

    ready: bool
    failing: tuple[str, ...]
    etcd: bool


class Strange(Unreachable):
    """Something answers that cannot be asked: its certificate is not trusted, or it does not want the credentials."""


class Apiservers:
    """The kube-apiservers of a cluster, each asked on its host's own address with a verified certificate.

    Args:
        kubeconfig: the authority and the credentials; the server that it names is not asked.
        config: where the apiservers listen.
        hosts: the control-plane hosts, as Cumin knows them.
        lease: what is read to find out whether etcd answers: the Lease of runs, which need not be there.

    Raises:
        KubernetesError: the kubeconfig is not usable.
    """

    def __init__(self, kubeconfig: Path, config: ControlPlaneConfig, hosts: Sequence[str], lease: LeaseConfig) -> None:
        self._lease = lease
        self._clients = {
            host: Api.from_kubeconfig(kubeconfig, server=url(host, config), timeout=TIMEOUT, patience=0.0)
            for host in hosts
        }

    def examine(self, hosts: Sequence[str]) -> Mapping[str, Health | Unreachable]:
        """Ask the apiservers of hosts, all at the same time, each over a new connection.

        Args:
            hosts: some of the hosts.
        """
        with ThreadPoolExecutor(_TOGETHER, thread_name_prefix="readyz") as pool:
            return dict(
                zip(hosts, pool.map(lambda host: _examine(self._clients[host], self._lease), hosts), strict=True)
            )


def without_shutdown_delay(remote: Runner, hosts: Sequence[str], unit: str) -> list[str]:
    """Return the hosts whose running kube-apiserver does not serve on for a while once it is told to end.

    That is what ``--shutdown-delay-duration`` is for: /readyz fails meanwhile, and load balancers take notice.

    Args:
        remote: runs the command, which only reads.
        hosts: their names, as Cumin knows them; of those that do not answer nothing is said.
        unit: the unit of systemd that it runs as.

    Raises:
        RemoteError: Cumin could not run anything.
    """
    command = _DELAY.format(unit=shlex.quote(unit))
    results = remote.run(hosts, command, timeout=execution.TIMEOUT, safe=True)
    return [host for host, result in results.items() if result.ok and not re.search("[1-9]", result.output)]


def url(host: str, config: ControlPlaneConfig) -> str:
    """Return where the apiserver of a host is reached.

    Args:
        host: its name, as Cumin knows it.
        config: the port, and the addresses of hosts that have others than their names lead to.
    """
    address = config.addresses.get(host)
    if address is None:
        return f"https://{host}:{config.port}"
    return f"https://{f'[{address}]' if address.version == 6 else address}:{config.port}"


def unread(api: Api, lease: LeaseConfig) -> str:
    """Return why an apiserver cannot read from etcd at this moment; nothing if it can.

    A GET of one object without a resource version goes to a quorum of etcd, whether there is such an object or not; the
    watch cache serves lists and watches, and GETs that name a version. ``/readyz`` proves less: newer versions repeat
    the last result of their check of etcd if it is asked for more than once a second.

    Args:
        api: leads to the apiserver, and tries nothing twice.
        lease: where the Lease of runs is.

    Raises:
        KubernetesError: it does not let these credentials read the Lease.
    """
    path = f"/apis/coordination.k8s.io/v1/namespaces/{lease.namespace}/leases/{lease.name}"
    try:
        api.get(path)
    except ApiError as error:
        if error.status == 404 and lease.name in error.message:  # Otherwise it is the path that is not there.
            return ""
        if error.status in (401, 403):
            raise
        return f"etcd: {error}"
    except ApiUnreachable as error:
        return f"etcd, as it does not answer GET {path}: {error.__cause__}"
    return ""


def _examine(api: Api, lease: LeaseConfig) -> Health | Unreachable:
    try:
        status, failing = api.readyz()
        if status != 200 and not failing:
            return Strange(f"{api.server}/readyz answers with status {status}, and names no check")
        if status == 200 and (why := unread(api, lease)):
            failing = (*failing, why)
        etcd = not any(check.startswith("etcd") for check in failing)  # newer ones have etcd-readiness as well
        return Health(ready=status == 200 and etcd, failing=failing, etcd=etcd)
    except UntrustedCertificate as error:
        return Strange(_distrust(api.server, error))
    except ApiUnreachable as error:
        return Unreachable(f"{api.server} does not answer: {error.__cause__}")
    except KubernetesError as error:
        return Strange(str(error))
    finally:
        api.disconnect()


def _distrust(server: str, error: UntrustedCertificate) -> str:
    if not error.other_name:
        return f"{server} has a certificate that the kubeconfig's authority does not vouch for: {error.problem}"
    host = urllib3.util.parse_url(server).host
    return (
        f"{server} has a certificate that is not for {host}: name an address in control_plane.addresses that is among "
        f"the certificate's subjectAltNames ({error.problem})"
    )

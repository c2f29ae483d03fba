"""Which members the clients of etcd are given: a kube-apiserver that has one alone is away while that one is. Pure."""

from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from fleet.adapters.etcd.health import Answer, View


def addresses(view: View) -> dict[str, set[str]]:
    """Return by what names and addresses the member of each host is known: its host's, and what it advertises itself.

    Args:
        view: what was heard of all members.
    """
    answers = [answer for answer in view.values() if isinstance(answer, Answer)]
    listed = {member.id: member for answer in answers for member in answer.members}
    found = {host: {host, host.partition(".")[0]} for host in view}
    for host, answer in view.items():
        if isinstance(answer, Answer) and answer.status.member_id in listed:
            found[host] |= {_host(url) for url in listed[answer.status.member_id].client_urls}
    return found


def sole(servers: Iterable[str], on: str, known: Mapping[str, Collection[str]]) -> str:
    """Return the one member that a client depends on.

    Args:
        servers: what ``--etcd-servers`` gives it, such as ``https://10.0.0.1:2379``.
        on: the client's own host, which loopback addresses lead to.
        known: by what names and addresses the members are known (:func:`addresses`).

    Returns:
        The member's host; the server as it is written if it leads to no member that is known: what is behind it may be
        one member or all of them; nothing if it has several members, or is given none.
    """
    found = {_member(server, on, known) or server for server in servers if server}
    return found.pop() if len(found) == 1 else ""


def _member(server: str, on: str, known: Mapping[str, Collection[str]]) -> str:
    address = _host(server)
    if _is_loopback(address):
        return on if on in known else ""
    return next((host for host, names in known.items() if address in names or address.partition(".")[0] == host), "")


def _host(url: str) -> str:
    return urlsplit(url if "//" in url else f"//{url}").hostname or ""


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"

"""The RPCs: what a request asks for, and the reply."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from . import frr, junos

BASE = "urn:ietf:params:xml:ns:netconf:base:1.0"

_VTYSH_TIMEOUT = 10.0
_DISPLAY_RPC = "| display xml rpc"
_NEIGHBOR = re.compile(r"show bgp neighbors?(?: (\S+))?")


class RpcError(Exception):
    """A request is answered with ``<rpc-error>``.

    Args:
        message: the text for the operator.
        bad: the element that is to blame.
        kind: the layer: ``protocol`` or ``application``.
    """

    def __init__(self, message: str, *, bad: str = "", kind: str = "protocol") -> None:
        super().__init__(message)
        self._bad = bad
        self._kind = kind

    def xml(self) -> str:
        """Return the element."""
        info = f"<error-info>\n<bad-element>{escape(self._bad)}</bad-element>\n</error-info>\n" if self._bad else ""
        return (
            f"<rpc-error>\n<error-type>{self._kind}</error-type>\n<error-tag>operation-failed</error-tag>\n"
            f"<error-severity>error</error-severity>\n<error-message>{escape(str(self))}</error-message>\n"
            f"{info}</rpc-error>\n"
        )


class Rpcs:
    """Answers RPCs from FRR's state, asked anew for each.

    Args:
        vtysh: the command that asks FRR.
        router_id: the router's, where FRR does not tell it.
        local_as: the router's AS number, where FRR does not tell it.
        groups: the BGP group of each peer by address.
    """

    def __init__(self, vtysh: Sequence[str], *, router_id: str, local_as: int, groups: Mapping[str, str]) -> None:
        self._vtysh = vtysh
        self._router_id = router_id
        self._local_as = local_as
        self._groups = groups

    async def reply(self, request: bytes) -> tuple[str, bool]:
        """Return the reply to a message, and whether the session ends with it."""
        attributes: Mapping[str, str] = {}
        closes = False
        try:
            try:
                message = ElementTree.fromstring(request.strip())  # noqa: S314 (whoever may log in is trusted)
            except ElementTree.ParseError as error:
                raise RpcError(f"syntax error: {error}") from error
            attributes = message.attrib
            if _name(message) != "rpc" or len(message) != 1:
                raise RpcError("syntax error, expecting <rpc> with one element", bad=_name(message))
            closes = _name(message[0]) == "close-session"
            body = await self._answer(message[0])
        except RpcError as error:
            body = error.xml()
        copied = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items() if "}" not in name)
        return f'<rpc-reply xmlns="{BASE}" xmlns:junos="{junos.NAMESPACE}"{copied}>\n{body}</rpc-reply>\n', closes

    async def _answer(self, rpc: ElementTree.Element) -> str:
        match _name(rpc):
            case "close-session":
                return "<ok/>\n"
            case "get-bgp-summary-information":
                return junos.summary_xml(await self._summary())
            case "get-bgp-neighbor-information":
                addresses = [(child.text or "").strip() for child in rpc if _name(child) == "neighbor-address"]
                return await self._neighbors(addresses[0] if addresses else "")
            case "command":
                return await self._command(" ".join((rpc.text or "").split()), rpc.get("format", "xml"))
            case name:
                raise RpcError("syntax error, expecting <command>", bad=name)

    async def _command(self, command: str, style: str) -> str:
        neighbor = _NEIGHBOR.fullmatch(command.removesuffix(_DISPLAY_RPC).strip())
        if command.endswith(_DISPLAY_RPC) and neighbor:
            address = f"<neighbor-address>{escape(neighbor[1])}</neighbor-address>" if neighbor[1] else ""
            return f"<rpc><get-bgp-neighbor-information>{address}</get-bgp-neighbor-information></rpc>\n"
        if command.endswith(_DISPLAY_RPC) and command.startswith("show bgp summary |"):
            return "<rpc><get-bgp-summary-information/></rpc>\n"
        if command == "show bgp summary" and style == "text":
            return f"<output>\n{escape(junos.summary_text(await self._summary()))}</output>\n"
        if command == "show bgp summary" and style == "xml":
            return junos.summary_xml(await self._summary())
        if neighbor and style == "xml":
            return await self._neighbors(neighbor[1] or "")
        raise RpcError("syntax error", bad=command)

    async def _summary(self) -> list[frr.Peer]:
        return frr.summary(await self._ask(frr.SUMMARY), self._groups)

    async def _neighbors(self, address: str) -> str:
        if address:
            try:
                ip_address(address)
            except ValueError as error:
                raise RpcError(f"invalid value '{address}' in ip address", bad=address) from error
        answer = await self._ask(frr.neighbors_command(address))
        found = frr.neighbors(answer, self._groups, router_id=self._router_id, local_as=self._local_as)
        return junos.neighbors_xml(found)

    async def _ask(self, command: str) -> frr.Json:
        """Ask FRR; where it cannot tell, a device would say that its routing daemon is not there."""
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                *self._vtysh, "-c", command, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
            )
            output, _ = await asyncio.wait_for(process.communicate(), _VTYSH_TIMEOUT)
            answer = json.loads(output)
        except (OSError, ValueError, TimeoutError) as error:
            raise RpcError("the routing subsystem is not running", kind="application") from error
        finally:
            if process is not None and process.returncode is None:
                process.kill()
        if not isinstance(answer, dict):
            raise RpcError("the routing subsystem is not running", kind="application")
        return answer


def _name(element: ElementTree.Element) -> str:
    """Return an element's name without its namespace: clients send RPCs with any, or none."""
    return element.tag.rpartition("}")[2]

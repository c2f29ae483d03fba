"""A connection to a router: NETCONF over SSH, through junos-eznc.

What junos-eznc and ncclient leave open is closed here. Host keys are verified against the configured file and no other,
before anything secret is sent; neither an agent's keys nor those of the operator are offered. Every step ends in time:
the socket is this module's, and is shut down when the time is over, which wakes up whatever waits for it.

Importing junos-eznc takes some 0.2 s; whoever does not talk to routers should not import this module.
"""

import logging
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import paramiko
from jnpr.junos import Device
from jnpr.junos.exception import ConnectClosedError, RpcError
from jnpr.junos.exception import PermissionError as DeniedError
from lxml import etree
from ncclient.transport.errors import AuthenticationError, SessionCloseError, SSHError, SSHUnknownHostError

from fleet.adapters.bgp import known_hosts, tcp
from fleet.adapters.bgp.errors import RouterError
from fleet.config.model import BgpConfig
from fleet.errors import FleetError

_GOODBYE = 1.0
"""Seconds that a router may take to close a session; then it is cut."""

logger = logging.getLogger(__name__)


class _Forward(logging.Handler):
    """Passes on what others log, for whoever debugs: errors of theirs are reported here, in sentences."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("%s: %s", record.name, record.getMessage())


for _name in ("ncclient", "paramiko"):
    _theirs = logging.getLogger(_name)
    _theirs.setLevel(logging.WARNING)  # below, every reply would be logged in full
    _theirs.propagate = False
    _theirs.addHandler(_Forward())
warnings.filterwarnings("ignore", message="An unknown exception occurred", category=RuntimeWarning)


class ConnectionLost(RouterError):
    """The router, or something on the way, ended the connection."""


class _Device(Device):  # type: ignore[misc]
    """A device that reads the ssh_config it is given: with a socket of the caller's, junos-eznc would not."""

    def _sshconf_lkup(self) -> str:
        return str(self._ssh_config)


class Connection:
    """A router, and the connection to it: made when needed, kept, and made anew when it broke.

    May be used from several threads; they take turns.

    Attributes:
        router: its name and address, as sentences have it.

    Args:
        name: the router's.
        config: the cluster's routers.
    """

    def __init__(self, name: str, config: BgpConfig) -> None:
        router = config.routers[name]
        self._config = config
        self._address = router.address or name
        self._port = router.port
        self.router = f"{name} ({_join(self._address, router.port)})"
        self._name = name
        self._lock = threading.Lock()
        self._device: Any = None
        self._socket: socket.socket | None = None

    def ask(self, rpc: str, **arguments: str) -> tuple[Any, float]:
        """Return the reply to an RPC, and when it came in seconds since the epoch.

        It takes no longer than the timeouts of the configuration together. A connection that was kept and is found dead
        is replaced once; a router that does not answer in time is not asked again.

        Args:
            rpc: such as ``get-bgp-summary-information``.
            arguments: of the RPC; underscores stand for hyphens.

        Returns:
            The reply's first element as lxml has it, without namespaces.

        Raises:
            RouterError: there is no reply.
        """
        with self._lock:
            end = time.monotonic() + self._config.connect_timeout + self._config.rpc_timeout
            if self._device is not None:
                try:
                    return self._call(rpc, arguments, end)
                except ConnectionLost as error:
                    logger.info("%s Connecting again.", error)
            self._connect()
            return self._call(rpc, arguments, end)

    def close(self) -> None:
        """Say goodbye, if there is a connection; cut one that somebody waits on. Does not fail."""
        if not self._lock.acquire(timeout=_GOODBYE):
            if busy := self._socket:
                tcp.shut_down(busy)
            return
        try:
            if self._device is None or self._socket is None:
                return
            with tcp.Deadline(self._socket, _GOODBYE), suppress(Exception):
                self._device.timeout = _GOODBYE
                self._device.close()
            self._drop()
        finally:
            self._lock.release()

    def _call(self, rpc: str, arguments: Mapping[str, str], end: float) -> tuple[Any, float]:
        timeout = min(self._config.rpc_timeout, end - time.monotonic())
        assert self._socket is not None  # noqa: S101 (it is there as long as the device is)
        with tcp.Deadline(self._socket, timeout) as deadline:
            try:
                self._device.timeout = timeout + 2  # of whole seconds: junos-eznc cuts the rest off
                reply = self._device.execute(_element(rpc, arguments))
            except RpcError as error:
                denied = isinstance(error, DeniedError)  # which has the element's name for a message
                said = "permission denied" if denied else " ".join((error.message or "no reason given").split())
                raise RouterError(f"{self.router} refuses {rpc} to {self._config.username}: {said}.") from error
            except Exception as error:  # junos-eznc passes on whatever a reply made its parts raise
                self._drop()
                if deadline.expired:
                    raise RouterError(f"{self.router} did not answer {rpc} within {timeout:.3g} s.") from error
                if isinstance(error, ConnectClosedError):
                    raise ConnectionLost(f"{self.router} closed the connection instead of answering {rpc}.") from error
                raise RouterError(f"{self.router} answered {rpc} with no NETCONF: {_first_line(error)}") from error
        if not hasattr(reply, "tag"):
            raise RouterError(f"{self.router} answered {rpc} with nothing.")
        return reply, time.monotonic()

    def _connect(self) -> None:
        """Make a connection.

        Raises:
            RouterError: there is none within the time; what was started is taken down.
        """
        started = time.monotonic()
        credentials = self._credentials()
        known = self._known_keys()
        self._socket = self._reach(started + self._config.connect_timeout)
        left = max(0.0, started + self._config.connect_timeout - time.monotonic())
        with tcp.Deadline(self._socket, left) as deadline:
            try:
                self._device = self._open(self._socket, credentials)
            except Exception as error:  # whatever goes wrong below comes in many types, some bare
                self._drop()
                if deadline.expired:
                    raise self._too_late("it took the connection, but did not get as far as NETCONF's hello") from error
                raise self._why(error, known) from error

    def _open(self, connected: socket.socket, credentials: dict[str, str]) -> Any:
        """Have junos-eznc log in; only an ssh_config can name it a list of host keys, or an address of IPv6."""
        with tempfile.NamedTemporaryFile("w", prefix="fleet-ssh-") as file:
            file.write(f'Host *\nHostName {self._address}\nUserKnownHostsFile "{self._config.known_hosts}"\n')
            file.flush()
            device = _Device(
                host=self._name,
                port=self._port,
                user=self._config.username,
                sock_fd=connected.fileno(),
                ssh_config=file.name,
                hostkey_verify=True,
                allow_agent=False,
                look_for_keys=False,
                conn_open_timeout=self._config.connect_timeout,
                gather_facts=False,
                **credentials,
            )
            device.open()
            return device

    def _credentials(self) -> dict[str, str]:
        """Return what junos-eznc is to log in with."""
        password, file = "", self._config.password_file or self._config.ssh_key
        try:
            if self._config.password_file is None:
                paramiko.PKey.from_path(file)
                return {"ssh_private_key_file": str(file)}
            password = self._config.password_file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
        except OSError as error:
            raise RouterError(f"{self.router} cannot be asked: {file}: {error.strerror}.") from error
        except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError, TypeError) as error:
            raise RouterError(
                f"{self.router} cannot be asked: {file} cannot be used ({type(error).__name__}); it must be"
                f" {'text' if self._config.password_file else 'a private key without a passphrase'}."
            ) from error
        if not password:
            raise RouterError(f"{self.router} cannot be asked: the first line of {file} is empty.")
        return {"password": password}

    def _known_keys(self) -> list[paramiko.PKey]:
        """Return the host keys that ncclient will accept, to tell an unknown one from another one."""
        try:
            return known_hosts.keys_of(self._config.known_hosts, self._address, self._port)
        except FleetError as error:
            raise RouterError(f"{self.router} is not asked: {error}") from error

    def _reach(self, end: float) -> socket.socket:
        try:
            return tcp.connect(self._address, self._port, end=end)
        except tcp.TooLate as error:
            raise self._too_late(str(error)) from error
        except tcp.Unreachable as error:
            raise RouterError(f"{self.router} cannot be reached: {error}.") from error

    def _too_late(self, why: str) -> RouterError:
        return RouterError(f"{self.router} let nobody in within {self._config.connect_timeout:g} s: {why}.")

    def _why(self, error: Exception, known: list[paramiko.PKey]) -> RouterError:
        """Say why there is no connection, from the error that junos-eznc hides behind its own."""
        cause = getattr(error, "_orig", None) or error.__context__ or error
        said = _first_line(cause)
        if isinstance(cause, SSHUnknownHostError):
            return self._wrong_key(f"MD5:{cause.fingerprint}", known)
        if "no acceptable host key" in said or (known and not known_hosts.usable(known)):
            kinds = ", ".join(sorted({key.get_name() for key in known}))
            return RouterError(
                f"{self.router} cannot prove who it is with the SSH host keys that {self._config.known_hosts} has of it"
                f" ({kinds}; ssh-rsa alone is never enough). Add its other keys: {self._keyscan()}"
            )
        if isinstance(cause, AuthenticationError) and "shut down" not in said and "EOF" not in said:
            with_what = self._config.ssh_key or f"the password in {self._config.password_file}"
            return RouterError(f"{self.router} refuses to let {self._config.username} in with {with_what}.")
        if isinstance(cause, AuthenticationError | SessionCloseError | EOFError | OSError):
            return ConnectionLost(f"{self.router} closed the connection while we were logging in.")
        if isinstance(cause, SSHError | paramiko.SSHException):
            return RouterError(f"The SSH handshake with {self.router} failed: {said or 'it closed the connection'}.")
        return RouterError(f"{self.router} cannot be asked: {type(cause).__name__}: {said}")

    def _wrong_key(self, fingerprint: str, known: list[paramiko.PKey]) -> RouterError:
        file = self._config.known_hosts
        if known:
            return RouterError(
                f"{self.router} shows another SSH host key ({fingerprint}) than {file} has of it. Unless it is known"
                " to have got a new one, something else answers in its place: do not go on before that is clear."
            )
        return RouterError(
            f"{self.router} shows an SSH host key ({fingerprint}), but {file} has none of it. Compare it with what the"
            f" router says of itself, then add it: {self._keyscan()}"
        )

    def _keyscan(self) -> str:
        return f"ssh-keyscan -p {self._port} {self._address} >> {self._config.known_hosts}"

    def _drop(self) -> None:
        """Cut the connection. The threads below it end when they notice."""
        if self._socket is not None:
            tcp.shut_down(self._socket)
            self._socket.close()
        self._socket = None
        self._device = None


def _element(rpc: str, arguments: Mapping[str, str]) -> Any:
    element = etree.Element(rpc)
    for name, value in arguments.items():
        etree.SubElement(element, name.replace("_", "-")).text = value
    return element


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]

"""Matchers of alerts: which alerts are a host's."""

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_PORT = "(:[0-9]+)?"
_MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*"|[^"\s,{}]+)\s*', re.DOTALL)


@dataclass(frozen=True)
class Matcher:
    """A condition on a label, as Alertmanager has it."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True

    def __str__(self) -> str:
        """Return it as Alertmanager writes and reads it."""
        operator = ("=" if self.is_equal else "!") + ("~" if self.is_regex else "" if self.is_equal else "=")
        return f"{self.name}{operator}{json.dumps(self.value, ensure_ascii=False)}"

    def regex(self) -> re.Pattern[str]:
        """Return the pattern that a label's whole value has to match."""
        return re.compile(self.value if self.is_regex else re.escape(self.value), re.DOTALL)

    def to_api(self) -> dict[str, str | bool]:
        """Return it as the API takes it."""
        return {"name": self.name, "value": self.value, "isRegex": self.is_regex, "isEqual": self.is_equal}

    @classmethod
    def from_api(cls, data: Mapping[str, object]) -> "Matcher":
        """Read it from the API; Alertmanagers before 0.22 know no ``isEqual``."""
        return cls(str(data["name"]), str(data["value"]), bool(data["isRegex"]), bool(data.get("isEqual", True)))


def parse_matcher(text: str) -> Matcher:
    """Read a matcher such as ``site="eqiad"`` or ``team=~"sre|network"``.

    Raises:
        ValueError: it is none.
    """
    found = _MATCHER.fullmatch(text)
    if not found:
        raise ValueError(f'{text!r} is no matcher: write a label, one of = != =~ !~, and a value, such as site="eqiad"')
    name, operator, value = found.groups()
    if value.startswith('"'):
        value = re.sub(r"\\(.)", lambda escape: {"n": "\n"}.get(escape[1], escape[1]), value[1:-1], flags=re.DOTALL)
    is_regex = operator.endswith("~")
    if is_regex:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{text!r} is no matcher: its regular expression is wrong: {error}") from None
    return Matcher(name, value, is_regex, not operator.startswith("!"))


def host_pattern(host: str) -> str:
    """Return the regular expression for a host in a label, without its port.

    ``worker1`` may have any domain in the label; ``worker1.example.org`` has this one or none, so that a host of the
    same name at another site is not meant.

    Args:
        host: a host name, with or without domain, or an address.
    """
    try:
        address = re.escape(str(ipaddress.ip_address(host)))
    except ValueError:
        name, dot, domain = host.partition(".")
        return re.escape(name) + (f"({re.escape(dot + domain)})?" if domain else r"(\..+)?")
    return rf"\[?{address}\]?" if ":" in host else address


def host_patterns(hosts: Iterable[str]) -> frozenset[str]:
    """Return the regular expressions for hosts, see :func:`host_pattern`."""
    return frozenset(map(host_pattern, hosts))


def host_matcher(hosts: Iterable[str], *, label: str) -> Matcher:
    """Return the matcher for all alerts of hosts.

    Args:
        hosts: their names, as Cumin knows them.
        label: the label that names the host, with or without domain and port.

    Raises:
        ValueError: there are no hosts: the matcher would be for none, or for all.
    """
    patterns = sorted(host_patterns(hosts))
    if not patterns:
        raise ValueError("no hosts to match alerts of")
    return Matcher(label, f"^({'|'.join(patterns)}){_PORT}$", is_regex=True)


def hosts_matched(matcher: Matcher) -> frozenset[str]:
    """Return the patterns of the hosts that a matcher of :func:`host_matcher` is for; empty for any other matcher."""
    value = matcher.value
    if not (matcher.is_regex and matcher.is_equal and value.startswith("^(") and value.endswith(f"){_PORT}$")):
        return frozenset()
    return frozenset(value.removeprefix("^(").removesuffix(f"){_PORT}$").split("|"))

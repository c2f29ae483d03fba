"""Calico's datastore, read and written by ``calicoctl`` on one of the cluster's hosts, where its certificates are."""

import base64
import json
import re
import shlex
from collections.abc import Sequence

from fleet.adapters.calico import contents
from fleet.adapters.calico.config import CalicoError, derive
from fleet.adapters.calico.contents import Contents, Resource
from fleet.config.reinitialize import CalicoConfig
from fleet.execution import Runner

TIMEOUT = 60.0
"""Seconds for all that is done at once on the host, the connection included."""

_EACH = 10
"""Seconds of it for each run of calicoctl, of which there are up to five."""

_FILE = 10.0
"""Seconds for reading calicoctl's configuration."""

_BATCH = 50
"""Resources that are written at once: a command line may have 128 KiB."""

_LINE = re.compile(r"^fleet-calico-([A-Za-z]+)=(.*)$", re.MULTILINE)


class Datastore:
    """A datastore that one of the hosts reaches, with the certificates that its own file names.

    Args:
        remote: runs the commands.
        host: a host of the cluster with calicoctl.
        config: where calicoctl's configuration is there.
        endpoints: the client URLs of etcd, whatever the host's file names.
    """

    def __init__(self, remote: Runner, host: str, config: CalicoConfig, endpoints: Sequence[str]) -> None:
        self._remote = remote
        self._host = host
        self._file = config.file
        self._endpoints = endpoints

    def read(self) -> Contents:
        """Read all that is moved: one execution for the host's own file, and one for all that calicoctl prints.

        Nothing is changed, in a dry-run as well.

        Raises:
            CalicoError: calicoctl failed, or what it says cannot be read.
            fleet.execution.RemoteError: Cumin could not run anything.
        """
        said = dict(_LINE.findall(self._run("read", _read_command(), safe=True) or ""))
        found: list[Resource] = []
        for kind in contents.KINDS:
            found += contents.parse(_decode(said.get(kind, "")))
        return contents.gather(found)

    def write(self, wanted: Contents) -> list[str]:
        """Create what is missing; what is there stays as it is. So may it be asked for again after a crash.

        Only the BGPConfiguration ``default`` gets fields that it lacks. The proof is to compare what :meth:`read`
        returns afterwards (:func:`fleet.adapters.calico.contents.differences`).

        Args:
            wanted: what should be there.

        Returns:
            What was created, such as ``BGPPeer cr1-ipv4``; in a dry-run what would be.

        Raises:
            CalicoError: there is something else than what is wanted, or calicoctl failed.
            fleet.execution.RemoteError: Cumin could not run anything.
        """
        found = self.read()
        there = set(map(str, found.resources))
        missing = contents.missing(wanted, found)
        for start in range(0, len(missing), _BATCH):
            self._run("written", _write_command(missing[start : start + _BATCH], there), safe=False)
        return list(map(str, missing))

    def _text(self) -> str:
        command = (
            f'content=$(base64 --wrap=0 -- {shlex.quote(str(self._file))}) || exit\necho "fleet-calico-file=$content"'
        )
        result = self._remote.run([self._host], command, timeout=_FILE, safe=True)[self._host]
        if not result.ok:
            raise CalicoError(f"{self._file} on {self._host} cannot be read: {_short(result.output)}")
        return _decode(dict(_LINE.findall(result.output)).get("file", ""))

    def _run(self, done: str, command: str, *, safe: bool) -> str | None:
        """Return what a command printed that runs calicoctl; ``None`` if a dry-run left it out."""
        script = self._prelude() + command
        results = self._remote.run([self._host], script, timeout=TIMEOUT, safe=safe)
        if not results:
            return None
        result = results[self._host]
        if not result.ok:
            where = ", ".join(self._endpoints)
            raise CalicoError(
                f"Calico's datastore at {where} cannot be {done} with calicoctl on {self._host}:"
                f" {_short(result.output)}"
            )
        return result.output

    def _prelude(self) -> str:
        """Return the function ``calico``, which runs calicoctl; its file is private, and away when the shell ends."""
        derived = shlex.quote(derive(self._text(), self._endpoints))
        return f"""\
file=$(mktemp) && trap 'rm -f -- "$file"' EXIT && printf %s {derived} >"$file" || exit
calico() {{
    timeout --kill-after=1 {_EACH} calicoctl "$@" --config="$file" && return
    local code=$?
    [ "$code" != 124 ] || echo "calicoctl did not answer within {_EACH} s" >&2
    return "$code"
}}
"""


def _read_command() -> str:
    # What it printed is shown when it fails: older ones print errors on standard output.
    return f"""\
for kind in {" ".join(contents.KINDS)}; do
    answer=$(calico get "$kind" --output=json) || {{ code=$?; printf '%s\\n' "$answer"; exit "$code"; }}
    echo "fleet-calico-$kind=$(printf %s "$answer" | base64 --wrap=0)"
done
"""


def _write_command(resources: Sequence[Resource], there: set[str]) -> str:
    lines = []
    for kind in contents.KINDS:
        for action, present in (("apply", True), ("create", False)):
            chosen = [one.manifest() for one in resources if one.kind == kind and (str(one) in there) is present]
            if chosen:
                document = {"kind": f"{kind}List", "apiVersion": contents.VERSION, "metadata": {}, "items": chosen}
                lines.append(f"printf %s {shlex.quote(json.dumps(document))} | calico {action} --filename=- || exit\n")
    return "".join(lines)


def _decode(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError as error:
        raise CalicoError(f"What the host printed cannot be read: {text[:200]!r}") from error


def _short(output: str) -> str:
    """Return what a program said in one line: calicoctl's errors are of several, and the last one is only a hint."""
    return " ".join(output.split())[-400:] or "it does not say why"

#!/usr/bin/python3
"""The lab's stand-in for ``calicoctl`` 3 with the datastore etcdv3, which Debian has no package of.

Command line, messages and what is in etcd (keys and JSON) are those of the real program, as far as its own sources and
tests tell, for the kinds that a re-initialisation moves. What it does not have: validation of specs, other kinds.
"""

import argparse
import json
import os
import subprocess
import sys
import uuid
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

VERSION = "projectcalico.org/v3"
PREFIX = "/calico/resources/v3/projectcalico.org"
KINDS = {
    "BGPConfiguration": ("bgpconfigurations", "bgpconfiguration", "bgpconfig", "bgpconfigs"),
    "BGPPeer": ("bgppeers", "bgppeer", "bgpp"),
    "IPPool": ("ippools", "ippool", "ipp", "pool"),
    "Profile": ("profiles", "profile", "pro"),
}
"""The kinds: the first word is that of their keys in etcd, all of them may be typed."""
COLUMNS = {
    "BGPConfiguration": {"LOGSEVERITY": "logSeverityScreen", "MESHENABLED": "nodeToNodeMeshEnabled", "ASN": "asNumber"},
    "BGPPeer": {"PEERIP": "peerIP", "NODE": "node", "ASN": "asNumber"},
    "IPPool": {"CIDR": "cidr", "SELECTOR": "nodeSelector"},
    "Profile": {},
}


class Failure(Exception):
    """The command failed; the text is what the real program says."""


def identifier(resource: Json) -> str:
    """Return how messages name a resource."""
    return f"{resource['kind']}({resource['metadata']['name']})"


@dataclass(frozen=True)
class Datastore:
    """etcd, through ``etcdctl``."""

    environment: dict[str, str]

    @classmethod
    def from_file(cls, path: Path) -> "Datastore":
        """Connect as calicoctl's configuration says."""
        try:
            spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
            kind, endpoints = spec["datastoreType"], spec["etcdEndpoints"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise Failure(f"Error loading config: {path}: {error!r}") from error
        if kind != "etcdv3":
            raise Failure(f"Failed to create Calico API client: Unknown datastore type: {kind}")
        files = {"CACERT": "etcdCACertFile", "CERT": "etcdCertFile", "KEY": "etcdKeyFile"}
        tls = {f"ETCDCTL_{name}": str(spec[key]) for name, key in files.items() if spec.get(key)}
        return cls({"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": endpoints, **tls})

    def _etcdctl(self, *words: str, given: str = "") -> Json:
        done = subprocess.run(
            ["etcdctl", "--dial-timeout=2s", "--command-timeout=5s", "--write-out=json", *words],
            env={**os.environ, **self.environment},
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["etcdctl failed"]
            raise Failure(f"Failed to execute command: connection to the datastore: {lines[-1]}")
        return dict(json.loads(done.stdout))

    def read(self, kind: str, name: str = "") -> list[Json]:
        """Return the resources of a kind, or the one of a name."""
        key = f"{PREFIX}/{KINDS[kind][0]}/{name}"
        answer = self._etcdctl("get", key, *([] if name else ["--prefix"]))
        found = []
        for pair in answer.get("kvs", []):
            resource = json.loads(b64decode(pair["value"]))
            resource["metadata"]["resourceVersion"] = str(pair["mod_revision"])
            found.append(resource)
        return found

    def create(self, resource: Json) -> bool:
        """Write a resource unless it is there; return whether it was not."""
        key = self._key(resource)
        put = f"put {json.dumps(key)} {json.dumps(json.dumps(resource))}"
        answer = self._etcdctl("txn", given=f'create({json.dumps(key)}) = "0"\n\n{put}\n\n\n')
        return bool(answer.get("succeeded"))

    def replace(self, resource: Json) -> None:
        """Write a resource, whatever is there."""
        self._etcdctl("put", self._key(resource), given=json.dumps(resource))

    def delete(self, kind: str, name: str) -> bool:
        """Remove a resource; return whether it was there."""
        return bool(self._etcdctl("del", f"{PREFIX}/{KINDS[kind][0]}/{name}").get("deleted"))

    @staticmethod
    def _key(resource: Json) -> str:
        return f"{PREFIX}/{KINDS[resource['kind']][0]}/{resource['metadata']['name']}"


def kind_of(word: str) -> str:
    """Return the kind that was typed."""
    for kind, words in KINDS.items():
        if word.lower() in words:
            return kind
    raise Failure(f"Failed to execute command: resource type '{word}' is not supported")


def resources(path: str) -> Iterator[Json]:
    """Yield the resources of a file: documents, lists of them, and what ``get`` prints of a kind."""
    text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    pending = list(yaml.safe_load_all(text))
    while pending:
        entry = pending.pop(0)
        if isinstance(entry, list):
            pending = entry + pending
        elif isinstance(entry, dict) and str(entry.get("kind")).endswith("List"):
            pending = list(entry.get("items") or []) + pending
        elif isinstance(entry, dict) and entry.get("kind") in KINDS and entry.get("apiVersion") == VERSION:
            yield entry
        elif entry is not None:
            what = (entry.get("kind"), entry.get("apiVersion")) if isinstance(entry, dict) else (entry, None)
            raise Failure(f"Failed to execute command: Unknown resource type ({what[0]}) and/or version ({what[1]})")


def write(store: Datastore, resource: Json, *, replace: bool, skip: bool) -> None:
    """Create or apply a resource."""
    metadata = resource["metadata"]
    version = metadata.pop("resourceVersion", None)
    if version and not replace:
        raise Failure(
            f"error with field Metadata.ResourceVersion = '{version}' (field must not be set for a Create request)"
        )
    metadata.setdefault("uid", str(uuid.uuid4()))
    metadata.setdefault("creationTimestamp", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    if store.create(resource):
        return
    if replace:
        for before in store.read(resource["kind"], metadata["name"]):
            metadata |= {key: before["metadata"][key] for key in ("uid", "creationTimestamp")}
        store.replace(resource)
    elif not skip:
        raise Failure(f"resource already exists: {identifier(resource)}")


def change(store: Datastore, options: argparse.Namespace) -> None:
    """Do ``create``, ``apply`` or ``delete`` to everything that is named, up to the first that fails."""
    action = options.command
    if options.filename:
        wanted = list(resources(options.filename))
    else:
        wanted = [{"kind": kind_of(options.kind), "metadata": {"name": name}} for name in options.names]
    if not wanted:
        raise Failure("No resources specified")
    kinds = {resource["kind"] for resource in wanted}
    what = f"'{kinds.pop()}'" if len(kinds) == 1 else ""
    done = {"create": "created", "apply": "applied", "delete": "deleted"}[action]
    for number, resource in enumerate(wanted):
        try:
            if action != "delete":
                write(store, resource, replace=action == "apply", skip=options.skip)
            elif not store.delete(resource["kind"], resource["metadata"]["name"]) and not options.skip:
                raise Failure(f"resource does not exist: {identifier(resource)} with error: <nil>")
        except Failure as error:
            if number:
                kind = f"{what} " if what else ""
                print(f"Partial success: {done} the first {number} out of {len(wanted)} {kind}resources:")
                raise Failure(f"Hit error: [{error}]") from error
            if len(wanted) == 1:
                raise Failure(f"Failed to {action} {what} resource: [{error}]") from error
            raise Failure(f"Failed to {action} any {what or 'resources'}: [{error}]") from error
    print(f"Successfully {done} {len(wanted)} {f'{what} ' if what else ''}resource(s)")


def show(store: Datastore, options: argparse.Namespace) -> None:
    """Do ``get``."""
    kind = kind_of(options.kind)
    found = [resource for name in options.names or [""] for resource in store.read(kind, name)]
    there = {resource["metadata"]["name"] for resource in found}
    missing = [name for name in options.names if name not in there]
    output: Any = found[0] if len(options.names) == 1 and found else found
    if not options.names:
        output = {"kind": f"{kind}List", "apiVersion": VERSION, "metadata": {}, "items": found}
    if options.output == "json":
        print(json.dumps(output, indent=2))
    elif options.output == "yaml":
        print(yaml.safe_dump(output), end="")
    else:
        columns = COLUMNS[kind]
        print(*(f"{name:24}" for name in ("NAME", *columns)))
        for resource in found:
            values = [resource["metadata"]["name"], *(resource["spec"].get(key, "") for key in columns.values())]
            print(*(f"{value!s:24}" for value in values))
    if missing:
        raise Failure(f"Failed to get resources: resource does not exist: {kind}({missing[0]}) with error: <nil>")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-c", "--config", type=Path, default=argparse.SUPPRESS)
    main_parser = argparse.ArgumentParser(prog="calicoctl", description=__doc__, parents=[shared])
    commands = main_parser.add_subparsers(dest="command", required=True)
    get = commands.add_parser("get", parents=[shared])
    get.add_argument("-o", "--output", choices=["ps", "wide", "yaml", "json"], default="ps")
    for action in ("create", "apply", "delete"):
        command = commands.add_parser(action, parents=[shared])
        command.add_argument("-f", "--filename", required=action != "delete")
        flag = {"create": "--skip-exists", "delete": "--skip-not-exists"}.get(action)
        command.set_defaults(skip=False)
        if flag:
            command.add_argument(flag, dest="skip", action="store_true")
        if action == "delete":
            command.add_argument("kind", nargs="?")
            command.add_argument("names", nargs="*")
    get.add_argument("kind")
    get.add_argument("names", nargs="*")
    return main_parser


def main() -> None:
    """Run the command; errors are a line on stderr, and exit code 1."""
    options = parser().parse_args()
    try:
        store = Datastore.from_file(getattr(options, "config", Path("/etc/calico/calicoctl.cfg")))
        (show if options.command == "get" else change)(store, options)
    except (Failure, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

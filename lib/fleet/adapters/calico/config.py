"""The configuration file of calicoctl, such as ``/etc/calico/calicoctl.cfg``. Pure: no I/O.

Its keys are those of ``libcalico-go/lib/apiconfig/apiconfig.go`` in Calico's repository; it is YAML or JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fleet.config.certificates import Certificates
from fleet.errors import FleetError

_FILES = {"ca": "etcdCACertFile", "cert": "etcdCertFile", "key": "etcdKeyFile"}
_SECRETS = ("etcdPassword", "etcdKey", "k8sAPIToken", "kubeconfigInline")


class CalicoError(FleetError):
    """Calico's datastore, or what leads to it, is not as it has to be."""


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """How calicoctl reaches its datastore."""

    endpoints: tuple[str, ...]
    """The client URLs of etcd."""
    certificates: Certificates | None
    """What it shows and trusts; ``None`` if the file names none."""


def parse(text: str) -> ApiConfig:
    """Read the file.

    Args:
        text: what is in it.

    Raises:
        CalicoError: it is no configuration of calicoctl, not for the datastore etcdv3, or has secrets in it.
    """
    spec = _spec(_load(text))
    endpoints = tuple(part.strip() for part in str(spec.get("etcdEndpoints") or "").split(",") if part.strip())
    if not endpoints:
        raise CalicoError("calicoctl's configuration has no spec.etcdEndpoints: name the client URLs of etcd there.")
    files = {name: str(spec.get(key) or "") for name, key in _FILES.items()}
    if not any(files.values()):
        return ApiConfig(endpoints, None)
    if missing := [_FILES[name] for name, file in files.items() if not file]:
        raise CalicoError(f"calicoctl's configuration has no spec.{missing[0]}: name all three files, or none.")
    return ApiConfig(endpoints, Certificates(**{name: Path(file) for name, file in files.items()}))


def derive(text: str, endpoints: Sequence[str]) -> str:
    """Return the same file for another etcd: only its endpoints are others (comments are lost).

    Args:
        text: what is in the file.
        endpoints: the client URLs of the other etcd.

    Returns:
        YAML.

    Raises:
        CalicoError: see :func:`parse`.
    """
    document = _load(text)
    derived = {**document, "spec": {**_spec(document), "etcdEndpoints": ",".join(endpoints)}}
    result = yaml.safe_dump(derived, sort_keys=False)
    parse(result)
    return result


def _load(text: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = str(error).replace("\n", " ")
        raise CalicoError(f"calicoctl's configuration is no YAML: {reason}") from error
    if not isinstance(document, dict) or document.get("kind") != "CalicoAPIConfig":
        raise CalicoError("calicoctl's configuration has not the kind CalicoAPIConfig: is it that file?")
    return document


def _spec(document: dict[str, Any]) -> dict[str, Any]:
    spec = document.get("spec")
    if not isinstance(spec, dict):
        raise CalicoError("calicoctl's configuration has no spec.")
    kind = spec.get("datastoreType", "etcdv3")
    if kind != "etcdv3":
        raise CalicoError(f"calicoctl's configuration has spec.datastoreType {kind}: only etcdv3 can be moved.")
    if spec.get("etcdDiscoverySrv"):
        raise CalicoError("calicoctl's configuration has spec.etcdDiscoverySrv: name spec.etcdEndpoints instead.")
    for key in _SECRETS:
        if spec.get(key):
            raise CalicoError(
                f"calicoctl's configuration has spec.{key}, which would show on command lines and in logs: let it use"
                " the files of a certificate."
            )
    return spec

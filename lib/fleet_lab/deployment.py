"""The lab's deployment repository, as the cluster-management host and tests use it; :mod:`fleet_lab.charts` does it."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from fleet_lab.charts import COMMANDS, cluster, objects
from fleet_lab.guest.kubelet.api import TROUBLE, Api, ApiError
from fleet_lab.pki import Authority
from fleet_lab.roles import Context, pybal
from fleet_lab.waiting import wait_for

DATACENTER = "lab"
"""The cluster's own datacenter among conftool's discovery records."""
DATACENTERS = (DATACENTER, "other")
TTL = 2
"""Seconds: the TTL of the discovery records."""

# Where apiservers were away again and again, a controller waits for up to a minute before it asks the next time.
_READY = 120.0


def folder(context: Context) -> Path:
    """Return the folder of the scripts.

    For tests: with a file ``fail-initialize`` in it ``initialize-cluster`` fails half way; with ``fail-service-NAME``
    that service is not deployed.
    """
    return context.paths.operator / "deployment"


def write(context: Context, *, policies: bool) -> dict[str, Any]:
    """Write the scripts.

    Args:
        context: the lab.
        policies: whether the API has PodSecurityPolicies, as it had up to Kubernetes 1.24.

    Returns:
        The keys of the section ``reinitialize`` that name them, and what they deploy.
    """
    here = folder(context)
    here.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = here / "settings.json"
    settings.write_text(json.dumps(_settings(context, here), indent=1), encoding="utf-8")
    library = Path(__file__).resolve().parents[1]
    for name, text in COMMANDS.items():
        words = ["env", f"PYTHONPATH={library}", sys.executable, "-P", "-m", "fleet_lab.charts", str(settings), name]
        script = here / name
        script.write_text(f'#!/bin/sh\n# {text}\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
        script.chmod(0o700)
    names = list(objects.SERVICES)
    conftool = context.paths.operator / "conftool"
    return {
        "managed": _command(here / "managed-namespaces"),
        "initialize": _command(here / "initialize-cluster"),
        "initialized": objects.initialized(policies=policies),
        "components": {
            "command": _command(here / "cluster-helmfile"),
            "namespaces": [namespace for namespace, _ in objects.COMPONENTS.values()],
        },
        "services": {
            "names": names,
            "deploy": f"{_command(here / 'deploy-service')} {{service}}",
            "check": f"{_command(here / 'check-service')} {{service}}",
        },
        "discovery": {
            "config_file": str(conftool / "config.yaml"),
            "schema_file": str(conftool / "schema.yaml"),
            "datacenter": DATACENTER,
            "services": names,
            "traffic": f"{_command(here / 'traffic-gone')} {{service}}",
        },
        "silences": [[f'service=~"{"|".join(f"{namespace}-.*" for namespace in objects.MANAGED)}"']],
    }


def initialize(api: Api) -> None:
    """Create what an empty cluster needs before anything can be deployed; it may be done again.

    Args:
        api: the cluster's API, with all rights.

    Raises:
        ApiError: the API refused something.
        OSError: the API cannot be reached.
    """
    cluster.initialize(api, say=_silent)


def load(api: Api, *, hanging_finalizer: bool = False) -> None:
    """Deploy the components and all services, and wait until all are Ready.

    Args:
        api: the cluster's API, with all rights.
        hanging_finalizer: whether the namespace ``data`` is to hold an object with a finalizer that nobody removes.

    Raises:
        LabError: something does not get Ready.
    """

    def undone() -> str:
        initialize(api)
        cluster.apply_components(api, say=_silent)
        for name in objects.SERVICES:
            cluster.apply_service(api, name, say=_silent)
        if hanging_finalizer:
            cluster.apply(api, [objects.hanging()], say=_silent)
        return ""

    def missing() -> str:
        return "; ".join(
            filter(
                None,
                (cluster.missing_components(api), *(cluster.missing_service(api, name) for name in objects.SERVICES)),
            )
        )

    wait_for(undone, what="components and services to be deployed", timeout=_READY, trouble=TROUBLE)
    wait_for(missing, what="components and services to be Ready", timeout=_READY, trouble=TROUBLE)


def unload(api: Api) -> None:
    """Delete what :func:`load` has deployed, what hangs as well, and wait until it is gone.

    Args:
        api: the cluster's API, with all rights.

    Raises:
        LabError: something is still there after a while.
    """
    paths = [objects.path(objects.namespace(name)) for name in objects.MANAGED]
    # Of budgets both versions, as one of them is not served: what is not there need not be deleted.
    paths += [objects.path(item) for version in ("policy/v1", "policy/v1beta1") for item in objects.components(version)]

    def there() -> str:
        _try(api, "PATCH", objects.path(objects.hanging()), {"metadata": {"finalizers": None}})
        return ", ".join(path for path in paths if _try(api, "DELETE", path))

    wait_for(there, what="components and services to be gone", timeout=_READY, trouble=TROUBLE)


def _try(api: Api, method: str, path: str, body: dict[str, Any] | None = None) -> bool:
    """Make a call that need not be made where nothing is; return whether something was."""
    try:
        api.request(method, path, body, "application/merge-patch+json")
    except ApiError as error:
        if error.status not in (404, 409):  # 409: its namespace is being deleted already
            raise
        return error.status != 404
    return True


def _settings(context: Context, here: Path) -> dict[str, Any]:
    kubernetes, etcd = context.kubernetes_ca, context.etcd_ca
    kubernetes.issue("admin", organization="system:masters")
    etcd.issue("deployment")
    store = context.topology.with_role("lock-store")[0]
    return {
        "folder": str(here),
        "kubernetes": {"server": context.api_url, **_credential(kubernetes, "admin")},
        "discovery": {
            "url": f"https://{store.ipv4}:2379/v2/keys{pybal.NAMESPACE}/{pybal.VERSION}/discovery",
            "datacenter": DATACENTER,
            "kept": str(here / "traffic"),
            **_credential(etcd, "deployment"),
        },
    }


def _credential(authority: Authority, name: str) -> dict[str, str]:
    certificate, key = (authority.path.with_name(f"{name}.{kind}") for kind in ("pem", "key"))
    return {"ca": str(authority.path), "certificate": str(certificate), "key": str(key)}


def _command(script: Path) -> str:
    """Return the command that runs a script; what is a brace in it is no placeholder."""
    return shlex.quote(str(script)).replace("{", "{{").replace("}", "}}")


def _silent(text: str) -> None:
    """Say nothing."""

"""Does what the deployment repository's scripts are for: ``python -m fleet_lab.charts SETTINGS COMMAND [SERVICE]``."""

import argparse
import json
import sys
from pathlib import Path

from fleet.errors import FleetError
from fleet_lab.charts import COMMANDS, OF_SERVICES, cluster, traffic
from fleet_lab.charts.objects import MANAGED, SERVICES
from fleet_lab.errors import LabError
from fleet_lab.guest.kubelet.api import TROUBLE, Api, Json


def _say(text: str) -> None:
    print(text, flush=True)


def _run(settings: Json, command: str, service: str) -> int:
    folder = Path(settings["folder"])
    if command in OF_SERVICES and service not in SERVICES:
        raise LabError(f"There is no service {service}. There are: {', '.join(SERVICES)}.")
    if command == "managed-namespaces":
        print(*MANAGED, sep="\n")
        return 0
    if command == "traffic-gone":
        seconds = traffic.remaining(settings["discovery"], service)
        if seconds is None:
            _say(f"{service} is pooled here")
        else:
            _say(
                f"{service}: {seconds:.1f} s to go" if seconds else f"{service}: no client has this datacenter any more"
            )
        return 0 if seconds == 0 else 1
    api = Api(settings["kubernetes"])
    if command == "initialize-cluster":
        cluster.initialize(api, say=_say, fail=folder / "fail-initialize")
    elif command == "cluster-helmfile":
        cluster.deploy_components(api, say=_say)
    elif command == "deploy-service":
        fail = folder / f"fail-service-{service}"
        if fail.exists():
            raise LabError(f"{service} cannot be deployed: {fail} is there. Remove it, and run this again.")
        cluster.deploy_service(api, service, say=_say)
    else:
        missing = cluster.missing_service(api, service)
        _say(missing or f"{service} has all of its replicas")
        return 1 if missing else 0
    return 0


def main() -> None:
    """Run a command; errors are a sentence on stderr, and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m fleet_lab.charts")
    parser.add_argument("settings", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name in OF_SERVICES:
            command.add_argument("service")
    options = parser.parse_args()
    try:
        settings = json.loads(options.settings.read_text(encoding="utf-8"))
        sys.exit(_run(settings, options.command, getattr(options, "service", "")))
    except FleetError as error:
        sys.exit(str(error))
    except TROUBLE as error:
        sys.exit(f"{options.command}: the Kubernetes API does not do it: {error}")


if __name__ == "__main__":
    main()

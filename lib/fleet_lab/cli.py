"""The command ``fleet-lab``."""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from fleet.errors import FleetError
from fleet_lab import boot, deployment, faults, reinitialized, workload
from fleet_lab.lab import Lab
from fleet_lab.paths import Paths


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleet-lab", description="A real fleet on one machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring the lab up; may be run again at any time")
    up.add_argument("--topology", type=Path, metavar="FILE", help="YAML file with the hosts of a new lab")
    commands.add_parser("down", help="take the lab down; nothing but the cache is left")
    commands.add_parser("status", help="show the hosts, their states and faults")
    execute = commands.add_parser("exec", help="run a command on a host, over SSH")
    execute.add_argument("host")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="a login shell if there is none")
    inject = commands.add_parser("inject", help="inject a fault into hosts")
    inject.add_argument("--list", action="store_true", help="explain the faults")
    inject.add_argument("--seconds", type=float, help="how long, for the faults that have a number")
    inject.add_argument("fault", nargs="?")
    inject.add_argument("hosts", nargs="*", metavar="HOST")
    heal = commands.add_parser("heal", help="undo faults")
    heal.add_argument("hosts", nargs="*", metavar="HOST", help="all if none is named")
    demo = commands.add_parser("workload", help="run something on the cluster, in the namespace demo")
    demo.add_argument("--delete", action="store_true", help="delete it instead")
    services = commands.add_parser("services", help="deploy the managed services, as before a re-initialisation")
    services.add_argument("--delete", action="store_true", help="delete them instead")
    commands.add_parser("old-etcd", help="bring a cluster that was moved, or half moved, back to its old etcd")
    commands.add_parser("env", help='print what to export: eval "$(fleet-lab env)"')
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


def _status(lab: Lab) -> int:
    found = lab.status()
    print(f"{'host':10}{'role':15}{'row':8}{'address':16}{'state':14}{'boots':>6}  {'since':10}faults")
    for status in found:
        host = status.host
        since = time.strftime("%H:%M:%S", time.localtime(status.since)) if status.since else "-"
        row = host.row if host.role in ("worker", "web") else "-"
        print(
            f"{host.name:10}{host.role:15}{row:8}{host.ipv4!s:16}{status.state:14}{status.boots:>6}  {since:10}"
            f"{', '.join(status.faults)}"
        )
    return 0 if all(status.state == "running" for status in found) else 1


def _execute(lab: Lab, host: str, words: list[str]) -> int:
    if host not in lab.hosts:
        lab.exec(host, "true")
    command = ["ssh", "-F", str(lab.context.ssh.config), host]
    if words:
        command += ["--", words[0] if len(words) == 1 else shlex.join(words)]
    return subprocess.run(command, check=False).returncode


def _inject(lab: Lab, options: argparse.Namespace) -> int:
    if options.list or not options.fault:
        print(faults.explain())
        return 0 if options.list else 2
    lab.inject(options.fault, *options.hosts, seconds=options.seconds)
    return 0


def _run(options: argparse.Namespace) -> int:
    paths = Paths.from_environment()
    lab = Lab(paths)
    if options.command == "up":
        boot.up(paths, _say, topology_file=options.topology)
        print('Go on with: eval "$(fleet-lab env)"')
    elif options.command == "down":
        boot.down(paths, _say)
    elif options.command == "status":
        return _status(lab)
    elif options.command == "exec":
        return _execute(lab, options.host, options.words)
    elif options.command == "inject":
        return _inject(lab, options)
    elif options.command == "heal":
        for line in lab.heal(*options.hosts) or ["There was nothing to heal."]:
            print(line)
    elif options.command == "workload":
        workload.delete(lab) if options.delete else workload.create(lab)
    elif options.command == "services":
        deployment.unload(lab.api()) if options.delete else deployment.load(lab.api())
    elif options.command == "old-etcd":
        reinitialized.restore(lab)
    elif options.command == "env":
        for name, value in lab.environment().items():
            print(f"export {name}={shlex.quote(value)}")
    return 0


def main() -> None:
    """Run the command; errors are a sentence on stderr, and exit code 1."""
    try:
        sys.exit(_run(_parser().parse_args()))
    except FleetError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

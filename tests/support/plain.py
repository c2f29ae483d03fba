"""A maintenance that needs nothing but time, and cookbooks of it as processes of their own, as operators start them."""

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from fleet.engine.declaration import Specified, Stage
from fleet.engine.findings import Finding
from fleet.engine.model import StepSpec, Target, TargetState, Verdict, done, pending
from fleet.procedures.procedure import ClusterProcedure, Proposal
from fleet.steps.cluster import Cluster
from support.places import REPOSITORY

NAME = "sre.plain.work"
TESTS = REPOSITORY / "tests"
COOKBOOK = '''
from fleet.cookbook import MaintenanceCookbook
from support.plain import Plain


class Work(MaintenanceCookbook):
    """Work on units, for some time each."""

    def add_arguments(self, parser):
        parser.add_argument("--units", type=int, default=2)
        parser.add_argument("--seconds", type=float, default=0.0)

    def options(self, args):
        return {"units": args.units, "seconds": args.seconds}

    def procedure(self, args):
        return Plain()
'''


@dataclass(frozen=True)
class Plan:
    """A plan of as many lines as there are units."""

    names: Sequence[str]
    findings: Sequence[Finding] = ()

    def render(self, console: Console) -> None:
        for name in self.names:
            console.print(f"{name} " + "x" * 100)


class Working:
    """Takes its time, and leaves a file once it is done."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds

    def check(self, targets: Sequence[TargetState]) -> Mapping[str, Verdict]:
        names = [state.target.name for state in targets]
        return {name: done() if (self._folder / name).exists() else pending("not yet") for name in names}

    def apply(self, targets: Sequence[TargetState], tell: Any) -> Mapping[str, Verdict]:
        for state in targets:
            tell(state.target.name, "working")
            time.sleep(self._seconds)
            (self._folder / state.target.name).write_text("")
        return {state.target.name: done() for state in targets}


class Plain(ClusterProcedure):
    """The procedure: ``units`` units, ``seconds`` each, one after the other."""

    name = NAME
    needs_api = False

    def is_offline(self, cluster: Cluster, folder: Path | None) -> bool:
        return True

    def propose(self, cluster: Cluster, state_dir: Path) -> Proposal:
        names = [f"unit{number}" for number in range(cluster.run.options["units"])]
        hosts = {name: name for name in names}
        cluster = replace(cluster, run=replace(cluster.run, options={**cluster.run.options, "hosts": hosts}))
        return Proposal(cluster, Plan(names), {"units": [TargetState(Target(name)) for name in names]})

    def stages(self, cluster: Cluster) -> Sequence[Stage]:
        working = Working(cluster.config.kubeconfig.parent, cluster.run.options["seconds"])
        return [Stage("units", list, proofs=[Specified(StepSpec("work", 60.0, poll=0.05), working)])]

    def left_on(self, cluster: Cluster, state: TargetState) -> Sequence[str]:
        return ()


class Operator:
    """Somebody with a configuration in a folder, who starts commands there."""

    def __init__(self, folder: Path, *, locks: str = "") -> None:
        self.folder = folder
        self.state = folder / "state"
        (folder / "work").mkdir()
        server = {"name": "lab", "cluster": {"server": "https://127.0.0.1:1"}}
        context = {"name": "lab", "context": {"cluster": "lab", "user": "anna"}}
        users = [{"name": "anna", "user": {"token": "t"}}]
        files: dict[str, Any] = {
            "config.yaml": {
                "cookbooks_base_dirs": [str(folder / "repository"), str(REPOSITORY)],
                "logs_base_dir": str(folder / "logs"),
                "instance_params": {
                    "cumin_config": str(folder / "cumin" / "config.yaml"),
                    "spicerack_config_dir": str(folder),
                    **({"etcd_config": str(folder / "locks.yaml")} if locks else {}),
                },
            },
            "locks.yaml": {"host": "127.0.0.1", "port": int(locks or 1), "protocol": "http"},
            "cumin/config.yaml": {
                "transport": "clustershell",
                "default_backend": "direct",
                "log_file": str(folder / "cumin.log"),
            },
            "alertmanager/config.yaml": {"default_instance": "m", "instances": {"m": {"urls": ["http://127.0.0.1:1"]}}},
            "work/kubeconfig": {
                "kind": "Config",
                "clusters": [server],
                "contexts": [context],
                "users": users,
                "current-context": "lab",
            },
            "fleet/config.yaml": {
                "state_dir": str(self.state),
                "clusters": {
                    "lab": {
                        "kubeconfig": str(folder / "work" / "kubeconfig"),
                        "hosts": {"workers": "worker[1-2]", "control_plane": "cp1"},
                    }
                },
            },
        }
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True, mode=0o700)
            path.write_text(yaml.safe_dump(content))
            path.chmod(0o600)
        cookbook = folder / "repository" / "cookbooks" / "sre" / "plain" / "work.py"
        cookbook.parent.mkdir(parents=True)
        cookbook.write_text(COOKBOOK)

    def cookbook(self, *arguments: str) -> list[str]:
        """Return the command line of a cookbook."""
        return [*_python("spicerack._cookbook"), "-c", str(self.folder / "config.yaml"), *arguments]

    def work(self, *arguments: str) -> list[str]:
        """Return the command line that starts a run which needs nothing but time."""
        return self.cookbook(NAME, "--cluster", "lab", "-r", "a test", "--unattended", *arguments)

    def fleet(self, *arguments: str) -> list[str]:
        """Return the command line of ``fleet``."""
        return [*_python("fleet.cli.main"), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """All variables of what they start."""
        return {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "USER": pwd.getpwuid(os.getuid()).pw_name,
            "FLEET_CONFIG": str(self.folder / "fleet" / "config.yaml"),
            "PYTHONPATH": f"{REPOSITORY / 'lib'}:{TESTS}",
        }

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.run(command, env=self.environment, text=True, timeout=180, check=False, **(given | options))

    @property
    def done(self) -> list[str]:
        """The units that were worked on."""
        return sorted(path.name for path in (self.folder / "work").glob("unit*"))


def _python(module: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]

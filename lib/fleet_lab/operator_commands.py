"""The commands that an operator of the lab's fleet has: ``cookbook``, ``kubectl``, those of Puppet's changes."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from fleet_lab.roles import Context, puppet_code


def write(context: Context, spicerack_config: Path, kubeconfig: Path) -> None:
    """Write the commands, and nothing else, into the lab's folder for them.

    Args:
        context: the lab.
        spicerack_config: spicerack's configuration for the lab.
        kubeconfig: of the cluster's administrator.
    """
    arguments = {
        "cookbook": ["-c", str(spicerack_config)],
        "kubectl": ["--kubeconfig", str(kubeconfig)],
        "fleet": [],
        "fleet-lab": [],
    }
    # Those of this Python's environment first: it need not be the active one where they are used.
    search = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    commands = dict(puppet_code.scripts(context))
    for name, words in arguments.items():
        command = shutil.which(name, path=search)
        if command is not None:
            commands[name] = f'#!/bin/sh\nexec {shlex.join([command, *words])} "$@"\n'
    folder = context.paths.bin
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    for name, text in commands.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o700)

"""Puppet's code: a git repository on the machine, of which all hosts see the branch ``main``.

What it would write onto a host is also there from the host's first boot on, so that its first run changes nothing.
"""

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import yaml

from fleet_lab.command import run
from fleet_lab.paths import Paths
from fleet_lab.roles.context import Context

CHANGE = "etcd-b"
"""The change (a branch) that points Kubernetes and Calico at the etcd cluster of the role ``new-etcd``."""

FOLDER = "/etc/puppet/code/environments/production"
"""Where hosts see the repository."""

_HOSTS = "data/hosts"
_COMMON = "data/common.yaml"
_FILES = ("hiera.yaml", "manifests/site.pp", "templates/calicoctl.cfg.epp", "templates/kube-apiserver.epp")
_SOURCE = resources.files("fleet_lab") / "puppet"

_GIT: Mapping[str, str] = {
    # Nothing of the machine's own configuration of git has a say here.
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "fleet-lab",
    "GIT_AUTHOR_EMAIL": "operator@fleet-lab",
    "GIT_COMMITTER_NAME": "fleet-lab",
    "GIT_COMMITTER_EMAIL": "operator@fleet-lab",
}


def create(context: Context, hosts: Mapping[str, Mapping[str, object]]) -> None:
    """Make the repository unless it is there: ``main``, and the change as a branch that is not merged.

    Args:
        context: the lab.
        hosts: what is a host's own among the settings, by its name.

    Raises:
        LabError: git does not do as it is told.
    """
    target = context.paths.puppet
    if target.exists():
        return
    folder = target.with_name(f"{target.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    for name in _FILES:
        _write(folder / name, (_SOURCE / name).read_text(encoding="utf-8"))
    for name, settings in hosts.items():
        _write(folder / _HOSTS / f"{name}.yaml", yaml.safe_dump(dict(settings), sort_keys=False))
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _commit(folder, context.etcd_endpoints("etcd"), "Configure the hosts")
    if context.topology.with_role("new-etcd"):
        _git(folder, "checkout", "--quiet", "-b", CHANGE)
        _commit(folder, context.etcd_endpoints("new-etcd"), "Point Kubernetes and Calico at the new etcd")
        _git(folder, "checkout", "--quiet", "main")
    folder.rename(target)


def endpoints(paths: Paths) -> str:
    """Return the client URLs of the etcd that Puppet points hosts at now, with commas between them."""
    settings = yaml.safe_load((paths.puppet / _COMMON).read_text(encoding="utf-8"))
    return ",".join(settings["etcd::endpoints"])


def calicoctl_cfg(paths: Paths) -> str:
    """Return calicoctl's configuration as Puppet writes it."""
    return _template("calicoctl.cfg.epp", "endpoints", endpoints(paths))


def apiserver_defaults(paths: Paths, flags: Mapping[str, str]) -> str:
    """Return kube-apiserver's defaults as Puppet writes them.

    Args:
        paths: the lab's folders.
        flags: those of the host but for ``etcd-servers``.
    """
    arguments = [f"--{flag}={value}" for flag, value in {**flags, "etcd-servers": endpoints(paths)}.items()]
    return _template("kube-apiserver.epp", "arguments", " \\\n".join(arguments))


def scripts(context: Context) -> Mapping[str, str]:
    """Return the commands that tell whether a change is merged, merge it and revert it, by their names."""
    environment = "".join(f"export {name}={value}\n" for name, value in _GIT.items())
    text = _SCRIPT.replace("{environment}", environment).replace("{repository}", shlex.quote(str(context.paths.puppet)))
    return {f"puppet-change-{action}": text.replace("{action}", action) for action in ("merged", "merge", "revert")}


# Merged is what was merged last and not reverted since: git itself takes what was merged once for merged for ever.
_SCRIPT = """\
#!/bin/sh
# Usage: puppet-change-{action} CHANGE
# Whether a change of Puppet's code is merged (exit code 0 or 1), merges it or reverts it; 2 if there is none.
{environment}
cd {repository} || exit 2
if [ $# -ne 1 ] || [ "$1" = main ] || ! git show-ref --verify --quiet "refs/heads/$1"; then
    echo "There is no change '$1' of Puppet's code." >&2
    exit 2
fi
change=$1

# What was done with the change last: the commit, and "Merge CHANGE" or "Revert CHANGE".
last() {
    git log -1 --first-parent --grep="^Merge $change\\$" --grep="^Revert $change\\$" --format="$1" main
}

if [ {action} = merged ]; then
    [ "$(last %s)" = "Merge $change" ]
    exit
fi

exec 9>.git/change.lock
flock --wait 30 9 || exit 2
set -e
# What is left of one that was ended half way.
rm -f .git/index.lock
git reset --quiet --hard main
before=$(last %H)
case "{action}: $(last %s)" in
    "merge: Merge $change" | "revert: Revert $change" | "revert: ") ;;
    "merge: ") git merge --quiet --no-ff -m "Merge $change" "$change" ;;
    "merge: Revert $change")
        git revert --no-commit "$before"
        git commit --quiet -m "Merge $change"
        ;;
    "revert: Merge $change")
        # The first time it is a merge, which is reverted to what was before on this branch.
        if git rev-parse --quiet --verify "$before^2" >/dev/null; then parent="-m 1"; else parent=""; fi
        git revert --no-commit $parent "$before"
        git commit --quiet -m "Revert $change"
        ;;
esac
git log -1 --format="main is at %h: %s" main
"""


def _template(name: str, variable: str, value: str) -> str:
    return (_SOURCE / "templates" / name).read_text(encoding="utf-8").replace(f"<%= ${variable} %>", value)


def _commit(folder: Path, urls: Sequence[str], message: str) -> None:
    _write(folder / _COMMON, yaml.safe_dump({"etcd::endpoints": list(urls)}))
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", message)


def _git(folder: Path, *arguments: str) -> None:
    run(["env", *(f"{name}={value}" for name, value in _GIT.items()), "git", "-C", str(folder), *arguments])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

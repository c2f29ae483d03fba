"""Puppet on the hosts that are maintained: the real agent's package, the four host commands, the fleet's code."""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from fleet_lab.files import File
from fleet_lab.roles import puppet_code
from fleet_lab.roles.context import Context

PACKAGES = ("puppet-agent",)
UNITS = ("lab-puppet.service",)

_COMMANDS = ("reboot-host", "disable-puppet", "enable-puppet", "run-puppet-agent")

FAILS = "puppet-fails"
"""Fault: runs of Puppet fail on this host. The code itself looks for it."""

_BOOT = """\
[Unit]
Description=The first run of Puppet since the boot
After=network.target ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/run-puppet-agent --quiet
Environment=HOME=/root
# Ruby is heavy, and a fleet that boots at once is on few cores.
Nice=10
"""

_VARDIR = "/var/cache/puppet"

# It takes longer than all others together, and nobody asks for it.
_FACTS = 'facts : { blocklist : [ "augeas" ] }\n'

DISABLED = f"{_VARDIR}/state/agent_disabled.lock"
"""Puppet's own mark that it is disabled."""

_AUTOLOAD = "/usr/local/lib/fleet-lab/puppet_autoload.rb"

_DEFAULTS = f"""\
# Read by run-puppet-agent and its companions.
VARDIR={_VARDIR}
PUPPET_COMMAND='ruby -r {_AUTOLOAD} /usr/bin/puppet apply {puppet_code.FOLDER}/manifests'
"""


def has_run(upper: Path) -> bool:
    """Whether Puppet has ever run on a host.

    Args:
        upper: the host's own layer, as the machine sees it.
    """
    return (upper / _VARDIR.lstrip("/") / "public" / "last_run_summary.yaml").exists()


def binds(context: Context) -> Mapping[str, str]:
    """Return where a host sees the code, which may change while the host runs."""
    return {str(context.paths.puppet): puppet_code.FOLDER}


def files(context: Context) -> Iterable[File]:
    """Return the host commands and the unit that runs Puppet once after each boot."""
    for name in _COMMANDS:
        yield File(f"/usr/local/sbin/{name}", (context.host_files / name).read_bytes(), mode=0o755)
    yield File("/usr/local/share/bash/puppet-common.sh", (context.host_files / "puppet-common.sh").read_bytes())
    yield File("/etc/default/fleet-puppet", _DEFAULTS)
    yield File(_AUTOLOAD, (resources.files("fleet_lab.guest") / "puppet_autoload.rb").read_bytes())
    yield File("/etc/facter/facter.conf", _FACTS)
    yield File("/etc/systemd/system/lab-puppet.service", _BOOT)

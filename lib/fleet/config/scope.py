"""What is maintained as a whole, and locked: what clusters and groups of hosts have in common, and groups."""

from typing import Annotated, Literal

from pydantic import Field

from fleet.config.types import (
    ALERT_LABEL,
    AbsolutePath,
    Amount,
    Command,
    Duration,
    Matcher,
    Model,
    Query,
)


class HostLimits(Model):
    """How much may be unavailable at once, counting what others made unavailable."""

    max_unavailable: Amount = 1
    """Hosts that may be unavailable at once, a number or a share of all; of a cluster, of its workers."""
    max_domains: int = Field(default=1, ge=1)
    """Failure domains (rows, racks) that may be worked on at once."""
    max_failed: int = Field(default=0, ge=0)
    """Failed targets that a run tolerates; with one more it starts nothing new."""


class HostDeadlines(Model):
    """How long each wait may take before the target is held."""

    reboot: Duration = 1800.0
    puppet: Duration = 1200.0
    ready: Duration = 600.0
    alerts: Duration = 900.0
    restart: Duration = 300.0
    """For a unit of systemd to be restarted and active again."""
    blocked: Duration = 1800.0
    """How long a run waits for others to free a limit, when nothing of its own is in flight."""


class AlertsConfig(Model):
    """Alertmanager: where it is and which alerts are a host's."""

    instance: str = Field(default="", max_length=253)
    """Name of the instance in spicerack's ``alertmanager/config.yaml``; empty for its default."""
    label: str = Field(default="instance", pattern=ALERT_LABEL, max_length=253)
    """The label that names the host, with or without domain and port."""
    matchers: tuple[Matcher, ...] = ()
    """Further matchers of every silence, such as ``site="eqiad"``."""
    silence: Duration = 900.0
    """How long a silence lasts unless it is extended; the time until it goes after a crash."""
    held_silence: Duration = 14400.0
    """How long the silence of a held unit lasts after the run has ended."""
    ignore: tuple[str, ...] = ()
    """Names of alerts that are no reason to hold a node."""
    members_needed: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """How many members of Alertmanager have to answer; what the others would have said is not known."""

    @property
    def needed(self) -> int | None:
        """How many members have to answer; None for all."""
        return None if self.members_needed == "all" else self.members_needed


class PuppetConfig(Model):
    """Puppet on the hosts."""

    enabled: bool = True
    """Whether Puppet keeps the hosts: a run of it since the boot is asked for, and it is disabled during work there."""


class SystemdConfig(Model):
    """systemd on the hosts."""

    daemon_reload: Literal["refuse", "reload"] = "refuse"
    """Where a unit's files were changed and nobody ran ``systemctl daemon-reload``: restart nothing, or run it."""


class ScopeConfig(Model):
    """What every scope has: limits, deadlines, alerts, Puppet and systemd."""

    limits: HostLimits = HostLimits()
    deadlines: HostDeadlines = HostDeadlines()
    alerts: AlertsConfig = AlertsConfig()
    puppet: PuppetConfig = PuppetConfig()
    systemd: SystemdConfig = SystemdConfig()


class GroupConfig(ScopeConfig):
    """A group of hosts without Kubernetes, which is maintained as a whole: one run at a time."""

    hosts: Query
    """All its hosts. A run may be about some of them; all count for the limits."""
    domains: AbsolutePath | None = None
    """A YAML file with the failure domain (row, rack) of each host, ``web1: row-a``; nothing where they are one."""
    before: Command | None = None
    """A command for bash on the host that only looks: nothing is taken from a host until it succeeds there."""
    after: Command | None = None
    """A command for bash on the host that only looks, and succeeds if the host serves; a host where it fails counts as
    unavailable."""
    lock: Duration = 60.0
    """How long the lock of a run that died lasts; a run that lives renews it."""

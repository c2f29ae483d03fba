"""The preflight of what is an organisation's own: its commands, flags and records, and what was done by hand."""

import re
import shlex

from fleet import execution
from fleet.adapters import commands
from fleet.adapters.discovery import Discovery, last_one
from fleet.adapters.hosts import defaults, probe
from fleet.adapters.hosts.probe import HostState
from fleet.adapters.k8s import namespaces
from fleet.engine.findings import Finding, ask, note, stop
from fleet.errors import FleetError
from fleet.procedures.reinitialize.admission import plugins_of, read_defaults
from fleet.procedures.reinitialize.machines import endpoint_problems
from fleet.procedures.reinitialize.parts import API_STARTS, PUPPET_GOES
from fleet.procedures.reinitialize.world import World
from fleet.text import count

_ASSIGNMENT, _WORD = re.compile(r"[A-Za-z_]\w*="), re.compile(r"[A-Za-z0-9_./-]+")


def of_commands(world: World) -> list[Finding]:
    """Look whether bash could run the configured commands, and has their programs."""
    config = world.config
    commands_ = {
        "puppet_change.merged": config.puppet_change.merged,
        "puppet_change.merge": config.puppet_change.merge,
        "puppet_change.revert": config.puppet_change.revert,
        "discovery.traffic": config.discovery.traffic if config.discovery else None,
        "initialize": config.initialize,
        "components.command": config.components.command,
        "services.deploy": config.services.deploy,
        "services.check": config.services.check,
    }
    findings = []
    for key, command in commands_.items():
        if command and (problem := _command_problem(command)):
            findings.append(stop(f"reinitialize.{key}: {problem}.", "Correct it, or install what is missing."))
    return findings


def _command_problem(command: str) -> str:
    """Return why bash could not run a command; programs are looked for where their names are plain words."""
    plain = command.replace("{{", "{").replace("}}", "}")
    code, said = commands.ask(f"bash -n -c {shlex.quote(plain)}", timeout=execution.TIMEOUT)
    if code:
        return f"it is no command for bash: {' '.join(said.split())[-200:]}"
    for program in programs_of(plain):
        code, _ = commands.ask(f"type -t -- {shlex.quote(program)} >/dev/null", timeout=execution.TIMEOUT)
        if code:
            return f"there is no {program} on this host"
    return ""


def programs_of(command: str) -> list[str]:
    """Return the words of a shell command that name what is run, as far as they are plain words.

    What has a relative path may be in a folder that the command changes to, and is left out.

    Args:
        command: valid for bash.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found = []
    is_first = True
    for word in lexer:
        if not set(word) - set(";&|()<>"):
            is_first = not set(word) & set("<>")
        elif is_first and not _ASSIGNMENT.match(word):
            is_first = False
            if _WORD.fullmatch(word) and ("/" not in word or word.startswith("/")):
                found.append(word)
    return list(dict.fromkeys(found))


def is_merged(world: World) -> bool:
    """Ask whether the change of Puppet's code is merged.

    Raises:
        FleetError: the configured command does not know.
    """
    command = world.fill(world.config.puppet_change.merged, change=world.change)
    code, said = commands.ask(command, timeout=execution.TIMEOUT)
    if code in (0, 1):
        return code == 0
    why = " ".join(said.split())[-200:] or f"exit code {code}"
    raise FleetError(f"Is {world.change} merged? `{command}`: {why.rstrip('.')}.")


def of_change(world: World) -> list[Finding]:
    """Ask whether the change of Puppet's code is there, and not merged."""
    if not is_merged(world):
        return [note(f"The Puppet change {world.change} is not merged yet.")]
    what = f"The Puppet change {world.change} is merged already."
    return [stop(what, "Hosts take it with their next run of Puppet. Revert it, or name the right one.")]


def of_what_was_left_out(world: World, discovery: Discovery | None, first: int) -> list[Finding]:
    """Look at what must have been done by hand, as far as it can be seen.

    Args:
        world: the world.
        discovery: the discovery records; None for none.
        first: the number of the first stage that is carried out.
    """
    findings = [ask(f"Stages 0 to {first - 1} are taken as done by hand.", "Be sure of each: the runbook has them.")]
    config = world.config.discovery
    if first > 4 and discovery and config:
        at = discovery.pooled(config.services)
        if left := sorted(name for name, pooled in at.items() if pooled.get(config.datacenter, True)):
            findings.append(
                stop(f"Still pooled in {config.datacenter}: {', '.join(left)}.", "Depool them, or begin with 4.")
            )
    if first > 1 and (merged := is_merged(world)) is not (first > 8):
        what = f"The Puppet change {world.change} is {'merged' if merged else 'not merged'} before stage {first}."
        findings.append(stop(what, "Begin with the stage that the cluster is in."))
    if PUPPET_GOES < first <= 9:
        answers = probe.probe(world.cluster.remote, world.hosts)
        on = [host for host, it in answers.items() if isinstance(it, HostState) and it.puppet_disabled is None]
        findings += [stop(f"Puppet is enabled on {', '.join(on)}.", "Disable it, or begin with 6.")] if on else []
    if first > API_STARTS:
        problems = endpoint_problems(world, [world.first], world.new)
        findings += [
            stop(f"{world.first}: {p}.", "Begin with the stage that the cluster is in.") for p in problems.values() if p
        ]
    return findings


def of_flags(world: World, first: int) -> list[Finding]:
    """Compare the flags of kube-apiserver, and the endpoints of the new etcd, with the configuration.

    Args:
        world: the world.
        first: the number of the first stage that is carried out: from 13 on plugins were taken out by hand.
    """
    text = read_defaults(world, world.first).text
    findings = []
    prefix = "/" + (defaults.flag(text, "etcd-prefix") or "/registry").strip("/")
    if prefix != world.config.etcd_prefix:
        what = f"kube-apiserver's --etcd-prefix is {prefix}, and not {world.config.etcd_prefix}."
        findings.append(stop(what, "Correct reinitialize.etcd_prefix: what the API writes is looked for there."))
    enabled = plugins_of(text)
    missing = [name for name in world.config.admission_plugins if name not in enabled]
    if missing and first < API_STARTS:
        what = f"Not among the flags of kube-apiserver, and so not taken out: {', '.join(missing)}."
        todo = "Correct reinitialize.admission_plugins, if one keeps an empty cluster from being initialised."
        findings.append(ask(what, todo))
    if len(world.new.config.endpoints) != len(world.new.hosts):
        endpoints = count(world.new.config.endpoints, "endpoint")
        what = f"{world.new.name} has {count(world.new.hosts, 'host')} and {endpoints}."
        findings.append(ask(what, "Correct reinitialize.etcds."))
    return findings


def of_discovery(world: World, discovery: Discovery) -> list[Finding]:
    """Find out whether each service is pooled in another datacenter as well."""
    config = world.config.discovery
    if config is None:
        return []
    states = discovery.pooled(config.services)
    here = config.datacenter
    findings = []
    if unknown := sorted(name for name, at in states.items() if here not in at):
        what = f"There is no record of the datacenter {here} of {', '.join(unknown)}."
        findings.append(stop(what, "Correct reinitialize.discovery.datacenter, or take them out of its services."))
    pooled = {name: at for name, at in states.items() if at.get(here)}
    if not pooled:
        findings.append(ask(f"No service is pooled in {here}.", "Be sure that it is this cluster's own datacenter."))
    if alone := last_one(pooled, config.datacenter):
        todo = "Pool them elsewhere first, or take them out of discovery.services if they may be away."
        findings.append(stop(f"Pooled nowhere but in {config.datacenter}: {', '.join(alone)}.", todo))
    if out := sorted(set(states) - set(pooled)):
        findings.append(note(f"Not pooled in {config.datacenter}, which stays so: {', '.join(out)}."))
    return findings


def of_namespaces(world: World) -> list[Finding]:
    """Look at the managed namespaces."""
    there = set(namespaces.existing(world.cluster.api))
    findings = [note(f"Namespaces that are deleted: {', '.join(sorted(set(world.managed) & there)) or 'none'}.")]
    if missing := sorted(set(world.managed) - there):
        findings.append(
            ask(f"Managed namespaces that are not there: {', '.join(missing)}.", "See reinitialize.managed.")
        )
    findings.append(note(f"Not managed, so only in the export: {', '.join(sorted(there - set(world.managed)))}."))
    return findings

"""What drains would run into, for the preflight: reads the cluster, and judges what is found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from fleet.adapters.k8s import disruption
from fleet.adapters.k8s.access import Right, rules
from fleet.adapters.k8s.budgets import parse_budget
from fleet.adapters.k8s.client import Api, ApiError
from fleet.adapters.k8s.daemons import Daemons, all_daemonsets
from fleet.adapters.k8s.disruption import Assessment, Risk, RiskKind
from fleet.adapters.k8s.eviction import budgets_path, policy_version
from fleet.adapters.k8s.model import Node, parse_release
from fleet.adapters.k8s.pods import Pod, parse_pod
from fleet.adapters.k8s.policy import BudgetPattern, DrainPolicy
from fleet.adapters.k8s.volumes import Volumes, bound, parse_claim, parse_volume
from fleet.config.model import DrainConfig
from fleet.engine.findings import Finding, ask, note, stop


def assess(api: Api, known: Mapping[str, Node], leaving: Sequence[str], policy: DrainPolicy) -> Assessment:
    """Read pods, budgets and whatever binds pods to nodes, and find what drains would run into.

    Raises:
        KubernetesError: the API could not be read.
    """
    release = parse_release(api.version())
    version = policy_version(api)
    pods, _ = api.list_all("/api/v1/pods", convert=parse_pod)
    convert = partial(parse_budget, version=version, release=release)
    budgets, _ = api.list_all(budgets_path(version), convert=convert)
    daemons = all_daemonsets(api, pods)
    found = disruption.assess(
        pods,
        budgets,
        known,
        leaving,
        policy,
        daemonsets=daemons.uids,
        volumes=_volumes(api, pods),
        ending=_ending(api),
    )
    return replace(found, risks=(*found.risks, *of_daemons(daemons, pods, leaving)))


def of_risk(risk: Risk) -> Finding:
    """Judge what drains would run into: what is bound to fail stops the run."""
    if risk.kind.is_fatal:
        return stop(risk.what, f"{risk.todo} Or --exclude {','.join(risk.nodes)}.")
    if risk.kind in _ASKED:
        return ask(risk.what, risk.todo)
    return note(risk.what, risk.todo)


_ASKED = frozenset({RiskKind.NEVER, RiskKind.CLOSED, RiskKind.UNSEEN, RiskKind.NOWHERE})


def of_daemons(daemons: Daemons, pods: Iterable[Pod], leaving: Sequence[str]) -> list[Risk]:
    """Return what cannot be known of DaemonSets of other groups that have pods on leaving nodes."""
    nodes = set(leaving)
    risks = []
    for group, reason in daemons.unknown.items():
        concerned = [pod for pod in pods if pod.node in nodes and pod.controller and pod.controller.group == group]
        if concerned:
            rule = rules([Right(verb, "daemonsets", "", group) for verb in ("get", "list")])[0]
            names = ", ".join(sorted(str(pod.ref) for pod in concerned)[:5])
            todo = f"If it is there, add to the user's {rule}."
            where = tuple(sorted({pod.node for pod in concerned}))
            risks.append(Risk(RiskKind.UNSEEN, f"{names}: {reason}.", todo, where))
    return risks


def _volumes(api: Api, pods: Iterable[Pod]) -> Volumes | None:
    """Return where the volumes of claims can be used; None if that may not be read, which is a finding of its own."""
    if not any(pod.claims for pod in pods):
        return {}
    try:
        claims, _ = api.list_all("/api/v1/persistentvolumeclaims", convert=parse_claim)
        volumes, _ = api.list_all("/api/v1/persistentvolumes", convert=parse_volume)
    except ApiError as error:
        if error.status == 403:
            return None
        raise
    return bound(claims, {name: terms for name, terms in volumes if terms is not None})


def _ending(api: Api) -> frozenset[str]:
    """Return the namespaces that are being deleted; none if they may not be read, which is a finding of its own."""
    try:
        found, _ = api.list_all("/api/v1/namespaces", convert=lambda item: _is_ending(item["metadata"]))
    except ApiError as error:
        if error.status == 403:
            return frozenset()
        raise
    return frozenset(filter(None, found))


def _is_ending(metadata: Mapping[str, str]) -> str:
    return metadata["name"] if "deletionTimestamp" in metadata else ""


def drain_policy(config: DrainConfig) -> DrainPolicy:
    """Return what may be done with pods that nothing protects."""
    return DrainPolicy(
        bare_pods=config.bare_pods,
        empty_dir=config.empty_dir,
        finalizers=config.finalizers,
        daemon_kinds=config.daemon_kinds,
        opens_on_cordon=tuple(
            BudgetPattern(each.namespace, each.name, tuple(sorted(each.labels.items())))
            for each in config.opens_on_cordon
        ),
    )

"""What runs take away for a while, each with how it is given back and what is cleaned up at the end of a session."""

from collections.abc import Callable, Sequence

from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.engine.declaration import Bracket, Step, Verdicts
from fleet.engine.model import Status, TargetState
from fleet.steps.balancing import Depool, Pool, Repool, Watched
from fleet.steps.cleanup import EndSilences, TaintPending, Untaint
from fleet.steps.cluster import Cluster
from fleet.steps.control_plane_health import ControlPlane
from fleet.steps.cordon import Cordon, Uncordon
from fleet.steps.drain import Drain
from fleet.steps.puppet import EnablePuppet, PuppetOff, PuppetOn
from fleet.steps.scope import Scope
from fleet.steps.silences import SilenceNode, Unsilence, extend


def silenced(scope: Scope, *, needs: Callable[[TargetState], bool] = lambda _state: True) -> Bracket:
    """Return the bracket of a target's alerts.

    Args:
        scope: the scope.
        needs: whether a target that is held needs its silence still.
    """

    def is_held(state: TargetState) -> bool:
        return state.status is Status.HELD and needs(state)

    def renew(targets: Sequence[TargetState]) -> Verdicts:
        return extend(scope, targets, scope.config.alerts.silence)

    return Bracket(
        take=SilenceNode(scope),
        back=Unsilence(scope),
        cleanup=lambda seen: EndSilences(scope, seen.everywhere, is_held),
        renew=renew,
    )


def preferring_others(cluster: Cluster) -> Bracket:
    """Return the bracket of the soft taint on all nodes that are still to be done: evicted pods rather go elsewhere."""
    return Bracket(prepare=lambda seen: TaintPending(cluster, seen.here), cleanup=lambda _seen: Untaint(cluster))


def cordoned(cluster: Cluster) -> Bracket:
    """Return the bracket of a node's cordon."""
    return Bracket(take=Cordon(cluster), back=Uncordon(cluster))


def drained(cluster: Cluster) -> Bracket:
    """Return the bracket of a node's pods, which come back by themselves."""
    return Bracket(take=Drain(cluster))


def puppet_off(scope: Scope) -> Sequence[Bracket]:
    """Return the bracket of a host's Puppet, where there is one."""
    if not scope.config.puppet.enabled:
        return ()
    return (
        Bracket(
            take=PuppetOff(scope),
            back=PuppetOn(scope),
            cleanup=lambda seen: EnablePuppet(scope, seen.everywhere),
        ),
    )


def depooled(plane: ControlPlane, balancer: LoadBalancer, wrap: Callable[[Step], Step] = lambda step: step) -> Bracket:
    """Return the bracket of an apiserver in the load balancer.

    Args:
        plane: the control plane.
        balancer: what is before it.
        wrap: restricts its steps to the targets that they concern.
    """
    return Bracket(
        take=wrap(Depool(plane, balancer)),
        back=wrap(Pool(plane, balancer)),
        cleanup=lambda seen: None if seen.aborts else Repool(plane, balancer, seen),
        on_abort=wrap(Watched(plane, balancer)),
    )

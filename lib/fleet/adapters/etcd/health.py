"""Whether an etcd cluster can spare a member, judged by what its members say. Pure: no I/O.

What etcd means by its figures is told in its ``api/etcdserverpb/rpc.proto`` (``StatusResponse``), and in the chapters
on learners and on runtime configuration of its documentation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fleet import members
from fleet.text import count

MAX_LAG = 1000
"""Entries of the log that a healthy member may be behind the others: they are asked at the same time, but not at the
same moment, and are written to meanwhile. A leader keeps 5000 for those behind, who then need its whole database."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member, as the cluster's member list has it."""

    id: int
    name: str
    """Empty as long as it has never been started."""
    client_urls: tuple[str, ...]
    learner: bool
    """Whether it gets all that is written and has no vote yet."""

    @property
    def started(self) -> bool:
        """Whether it has ever joined the cluster that it was added to."""
        return bool(self.name)

    def __str__(self) -> str:
        """Return its name and its id as etcdctl writes it."""
        return f"{self.name or 'one that was never started'} ({self.id:x})"


@dataclass(frozen=True, slots=True)
class Status:
    """What a member says about itself, without asking the others."""

    host: str
    member_id: int
    leader: int
    """The id of the member that it follows; 0 if it knows of none."""
    raft_term: int
    raft_index: int
    """The last entry of its log that it knows to be committed."""
    raft_applied_index: int
    """The last entry that it has applied to its database."""
    db_size: int
    """The size of its database, in bytes."""
    is_learner: bool
    errors: tuple[str, ...]
    """Alarms (of all members, such as ``memberID:… alarm:NOSPACE``) and whatever else is wrong with it."""
    version: str


@dataclass(frozen=True, slots=True)
class Answer:
    """All that was heard from a member."""

    status: Status
    members: tuple[Member, ...]
    """The member list as it has it, by id; none for a learner, which cannot be asked for it."""
    unhealthy: str
    """Why it could not do a read that a quorum confirms; nothing if it could."""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """A member that could not be asked."""

    reason: str
    """Why, in a line."""


View = Mapping[str, Answer | NoAnswer]
"""What was heard from each of the hosts that should have a member."""


def quorum(members: Iterable[Member]) -> int:
    """Return how many voting members must agree: more than half of those in the member list, whatever their state."""
    return sum(not member.learner for member in members) // 2 + 1


def index(view: View) -> int:
    """Return the last entry of the log that any member has; 0 if none answers."""
    return max((answer.status.raft_index for answer in _answers(view).values()), default=0)


def leader(view: View) -> str:
    """Return the host of the leader, as those know it who have seen the latest election; nothing if it is unknown."""
    answers = _answers(view)
    followed, _ = _election(answers)
    return next((host for host, answer in sorted(answers.items()) if answer.status.member_id == followed), "")


def order(view: View) -> list[str]:
    """Return all hosts in the order in which to restart them: followers by name, then the leader."""
    last = leader(view)
    return sorted(view, key=lambda host: (host == last, host))


def problem(view: View, *, others: int = 0) -> str:
    """Say what is wrong with the members of a view, taken together.

    All is well if every one of them answers, is healthy and without alarm, agrees with the others on the member list,
    the leader and the term, is in that list, is another member than the others, and is no more than :data:`MAX_LAG`
    behind. Whether there are further members, of which nothing was heard, is not looked at.

    Args:
        view: what was heard of them.
        others: how many members there are beside.

    Returns:
        All that do not answer; else what is wrong with the first of them by name, as the sentence's beginning is its
        host; nothing if all is well.
    """
    answers = _answers(view)
    silent = {host: _silence(host, view[host]) for host in sorted(view) if host not in answers}
    if silent:
        return members.problem("members of etcd", silent, of=len(view) + others)
    for host in sorted(view):
        if why := _member_problem(host, view[host], answers):
            return why
    return ""


def restart_problem(view: View, host: str) -> str:
    """Say why a member must not be taken down now.

    It may be if all other members are well (:func:`problem`), there are none of which nothing was heard, and they are a
    quorum without it. How it is itself does not matter: it may well be restarted because it is not well. Of clusters
    with one or two votes no member can be spared. Whether it leads does not matter either: see :func:`successor`.

    Args:
        view: what was heard of all members.
        host: the host whose member is to be taken down, a key of ``view``.

    Returns:
        A sentence without its full stop; nothing if the member may be taken down.
    """
    others = _answers({other: answer for other, answer in view.items() if other != host})
    if why := problem({other: answer for other, answer in view.items() if other != host}, others=1):
        return why
    if not others:
        return f"{host} is the only member that is known: the cluster cannot do without it"
    voting = [other for other, answer in others.items() if not answer.status.is_learner]
    if not voting:
        return f"of {_names(others)} none has a vote: the cluster cannot do without {host}"
    first = min(voting)
    members = {member.id: member for member in others[first].members}
    for answer in others.values():
        members.pop(answer.status.member_id, None)
    unheard = sorted(members.values(), key=lambda member: (member.name, member.id))
    if not unheard:
        return f"{host} is no member in the list that {first} has: it lists none beside {_names(others)}"
    if len(unheard) > 1:
        return (
            f"{', '.join(map(str, unheard))} are members in the list that {first} has, and only one of them can be that"
            f" of {host}: etcd.hosts must find the hosts of all members"
        )
    own = view[host]
    if isinstance(own, Answer) and own.status.member_id != unheard[0].id:
        return f"{host} has the member {own.status.member_id:x}, where the list that {first} has expects {unheard[0]}"
    needed = quorum(others[first].members)
    if len(voting) < needed:
        return f"without {host} {count(voting, 'voting member')} would be left, and {needed} are needed for a quorum"
    return ""


def caught_up(view: View, host: str, than: int) -> str:
    """Say what is missing until a member that was restarted is one of the others again.

    Args:
        view: what is heard of all members now.
        host: the host whose member was restarted, a key of ``view``.
        than: the entry of the log that it must have applied (:func:`index`, before or after its restart).

    Returns:
        A sentence without its full stop; nothing if it has caught up and all members are well.
    """
    own = view[host]
    if why := _member_problem(host, own, _answers(view)):
        return why
    if isinstance(own, Answer) and own.status.raft_applied_index < than:
        return f"{host} has applied the log up to {own.status.raft_applied_index} of {than}"
    return problem(view)


def successor(view: View, host: str) -> Status | None:
    """Return the member that is to take over leadership: of those that are well, the one most up to date.

    Args:
        view: what was heard of all members.
        host: the host whose member is to give leadership away.

    Returns:
        What that member says about itself; ``None`` if there is none that could.
    """
    others = _answers({other: answer for other, answer in view.items() if other != host})
    able = [
        answer.status
        for other, answer in sorted(others.items())
        if not answer.status.is_learner and not _member_problem(other, answer, others)
    ]
    return max(able, key=lambda status: (status.raft_applied_index, status.raft_index), default=None)


def spokesman(view: View) -> str:
    """Return the host to ask about the cluster as a whole: one whose member is well, and has little else to do.

    Args:
        view: what was heard of all members.

    Returns:
        The host of a follower that is up to date, else that of the leader; nothing if none is known to be well.
    """
    leads = leader(view)
    heir = successor(view, leads)
    return heir.host if heir else leads


def _answers(view: View) -> dict[str, Answer]:
    return {host: answer for host, answer in view.items() if isinstance(answer, Answer)}


def _election(answers: Mapping[str, Answer]) -> tuple[int, int]:
    """Return the leader and the term that most of those follow who have seen the latest term; 0 for no leader."""
    term = max((answer.status.raft_term for answer in answers.values()), default=0)
    followed = [answer.status.leader for answer in answers.values() if answer.status.raft_term == term]
    return max(sorted(set(followed)), key=followed.count, default=0), term


def _member_problem(host: str, answer: Answer | NoAnswer, answers: Mapping[str, Answer]) -> str:
    """Return what is wrong with one member, beside all those that answer."""
    if isinstance(answer, NoAnswer):
        return _silence(host, answer)
    status = answer.status
    if status.errors:
        return f"{host} says: {', '.join(status.errors)}"
    if not status.leader:
        return f"{host} follows no leader"
    if answer.unhealthy:
        return f"{host} is not healthy: {answer.unhealthy}"
    twin = next((o for o, a in answers.items() if o != host and a.status.member_id == status.member_id), "")
    if twin:
        return (
            f"{host} and {twin} are the same member, {status.member_id:x}: etcd.environment must let etcdctl ask each"
            " host's own one"
        )
    return _disagreement(host, answer, answers)


def _silence(host: str, answer: Answer | NoAnswer) -> str:
    return f"{host} does not answer: {answer.reason}" if isinstance(answer, NoAnswer) else ""


def _disagreement(host: str, answer: Answer, answers: Mapping[str, Answer]) -> str:
    """Return in what a member and those that answer do not agree."""
    status = answer.status
    for other, theirs in sorted(answers.items()):
        if theirs.status.is_learner:
            continue  # It cannot be asked for the member list.
        listed = {member.id: member for member in theirs.members}.get(status.member_id)
        if listed is None:
            return f"{host} ({status.member_id:x}) is not in the member list that {other} has"
        if listed.learner != status.is_learner:
            return f"{host} and {other} do not agree whether {host} has a vote"
        if theirs.members != answer.members and not status.is_learner:
            return f"{host} and {other} do not have the same member list"
    followed, term = _election(answers)
    if (status.leader, status.raft_term) != (followed, term):
        return (
            f"{host} follows {_name(status.leader, answers)} in term {status.raft_term}, while others follow"
            f" {_name(followed, answers)} in term {term}"
        )
    lag = max(other.status.raft_index for other in answers.values()) - status.raft_applied_index
    return f"{host} is {count(lag, 'entry', 'entries')} of the log behind" if lag > MAX_LAG else ""


def _name(member_id: int, answers: Mapping[str, Answer]) -> str:
    """Return the host of a member, or its id."""
    if not member_id:
        return "nobody"
    return next((host for host, answer in answers.items() if answer.status.member_id == member_id), f"{member_id:x}")


def _names(hosts: Iterable[str]) -> str:
    names: Sequence[str] = sorted(hosts)
    return ", ".join(names)

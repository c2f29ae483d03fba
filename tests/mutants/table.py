"""Lines that carry a rule, each with what it must not become, and the test that notices."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A line that is broken.

    Attributes:
        file: from the top of the tree.
        line: a piece of the file that is there once.
        mutated: what it becomes.
        test: the node id of the test that has to fail.
    """

    file: str
    line: str
    mutated: str
    test: str


_LIB = "lib/fleet"
_UNIT = "tests/unit"
_GROUPS = f"{_UNIT}/procedures/test_roll_hosts.py"
_STEPS = f"{_UNIT}/steps/test_node_steps.py"


def _of(file: str, line: str, mutated: str, test: str) -> Mutant:
    return Mutant(f"{_LIB}/{file}", line, mutated, test if test.startswith("tests/") else f"{_UNIT}/{test}")


MUTANTS = (
    # The last guard before a reboot.
    _of(
        "steps/at_most_once.py",
        "if not node.unschedulable or owner is None or owner.run != self.cluster.run.id:",
        "if owner is None or owner.run != self.cluster.run.id:",
        f"{_STEPS}::TestTheLastGuard::test_it_asks_for_the_cordon",
    ),
    _of(
        "steps/at_most_once.py",
        "if not node.unschedulable or owner is None or owner.run != self.cluster.run.id:",
        "if not node.unschedulable:",
        f"{_STEPS}::TestTheLastGuard::test_it_asks_whose_cordon_it_is",
    ),
    _of(
        "steps/at_most_once.py",
        "if not node.unschedulable or owner is None or owner.run != self.cluster.run.id:",
        "if not node.unschedulable or owner is None:",
        f"{_STEPS}::TestTheLastGuard::test_a_cordon_of_another_run_is_none_of_ours",
    ),
    _of(
        "steps/at_most_once.py",
        "if left := drain.pods_left(self.cluster.api, name, drain_policy(self.cluster.config.drain)):",
        "if left := []:",
        f"{_STEPS}::TestTheLastGuard::test_it_asks_for_pods",
    ),
    _of(
        "steps/reboot.py",
        "return volumes if volumes.kind is Kind.DONE else failed(",
        "return volumes if True else failed(",
        f"{_STEPS}::TestTheLastGuard::test_it_asks_for_volumes",
    ),
    _of(
        "steps/reboot.py",
        """not self.cluster.config.gates.volumes or "volumes" in state.accepted:""",
        "True:",
        f"{_STEPS}::TestTheLastGuard::test_it_asks_for_volumes",
    ),
    _of(
        "steps/at_most_once.py",
        "        self.silence_again(targets)\n",
        "",
        f"{_STEPS}::TestTheLastGuard::test_it_silences_what_somebody_has_made_loud_again",
    ),
    _of(
        "steps/at_most_once.py",
        "elif result.exit_code != 0:",
        "elif False:",
        f"{_STEPS}::TestTheLastGuard::test_a_host_that_refuses_is_held",
    ),
    _of(
        "steps/at_most_once.py",
        "unconfirmed=True)",
        "unconfirmed=False)",
        f"{_STEPS}::TestTheLastGuard::test_an_order_that_is_not_confirmed_is_remembered",
    ),
    _of(
        "steps/at_most_once.py",
        "if problem := self.problem(state, found):",
        "if problem := '':",
        "steps/test_at_most_once.py::test_a_host_that_is_not_the_nodes_machine_is_never_rebooted",
    ),
    _of(
        "steps/at_most_once.py",
        "if over and not found.transitioning:",
        "if True:",
        "steps/test_at_most_once.py::test_an_order_that_may_be_on_its_way_is_waited_for",
    ),
    _of(
        "adapters/hosts/reboot.py",
        "    {pattern}) reboot-host ;;",
        "    *) reboot-host ;;",
        "adapters/hosts/test_reboot.py::test_only_the_boot_that_is_named_ends",
    ),
    # Cordons and drains.
    _of(
        "adapters/k8s/nodes.py",
        "        if found and found.run != owner.run and node.unschedulable:\n",
        "        if False:\n",
        f"{_STEPS}::TestCordon::test_a_node_of_another_run_is_left_alone",
    ),
    _of(
        "adapters/k8s/nodes.py",
        "if found is None or found.run != run_id:\n            return None, UncordonOutcome.NOT_OURS",
        "if found is None:\n            return None, UncordonOutcome.NOT_OURS",
        "adapters/k8s/test_ownership.py::test_runs_put_back_what_they_found",
    ),
    _of(
        "adapters/k8s/nodes.py",
        "        if found.was_cordoned:\n",
        "        if False:\n",
        f"{_STEPS}::TestCordon::test_what_others_cordoned_stays_cordoned",
    ),
    _of(
        "steps/cordon.py",
        "if node.unschedulable and owner and owner.run == self.cluster.run.id:",
        "if node.unschedulable:",
        f"{_STEPS}::TestCordon::test_only_a_cordon_in_the_name_of_the_run_counts",
    ),
    _of(
        "steps/drain.py",
        'return pending(f"{len(left)} to evict") if left else done()',
        "return done()",
        f"{_STEPS}::TestDrain::test_pods_that_are_there_are_no_drained_node",
    ),
    _of(
        "steps/drain.py",
        "            if not node.unschedulable:\n",
        "            if False:\n",
        f"{_STEPS}::TestDrain::test_nothing_is_evicted_from_a_node_that_somebody_has_opened",
    ),
    _of(
        "steps/drain.py",
        "if node is not None and not node.unschedulable:",
        "if False:",
        f"{_STEPS}::TestDrain::test_a_drain_ends_when_its_node_was_opened",
    ),
    _of(
        "adapters/k8s/eviction.py",
        """            "deleteOptions": {"preconditions": {"uid": ref.uid}},\n""",
        "",
        "adapters/k8s/test_eviction.py::test_version",
    ),
    _of(
        "adapters/k8s/eviction.py",
        "return Verdict(Answer.BLOCKED, self._blocked(pod, error), error.retry_after)",
        "return Verdict(Answer.GONE)",
        "adapters/k8s/test_eviction.py::test_answers",
    ),
    # Gates.
    _of(
        "steps/ready.py",
        'if heartbeat(node) in ("", state.facts.get(HEARTBEAT)):',
        "if False:",
        "steps/test_ready.py::test_a_heartbeat_from_before_the_reboot_does_not_count",
    ),
    _of(
        "steps/ready.py",
        "            if not node.ready:\n",
        "            if False:\n",
        "steps/test_ready.py::test_a_node_that_was_not_rebooted_has_to_be_ready",
    ),
    _of(
        "steps/ready.py",
        'if node.boot_id and node.boot_id == state.facts.get("boot_id"):',
        "if False:",
        "steps/test_ready.py::test_a_heartbeat_of_the_old_boot_does_not_count_however_late_it_is",
    ),
    _of(
        "steps/alerts.py",
        """return pending(f"firing: {', '.join(firing)}") if firing else done()""",
        "return done()",
        f"{_STEPS}::TestSilences::test_alerts_that_fired_before_keep_nobody_and_others_do",
    ),
    _of(
        "steps/gates.py",
        "restarted=NEW_BOOT in state.facts",
        "restarted=True",
        "steps/test_gates.py::test_daemons_have_to_be_ready_with_other_containers_once_the_host_was_rebooted",
    ),
    _of(
        "steps/gates.py",
        'return pending("; ".join(lines[:5])) if lines else done()',
        "return done()",
        "steps/test_gates.py::test_a_volume_keeps_the_node",
    ),
    _of(
        "steps/reboot.py",
        "            if host.puppet_disabled is not None:\n",
        "            if False:\n",
        f"{_STEPS}::TestPreflight::test_a_disabled_puppet_holds_a_node",
    ),
    _of(
        "adapters/bgp/verify.py",
        "        if now.accepted.get(rib, 0) < prefixes\n",
        "        if False\n",
        "adapters/bgp/test_verify.py",
    ),
    _of(
        "adapters/bgp/verify.py",
        'return f"up for {youngest} s of {stable:g} s" if youngest < stable else ""',
        'return ""',
        "adapters/bgp/test_verify.py",
    ),
    _of(
        "steps/bgp.py",
        "return self._if_closed(self._ask(targets))",
        "return self._ask(targets)",
        "steps/test_bgp.py::test_a_node_that_somebody_has_opened_is_not_waited_for",
    ),
    # What is given back.
    _of(
        "steps/cordon.py",
        "            if owner and owner.run == self.cluster.run.id:\n                return pending(",
        "            if False:\n                return pending(",
        f"{_STEPS}::TestWayBack::test_a_node_that_is_still_marked_is_not_given_back",
    ),
    _of(
        "steps/cordon.py",
        "            if has_taint(node, self.cluster.run.id) and not state.released:\n",
        "            if False:\n",
        f"{_STEPS}::TestWayBack::test_the_taint_goes_too",
    ),
    _of(
        "adapters/k8s/nodes.py",
        "if (taint.key, taint.value) != (PENDING_TAINT, run_id)]",
        "if taint.key != PENDING_TAINT]",
        f"{_STEPS}::TestWayBack::test_taints_of_other_runs_stay",
    ),
    _of(
        "steps/cleanup.py",
        "if state.status not in (Status.DONE, Status.GIVEN_UP) and name in there",
        "if name in there",
        f"{_STEPS}::TestWayBack::test_nodes_that_are_done_are_not_tainted_again",
    ),
    _of(
        "steps/silences.py",
        'if before.endswith(f" - run {scope.run.id}"):',
        "if True:",
        f"{_STEPS}::TestSilences::test_silences_of_others_are_not_ended",
    ),
    _of(
        "steps/cleanup.py",
        "            if name not in held:\n",
        "            if True:\n",
        f"{_STEPS}::TestSilences::test_those_of_held_nodes_last",
    ),
    _of(
        "steps/silences.py",
        '        if "alerts_before" in state.facts:\n',
        "        if False:\n",
        f"{_STEPS}::TestSilences::test_what_fires_later_did_not_fire_before",
    ),
    # A configuration that was changed meanwhile.
    _of(
        "engine/declaration.py",
        "        return [step.spec.name for pair in pairs for step in pair if step]\n",
        "        return []\n",
        "session/test_adapt.py::test_a_run_does_not_go_on_without_the_steps_that_give_back",
    ),
    # The preflight and the plan.
    _of(
        "steps/reboot.py",
        "if not answer.can_reboot]",
        "if False]",
        f"{_STEPS}::TestPreflight::test_a_host_without_reboot_host_is_named",
    ),
    _of(
        "steps/reboot.py",
        "            elif answer.puppet_disabled is not None:\n",
        "            elif False:\n",
        f"{_STEPS}::TestPreflight::test_a_host_whose_puppet_is_disabled_is_named",
    ),
    _of(
        "steps/drain.py",
        "            return Found((unread(error),), columns={EVICTIONS: {}})\n",
        "            return Found((unread(error),))\n",
        "steps/test_look.py::test_a_drain_that_could_not_be_looked_at_is_not_shown_as_one_without_pods",
    ),
    _of(
        "procedures/preflight.py",
        '        step = getattr(step, "wraps", None)\n',
        "        step = None\n",
        "steps/test_look.py::test_a_new_step_is_looked_at_without_any_other_file",
    ),
    _of(
        "procedures/preflight.py",
        'if record.info.cluster == scope.name and record.status == "interrupted" and record.info.id',
        'if record.status == "interrupted" and record.info.id',
        f"{_STEPS}::TestPreflight::test_a_run_that_was_interrupted_is_in_the_way_on_its_own_cluster",
    ),
    _of(
        "engine/plan.py",
        "if (record.info.procedure, record.info.cluster) != (procedure, cluster):",
        "if record.info.procedure != procedure:",
        f"{_STEPS}::test_a_plan_goes_by_the_runs_of_its_own_cluster",
    ),
    # The engine.
    _of(
        "engine/runner.py",
        "if (before.status, before.step, before.phase) != (Status.RUNNING, result.step, result.phase):",
        "if False:",
        "engine/test_runner.py::test_an_answer_that_comes_too_late_is_none",
    ),
    _of(
        "engine/capacity.py",
        "return len(self._taken) + (target.name not in self._taken) > self._limits.max_unavailable",
        "return False",
        "engine/test_decide.py::test_rules_hold_in_every_history",
    ),
    _of(
        "engine/capacity.py",
        "return len(self._domains) + (target.domain not in self._domains) > self._limits.max_domains",
        "return False",
        "engine/test_decide.py::test_rules_hold_in_every_history",
    ),
    _of(
        "engine/decide.py",
        "    if failures <= limits.max_failed:\n",
        "    if True:\n",
        "engine/test_decide.py::test_rules_hold_in_every_history",
    ),
    _of(
        "engine/decide.py",
        "if problem := seen.blocked or room.problem(state.target):",
        "if problem := seen.blocked:",
        "engine/test_decide.py::test_a_unit_is_not_closed_when_others_took_its_room_meanwhile",
    ),
    _of(
        "engine/advance.py",
        "return enter(stage, state, pivot, now, Phase.PROBE)",
        "return enter(stage, state, 0, now)",
        "engine/test_decide.py::test_resume_goes_by_the_pivot",
    ),
    _of(
        "engine/advance.py",
        "if state.status in (Status.PENDING, Status.DONE, Status.GIVEN_UP):",
        "if state.status in (Status.PENDING, Status.DONE):",
        "engine/test_advance.py::test_a_given_up_unit_is_left_alone_and_keeps_nobody",
    ),
    _of(
        "engine/advance.py",
        "return stage.steps[step].acceptable and stage.steps[step].name in state.accepted",
        "return stage.steps[step].name in state.accepted",
        "engine/test_advance.py::test_an_accepted_proof_is_passed_over_and_no_other_step_is",
    ),
    _of(
        "engine/decide.py",
        "return [Renew(names)] if names else []",
        "return []",
        "engine/test_decide.py::test_rules_hold_in_every_history",
    ),
    # Members of etcd, and of whatever else has several.
    _of(
        "adapters/etcd/health.py",
        "for member in members) // 2 + 1",
        "for member in members) // 2",
        "adapters/etcd/test_health.py::test_a_quorum_is_more_than_half_of_the_votes",
    ),
    _of(
        "adapters/etcd/health.py",
        "for other, answer in others.items() if not answer.status.is_learner]",
        "for other, answer in others.items()]",
        "adapters/etcd/test_health.py::test_learners_are_no_quorum",
    ),
    _of(
        "adapters/etcd/health.py",
        "    if len(unheard) > 1:\n",
        "    if False:\n",
        "adapters/etcd/test_health.py::test_a_member_that_nobody_asks_keeps_all_others_up",
    ),
    _of(
        "adapters/etcd/health.py",
        "if other != host}, others=1):\n        return why",
        "if other != host}, others=1):\n        pass",
        "adapters/etcd/test_health.py::test_a_member_that_is_not_well_keeps_all_others_up",
    ),
    _of(
        "adapters/etcd/health.py",
        "    if len(voting) < needed:\n",
        "    if False:\n",
        "adapters/etcd/test_health.py::test_small_clusters_cannot_spare_a_member",
    ),
    _of(
        "members.py",
        "outcome for name, outcome in outcomes.items() if isinstance(outcome, FleetError)},",
        "outcome for name, outcome in outcomes.items() if isinstance(outcome, FleetError) and False},",
        "test_members.py::test_every_member_has_an_answer_or_a_reason",
    ),
    _of(
        "adapters/alertmanager/silences.py",
        'if comment_contains in data["comment"] else []',
        "if True else []",
        "adapters/alertmanager/test_silences.py::test_silences_of_others_are_not_found",
    ),
    _of(
        "adapters/alertmanager/alertmanagers.py",
        "if len(answers.given) < self._needed:",
        "if not answers.given:",
        "adapters/alertmanager/test_silences.py::test_a_member_that_cannot_be_asked_makes_it_unknown",
    ),
    _of(
        "adapters/bgp/verify.py",
        "left = [problem] if (problem := unread(readings, also=baseline)) else []",
        "left: list[str] = []",
        "adapters/bgp/test_verify.py::test_one_router_that_is_not_read_keeps_it_closed",
    ),
    # The lock and the journal.
    _of(
        "adapters/k8s/lock.py",
        "if age > self._config.duration * _DEADLINE:",
        "if False:",
        "adapters/k8s/test_lock.py::test_a_holder_that_cannot_renew_stops_before_others_may_take_it",
    ),
    _of(
        "adapters/k8s/lock.py",
        "return self._lose(str(error))",
        "return True",
        "adapters/k8s/test_lock.py::test_it_is_lost_to_whoever_took_it",
    ),
    _of(
        "engine/folders.py",
        "fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "engine/test_journal.py::test_a_living_run_is_not_opened_twice",
    ),
    _of(
        "engine/declaration.py",
        "for bracket in reversed(self.brackets) if bracket.back and id(bracket) not in early]",
        "for bracket in self.brackets if bracket.back and id(bracket) not in early]",
        "engine/test_declaration.py::test_what_is_held_is_given_back_in_reverse_order_or_where_the_proofs_say",
    ),
    _of(
        "engine/declaration.py",
        "asked = [state for state in targets if self.concerns(state)]",
        "asked = []",
        "engine/test_declaration.py::test_an_abort_asks_for_proofs_of_what_it_concerns_only_and_not_for_long",
    ),
    _of(
        "engine/executor.py",
        "return state.status in (Status.RUNNING, Status.HELD) or stage.in_flight(state)",
        "return state.status in (Status.RUNNING, Status.HELD)",
        "engine/test_declaration.py::test_an_abort_is_about_what_is_in_flight_held_or_owned_still",
    ),
    _of(
        "engine/executor.py",
        "over = self._clock.monotonic() - self._since > self.GRACE",
        "over = True",
        "engine/test_declaration.py::test_an_order_that_may_be_on_its_way_is_waited_for",
    ),
    # Groups of hosts without Kubernetes.
    _of(
        "procedures/roll_hosts.py",
        "        self._let.append(_target(group, host))\n",
        "",
        f"{_GROUPS}::test_hosts_that_are_to_go_at_the_same_moment_are_counted_together",
    ),
    _of(
        "procedures/roll_hosts.py",
        "problem = Capacity(_limits_of(group), self._let, _absent(group, others)).problem(_target(group, host))",
        'problem = ""',
        f"{_GROUPS}::test_all_others_are_looked_at_once_more_right_before_the_act_and_waited_for_in_service",
    ),
    _of(
        "procedures/roll_hosts.py",
        "return Observation(_absent(group, watch.away()), lock.problem() or watch.problem(), permanent=lock.lost)",
        "return Observation({}, lock.problem() or watch.problem(), permanent=lock.lost)",
        f"{_GROUPS}::test_all_others_are_looked_at_once_more_right_before_the_act_and_waited_for_in_service",
    ),
    _of(
        "procedures/roll_hosts.py",
        "return Observation(_absent(group, watch.away()), lock.problem() or watch.problem(), permanent=lock.lost)",
        "return Observation(_absent(group, watch.away()), watch.problem(), permanent=lock.lost)",
        f"{_GROUPS}::test_an_etcd_of_locks_that_goes_away_starts_nothing_new",
    ),
    _of(
        "procedures/roll_hosts.py",
        "lambda: group_preflight.of_owners(group),",
        "lambda: [],",
        f"{_GROUPS}::test_hosts_of_a_cluster_are_refused_with_the_cookbook_that_is_for_them",
    ),
    _of(
        "procedures/roll_hosts.py",
        "if strange := sorted(set(asked) - set(everyone)):",
        "if strange := []:",
        f"{_GROUPS}::test_what_the_group_does_not_have_is_refused",
    ),
    _of(
        "steps/serving.py",
        "if host not in proven_since",
        "if host",
        f"{_GROUPS}::test_what_an_older_look_said_of_a_host_that_is_proven_since_does_not_count",
    ),
    _of(
        "steps/serving.py",
        "if age <= self.STALE:",
        "if age:",
        f"{_GROUPS}::test_hosts_that_cumin_cannot_ask_are_not_known",
    ),
    _of(
        "adapters/locks.py",
        "if value is not None and _run_of(value) != self._run:",
        "if value is None and _run_of(value) != self._run:",
        f"{_GROUPS}::test_a_lock_that_expired_and_was_taken_stops_the_run",
    ),
    _of(
        "adapters/locks.py",
        "_DEADLINE = 2 / 3",
        "_DEADLINE = 200.0",
        f"{_GROUPS}::test_an_etcd_of_locks_that_goes_away_starts_nothing_new",
    ),
)

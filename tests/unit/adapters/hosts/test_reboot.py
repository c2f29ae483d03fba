"""The order to reboot, through a real bash; and the parsing of a probe."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.hosts.probe import HostState, parse, probe
from fleet.adapters.hosts.reboot import command, reboot
from fleet.execution import RemoteError, Result, Unreachable

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
ANSWER = {
    "boot-id": "0a1b2c3d-0000-4000-8000-0123456789ab",
    "uptime": "86.25",
    "now": "1700000100.500000000",
}
boot_ids = st.uuids().map(str)


def answer(**more: str) -> str:
    lines = ANSWER | {key.replace("_", "-"): value for key, value in more.items()}
    return "\n".join(f"fleet-{key}={value}" for key, value in lines.items())


class Recorder:
    """Remembers what was to be run, and gives one result for all."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.calls: list[tuple[list[str], str, bool]] = []

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        self.calls.append((list(hosts), command, safe))
        return dict.fromkeys(hosts, self.result)


def run(script: str, tmp_path: Path) -> tuple[str, bool]:
    program = tmp_path / "reboot-host"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/rebooted\n")
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    return done.stdout, (tmp_path / "rebooted").exists()


@given(others=st.lists(boot_ids, max_size=20), position=st.integers(0, 20), ours=st.booleans())
def test_only_the_boot_that_is_named_ends(
    tmp_path_factory: pytest.TempPathFactory, others: list[str], position: int, ours: bool
) -> None:
    ids = [*others[:position], *([BOOT_ID] if ours else []), *others[position:]]
    order = command({f"host{number}": boot_id for number, boot_id in enumerate(ids)})
    if not ids:
        return

    output, rebooted = run(order, tmp_path_factory.mktemp("reboot"))

    assert rebooted is ours
    assert ("not rebooted" in output) is not ours


def test_all_hosts_are_one_execution() -> None:
    remote = Recorder(Result(0, ""))
    ids = {"a": ANSWER["boot-id"], "b": BOOT_ID}

    assert reboot(remote, ids) == {"a": Result(0, ""), "b": Result(0, "")}
    assert remote.calls == [(["a", "b"], command(ids), False)]


@pytest.mark.parametrize("boot_id", ["", "*", BOOT_ID.upper() + "A", f"{BOOT_ID}|*", BOOT_ID + "\n"])
def test_what_is_no_boot_id_is_never_sent(boot_id: str) -> None:
    remote = Recorder(Result(0, ""))

    with pytest.raises(RemoteError, match="b is not rebooted"):
        reboot(remote, {"a": BOOT_ID, "b": boot_id})
    assert not remote.calls


def test_a_full_answer() -> None:
    text = answer(reboot_required="yes", puppet="installed", puppet_run="1700000090", puppet_success="yes")

    assert parse(f'Welcome\n{text}\nfleet-puppet-lock={{"disabled_message": "x"}}') == HostState(
        boot_id=ANSWER["boot-id"],
        uptime=86.25,
        now=1700000100.5,
        can_reboot=False,
        reboot_required=True,
        puppet_installed=True,
        puppet_disabled="x",
        puppet_last_success=1700000090.0,
        puppet_failed=False,
    )


def test_the_shortest_answer() -> None:
    state = parse(answer())

    assert isinstance(state, HostState)
    assert not state.reboot_required
    assert (state.puppet_last_success, state.puppet_failed) == (None, False)


@given(
    st.text()
    | st.lists(st.sampled_from(["boot-id", "uptime", "now"])).map(
        lambda keys: "\n".join(f"fleet-{key}={ANSWER[key]}" for key in keys if key != "now")
    )
)
def test_what_is_no_answer_is_unreachable(output: str) -> None:
    assert isinstance(parse(output), Unreachable)


def test_a_host_that_cannot_be_reached() -> None:
    remote = Recorder(Result(None, "no answer within 15 s"))

    assert probe(remote, ["a"]) == {"a": Unreachable("no answer within 15 s")}
    assert remote.calls[0][2] is True

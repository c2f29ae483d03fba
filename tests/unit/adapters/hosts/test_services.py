"""Units of systemd: what is read of a host's answer, and orders that end only the start that they name."""

import shutil
import subprocess

import pytest

from fleet.adapters.hosts import services
from fleet.execution import RemoteError, Result, Unreachable

ANSWER = """\
Welcome to worker1
fleet-boot-id=00000000-0000-0000-0000-000000000001
fleet-uptime=100.50
fleet-Result=success
fleet-LoadState=loaded
fleet-ActiveState=active
fleet-Job=
fleet-InactiveExitTimestampMonotonic=60500000
fleet-InvocationID=0123456789abcdef0123456789abcdef
fleet-NeedDaemonReload=no
fleet-SubState=running
fleet-Type=notify
fleet-ConditionResult=yes
fleet-ConditionTimestampMonotonic=60400000
fleet-started=1800000000.500000000
fleet-file=1800000000.400000 /etc/systemd/system/a.service
fleet-file=1700000000.000000 /etc/systemd/system/a.service.d/b.conf
"""


class Hosts:
    """Answers every command, and keeps it."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.commands: list[tuple[str, bool]] = []

    def run(self, hosts, command, *, timeout, safe):
        self.commands.append((command, safe))
        return dict.fromkeys(hosts, self.result)


def test_an_answer_is_read():
    assert services.parse(ANSWER) == services.ServiceState(
        load="loaded",
        active="active",
        result="success",
        invocation="0123456789abcdef0123456789abcdef",
        age=40.0,
        boot_id="00000000-0000-0000-0000-000000000001",
        transitioning=False,
    )


@pytest.mark.parametrize(("old", "new"), [("Job=", "Job=56"), ("=active", "=deactivating"), ("=active", "=activating")])
def test_a_unit_with_a_job_is_not_yet_what_it_will_be(old, new):
    answer = services.parse(ANSWER.replace(f"{old}\n", f"{new}\n"))
    assert isinstance(answer, services.ServiceState)
    assert answer.transitioning


def test_a_unit_that_was_never_started_has_no_invocation():
    text = ANSWER.replace("0123456789abcdef0123456789abcdef", "").replace("=60500000", "=0")
    answer = services.parse(text.replace("LoadState=loaded", "LoadState=not-found"))
    assert isinstance(answer, services.ServiceState)
    assert (answer.loaded, answer.invocation, answer.age) == (False, services.NEVER, 100.5)


@pytest.mark.parametrize("output", ["", "systemctl: not found", ANSWER.replace("fleet-uptime=100.50", "fleet-uptime=")])
def test_what_cannot_be_read_is_no_answer(output):
    answer = services.parse(output)
    assert isinstance(answer, Unreachable)
    assert "cannot be read" in answer.reason


def test_a_host_that_is_gone_is_no_answer():
    answers = services.state(Hosts(Result(None, "no answer within 15 s")), ["w1"], "calico-node.service")
    assert answers == {"w1": Unreachable("no answer within 15 s")}


def test_the_state_is_only_read_and_the_unit_is_quoted():
    hosts = Hosts(Result(0, ANSWER))
    services.state(hosts, ["w1"], "a;reboot.service")
    assert [("'a;reboot.service'" in command, safe) for command, safe in hosts.commands] == [(True, True)]


@pytest.mark.parametrize("invocation", ["", "x", "$(reboot)", "0" * 31, "*"])
def test_an_order_without_an_invocation_is_refused(invocation):
    hosts = Hosts(Result(0, ""))
    with pytest.raises(RemoteError, match="is no invocation"):
        services.restart(hosts, "calico-node.service", {"w1": invocation}, reload=False)
    assert hosts.commands == []


@pytest.mark.parametrize(("current", "restarted"), [("1" * 32, True), ("2" * 32, True), ("3" * 32, False), ("", False)])
def test_only_the_named_start_is_ended(tmp_path, current, restarted):
    hosts = Hosts(Result(0, ""))
    services.restart(hosts, "calico-node.service", {"w1": "1" * 32, "w2": "2" * 32}, reload=False)
    command, safe = hosts.commands[0]
    assert not safe
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\n[ "$1" = show ] && echo "{current}" || echo "$@" >>{tmp_path}/done\n')
    systemctl.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    result = subprocess.run(
        [bash, "-c", command], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert (tmp_path / "done").exists() is restarted
    assert ("not restarted" in result.stdout) is not restarted


class Counting(Hosts):
    """Keeps which hosts were asked what at once."""

    def __init__(self) -> None:
        super().__init__(Result(0, ""))
        self.calls: list[tuple[list[str], str]] = []

    def run(self, hosts, command, *, timeout, safe):
        assert not safe, "a dry-run orders nothing"
        self.calls.append((list(hosts), command))
        return super().run(hosts, command, timeout=timeout, safe=safe)


def test_orders_for_the_same_units_are_one_execution():
    hosts = Counting()
    plane, node = ["kube-apiserver.service", "calico-node.service"], ["calico-node.service"]
    results = services.order(hosts, "stop", {"cp1": plane, "w1": node, "cp2": plane, "w2": node}, reload=False)
    assert hosts.calls == [
        (["cp1", "cp2"], "systemctl stop --no-block -- kube-apiserver.service calico-node.service"),
        (["w1", "w2"], "systemctl stop --no-block -- calico-node.service"),
    ]
    assert set(results) == {"cp1", "cp2", "w1", "w2"}


def test_nothing_is_ordered_where_there_is_no_unit():
    hosts = Counting()
    assert services.order(hosts, "start", {"w1": [], "w2": ["a.service"]}, reload=False) == {"w2": Result(0, "")}
    ((names, command),) = hosts.calls
    assert names == ["w2"]
    assert command.endswith("\ncurrent && systemctl start --no-block -- a.service")
    assert services.order(hosts, "start", {}, reload=False) == {}


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_units_are_words_of_an_order(tmp_path, verb):
    hosts = Counting()
    units = ["a b.service", f"$(touch {tmp_path}/harm).service", "--now", "c'd.service"]
    services.order(hosts, verb, {"w1": units}, reload=False)
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\n[ "$1" = show ] || printf "%s\\n" "$@" >{tmp_path}/words\n')
    systemctl.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-c", hosts.calls[0][1]], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert (tmp_path / "words").read_text().splitlines() == [verb, "--no-block", "--", *units]
    assert not (tmp_path / "harm").exists()


def answer(**changed: str) -> services.ServiceState:
    """Return what is read of a host's answer in which some properties are others."""
    lines = {line.partition("=")[0]: line for line in ANSWER.splitlines()}
    lines |= {f"fleet-{key}": f"fleet-{key}={value}" for key, value in changed.items()}
    found = services.parse("\n".join(lines.values()))
    assert isinstance(found, services.ServiceState)
    return found


@pytest.mark.parametrize(
    ("changed", "up", "trouble"),
    [
        ({}, True, ""),
        ({"ActiveState": "failed", "Result": "exit-code"}, False, "is failed (exit-code)"),
        (
            {"ActiveState": "failed", "Result": "start-limit-hit"},
            False,
            "is failed (start-limit-hit): it was started too often, see systemctl reset-failed",
        ),
        ({"ActiveState": "activating"}, False, "is activating"),
        ({"ActiveState": "inactive"}, False, "is inactive"),
        ({"ActiveState": "inactive", "Job": "17"}, False, "is inactive, and a job is queued for it"),
        (
            {"ActiveState": "inactive", "ConditionResult": "no"},
            False,
            "is inactive, as a condition of its definition is not met",
        ),
        (
            {"ActiveState": "inactive", "ConditionResult": "no", "ConditionTimestampMonotonic": "0"},
            False,
            "is inactive",
        ),
        (
            {"ActiveState": "inactive", "AssertResult": "no", "AssertTimestampMonotonic": "5"},
            False,
            "is inactive, as a condition of its definition is not met",
        ),
        ({"ActiveState": "inactive", "LoadState": "masked"}, False, "is masked"),
        ({"ActiveState": "inactive", "LoadState": "not-found"}, False, "is not there"),
        (
            {
                "ActiveState": "inactive",
                "LoadState": "bad-setting",
                "LoadError": 'org.freedesktop.systemd1.BadUnitSetting "Unit a.service has a bad unit file setting."',
            },
            False,
            "has a bad setting: Unit a.service has a bad unit file setting.",
        ),
        ({"ActiveState": "inactive", "LoadState": "error"}, False, "cannot be loaded (error)"),
        ({"LoadState": "masked"}, True, ""),
        ({"SubState": "exited", "Type": "oneshot"}, True, ""),
        ({"SubState": "exited", "Type": "forking"}, False, "is active, but its process has ended"),
    ],
)
def test_the_trouble_of_a_unit_is_what_systemd_says(changed, up, trouble):
    found = answer(**changed)
    assert (found.up, found.trouble()) == (up, trouble)


def test_a_masked_unit_that_runs_could_not_be_started_again():
    assert answer(LoadState="masked").unusable() == "is masked"
    assert answer().unusable() == ""


def test_what_runs_is_the_definition_on_disk_unless_a_file_is_newer():
    assert answer().outdated() == ""
    assert answer(NeedDaemonReload="yes").outdated() == "was changed on disk, and nobody ran systemctl daemon-reload"
    late = ANSWER.replace("fleet-file=1700000000.000000", "fleet-file=1800000000.600000")
    found = services.parse(late)
    assert isinstance(found, services.ServiceState)
    assert found.outdated() == "was started before /etc/systemd/system/a.service.d/b.conf was changed"
    stopped = services.parse(late.replace("fleet-started=1800000000.500000000\n", ""))
    assert isinstance(stopped, services.ServiceState)
    assert stopped.outdated() == "", "it runs nothing"


SYSTEMCTL = """\
#!/bin/sh
[ "$1" = show ] || echo "$1" >>{done}
case "$*" in
    *NeedDaemonReload*) grep -q daemon-reload {done} 2>/dev/null && echo no || echo {stale} ;;
    *InvocationID*) echo {invocation} ;;
esac
"""


@pytest.mark.parametrize(
    ("stale", "reload", "code", "done"),
    [
        ("no", False, 0, ["restart"]),
        ("no", True, 0, ["restart"]),
        ("yes", False, 1, []),
        ("yes", True, 0, ["daemon-reload", "restart"]),
    ],
)
@pytest.mark.parametrize("anew", [True, False])
def test_nothing_is_started_that_is_not_on_disk(tmp_path, stale, reload, code, done, anew):
    hosts = Hosts(Result(0, ""))
    if anew:
        services.restart(hosts, "a.service", {"w1": "1" * 32}, reload=reload)
    else:
        services.order(hosts, "restart", {"w1": ["b.service", "a.service"]}, reload=reload)
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(SYSTEMCTL.format(done=tmp_path / "done", stale=stale, invocation="1" * 32))
    systemctl.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    path = f"{tmp_path}:/usr/bin:/bin"
    result = subprocess.run([bash, "-c", hosts.commands[0][0]], env={"PATH": path}, capture_output=True, text=True)
    assert result.returncode == code
    assert ("run systemctl daemon-reload" in result.stdout) is (code == 1)
    told = tmp_path / "done"
    assert (told.read_text().split() if told.exists() else []) == done


def test_the_host_is_asked_for_the_files_of_the_definition(tmp_path):
    """Those that systemd writes by itself say nothing of what somebody has changed."""
    hosts = Hosts(Result(0, ANSWER))
    services.state(hosts, ["w1"], "a.service")
    for name in ("a.service", "b.conf"):
        (tmp_path / name).touch()
    show = f"""\
LoadState=loaded
FragmentPath={tmp_path}/a.service
DropInPaths={tmp_path}/b.conf /run/systemd/generator/c.conf /etc/systemd/system.control/d.conf {tmp_path}/gone.conf
ExecMainStartTimestamp=Fri 2026-11-27 12:29:00.250000 UTC
"""
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\ncase $* in *timestamp*) exit 1 ;; esac\ncat <<'E'\n{show}E\n")
    systemctl.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = [bash, "-c", hosts.commands[0][0]]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    files = [line.split()[-1] for line in said.splitlines() if line.startswith("fleet-file=")]
    assert files == [f"{tmp_path}/a.service", f"{tmp_path}/b.conf"]
    assert "fleet-started=1795782540.250000000\n" in said
    assert "fleet-LoadState=loaded\n" in said


DROP_IN, FILE = "etc/systemd/system/a.service.d/x.conf", "systemd/system/a.service"


@pytest.mark.parametrize(
    ("said", "files", "stale"),
    [
        ({"NeedDaemonReload": "no"}, {}, False),
        ({"NeedDaemonReload": "yes"}, {}, True),
        ({"DropInPaths": ""}, {DROP_IN: "[Service]"}, True),
        ({"DropInPaths": "/lib/y.conf {root}/" + DROP_IN}, {DROP_IN: "[Service]"}, False),
        ({"DropInPaths": "/lib/y.conf"}, {DROP_IN: ""}, False),
        ({"FragmentPath": "{root}/lib/" + FILE}, {f"lib/{FILE}": "[Unit]"}, False),
        ({"FragmentPath": "{root}/lib/" + FILE}, {f"lib/{FILE}": "[Unit]", f"etc/{FILE}": "[Unit]"}, True),
        ({"FragmentPath": "{root}/etc/" + FILE}, {f"lib/{FILE}": "[Unit]", f"etc/{FILE}": "[Unit]"}, False),
        ({"FragmentPath": "/run/systemd/transient/a.service"}, {f"etc/{FILE}": "[Unit]"}, False),
        ({"FragmentPath": ""}, {}, False),
    ],
)
def test_what_systemd_has_not_loaded_is_seen_on_disk(tmp_path, said, files, stale):
    """systemd 252 itself says nothing of drop-ins in a new folder, and of files that take precedence."""
    root = tmp_path / "root"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    cases = "".join(f"*={key}*) echo '{value.format(root=root)}' ;;\n" for key, value in said.items())
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\n')
    systemctl.chmod(0o755)
    hosts = Hosts(Result(0, ANSWER))
    services.order(hosts, "start", {"w1": ["a.service"]}, reload=False)
    places = "/etc /run /usr/local/lib /usr/lib /lib"
    command = hosts.commands[0][0]
    assert command.count(places) == 2
    bash = shutil.which("bash")
    assert bash
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    here = command.replace(places, f"{root}/etc {root}/run {root}/lib")
    result = subprocess.run([bash, "-c", here], env=environment, capture_output=True, text=True, check=False)
    assert ("run systemctl daemon-reload" in result.stdout) is stale


def test_what_the_host_finds_on_disk_is_read():
    assert services.parse(f"{ANSWER}fleet-stale=yes\n").stale  # type: ignore[union-attr]

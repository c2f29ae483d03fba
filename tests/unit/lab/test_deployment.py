"""The lab's deployment repository: its objects, its scripts, and when traffic is gone."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fleet.config.matchers import parse_matcher
from fleet.config.reinitialize import ReinitializeConfig
from fleet_lab import deployment, operator, topology
from fleet_lab.charts import cluster, objects, traffic
from fleet_lab.context import make
from fleet_lab.errors import LabError
from fleet_lab.guest.kubelet.api import Api, ApiError
from fleet_lab.paths import Paths
from fleet_lab.roles import Context


class EmptyApi(Api):
    """An API that has nothing and takes everything, with policies of pods or without."""

    def __init__(self, *, policies: bool) -> None:
        self.written: list[str] = []
        self.policies = policies

    def request(self, method, path, body=None, kind="application/json"):
        if self.policies and (method, path) == ("GET", "/apis/policy/v1beta1"):
            return {"resources": [{"kind": "PodSecurityPolicy"}]}
        if method == "GET":
            raise ApiError(404, "not found")
        self.written.append(f"{path.partition('?')[0]}/{body['metadata']['name']}" if method == "POST" else path)
        return {}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A lab in a folder whose name is a trap, with addresses of the machine's own where nothing listens."""
    data = yaml.safe_load(topology.DEFAULT.read_text(encoding="utf-8"))
    data["network"]["ipv4"] = "127.77.0.0/24"
    path = tmp_path / "topology.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return make(Paths(tmp_path / "a {lab} of 'mine'", tmp_path / "cache"), topology.load(path))


@pytest.fixture
def section(context: Context) -> ReinitializeConfig:
    rest = {
        "etcds": {"new": {"hosts": "A:new", "endpoints": ["https://etcd4:2379"]}},
        "kubeconfig": "/admin.config",
        "puppet_change": {"merged": "true"},
    }
    return ReinitializeConfig.model_validate(rest | deployment.write(context, policies=False))


def run(command: str, **values: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash
    return subprocess.run(
        [bash, "-c", command.format(**values)],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_objects_are_where_the_api_has_them():
    items = [objects.pod_security_policy(), *objects.policy_rights(), *objects.base(), objects.hanging()]
    assert [objects.path(item) for item in [*items, *objects.components("policy/v1")]] == [
        "/apis/policy/v1beta1/podsecuritypolicies/permissive",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/psp:permissive",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/psp:permissive",
        "/api/v1/namespaces/infra",
        "/api/v1/namespaces/infra/serviceaccounts/node-agent",
        "/apis/scheduling.k8s.io/v1/priorityclasses/cluster-component",
        "/api/v1/namespaces/data/configmaps/held",
        "/apis/apps/v1/namespaces/kube-system/deployments/coredns",
        "/apis/policy/v1/namespaces/kube-system/poddisruptionbudgets/coredns",
        "/apis/apps/v1/namespaces/infra/daemonsets/node-agent",
    ]


def test_services_are_in_managed_namespaces_and_some_have_budgets():
    assert {known.namespace for known in objects.SERVICES.values()} == set(objects.MANAGED)
    for name, known in objects.SERVICES.items():
        items = objects.service(name, "policy/v1beta1")
        assert {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in items} == {
            (known.namespace, name)
        }
        kinds = ["Deployment", "Service", *(["PodDisruptionBudget"] if known.min_available else [])]
        assert [item["kind"] for item in items] == kinds
        (selector,) = {
            yaml.safe_dump(item["spec"]["selector"].get("matchLabels", item["spec"]["selector"])) for item in items
        }
        assert yaml.safe_load(selector).items() <= items[0]["spec"]["template"]["metadata"]["labels"].items()
    budgets = [known.min_available for known in objects.SERVICES.values()]
    assert 0 < budgets.count(None) < len(budgets) == 10
    assert all(budget < objects.REPLICAS for budget in budgets if budget), "they would block every drain"


@pytest.mark.parametrize("policies", [True, False])
def test_what_proves_an_initialisation_is_made_by_it_in_both_halves(tmp_path, policies):
    api, proof = EmptyApi(policies=policies), set(objects.initialized(policies=policies))
    cluster.initialize(api, say=print)
    made = {path.partition("?")[0] for path in api.written}
    assert proof <= made
    assert any("psp:" in path or "podsecuritypolicies" in path for path in made) == policies

    fail, half = tmp_path / "fail", EmptyApi(policies=policies)
    fail.touch()
    with pytest.raises(LabError, match=f"half way only: {re.escape(str(fail))} is there"):
        cluster.initialize(half, say=print, fail=fail)
    made = {path.partition("?")[0] for path in half.written}
    assert made & proof
    assert proof - made


def test_the_section_is_of_use_and_its_commands_can_be_run(context, section):
    assert isinstance(section.managed, str)
    listed = run(section.managed)
    assert (listed.returncode, listed.stdout.split()) == (0, list(objects.MANAGED))
    assert section.discovery
    assert section.discovery.config_file.parent == operator.conftool_folder(context)
    assert section.services.names == section.discovery.services == tuple(objects.SERVICES)
    ((matcher,),) = section.silences
    assert all(parse_matcher(matcher).regex().fullmatch(name) for name in section.services.names)


@pytest.mark.parametrize("words", ["", "shop-cart; echo", "$(reboot)"])
def test_a_service_that_there_is_not_is_said(section, words):
    result = run(section.services.deploy, service=shlex.quote(words))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"There is no service {words}. There are: shop-cart, ")


def test_a_service_can_be_made_to_fail(context, section):
    fail = deployment.folder(context) / "fail-service-shop-cart"
    fail.touch()
    result = run(section.services.deploy, service="shop-cart")
    assert result.returncode == 1
    assert result.stderr == f"shop-cart cannot be deployed: {fail} is there. Remove it, and run this again.\n"
    deployment.write(context, policies=False)
    assert fail.exists(), "the lab may be brought up again meanwhile"


def test_trouble_is_one_line(section):
    assert section.services.check
    assert section.discovery
    assert section.discovery.traffic
    for command in (section.initialize, section.services.check, section.discovery.traffic):
        result = run(command, service="shop-cart")
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert "refused" in result.stderr


def workload(*, generation=1, **status):
    return {"metadata": {"generation": generation}, "spec": {"replicas": 2}, "status": status}


READY = {"observedGeneration": 1, "readyReplicas": 2, "updatedReplicas": 2}


@pytest.mark.parametrize(
    ("kind", "found", "missing"),
    [
        ("Deployment", None, "it is not there"),
        ("Deployment", workload(**READY), ""),
        ("Deployment", workload(generation=2, **READY), "its controller has not seen it yet"),
        ("Deployment", workload(), "its controller has not seen it yet"),
        ("Deployment", workload(**READY | {"readyReplicas": 1}), "1 of 2 ready"),
        ("Deployment", workload(**READY | {"updatedReplicas": 1}), "1 of 2 ready"),
        (
            "Deployment",
            workload(
                observedGeneration=1,
                conditions=[{"type": "ReplicaFailure", "status": "True", "message": "pods are forbidden"}],
            ),
            "0 of 2 ready; pods are forbidden",
        ),
        (
            "DaemonSet",
            workload(
                observedGeneration=1,
                desiredNumberScheduled=6,
                numberReady=6,
                updatedNumberScheduled=6,
            ),
            "",
        ),
        ("DaemonSet", workload(observedGeneration=1, desiredNumberScheduled=0), "0 of 0 ready"),
    ],
)
def test_what_a_workload_lacks_is_said(kind, found, missing):
    assert cluster.judge(kind, found) == missing


@given(
    steps=st.lists(st.tuples(st.floats(0, 3), st.booleans(), st.integers(0, 1)), min_size=1, max_size=20),
    ttl=st.floats(0.5, 4),
)
def test_traffic_is_gone_only_after_a_ttl_without_a_change(steps, ttl):
    now, index, kept = 1000.0, 1, None
    unchanged_since = None
    for seconds, pooled, change in steps:
        now += seconds
        index += change
        kept, rest = traffic.judge(traffic.Record(pooled, ttl, index), kept, now)
        if pooled:
            unchanged_since = None
            assert (kept, rest) == (None, None)
            continue
        if unchanged_since is None or change:
            unchanged_since = now
        assert rest is not None
        assert rest == pytest.approx(max(0.0, unchanged_since + ttl - now))
        assert (rest == 0) <= (now - unchanged_since >= ttl * 0.999)


def test_a_clock_that_was_set_back_begins_the_time_anew():
    record = traffic.Record(pooled=False, ttl=2.0, index=7)
    assert traffic.judge(record, traffic.Seen(7, 5000.0), 1000.0) == (traffic.Seen(7, 1000.0), 2.0)


def test_scripts_are_private_and_take_no_module_of_the_current_folder(context, section, tmp_path):
    scripts = [path for path in deployment.folder(context).iterdir() if path.suffix != ".json"]
    assert {path.stat().st_mode & 0o777 for path in scripts} == {0o700}
    (tmp_path / "json.py").write_text("raise SystemExit('another json')")
    result = run(f"cd {tmp_path} && {section.managed}")
    assert result.returncode == 0, result.stderr

"""The lab's deployment repository on its cluster: what it deploys is there, what is missing is said."""

import logging
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from spicerack.confctl import Confctl

from fleet.config.loading import load
from fleet.config.reinitialize import ReinitializeConfig
from fleet_lab import deployment, operator
from fleet_lab.charts.objects import SERVICES
from fleet_lab.guest.kubelet.api import ApiError
from fleet_lab.lab import Lab
from fleet_lab.roles import control_plane
from fleet_lab.waiting import wait_for

POLICY_BINDING = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/psp:permissive"
PRIORITY = "/apis/scheduling.k8s.io/v1/priorityclasses/cluster-component"


@pytest.fixture(scope="module")
def deployed(lab: Lab) -> Iterator[ReinitializeConfig]:
    """Components and services on the cluster, and the operator's configuration, which names the commands for them."""
    section = load(lab.fleet_config).cluster(operator.CLUSTER).reinitialize
    assert section
    deployment.load(lab.api(), hanging_finalizer=True)
    yield section
    deployment.unload(lab.api())


def begin(command: str, service: str = "") -> subprocess.Popen[str]:
    words = ["bash", "-c", command.format(service=shlex.quote(service))]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(command: str, service: str = "") -> tuple[int, str]:
    with begin(command, service) as process:
        text, _ = process.communicate(timeout=90)
        return process.returncode, text


def test_all_is_there(lab: Lab, deployed: ReinitializeConfig):
    assert deployed.services.check
    assert {name: run(deployed.services.check, name) for name in SERVICES} == {
        name: (0, f"{name} has all of its replicas\n") for name in SERVICES
    }
    code, text = run(deployed.components.command)
    assert (code, text.splitlines()[-1]) == (0, "the components are Ready")
    for path in deployed.initialized:
        assert lab.api().request("GET", path)["metadata"]["name"]


def test_a_deployment_that_was_killed_is_completed_by_the_next_one(lab: Lab, deployed: ReinitializeConfig):
    lab.api().request("DELETE", "/apis/apps/v1/namespaces/shop/deployments/shop-search")
    lab.api().request("DELETE", "/api/v1/namespaces/shop/services/shop-search")
    assert deployed.services.check
    assert run(deployed.services.check, "shop-search") == (1, "Deployment shop/shop-search: it is not there\n")
    with begin(deployed.services.deploy, "shop-search") as process:
        assert process.stdout
        assert process.stdout.readline() == "Namespace shop is applied\n"
        process.kill()
    code, text = run(deployed.services.deploy, "shop-search")
    assert (code, text.splitlines()[-1]) == (0, "shop-search is Ready")
    assert run(deployed.services.check, "shop-search")[0] == 0


def test_a_cluster_that_is_not_initialised_lets_no_pod_in_until_it_is(lab: Lab, deployed: ReinitializeConfig):
    """By its policies, which it has up to Kubernetes 1.24; by what its components' pods need, later."""
    if control_plane.admission_plugins(lab.context):
        missing, refusal, initialised = POLICY_BINDING, "PodSecurityPolicy", "ClusterRoleBinding psp:permissive"
        workload, command = "media/deployments/media-player", (deployed.services.deploy, "media-player")
    else:
        missing, refusal, initialised = PRIORITY, "no PriorityClass with name", "PriorityClass cluster-component"
        workload, command = "kube-system/deployments/coredns", (deployed.components.command, "")
    lab.api().request("DELETE", f"/apis/apps/v1/namespaces/{workload}")
    lab.api().request("DELETE", missing)
    try:
        with begin(*command) as process:
            assert process.stdout
            refused = next(line for line in process.stdout if "forbidden" in line)
            assert refusal in refused
            code, text = run(deployed.initialize)
            assert (code, f"{initialised} is applied" in text) == (0, True)
            rest, _ = process.communicate(timeout=90)
            assert process.returncode == 0
            assert rest.splitlines()[-1].endswith(("is Ready", "are Ready"))
    finally:
        deployment.initialize(lab.api())


def test_pods_are_held_to_the_standard_of_their_namespace(lab: Lab, deployed: ReinitializeConfig):
    """The label is there on every version; Kubernetes itself heeds it from 1.23 on."""
    labels = lab.api().request("GET", "/api/v1/namespaces/media")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"
    container = {"name": "main", "image": "registry.invalid/main:1"}
    pod = {"metadata": {"name": "root"}, "spec": {"hostNetwork": True, "containers": [container]}}
    path = "/api/v1/namespaces/media/pods?dryRun=All"
    if control_plane.admission_plugins(lab.context):
        assert lab.api().request("POST", path, pod)["metadata"]["name"] == "root"
    else:
        with pytest.raises(ApiError, match='violates PodSecurity "baseline'):
            lab.api().request("POST", path, pod)


def test_traffic_is_gone_a_while_after_the_record_was_depooled(lab: Lab, deployed: ReinitializeConfig):
    logging.getLogger("ConftoolAudit").disabled = True
    folder = operator.conftool_folder(lab.context)
    confctl = Confctl(str(folder / "config.yaml"), str(folder / "schema.yaml"), dry_run=False)
    records = confctl.entity("discovery")
    everywhere = {(record.tags["dnsdisc"], record.name): record.pooled for record in records.get()}
    assert everywhere == {(name, place): True for name in SERVICES for place in deployment.DATACENTERS}

    assert deployed.discovery
    traffic = deployed.discovery.traffic
    assert traffic
    ours = {"dnsdisc": "shop-cart", "name": deployed.discovery.datacenter}
    assert run(traffic, "shop-cart") == (1, "shop-cart is pooled here\n")
    records.set_and_verify("pooled", False, **ours)
    try:
        code, text = run(traffic, "shop-cart")
        assert (code, text) == (1, f"shop-cart: {deployment.TTL:.1f} s to go\n")
        wait_for(lambda: "" if run(traffic, "shop-cart")[0] == 0 else "traffic", what="its end", timeout=30)
    finally:
        records.set_and_verify("pooled", True, **ours)
    assert run(traffic, "shop-cart")[0] == 1

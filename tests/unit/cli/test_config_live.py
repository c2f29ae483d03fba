"""``fleet config check --live``: what is said of what the configuration names."""

from pathlib import Path

import pytest

from fleet.adapters.k8s.client import JSON
from fleet.adapters.k8s.connection import Query
from fleet.cli import config_live
from fleet.config.model import ClusterConfig


class Role:
    """An API that allows everything but some verbs of some resources."""

    def __init__(self, *lacking: tuple[str, str]) -> None:
        self.lacking = set(lacking)

    def create(self, path: str, body: JSON, **query: Query) -> JSON:
        asked = body["spec"]["resourceAttributes"]
        return {"status": {"allowed": (asked["verb"], asked["resource"]) not in self.lacking}}


def cluster(kubeconfig: Path = Path("/etc/kubernetes/lab.config")) -> ClusterConfig:
    data = {"kubeconfig": str(kubeconfig), "hosts": {"workers": "w[1-2]", "control_plane": "cp1"}}
    return ClusterConfig.model_validate({**data, "domain_label": "topology.kubernetes.io/zone"})


def test_missing_rights_are_named_with_their_rule() -> None:
    assert list(config_live.lacks(Role(), cluster())) == []
    lines = list(config_live.lacks(Role(("list", "volumeattachments")), cluster()))
    assert lines == [
        "its user may not see which volumes are attached to a node: add to its"
        " ClusterRole: {apiGroups: [storage.k8s.io], resources: [volumeattachments], verbs: [list]}"
    ]


@pytest.mark.parametrize(("version", "old"), [("v1.19.16", True), ("v1.20.2", False), ("v1.36.3", False), ("?", False)])
def test_old_versions(version: str, old: bool) -> None:
    assert config_live.too_old(version) == old


def test_what_cannot_be_asked_is_a_mistake_with_its_key(tmp_path: Path) -> None:
    from fleet.config.model import Config

    config = Config.model_validate({"state_dir": str(tmp_path), "clusters": {"lab": cluster(tmp_path / "no")}})
    (line,) = config_live.check(config, Path("/c.yaml"))
    assert line.startswith("/c.yaml: clusters.lab.kubeconfig: The kubeconfig ")
    assert "cannot be read" in line

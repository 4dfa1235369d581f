"""Certificates for tests of signatures: an issuer of its own, and a signer's certificate that it has issued."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class SignerFiles:
    """PEM files of a signer."""

    certificate: str
    """Path of the signer's certificate, before its issuer's."""
    key: str
    issuer: str


def write_signer(folder: Path, name: str = "A test", days: int = 2) -> SignerFiles:
    """Write a signer's files; `days` below 1 makes a certificate that has expired."""
    issuer_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _certificate("Issuer of tests", issuer_key, "Issuer of tests", issuer_key, days=30, issues=True)
    signer = _certificate(name, key, "Issuer of tests", issuer_key, days, issues=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = SignerFiles(*(str(folder / f"{each}.pem") for each in ("certificate", "key", "issuer")))
    Path(files.certificate).write_bytes(signer.public_bytes(pem) + issuer.public_bytes(pem))
    Path(files.key).write_bytes(private)
    Path(files.issuer).write_bytes(issuer.public_bytes(pem))
    return files


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    days: int,
    issues: bool,
) -> x509.Certificate:
    end = datetime.datetime.now(datetime.UTC) + (days - 1) * DAY
    usage = {"key_cert_sign": issues, "crl_sign": issues, "digital_signature": not issues}
    others = "content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only"
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder(_name(issuer), _name(name), key.public_key(), x509.random_serial_number())
        .not_valid_before(end - 40 * DAY)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=issues, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage, **dict.fromkeys(others.split(), False)), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
    )
    if not issues:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    attributes = {NameOID.ORGANIZATION_NAME: "Tests", NameOID.COMMON_NAME: common_name}
    return x509.Name([x509.NameAttribute(*each) for each in attributes.items()])

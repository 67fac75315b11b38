"""Makes the secrets that the chart and `postgres.yaml` expect, for trying Darkroom out.

A namespace and a release's name come in; on stdout goes a JSON List of fresh Secrets, for `kubectl create -f -`, which
refuses to replace those that exist. The authority's private key is thrown away: new certificates mean a new authority.
In production the database has its own, and cert-manager issues certificates.
"""

import argparse
import datetime
import json
import secrets
import sys
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOMS = ("scheduler", "lora-store", "media-store", "billing-meter")
LIFE_DAYS = 90


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def main() -> None:
    """Print the secrets of one namespace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", default="darkroom")
    parser.add_argument("--release", default="darkroom", help="the first part of the services' names")
    chosen = parser.parse_args()
    made = make(namespace=chosen.namespace, release=chosen.release)
    json.dump({"apiVersion": "v1", "kind": "List", "items": made}, sys.stdout, indent=2)


def make(*, namespace: str, release: str) -> list[dict[str, Any]]:
    """Secrets as manifests, every value new."""
    password = secrets.token_hex(24)
    values = {
        "darkroom-platform": {
            "service-secret": secrets.token_hex(32),
            "operator-key": f"dk_{secrets.token_hex(6)}_{secrets.token_hex(32)}",
        },
        "darkroom-database": {
            "database-url": f"postgresql://darkroom:{password}@postgres.{namespace}.svc:5432/darkroom"
        },
        "darkroom-postgres": {"password": password},
        "darkroom-tls": certificates(names(namespace=namespace, release=release)),
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": "kubernetes.io/tls" if "tls.crt" in data else "Opaque",
            "stringData": data,
        }
        for name, data in values.items()
    ]


def names(*, namespace: str, release: str) -> list[str]:
    """Every name that is dialled: the rooms' services, the runners' pods, and a pod itself."""
    services = [f"{release}-{room}.{namespace}.svc" for room in ROOMS]
    return [*services, f"*.{release}-model-runner.{namespace}.svc", "localhost"]


def certificates(dns_names: list[str]) -> dict[str, str]:
    """An authority's certificate, and one that it signed, with its key: all PEM."""
    authority = issue("Darkroom trial authority", [], None)
    rooms = issue("Darkroom rooms", dns_names, authority)
    key = rooms.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "ca.crt": authority.certificate.public_bytes(serialization.Encoding.PEM).decode(),
        "tls.crt": rooms.certificate.public_bytes(serialization.Encoding.PEM).decode(),
        "tls.key": key.decode(),
    }


def issue(common_name: str, dns_names: list[str], authority: Pair | None) -> Pair:
    """A certificate for these names, signed by the authority; without one it is an authority and signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    signer = authority.key if authority else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=LIFE_DAYS))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if dns_names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in dns_names]), False)
    return Pair(builder.sign(signer, hashes.SHA256()), key)


if __name__ == "__main__":
    main()

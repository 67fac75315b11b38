"""Mutual TLS: both ends show a certificate of the same authority, or there is no call."""

import dataclasses
import datetime
import ipaddress

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from darkroom import rpc, settings
from darkroom.api.billing_meter.v1 import account_service_pb2, account_service_pb2_grpc

from .conftest import OPERATOR_KEY, running


def _pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, name):
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem = self._sign(self.name, self.key.public_key(), authority=True)

    def issue(self):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "room")])
        return rpc.Tls(ca=self.pem, cert=self._sign(subject, key.public_key()), key=_pem(key))

    def _sign(self, subject, public_key, *, authority=False):
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self.name, subject, public_key, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        signed = builder.add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority():
    return Authority("ours")


@pytest.fixture
def secured(config, authority, tmp_path):
    issued = authority.issue()
    paths = {}
    for name in ("cert", "key", "ca"):
        (tmp_path / name).write_bytes(getattr(issued, name))
        paths[f"tls_{name}_path"] = str(tmp_path / name)
    return dataclasses.replace(config, **paths)


async def _call(room, tls):
    async with room.channel(OPERATOR_KEY, tls=tls) as channel:
        return await account_service_pb2_grpc.AccountServiceStub(channel).CreateKey(
            account_service_pb2.CreateKeyRequest(), timeout=5
        )


async def test_a_room_with_a_certificate_is_admitted(secured):
    async with running(secured) as room:
        assert await _call(room, rpc.tls(secured))


async def test_others_are_not(secured, authority):
    stranger = Authority("theirs").issue()
    async with running(secured) as room:
        for tls in (None, rpc.Tls(ca=authority.pem), stranger, dataclasses.replace(stranger, ca=authority.pem)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _call(room, tls)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_without_paths_there_is_no_tls(config):
    assert rpc.tls(config) is None


def test_the_private_key_is_not_in_the_repr(authority):
    assert "PRIVATE" not in repr(authority.issue())


def test_a_server_needs_a_certificate(authority):
    with pytest.raises(ValueError, match="certificate"):
        rpc.Tls(ca=authority.pem).server()


def test_plaintext_beyond_loopback_is_refused(config):
    with pytest.raises(settings.SettingsError):
        dataclasses.replace(config, listen_address="0.0.0.0:0")

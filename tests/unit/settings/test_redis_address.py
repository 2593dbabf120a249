"""The addresses and options of a REDIS_URL."""

import ssl
from pathlib import Path

import pytest
from tidewire.errors import SettingsError
from tidewire.settings.config import Settings, TransportName
from tidewire.transports.redis.connection import Address
from tidewire.wiring import make_transport

from tests.support.certificates import certify

AUTH = ("AUTH",)


@pytest.mark.parametrize(
    ("url", "place", "handshake"),
    [
        ("redis://h", ("h", 6379, None), []),
        ("redis://h:1/0", ("h", 1, None), []),
        ("redis://h:1/3", ("h", 1, None), [["SELECT", "3"]]),
        ("redis://h:1?db=4", ("h", 1, None), [["SELECT", "4"]]),
        ("redis://:p%40ss@h:1", ("h", 1, None), [["AUTH", "p@ss"]]),
        ("redis://a%3Ab:p%2F%23%3F%25%C3%A9@h:1", ("h", 1, None), [["AUTH", "a:b", "p/#?%é"]]),
        ("redis://h:1/2?db=2", ("h", 1, None), [["SELECT", "2"]]),
        ("redis://default:p@h:1/2", ("h", 1, None), [["AUTH", "default", "p"], ["SELECT", "2"]]),
        ("redis://[::1]:7/", ("::1", 7, None), []),
        ("redis://", ("localhost", 6379, None), []),
        ("unix:///run/redis.sock?db=2", ("localhost", 6379, "/run/redis.sock"), [["SELECT", "2"]]),
        ("unix://:p@/run/redis.sock", ("localhost", 6379, "/run/redis.sock"), [["AUTH", "p"]]),
    ],
)
def test_a_url_names_the_server_user_and_database(
    url: str, place: tuple[str, int, str | None], handshake: list[list[str]]
) -> None:
    address = Address.parse(url)
    assert (address.host, address.port, address.path) == place
    assert list(address.handshake) == handshake
    assert address.tls is None


def test_certificates_are_checked_by_default() -> None:
    checked, unchecked = Address.parse("rediss://h").tls, Address.parse("rediss://h?ssl_cert_reqs=none").tls
    assert checked is not None
    assert unchecked is not None
    assert (checked.verify_mode, checked.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (unchecked.verify_mode, unchecked.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("redis://:hunter2@h?protocol=3", "protocol"),
        ("redis://:hunter2@h/hunter2", "number"),
        ("rediss://:hunter2@h?ssl_cert_reqs=optional", "required or none"),
        ("rediss://:hunter2@h?ssl_ca_certs=/hunter2.pem", "ssl_ca_certs"),
        ("redis://:hunter2@h?protocol=", "protocol"),
        ("redis://:hunter2@h?db=1&db=2", "twice"),
        ("redis://:hunter2@h/1?db=2", "two databases"),
        ("redis://:hunter2@h/1234567", "number"),
        ("redis://:hunter2@h?ssl_cert_reqs=required", "rediss://"),
        ("redis://:x@h#hunter2", "%23"),
        ("redis://hunter2@h", "without a password"),
        ("unix://hunter2/redis.sock", "whole path"),
        ("unix://", "whole path"),
        ("rediss://:hunter2@:6379", "no host"),
        ("redis://:hunter2@h:0", "port 0"),
    ],
)
@pytest.mark.parametrize("transport", ["redis", "redis-pubsub"])
def test_wrong_urls_are_refused_and_not_quoted(url: str, rule: str, transport: TransportName) -> None:
    """Over Pub/Sub, an unknown option reached redis-py, and each of its connections failed."""
    with pytest.raises(SettingsError, match="REDIS_URL") as caught:
        make_transport(Settings(transport=transport, redis_url=url))
    assert rule in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://h?b=1&a=1&db=2", "has an unknown option (a): the options are db, ssl_ca_certs, ssl_cert_reqs"),
        ("redis://h?db=1&db=1", "has an option twice"),
        ("redis://h?ssl_cert_reqs=none&ssl_ca_certs=x", "has the option ssl_ca_certs, which needs rediss://"),
        ("unix:///s?ssl_cert_reqs=none", "has the option ssl_cert_reqs, which needs rediss://"),
        ("redis://h/1?db=2", "names two databases, after the last / and as db"),
        ("redis://:a@h#b", "has a #: in a password write it %23, and / as %2F, ? as %3F, @ as %40"),
        ("redis://u@h", "names a user without a password: write redis://user:password@host"),
        ("unix://h/s", "must name the socket with its whole path: unix:///run/redis.sock"),
        ("unix:///", "must name the socket with its whole path: unix:///run/redis.sock"),
        ("rediss://:p@", "names no host, so that no certificate can be checked"),
        ("redis://h:0", "has the port 0"),
        ("redis://h/X1", "the database after the last / must be a number"),
        ("redis://h/%C2%B2", "the database after the last / must be a number"),
        ("redis://h/²", "the database after the last / must be a number"),
        ("redis://h/123456", "the database after the last / must be a number"),
        ("redis://h?db=-1", "the database after the last / must be a number"),
        ("rediss://h?ssl_cert_reqs=optional", "ssl_cert_reqs must be required or none"),
        ("rediss://h?ssl_ca_certs=/none", "ssl_ca_certs does not name a file with certificates"),
    ],
)
def test_a_wrong_url_is_explained(url: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Address.parse(url)
    assert str(caught.value) == str(SettingsError("REDIS_URL", problem))


@pytest.mark.parametrize(
    ("url", "handshake"),
    [
        ("redis://h/", ()),
        ("redis://h/?db=", ()),
        ("redis://h/12345", (["SELECT", "12345"],)),
        ("redis://h/0?db=0", ()),
        ("redis://:p@h", (["AUTH", "p"],)),
        ("redis://:@h", ()),
        ("unix:///s/1", ()),
        ("unix:///a%20b?db=1", (["SELECT", "1"],)),
        ("unix:///s/1?db=2", (["SELECT", "2"],)),
        ("rediss://h?ssl_cert_reqs=required", ()),
    ],
)
def test_a_url_becomes_a_handshake(url: str, handshake: tuple[list[str], ...]) -> None:
    assert Address.parse(url).handshake == handshake


def test_the_path_of_a_socket_is_unquoted() -> None:
    assert Address.parse("unix:///a%20b").path == "/a b"


def test_certificates_of_a_file_are_trusted_alone(tmp_path: Path) -> None:
    certify(tmp_path / "ca.pem")
    found = Address.parse(f"rediss://h?ssl_ca_certs={tmp_path}/ca.pem").tls
    assert found is not None
    assert len(found.get_ca_certs()) == 1

"""The addresses and options of a REDIS_URL."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tidewire.errors import SettingsError, TransportRefused, TransportUnavailable
from tidewire.settings.config import Settings, TransportName
from tidewire.transports.errors import CommandError, unavailable
from tidewire.transports.redis.address import Address, Command, Servers
from tidewire.wiring import make_transport

from tests.support.certificates import certify

NO_HOST = "has an empty host in its list: write host:port,host:port"
NO_SERVICE = "must name the primary after the last host, as the sentinels know it: …host:26379/mymaster"
NO_CERTIFICATE = "ssl_certfile, ssl_keyfile and ssl_password do not open a certificate and its key"
SEVERAL = "names several servers: write redis+sentinel:// or redis+cluster:// before them"
TLS = "ssl_ca_certs, ssl_cert_reqs, ssl_certfile, ssl_check_hostname, ssl_keyfile, ssl_password"


@pytest.mark.parametrize(
    ("url", "place", "handshake"),
    [
        ("redis://h", ("h", 6379, None), []),
        ("redis://h:1/0", ("h", 1, None), []),
        ("redis://h:1/3", ("h", 1, None), [("SELECT", "3")]),
        ("redis://h:1?db=4", ("h", 1, None), [("SELECT", "4")]),
        ("redis://:p%40ss@h:1", ("h", 1, None), [("AUTH", "p@ss")]),
        ("redis://a%3Ab:p%2F%23%3F%25%C3%A9@h:1", ("h", 1, None), [("AUTH", "a:b", "p/#?%é")]),
        ("redis://h:1/2?db=2", ("h", 1, None), [("SELECT", "2")]),
        ("redis://default:p@h:1/2", ("h", 1, None), [("AUTH", "default", "p"), ("SELECT", "2")]),
        ("redis://[::1]:7/", ("::1", 7, None), []),
        ("redis://", ("localhost", 6379, None), []),
        ("unix:///run/redis.sock?db=2", ("localhost", 6379, "/run/redis.sock"), [("SELECT", "2")]),
        ("unix://:p@/run/redis.sock", ("localhost", 6379, "/run/redis.sock"), [("AUTH", "p")]),
    ],
)
def test_a_url_names_the_server_user_and_database(
    url: str, place: tuple[str, int, str | None], handshake: list[Command]
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
        ("redis://:hunter2@h:hunter2", "not a URL"),
        ("redis://:hunter2@h:1,hunter2:2", "several servers"),
        ("redis+sentinel://:hunter2@h:hunter2/m", "not a URL"),
        ("redis+sentinel://:hunter2@h/hunter2/0", "must name the primary"),
        ("rediss+sentinel://:hunter2@h/m?ssl_certfile=/hunter2.pem", "ssl_certfile"),
        ("redis+sentinel://h/m?sentinel_username=hunter2", "without sentinel_password"),
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
        ("redis://h?b=1&a=1&db=2", f"has an unknown option (a): the options are db, {TLS}"),
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
        ("rediss://h?ssl_check_hostname=no", "ssl_check_hostname must be true or false"),
        ("rediss://h?ssl_keyfile=/k", "has the option ssl_keyfile without ssl_certfile"),
        ("rediss://h?ssl_password=p", "has the option ssl_password without ssl_certfile"),
        ("rediss://h?ssl_certfile=/none", NO_CERTIFICATE),
        ("redis://h?ssl_certfile=/none", "has the option ssl_certfile, which needs rediss://"),
        ("redis://h?sentinel_ssl=true", f"has an unknown option (sentinel_ssl): the options are db, {TLS}"),
        ("redis://a,b", SEVERAL),
        ("redis://a:1,b:2/0", SEVERAL),
        ("redis://u:p@[::1]:1,[::2]:2", SEVERAL),
        ("redis://h:x", "is not a URL"),
        ("redis://[::1", "is not a URL"),
        ("http://h", "is not the URL of a Redis server"),
        ("redis", "is not the URL of a Redis server"),
        ("unix+sentinel:///run/s.sock", "is not the URL of a Redis server"),
        ("redis+sentinel://a:1,b:x/m", "is not a URL"),
        ("redis+sentinel://a:1,b:0/m", "has the port 0"),
        ("redis+sentinel://a:1,b:99999/m", "is not a URL"),
        ("redis+sentinel://a:1,,b:1/m", NO_HOST),
        ("redis+sentinel://:p@/m", NO_HOST),
        ("redis+sentinel:///run/s.sock", NO_HOST),
        ("redis+sentinel://a:1,/m", NO_HOST),
        ("redis+sentinel://a", NO_SERVICE),
        ("redis+sentinel://a/?db=1", NO_SERVICE),
        ("redis+sentinel://a/my%20master", NO_SERVICE),
        ("redis+sentinel://a/m/0", NO_SERVICE),
        ("redis+sentinel://u@a/m", "names a user without a password: write redis://user:password@host"),
        ("redis+sentinel://a,b/m?db=1&db=1", "has an option twice"),
        ("redis+sentinel://a/m?db=x", "db must be a number"),
        ("redis+sentinel://a/m?sentinel_username=u", "has the option sentinel_username without sentinel_password"),
        ("redis+sentinel://a/m?sentinel_ssl=yes", "sentinel_ssl must be true or false"),
        ("redis+sentinel://a/m?ssl_ca_certs=c", "has the option ssl_ca_certs, which needs rediss+sentinel://"),
        ("redis+cluster://a?ssl_ca_certs=c", "has the option ssl_ca_certs, which needs rediss+cluster://"),
        (
            "redis+sentinel://a/m?x=1",
            "has an unknown option (x): the options are db, sentinel_password, sentinel_ssl, sentinel_username, " + TLS,
        ),
        ("redis+cluster://a/1", "names a database, but a cluster has only the database 0"),
        ("redis+cluster://a?db=2", "names a database, but a cluster has only the database 0"),
        ("redis+cluster://a/mymaster", "names a database, but a cluster has only the database 0"),
        ("redis+cluster://a,", NO_HOST),
        ("redis+cluster://:a@h#b", "has a #: in a password write it %23, and / as %2F, ? as %3F, @ as %40"),
    ],
)
def test_a_wrong_url_is_explained(url: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Servers.parse(url)
    assert str(caught.value) == str(SettingsError("REDIS_URL", problem))


@pytest.mark.parametrize(
    ("url", "handshake"),
    [
        ("redis://h/", ()),
        ("redis://h/?db=", ()),
        ("redis://h/12345", (("SELECT", "12345"),)),
        ("redis://h/0?db=0", ()),
        ("redis://:p@h", (("AUTH", "p"),)),
        ("redis://:@h", ()),
        ("unix:///s/1", ()),
        ("unix:///a%20b?db=1", (("SELECT", "1"),)),
        ("unix:///s/1?db=2", (("SELECT", "2"),)),
        ("rediss://h?ssl_cert_reqs=required", ()),
    ],
)
def test_a_url_becomes_a_handshake(url: str, handshake: tuple[Command, ...]) -> None:
    assert Address.parse(url).handshake == handshake


def test_the_path_of_a_socket_is_unquoted() -> None:
    assert Address.parse("unix:///a%20b").path == "/a b"


def test_certificates_of_a_file_are_trusted_alone(tmp_path: Path) -> None:
    certify(tmp_path / "ca.pem")
    found = Address.parse(f"rediss://h?ssl_ca_certs={tmp_path}/ca.pem").tls
    assert found is not None
    assert len(found.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("url", "seeds", "handshake"),
    [
        ("redis+cluster://a", [("a", 6379)], []),
        (
            "redis+cluster://a:7000,b,[::1]:7002,[fe80::2]/0?db=0",
            [("a", 7000), ("b", 6379), ("::1", 7002), ("fe80::2", 6379)],
            [],
        ),
        ("redis+cluster://u:p%2C@a:1,b:2", [("a", 1), ("b", 2)], [("AUTH", "u", "p,")]),
        ("redis+cluster://:p,q@a:1,b:2", [("a", 1), ("b", 2)], [("AUTH", "p,q")]),
    ],
)
def test_a_cluster_has_seeds(url: str, seeds: list[tuple[str, int]], handshake: list[Command]) -> None:
    servers = Servers.parse(url)
    assert (servers.kind, servers.service, servers.tls) == ("cluster", "", None)
    assert [(at.host, at.port) for at in servers.seeds] == seeds
    assert servers.node("n", 9) == Address("n", 9, None, None, tuple(handshake))
    assert {at.handshake for at in servers.seeds} == {servers.handshake}


def test_sentinels_have_their_own_credentials() -> None:
    servers = Servers.parse(
        "redis+sentinel://u:p@a,b:7,[::1]/my.Primary-1_?db=3&sentinel_username=s%40&sentinel_password=%C3%A9%2B"
    )
    own: list[Command] = [("AUTH", "s@", "é+")]
    assert (servers.kind, servers.service) == ("sentinel", "my.Primary-1_")
    assert servers.seeds == tuple(
        Address(host, port, None, None, tuple(own)) for host, port in [("a", 26379), ("b", 7), ("::1", 26379)]
    )
    assert servers.node("n", 1).handshake == (("AUTH", "u", "p"), ("SELECT", "3"))
    assert Servers.parse("redis+sentinel://:p@a/m").seeds[0].handshake == ()
    assert Servers.parse("redis+sentinel://a/m?sentinel_password=x").seeds[0].handshake == (("AUTH", "x"),)


@pytest.mark.parametrize(
    ("url", "of_sentinels", "of_nodes"),
    [
        ("redis+sentinel://a/m", False, False),
        ("rediss+sentinel://a/m", True, True),
        ("redis+sentinel://a/m?sentinel_ssl=true", True, False),
        ("rediss+sentinel://a/m?sentinel_ssl=false", False, True),
        ("redis+sentinel://a/m?sentinel_ssl=true&ssl_check_hostname=false", True, False),
    ],
)
def test_each_side_of_sentinel_may_have_tls(url: str, of_sentinels: bool, of_nodes: bool) -> None:
    servers = Servers.parse(url)
    assert (servers.seeds[0].tls is not None, servers.node("n", 1).tls is not None) == (of_sentinels, of_nodes)


def test_one_server_is_its_own_seed() -> None:
    servers = Servers.parse("rediss://:p@h:7/3")
    assert (servers.kind, servers.service) == ("single", "")
    assert servers.seeds == (servers.node("h", 7),)
    with pytest.raises(SettingsError, match="must name one server"):
        Address.parse("redis+sentinel://a/m")


def test_a_hostname_need_not_be_in_the_certificate() -> None:
    """Sentinel and clusters may name nodes by addresses, which their certificates do not hold."""
    found = Servers.parse("rediss+cluster://a,b?ssl_check_hostname=false").tls
    assert found is not None
    assert (found.verify_mode, found.check_hostname) == (ssl.CERT_REQUIRED, False)


def test_a_client_certificate_is_loaded(tmp_path: Path) -> None:
    """Its key may be in the same file, or encrypted; without the password the terminal is not asked for it."""
    key = certify(tmp_path / "own.pem")
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "own.pem").read_bytes() + key.read_bytes())
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    secret = tmp_path / "secret.key"
    secret.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pw")
        )
    )
    Address.parse(f"rediss://h?ssl_certfile={tmp_path}/own.pem&ssl_keyfile={key}")
    Address.parse(f"rediss://h?ssl_certfile={both}")
    Address.parse(f"rediss://h?ssl_certfile={tmp_path}/own.pem&ssl_keyfile={secret}&ssl_password=pw")
    for wrong in ("", "&ssl_password=hunter2", f"&ssl_password={'x' * 2000}"):
        with pytest.raises(SettingsError, match="do not open") as caught:
            Address.parse(f"rediss://h?ssl_certfile={tmp_path}/own.pem&ssl_keyfile={secret}{wrong}")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "redirection"),
    [
        ("MOVED 3999 127.0.0.1:6381", (False, 3999, "127.0.0.1", 6381)),
        ("ASK 0 node-1.example:7000", (True, 0, "node-1.example", 7000)),
        ("MOVED 16383 :6381", (False, 16383, "", 6381)),
        ("MOVED 1 2001:db8::1:6381", (False, 1, "2001:db8::1", 6381)),
        ("MOVED 1 ?:6381", None),
        ("MOVED 1 h", None),
        ("MOVED", None),
        ("ERR MOVED 1 h:1", None),
        ("TRYAGAIN Multiple keys request during rehashing of slot", None),
    ],
)
def test_a_redirection_names_a_node(text: str, redirection: tuple[bool, int, str, int] | None) -> None:
    error = CommandError(text)
    assert error.redirection == redirection
    assert str(error) == text.split(maxsplit=1)[0]


@pytest.mark.parametrize("code", ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "CROSSSLOT"])
def test_what_a_cluster_refuses_passes(code: str) -> None:
    """One Redis that refuses the same needs another URL."""
    alone, cluster = (
        unavailable("Redis", CommandError(f"{code} x"), is_cluster=is_cluster) for is_cluster in (False, True)
    )
    assert type(alone) is TransportRefused
    assert "redis+cluster://" in str(alone)
    assert type(cluster) is TransportUnavailable
    assert "redis+cluster://" not in str(cluster)

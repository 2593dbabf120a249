"""What a REDIS_URL says."""

import ssl

import pytest

from shared.errors import SettingsError
from shared.transports.resp import Address

AUTH = ("AUTH",)


@pytest.mark.parametrize(
    ("url", "place", "greeting"),
    [
        ("redis://h", ("h", 6379, None), []),
        ("redis://h:1/0", ("h", 1, None), []),
        ("redis://h:1/3", ("h", 1, None), [["SELECT", "3"]]),
        ("redis://h:1?db=4", ("h", 1, None), [["SELECT", "4"]]),
        ("redis://:p%40ss@h:1", ("h", 1, None), [["AUTH", "p@ss"]]),
        ("redis://default:p@h:1/2", ("h", 1, None), [["AUTH", "default", "p"], ["SELECT", "2"]]),
        ("redis://[::1]:7/", ("::1", 7, None), []),
        ("redis://", ("localhost", 6379, None), []),
        ("unix:///run/redis.sock?db=2", ("localhost", 6379, "/run/redis.sock"), [["SELECT", "2"]]),
        ("unix://:p@/run/redis.sock", ("localhost", 6379, "/run/redis.sock"), [["AUTH", "p"]]),
    ],
)
def test_a_url_names_the_place_the_user_and_the_database(
    url: str, place: tuple[str, int, str | None], greeting: list[list[str]]
) -> None:
    address = Address.parse(url)
    assert (address.host, address.port, address.path) == place
    assert list(address.greeting) == greeting
    assert address.tls is None


def test_over_tls_the_certificate_is_checked_unless_the_url_says_that_it_is_not_to_be() -> None:
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
    ],
)
def test_what_is_not_known_is_refused_and_the_url_is_not_repeated(url: str, rule: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as caught:
        Address.parse(url)
    assert rule in str(caught.value)
    assert "hunter2" not in str(caught.value)

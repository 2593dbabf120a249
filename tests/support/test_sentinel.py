"""The sentinels of the tests replace a primary, and say who it is."""

from pathlib import Path

import pytest

from tests.support.redis_node import Access
from tests.support.sentinel import MakeSentinels, SentinelGroup


@pytest.mark.parametrize("number", [1, 2])
def test_a_planned_failover_is_followed_by_all(sentinel_group: SentinelGroup, number: int) -> None:
    """The second time too, with another primary at its start."""
    former = sentinel_group.primary
    assert former.call("DBSIZE") == 0
    former.write("SET", "key", "value", copies=2)
    promoted = sentinel_group.failover()
    assert promoted is sentinel_group.primary is not former
    assert promoted.call("GET", "key") == "value"
    sentinel_group.wait_until_ok()
    assert former in sentinel_group.replicas
    assert former.is_linked()


@pytest.mark.full
def test_the_sentinels_replace_a_killed_and_a_paused_one(make_sentinels: MakeSentinels) -> None:
    group = make_sentinels(aof=True)
    killed = group.kill_primary()
    promoted = group.wait_for_failover(killed)
    group.restart(killed)
    assert killed in group.replicas
    promoted.pause()
    assert group.wait_for_failover(promoted) is not promoted
    promoted.resume()
    group.wait_until_ok()
    assert promoted in group.replicas


def test_sentinels_have_credentials_of_their_own(make_sentinels: MakeSentinels, tmp_path: Path) -> None:
    """With TLS everywhere, and a client certificate demanded."""
    access = Access.over_tls(tmp_path, user="app", password="s/3", client_certificates=True)
    watchers = Access(password="w", certificate=access.certificate, client_certificates=True)
    group = make_sentinels(replicas=1, access=access, sentinel_access=watchers)
    hosts = ",".join(sentinel.address for sentinel in group.sentinels)
    assert group.url == (
        f"rediss+sentinel://app:s%2F3@{hosts}/tide?sentinel_password=w"
        f"&ssl_ca_certs={access.certificate}&ssl_certfile={access.certificate}&ssl_keyfile={access.key}"
    )
    former = group.primary
    assert group.failover() in group.servers
    assert group.replicas == [former]

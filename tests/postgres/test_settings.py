"""Which database is meant, by which of its hosts, and that no text tells more than it should."""

from collections.abc import Mapping

import pytest

from shared.config import Settings
from shared.endpoints import MAX_SCHEMA_NAME, database_urls
from shared.errors import SettingsError
from shared.transports.postgres import PostgresLog
from shared.transports.postgres_connection import is_pooled
from shared.wiring import make_transport

BASE = {"REALTIME_TRANSPORT": "postgres", "REALTIME_AUTH": "none"}
DIRECT = "postgresql://u:hunter2@ep-a-1.neon.tech/d?sslmode=require"
POOLED = "postgresql://u:hunter2@ep-a-1-pooler.neon.tech/d?sslmode=require&channel_binding=require"
NETLIFY = {"NETLIFY_DATABASE_URL": POOLED, "NETLIFY_DATABASE_URL_UNPOOLED": DIRECT}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DATABASE_URL": "postgres://h/d"}, ("postgres://h/d", None)),
        ({"DATABASE_URL": " postgres://h/d ", **NETLIFY}, ("postgres://h/d", None)),
        (NETLIFY, (DIRECT, POOLED)),
        ({"NETLIFY_DATABASE_URL_UNPOOLED": DIRECT}, (DIRECT, None)),
        ({"NETLIFY_DATABASE_URL": POOLED, "DATABASE_URL": ""}, (POOLED, None)),
    ],
    ids=["own", "own-wins", "netlify", "netlify-direct", "netlify-pooled"],
)
def test_the_direct_host_is_preferred_and_the_poolers_is_known_where_there_are_both(
    variables: Mapping[str, str], expected: tuple[str, str | None]
) -> None:
    settings = Settings.from_env({**BASE, **variables})
    assert (settings.database_url, settings.database_pooled_url) == expected
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "DATABASE_URL"),
        ({"DATABASE_URL": "mysql://hunter2/d"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://h:hunter2/d"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgres://[hunter2/d"}, "DATABASE_URL"),
        ({**NETLIFY, "NETLIFY_DATABASE_URL": "https://hunter2"}, "NETLIFY_DATABASE_URL"),
        ({**NETLIFY, "NETLIFY_DATABASE_URL_UNPOOLED": "hunter2"}, "NETLIFY_DATABASE_URL_UNPOOLED"),
        ({"DATABASE_URL": DIRECT, "REALTIME_PREFIX": "x" * (MAX_SCHEMA_NAME + 1)}, "REALTIME_PREFIX"),
        ({"DATABASE_URL": DIRECT, "REALTIME_PREFIX": "public"}, "REALTIME_PREFIX"),
        ({"DATABASE_URL": DIRECT, "REALTIME_PREFIX": "pg_rt"}, "REALTIME_PREFIX"),
        ({"DATABASE_URL": DIRECT, "REALTIME_PREFIX": 'a"b'}, "REALTIME_PREFIX"),
    ],
)
def test_a_wrong_value_stops_the_start_with_one_line_that_names_the_variable_and_hides_the_value(
    variables: Mapping[str, str], name: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**BASE, **variables})
    assert caught.value.variable == name
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_no_database_is_asked_for_where_another_transport_is_chosen() -> None:
    assert Settings.from_env({"DATABASE_URL": "mysql://h"}).database_url is None


@pytest.mark.parametrize(
    ("url", "pooled"),
    [
        (POOLED, True),
        (DIRECT, False),
        ("postgres://u:p-pooler@h/d-pooler", False),
        ("postgres://h:6432/d?pgbouncer=true", True),
        ("postgres:///d?host=ep-a-1-pooler.neon.tech", True),
        ("postgres://a,b-pooler.neon.tech/d", True),
        ("postgres:///d?host=/var/run/postgresql", False),
    ],
)
def test_a_pooler_is_known_by_its_host_and_by_nothing_else_that_looks_like_it(url: str, pooled: bool) -> None:
    assert is_pooled(url) is pooled


def test_functions_that_come_and_go_take_the_pooler_and_streams_never_listen_behind_it() -> None:
    settings = Settings.from_env({**BASE, **NETLIFY})
    stateless, lasting = make_transport(settings, stateless=True), make_transport(settings)
    assert isinstance(stateless, PostgresLog)
    assert isinstance(lasting, PostgresLog)
    assert stateless._pool._url == POOLED
    assert lasting._pool._url == DIRECT
    assert stateless._listen_url == lasting._listen_url == DIRECT


def test_the_environment_alone_decides() -> None:
    assert database_urls(NETLIFY) == (DIRECT, POOLED)

"""Events, waiting times and settings: what holds for any input."""

import random
import string
import traceback
import uuid

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tidewire.errors import SettingsError
from tidewire.model.event import MAX_USER_ID_LENGTH, MAX_USER_IDS, Event, is_user_id, new_id, problems
from tidewire.primitives.backoff import Backoff
from tidewire.settings.config import Settings

types = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=128)
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=256)
users = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=MAX_USER_ID_LENGTH)


def pointers(type: str, id: str | None, user_ids: tuple[str, ...] | None) -> list[str]:
    return [pointer for pointer, _ in problems(type, id, user_ids)]


@given(types, st.none() | visible, st.none() | st.lists(users, min_size=1, max_size=5).map(tuple))
def test_an_event_within_the_rules_has_no_problem(type: str, id: str | None, user_ids: tuple[str, ...] | None) -> None:
    assume(not type.startswith("realtime."))
    assert pointers(type, id, user_ids) == []


@given(st.text(), st.none() | st.text(), st.none() | st.lists(st.text(), max_size=5).map(tuple))
def test_each_problem_of_an_event_names_the_wrong_field(
    type: str, id: str | None, user_ids: tuple[str, ...] | None
) -> None:
    """The check of an event raises nothing, whatever the values."""
    allowed = set(string.ascii_letters + string.digits + "._-")
    good_type = 0 < len(type) <= 128 and set(type) <= allowed and not type.startswith("realtime.")
    good_id = id is None or (0 < len(id) <= 256 and all("!" <= c <= "~" for c in id))
    wrong = [f"/userIds/{n}" for n, user in enumerate(user_ids or ()) if not is_user_id(user)]
    expected = [
        *(["/type"] * (not good_type)),
        *(["/id"] * (not good_id)),
        *(["/userIds"] * (user_ids == ())),
        *wrong,
    ]
    assert pointers(type, id, user_ids) == expected


@given(types, st.sampled_from("\r\n\0\x1f \u00e9/:?"))
def test_a_type_or_id_that_could_forge_a_line_is_refused(text: str, forbidden: str) -> None:
    assert pointers(text + forbidden, None, None) == ["/type"]
    assert pointers("t", text + forbidden if forbidden not in "/:?" else "\n", None) == ["/id"]


@given(types)
def test_reserved_names_are_refused(type: str) -> None:
    assert pointers(f"realtime.{type}"[:128], None, None) == ["/type"]


@pytest.mark.parametrize("count", [MAX_USER_IDS, MAX_USER_IDS + 1])
def test_an_audience_has_a_limit(count: int) -> None:
    users = tuple(f"u{n}" for n in range(count))
    assert pointers("t", None, users) == (["/userIds"] if count > MAX_USER_IDS else [])


@given(st.text(), visible, st.text(), visible)
def test_the_same_key_means_the_same_source_and_id(source: str, id: str, other_source: str, other_id: str) -> None:
    def key(source: str, id: str) -> str:
        return Event(id, "t", b"null", None, {"source": source} if source else {}).key

    same = (source, id) == (other_source, other_id)
    assert (key(source, id) == key(other_source, other_id)) is same


def test_made_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(2_000)]
    assert len(set(ids)) == len(ids)
    parsed = [uuid.UUID(text) for text in ids]
    assert all(one.version == 7 and one.variant == uuid.RFC_4122 for one in parsed)
    milliseconds = [one.int >> 80 for one in parsed]
    assert milliseconds == sorted(milliseconds)
    assert pointers("t", ids[0], None) == []


@given(
    st.floats(0.001, 10),
    st.floats(0.001, 100),
    st.integers(0, 2**32),
    st.lists(st.booleans(), min_size=1, max_size=200),
)
def test_a_wait_stays_below_its_cap_and_a_reset_shortens_it(
    base: float, cap: float, seed: int, resets: list[bool]
) -> None:
    backoff = Backoff(base, cap, random.Random(seed))
    failures = 0
    for reset in resets:
        if reset:
            backoff.reset()
            failures = 0
        assert 0 <= backoff.next() <= min(cap, base * 2.0**failures)
        failures += 1


def test_waits_are_spread_over_all_of_the_limit() -> None:
    """Full jitter: instances that lost the same server must not come back together."""
    waits = []
    for seed in range(1_000):
        backoff = Backoff(1.0, 8.0, random.Random(seed))
        waits.append([backoff.next() for _ in range(6)])
    for failures, limit in enumerate([1, 2, 4, 8, 8, 8]):
        column = sorted(wait[failures] for wait in waits)
        assert column[50] < 0.1 * limit
        assert 0.45 * limit < column[500] < 0.55 * limit
        assert column[950] > 0.9 * limit


SECRET = "hunter2-" + "x" * 24
VARIABLES = [
    "REALTIME_TRANSPORT",
    "REDIS_URL",
    "REDIS_TOKEN",
    "UPSTASH_REDIS_REST_URL",
    "UPSTASH_REDIS_REST_TOKEN",
    "REALTIME_AUTH",
    "REALTIME_PUBLISH_KEYS",
    "REALTIME_JWT_SECRET",
    "REALTIME_JWKS_URL",
    "REALTIME_PREFIX",
    "REALTIME_RETENTION",
    "REALTIME_MAX_EVENTS",
    "REALTIME_MEMORY_MIB",
    "REALTIME_ALLOWED_ORIGINS",
    "REALTIME_PARTITIONS",
    "REALTIME_USER_SHARDS",
    "PORT",
]
values = st.sampled_from(
    ["{}", "redis://:{}@h", "https://{}", "https://u:{}@h/", "http://[{}", "redis://h:{}", "{},{}", "{}s", " {} "]
).map(lambda form: form.format(SECRET, SECRET))
harmless = st.sampled_from(["redis", "redis-pubsub", "memory", "none", "required", "7", "https://h", "redis://h"])


def refusal(environ: dict[str, str]) -> SettingsError | None:
    try:
        Settings.from_env(environ)
    except SettingsError as error:
        return error
    return None


@given(st.dictionaries(st.sampled_from(VARIABLES), values | harmless))
def test_settings_and_their_errors_contain_no_secret(environ: dict[str, str]) -> None:
    """Whatever the environment has in the wrong variable."""
    harmful = {"REALTIME_PREFIX", "REALTIME_ALLOWED_ORIGINS", "REALTIME_PARTITIONS", "REALTIME_JWKS_URL"}
    refused = refusal(environ)
    if refused is None:  # these are no secrets, and are shown if they were accepted
        assume(not any(SECRET in environ.get(name, "") for name in harmful))
        assert SECRET not in repr(Settings.from_env(environ))
    else:
        assert SECRET not in "".join(traceback.format_exception(refused))


@given(st.dictionaries(st.sampled_from(VARIABLES), st.text(st.characters(exclude_characters="\0"))))
def test_any_environment_is_read_or_refused_in_one_line(environ: dict[str, str]) -> None:
    refused = refusal(environ)
    if refused is not None:
        assert "\n" not in str(refused)
        assert refused.variable in str(refused)

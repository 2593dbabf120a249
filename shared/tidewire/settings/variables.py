"""Parsers for single variables; they raise SettingsError with the name of the variable, never its value."""

import re
from collections.abc import Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

from tidewire.errors import SettingsError

_Text = TypeVar("_Text", bound=str)

PREFIX = "REALTIME_"
NAMES = frozenset(
    {
        "REALTIME_ALLOWED_ORIGINS",
        "REALTIME_AUTH",
        "REALTIME_BODY_SECONDS",
        "REALTIME_CONFIG",
        "REALTIME_DEAD_LETTER_QUEUE",
        "REALTIME_EVENT_BUS",
        "REALTIME_EVENT_SOURCE",
        "REALTIME_FALLBACK",
        "REALTIME_HEAD_SECONDS",
        "REALTIME_HEARTBEAT",
        "REALTIME_IDEMPOTENCY_WINDOW",
        "REALTIME_JWKS_URL",
        "REALTIME_JWT_AUDIENCE",
        "REALTIME_JWT_ISSUER",
        "REALTIME_JWT_LEEWAY",
        "REALTIME_JWT_SECRET",
        "REALTIME_KEEP_ALIVE",
        "REALTIME_LOG_FORMAT",
        "REALTIME_LOG_LEVEL",
        "REALTIME_MAX_CONNECTIONS",
        "REALTIME_MAX_EVENTS",
        "REALTIME_MAX_USER_CONNECTIONS",
        "REALTIME_MEMORY_MIB",
        "REALTIME_METRICS_NAMESPACE",
        "REALTIME_NETLIFY_SECRET",
        "REALTIME_PARTITIONS",
        "REALTIME_POLL_MAX",
        "REALTIME_POLL_MIN",
        "REALTIME_PREFIX",
        "REALTIME_PUBLISH_KEYS",
        "REALTIME_PUBLISH_RATE",
        "REALTIME_RETENTION",
        "REALTIME_RETRY",
        "REALTIME_SECRETS_MAX_AGE",
        "REALTIME_SLEEP_AFTER",
        "REALTIME_STALL_SECONDS",
        "REALTIME_STREAM_SECONDS",
        "REALTIME_STREAM_URL",
        "REALTIME_TRANSPORT",
        "REALTIME_USER_SHARDS",
        "REALTIME_WAKE_EVERY",
    }
)
"""Every `REALTIME_*` variable; docs/configuration.md lists them too, and those of stores and platforms."""


def defined(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are set, stripped; an empty variable counts as unset."""
    return {name: value.strip() for name, value in environ.items() if value.strip()}


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each unknown `REALTIME_*` variable, which may be a typing error."""
    sentences = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in NAMES:
            from difflib import get_close_matches  # 2 ms of a cold start, which few processes need

            near = get_close_matches(name[len(PREFIX) :], [known[len(PREFIX) :] for known in NAMES], 1)
            hint = f": did you mean {PREFIX}{near[0]}?" if near else ": docs/configuration.md lists all variables"
            sentences.append(f"{name} is unknown and has no effect{hint}")
    return sentences


def choice(env: Mapping[str, str], name: str, choices: tuple[_Text, ...], default: _Text) -> _Text:
    """Return one of `choices`."""
    value = env.get(name, default)
    for known in choices:
        if value == known:
            return known
    raise SettingsError(name, f"must be one of {', '.join(choices)}")


def items(env: Mapping[str, str], name: str) -> list[str]:
    """Return the items of a comma-separated list."""
    return [item.strip() for item in env.get(name, "").split(",") if item.strip()]


def matching(env: Mapping[str, str], name: str, pattern: str, default: str) -> str:
    """Return a value that matches the whole `pattern`."""
    value = env.get(name, default)
    if not re.fullmatch(pattern, value, re.ASCII):
        raise SettingsError(name, f"must match {pattern}")
    return value


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_LONGEST = 3_650 * 86_400.0  # seconds, ten years: more is a mistake, and Redis would refuse it


def duration(env: Mapping[str, str], name: str, default: float, minimum: float, maximum: float = _LONGEST) -> float:
    """Return a duration in seconds; a number without a unit is in seconds."""
    if name not in env:
        return default
    match = _DURATION.fullmatch(env[name])
    if match is None:
        raise SettingsError(name, "must be a duration such as 500ms, 15s, 5m, 24h or 7d")
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if not minimum <= seconds <= maximum:
        raise SettingsError(name, f"must be at least {minimum:g}s and at most {maximum:g}s")
    return seconds


def lifetime(env: Mapping[str, str], default: float | None) -> float | None:
    """Return the lifetime of a stream in seconds, None if it is unlimited."""
    if env.get("REALTIME_STREAM_SECONDS") == "unlimited":
        return None
    if "REALTIME_STREAM_SECONDS" not in env:
        return default
    return duration(env, "REALTIME_STREAM_SECONDS", 0.0, 0.1)


def integer(env: Mapping[str, str], name: str, default: int, minimum: int, maximum: int | None = None) -> int:
    """Return a whole number from `minimum` to `maximum`."""
    if name not in env:
        return default
    text = env[name].replace("_", "")
    if not re.fullmatch(r"[0-9]{1,15}", text) or not minimum <= int(text) <= (maximum or int(text)):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise SettingsError(name, f"must be a whole number, at least {minimum}{upper}")
    return int(text)


class Rate(NamedTuple):
    """A token bucket's size, and the seconds in which it fills."""

    maximum: int
    seconds: float


def rate(env: Mapping[str, str], name: str) -> Rate | None:
    """Return a rate such as `100/1s`, None if it is not set."""
    if name not in env:
        return None
    maximum, slash, time = env[name].partition("/")
    if not slash or not maximum.strip() or not time.strip():
        raise SettingsError(name, "must be a number and a duration, such as 100/1s or 6000/1m")
    parts = {name: maximum.strip()}, {name: time.strip()}
    return Rate(integer(parts[0], name, 0, 1), duration(parts[1], name, 1.0, 1.0, 86_400.0))


def split_url(env: Mapping[str, str], name: str, url: str | None = None) -> SplitResult:
    """Return the parts of the variable's URL, or of `url`, if the variable lists several."""
    try:
        parts = urlsplit(env[name] if url is None else url)
        parts.port  # noqa: B018 — raises if it is malformed
    except ValueError:
        raise SettingsError(name, "is not a URL") from None
    return parts


_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)


def origins(env: Mapping[str, str], name: str) -> frozenset[str]:
    """Return the origins of a comma-separated list as browsers serialize them (URL Standard, section 4.7).

    Hosts become lower case, and default ports are removed. An origin that no browser sends raises SettingsError: it
    would allow nothing.
    """
    return frozenset(_origin(env, name, item) for item in items(env, name))


def _origin(env: Mapping[str, str], name: str, text: str) -> str:
    if not text.isascii():
        raise SettingsError(name, "must contain hosts in punycode, as browsers send them: https://xn--…")
    if text == "null":
        raise SettingsError(name, "must not contain null, because every sandboxed page and local file has that origin")
    parts = split_url(env, name, text)
    host = parts.netloc.rpartition(":")[0] if parts.port is not None else parts.netloc
    if parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(host) or text.partition("://")[2] != parts.netloc:
        raise SettingsError(
            name,
            "each item must be an exact origin such as https://app.example.com, without a path, trailing slash or *",
        )
    port = "" if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host.lower()}{port}"

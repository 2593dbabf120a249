"""Addresses in the environment: stores, event bus, key set, streams and trace collector.

Every function raises SettingsError.
"""

import re
from collections.abc import Mapping
from typing import Literal

from tidewire.errors import SettingsError
from tidewire.settings.variables import choice, defined, items, matching, split_url

MAX_SCHEMA_NAME = 50  # the NOTIFY channel contains it too, and Postgres truncates names at 63 characters

TraceExporter = Literal["otlp", "console"]
TRACE_EXPORTERS: tuple[TraceExporter, ...] = ("otlp", "console")
TRACE_VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Each of these enables traces, unless OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER=none disables them."""

_ANY_CASE = ("OTEL_SDK_DISABLED", "OTEL_TRACES_SAMPLER")  # the SDK ignores the case of their values
SAMPLERS = tuple(
    f"{parent}{own}" for parent in ("", "parentbased_") for own in ("always_on", "always_off", "traceidratio")
)

_TCP = re.compile(r"(unix|rediss?|rediss?\+(sentinel|cluster))://")

LOCAL = ("127.0.0.1", "localhost", "::1")


def redis_urls(env: Mapping[str, str], transport: str) -> tuple[str | None, str | None, str | None]:
    """Return the TCP URL, the REST URL and the REST token; at least one URL that the transport can use is not None."""
    if transport not in ("redis", "redis-pubsub"):
        return None, None, None
    url = env.get("REDIS_URL")
    tcp = url if url is not None and _TCP.match(url) else None
    kind = None
    if tcp is not None:
        from tidewire.settings.redis_url import parse_redis_url  # a function that uses REST starts without it

        kind = parse_redis_url(tcp).kind
    if transport == "redis-pubsub":
        if tcp is None:
            raise SettingsError("REDIS_URL", "must be a redis:// or rediss:// URL: Pub/Sub needs a connection")
        if kind != "single":
            raise SettingsError(
                "REDIS_URL", "names sentinels or a cluster, which redis-pubsub cannot use: use REALTIME_TRANSPORT=redis"
            )
        return tcp, None, None
    if url is not None and tcp is None:
        if not url.startswith(("https://", "http://")):
            raise SettingsError(
                "REDIS_URL",
                "must begin with redis:// or rediss:// (TCP), with redis+sentinel:// or redis+cluster://, or with https://"
                " (Upstash's REST)",
            )
        if env.get("UPSTASH_REDIS_REST_URL", url) != url:
            raise SettingsError("UPSTASH_REDIS_REST_URL", "differs from the REST endpoint in REDIS_URL: set only one")
        return None, *_rest(env, "REDIS_URL", "REDIS_TOKEN")
    if "UPSTASH_REDIS_REST_URL" in env:
        return tcp, *_rest(env, "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN")
    if tcp is None:
        raise SettingsError(
            "REDIS_URL",
            "is not set: REALTIME_TRANSPORT=redis needs a redis:// or rediss:// URL (TCP), or an https:// URL with"
            " REDIS_TOKEN (REST), or UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN",
        )
    return tcp, None, None


def _rest(env: Mapping[str, str], url_name: str, token_name: str) -> tuple[str, str]:
    parts = split_url(env, url_name)
    nearby = parts.hostname in LOCAL or "." not in (parts.hostname or ".")  # the name of a container
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and nearby)):
        # Everyone on the network path could read the token, and every event with it.
        raise SettingsError(url_name, "must be an https:// URL (http:// only for a server on this machine)")
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingsError(url_name, f"must contain only the address; set the token in {token_name}")
    token = env.get(token_name)
    if token is None:
        raise SettingsError(token_name, f"is not set: the REST endpoint of {url_name} needs it")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise SettingsError(token_name, "must be visible ASCII characters")
    return env[url_name].rstrip("/"), token


def database_urls(environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the URL of the database, and the URL of its pooler or None.

    Netlify sets both: LISTEN needs a direct connection, and many short-lived functions need the pooler.
    """
    env = defined(environ)
    direct, pooled = "NETLIFY_DATABASE_URL_UNPOOLED", "NETLIFY_DATABASE_URL"
    names = ["DATABASE_URL"] if "DATABASE_URL" in env else [name for name in (direct, pooled) if name in env]
    if names:
        from tidewire.settings.postgres_url import check_url  # a function without Postgres starts without it

        for name in names:
            check_url(name, env[name])
    if not names:
        raise SettingsError(
            "DATABASE_URL",
            f"is not set: Postgres needs a postgres:// or postgresql:// URL, or {direct} and {pooled} on Netlify",
        )
    return env[names[0]], env[pooled] if names == [direct, pooled] else None


def schema_name(environ: Mapping[str, str]) -> str:
    """Return REALTIME_PREFIX, which is the name of the schema in Postgres."""
    prefix = key_prefix(defined(environ))
    if len(prefix) > MAX_SCHEMA_NAME or prefix in ("public", "information_schema") or prefix.startswith("pg_"):
        raise SettingsError(
            "REALTIME_PREFIX",
            f"is the schema name in Postgres: at most {MAX_SCHEMA_NAME} characters, and no name that Postgres reserves",
        )
    return prefix


def key_prefix(env: Mapping[str, str]) -> str:
    """Return the prefix of every key in the store."""
    return matching(env, "REALTIME_PREFIX", r"[A-Za-z0-9._-]{1,64}", "rt")


def stream_url(env: Mapping[str, str]) -> str:
    """Return the address of the streams: an absolute URL, or a path on the same host."""
    url = env.get("REALTIME_STREAM_URL", "/api/events")
    if url != "/api/events":
        parts = split_url(env, "REALTIME_STREAM_URL")
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)
        if not parts.hostname or not safe or parts.username is not None or parts.query or parts.fragment:
            # Clients add a ticket to it, which everyone on the network path could read and use.
            raise SettingsError(
                "REALTIME_STREAM_URL", "must be an https:// URL without a query (http:// only for this machine)"
            )
    return url


_BUS_NAME = r"[A-Za-z0-9._/-]{1,256}"
_BUS_ARN = re.compile(rf"arn:aws[a-z-]*:events:([a-z0-9-]+):[0-9]{{12}}:event-bus/{_BUS_NAME}", re.ASCII)


def event_bus(env: Mapping[str, str]) -> str:
    """Return the name or ARN of the event bus."""
    return matching(env, "REALTIME_EVENT_BUS", rf"{_BUS_NAME}|{_BUS_ARN.pattern}", "default")


def event_source(env: Mapping[str, str]) -> str:
    """Return the `source` of published events, by which a rule of the bus selects them."""
    source = matching(env, "REALTIME_EVENT_SOURCE", r"[A-Za-z0-9._/-]{1,256}", "tidewire")
    if source.startswith("aws."):
        raise SettingsError("REALTIME_EVENT_SOURCE", "must not start with 'aws.', which EventBridge reserves for AWS")
    return source


def aws_region(env: Mapping[str, str], *, needed: bool) -> str | None:
    """Return the region of the bus, from its ARN or else of this process."""
    arn = _BUS_ARN.fullmatch(env.get("REALTIME_EVENT_BUS", ""))
    if arn is not None:  # PutEvents must go to the region of the bus, which may differ from this one's
        return arn[1]
    name = "AWS_REGION" if "AWS_REGION" in env else "AWS_DEFAULT_REGION"
    if name in env:
        return matching(env, name, r"[a-z0-9-]{1,32}", "")
    if needed:
        raise SettingsError("AWS_REGION", "is not set: EventBridge needs the region of the bus, such as eu-central-1")
    return None


def dead_letter_queue(env: Mapping[str, str]) -> str | None:
    """Return the URL of the SQS queue for events that can never be appended, or None."""
    name = "REALTIME_DEAD_LETTER_QUEUE"
    if name not in env:
        return None
    parts = split_url(env, name)
    if not parts.hostname or not parts.path.strip("/") or parts.scheme not in ("https", "http"):
        raise SettingsError(
            name, "must be the URL of an SQS queue, https://sqs.<region>.amazonaws.com/<account>/<name>"
        )
    return env[name]


def jwks_url(env: Mapping[str, str]) -> str | None:
    """Return the URL of the token issuer's key set, or None."""
    url = env.get("REALTIME_JWKS_URL")
    if url is not None:
        parts = split_url(env, "REALTIME_JWKS_URL")
        local = parts.hostname in LOCAL
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
            # Whoever can fake the response of the key set can sign tokens for every user.
            raise SettingsError("REALTIME_JWKS_URL", "must be an https:// URL (http:// only for this machine)")
    return url


def trace_exporters(env: Mapping[str, str]) -> tuple[TraceExporter, ...]:
    """Return the exporters of traces, none unless one of `TRACE_VARIABLES` is set; the names are OpenTelemetry's.

    Values that the OpenTelemetry SDK would replace by a default, or only warn of, raise SettingsError.
    """
    env = {name: value.lower() if name in _ANY_CASE else value for name, value in env.items()}
    disabled = choice(env, "OTEL_SDK_DISABLED", ("true", "false"), "false") == "true"
    named = items(env, "OTEL_TRACES_EXPORTER")
    if disabled or named == ["none"] or not any(name in env for name in TRACE_VARIABLES):
        return ()
    exporters = tuple(known for known in TRACE_EXPORTERS if known in (named or ["otlp"]))
    if named and set(named) != set(exporters):
        raise SettingsError("OTEL_TRACES_EXPORTER", "must be none, otlp, console, or otlp,console")
    if "otlp" in exporters:
        _check_collector(env)
    if choice(env, "OTEL_TRACES_SAMPLER", SAMPLERS, "parentbased_always_on").endswith("traceidratio"):
        ratio = matching(env, "OTEL_TRACES_SAMPLER_ARG", r"[01]|[01]?\.[0-9]{1,9}", "1")
        if float(ratio) > 1:
            raise SettingsError("OTEL_TRACES_SAMPLER_ARG", "must be at most 1: it is a ratio")
    return exporters


def _check_collector(env: Mapping[str, str]) -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if name in env:
            parts = split_url(env, name)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise SettingsError(name, "must be the http:// or https:// URL of a collector's OTLP/HTTP port")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        choice(env, name, ("http/protobuf",), "http/protobuf")

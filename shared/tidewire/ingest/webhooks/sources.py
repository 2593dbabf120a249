"""The sources of `realtime.toml`: who may send webhooks, how they sign, and what becomes of a delivery."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tidewire.errors import SettingsError
from tidewire.ingest.mapping.document import Table, open_document
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.mapping.rules import Rule, map_payload, read_rules
from tidewire.ingest.webhooks.github import GitHub
from tidewire.ingest.webhooks.hmac_header import HmacHeader
from tidewire.ingest.webhooks.netlify import Netlify
from tidewire.ingest.webhooks.qstash import QStash
from tidewire.ingest.webhooks.scheme import Delivery, Scheme
from tidewire.ingest.webhooks.slack import Slack
from tidewire.ingest.webhooks.standard_webhooks import StandardWebhooks
from tidewire.ingest.webhooks.stripe import Stripe
from tidewire.model.event import ID_PATTERN, RECEIVED, Event

SCHEMES: Mapping[str, type[Scheme]] = {
    "standard-webhooks": StandardWebhooks,
    "github": GitHub,
    "stripe": Stripe,
    "slack": Slack,
    "netlify": Netlify,
    "qstash": QStash,
    "hmac": HmacHeader,
}

_NAME = r"[a-z0-9][a-z0-9_-]{0,63}"
_VARIABLE = r"[A-Z][A-Z0-9_]{0,127}"


class Source(NamedTuple):
    """One table of `sources`; `secrets` are names of environment variables, and no secret."""

    name: str
    scheme: Scheme
    secrets: tuple[str, ...]
    rules: tuple[Rule, ...]
    where: str

    def keys(self, environ: Mapping[str, str]) -> list[bytes]:
        """Return the keys of the secrets; raises SettingsError where one is missing or cannot be a secret."""
        return [self._key(name, environ.get(name, "").strip()) for name in self.secrets]

    def _key(self, variable: str, secret: str) -> bytes:
        if not secret:
            raise SettingsError(variable, f"is not set: {self.where} names it as a secret of sources.{self.name}")
        try:
            return self.scheme.key(secret)
        except ValueError as error:
            raise SettingsError(variable, f"{error} ({self.where}: the scheme of sources.{self.name})") from None

    def events(self, payload: Payload) -> list[Event]:
        """Return the events that a verified payload becomes, none where no rule counts it. Raises MappingError.

        `source` tells deliveries of two providers apart that happen to have the same id.
        """
        return map_payload(self.rules, payload, self.delivery_id(payload), {"source": f"{RECEIVED}{self.name}"})

    def delivery_id(self, payload: Payload) -> str:
        """Return the delivery's own id, or the hash of its body where it has none: a retry has the same."""
        id = self.scheme.delivery_id(payload)
        if isinstance(id, str) and ID_PATTERN.fullmatch(id):
            return id
        return f"sha256-{hashlib.sha256(payload.body).hexdigest()}"


class Receiver:
    """A source with its keys."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self.source = source
        self._keys: Sequence[bytes] = source.keys(environ)

    def verify(self, delivery: Delivery) -> None:
        """Return where one of the source's secrets has signed this; raises BadSignature."""
        self.source.scheme.verify(delivery, self._keys)


def read_sources(config_file: str | None) -> dict[str, Source]:
    """Return the sources of REALTIME_CONFIG's document by their names, none without one; raises SettingsError."""
    document = open_document(config_file)
    if document is None:
        return {}
    section = document.section("sources")
    sources = {} if section is None else {name: _source(name, table) for name, table in section.members()}
    document.finish()
    return sources


def _source(name: str, table: Table) -> Source:
    if not re.fullmatch(_NAME, name, re.ASCII):
        table.problem(None, "must be named with 1 to 64 of a-z 0-9 _ -, because the name stands in the URL")
    chosen = table.choice("scheme", tuple(SCHEMES))
    scheme = SCHEMES[chosen or "github"].read(table)
    secrets = table.texts("secrets", pattern=_VARIABLE, rule="names of environment variables, such as GITHUB_SECRET")
    rules = read_rules(table.tables("events"))
    if not table.value("events"):
        table.problem(None, f"has no rules: write [[sources.{name}.events]]")
    if chosen is not None:  # another scheme may have other keys
        table.finish()
    return Source(name, scheme, secrets, rules, f"{table.document.name} line {table.line}")

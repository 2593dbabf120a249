r"""Events of other sources on an EventBridge bus become ours by the rules of `realtime.toml`:

    [eventbridge."aws.s3"]                             # the bus event's source

    [[eventbridge."aws.s3".events]]
    when = "\"detail-type\" == 'Object Created'"       # an expression over the whole bus event
    type = "upload-finished"
    data = "detail.object"

The rules have the keys of webhooks' rules: `when`, `type`, `userIds`, `data`, `id`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from tidewire.errors import InvalidRequest
from tidewire.ingest.mapping.document import open_document
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.mapping.rules import Rule, map_payload, read_rules
from tidewire.model.event import RECEIVED, Event
from tidewire.protocol.eventbridge_event import dump

SECTION = "eventbridge"


class BusRules:
    """The rules by source."""

    def __init__(self, rules: Mapping[str, Sequence[Rule]]) -> None:
        self._rules = rules

    @classmethod
    def read(cls, config_file: str | None) -> Self:
        """Read the document of REALTIME_CONFIG; no document means no rules. Raises SettingsError."""
        document = open_document(config_file)
        if document is None:
            return cls({})
        rules: dict[str, Sequence[Rule]] = {}
        section = document.section(SECTION)
        for source, table in () if section is None else section.members():
            rules[source] = read_rules(table.tables("events"))
            if source.startswith(RECEIVED):
                table.problem(None, f"must not start with {RECEIVED}: these are the sources of received webhooks")
            if not rules[source]:
                table.problem(None, f'needs at least one rule: [[{SECTION}."{source}".events]]')
            table.finish()
        document.finish()
        return cls(rules)

    def events(self, payload: Mapping[str, Any]) -> list[Event]:
        """Return the events of a bus event of another source, empty if no rule matches.

        The first event has the bus event's id, so that a repeated delivery appends nothing. Raises InvalidRequest if
        the source has no rules, or if one of them fails.
        """
        source, id = str(payload["source"]), payload.get("id")
        if source not in self._rules:
            raise InvalidRequest(f'realtime.toml has no rules for this source: add [eventbridge."{source[:64]}"]')
        # A lone surrogate becomes U+FFFD, as in a webhook: no later delivery could correct it.
        body = dump(payload).encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        return map_payload(self._rules[source], Payload(body), id if isinstance(id, str) else "", {"source": source})

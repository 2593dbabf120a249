r"""Events of other sources on the bus → ours, by `realtime.toml`:

    [eventbridge."aws.s3"]                             # the source, as the bus event names it

    [[eventbridge."aws.s3".events]]
    when = "\"detail-type\" == 'Object Created'"       # an expression over the whole bus event
    type = "upload-finished"
    data = "detail.object"

The rules are those of webhooks: `when`, `type`, `userIds`, `data`, `id`.
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
    """The rules of each source."""

    def __init__(self, rules: Mapping[str, Sequence[Rule]]) -> None:
        self._rules = rules

    @classmethod
    def read(cls, config_file: str | None) -> Self:
        """Read the document of REALTIME_CONFIG; raises SettingsError. Without one there is no rule."""
        document = open_document(config_file)
        if document is None:
            return cls({})
        rules: dict[str, Sequence[Rule]] = {}
        section = document.section(SECTION)
        for source, table in () if section is None else section.members():
            rules[source] = read_rules(table.tables("events"))
            if source.startswith(RECEIVED):
                table.problem(None, f"is not a source of a bus: {RECEIVED}… are those of received webhooks")
            if not rules[source]:
                table.problem(None, f'needs at least one rule: [[{SECTION}."{source}".events]]')
            table.finish()
        document.finish()
        return cls(rules)

    def events(self, payload: Mapping[str, Any]) -> list[Event]:
        """Return what a bus event of another source becomes, nothing where no rule counts it.

        The first event has the bus event's id, so that a delivery that comes again appends nothing. Raises
        InvalidRequest where the source has no rules, or one of them does not fit.
        """
        source = str(payload["source"])
        if source not in self._rules:
            raise InvalidRequest(f'realtime.toml says nothing of this source: it needs [eventbridge."{source[:64]}"]')
        # Half a surrogate pair becomes U+FFFD, as in a webhook: no later delivery could mend it.
        body = dump(payload).encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        return map_payload(self._rules[source], Payload(body), str(payload.get("id")), {"source": source})

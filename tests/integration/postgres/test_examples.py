"""The examples for Postgres, run against a real one."""

import asyncpg
import pytest
from tidewire.model.partitions import ALL
from tidewire.model.record import Record

from tests.contract.acts import contents, read, tailing
from tests.contract.stores import PostgresStore
from tests.integration.postgres.conftest import Connect
from tests.support.processes import ROOT

TRIGGER = ROOT / "examples" / "postgres_trigger.sql"


async def test_the_trigger_publishes_each_committed_change(postgres_store: PostgresStore, application: Connect) -> None:
    """To the owner of the row alone, without the owner id; a rollback publishes nothing, nor does a second run."""
    log, connection = postgres_store.open(), await application()
    try:
        for _ in range(2):
            await connection.execute(TRIGGER.read_text())
        start = await log.head((ALL,))
        async with tailing(log, start) as (received, _):
            await connection.execute("insert into tasks values (7, 42, 'write', false)")
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("update tasks set title = 'undone'")
            await transaction.rollback()
            await connection.execute("update tasks set done = true where id = 7")
            await received.until(lambda: len(received.items) == 2)
        assert contents(await read(log, start)) == [
            {"id": 7, "title": "write", "done": False},
            {"id": 7, "title": "write", "done": True},
        ]
        assert [(item.event.type, item.event.user_ids) for item in received.items if isinstance(item, Record)] == [
            ("task-created", ("42",)),
            ("task-updated", ("42",)),
        ]
        with pytest.raises(asyncpg.NotNullViolationError):
            await connection.execute("insert into tasks values (8, null, 'nobody', false)")
    finally:
        await connection.execute("drop table if exists tasks; drop function if exists publish_task")

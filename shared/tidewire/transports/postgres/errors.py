"""Errors of Postgres and of its driver, and the error that the caller gets for each.

An error's own text goes no further: it may hold a host, a URL with its password, or event data. SQLSTATE codes are
those of the manual's appendix A.
"""

import asyncpg

from tidewire.errors import AppendRefused, EventRefused, TransportRefused, TransportUnavailable

FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, RuntimeError)
"""Raised by asyncpg if Postgres is unavailable or refuses. uvloop answers a write to a connection that the server has
just closed with a RuntimeError."""

CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""Another transaction was faster: to be tried again."""

SHARED_SESSION = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
"""A prepared statement is missing, or exists before it was prepared: a pooler has changed the session."""

READ_ONLY = (asyncpg.ReadOnlySQLTransactionError,)
"""The server is a standby now, or was set to read-only for a failover."""

MIGRATE = "run: python -m tidewire migrate"
POOLER = (
    "a pooler at this address gives each transaction another session: mark its URL with ?pgbouncer=true, and let"
    " streams listen on the direct host"
)

_NO_SCHEMA = (
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedTableError,
)
_OF_ONE_EVENT = ("22", "44", "54")  # data exception, WITH CHECK OPTION violation, program limit exceeded
_OPERATORS_RULE = ("23514", "P0001")  # a check constraint, or a trigger of the operator's, refuses the event
_OF_THE_SERVER = ("08", "0A", "25", "26", "28", "40", "3D", "3F", "53", "55", "57", "58")
"""Connection, feature, transaction state, statement name, authorization, rollback, catalog and schema name, resources,
object state, operator intervention, system error: another event would be refused too."""


def is_lost(error: BaseException) -> bool:
    """Return whether the connection cannot be used again; most errors of the server leave it usable."""
    if isinstance(error, SHARED_SESSION + READ_ONLY) or not isinstance(error, asyncpg.PostgresError):
        return True
    return error.sqlstate[:2] in ("08", "57")


def unavailable(error: BaseException) -> TransportUnavailable:
    """Return the error for the caller."""
    if isinstance(error, _NO_SCHEMA):
        return TransportUnavailable(f"The database lacks Tidewire's tables or functions; {MIGRATE}")
    if isinstance(error, asyncpg.ProtocolViolationError | SHARED_SESSION[0] | SHARED_SESSION[1]):
        return TransportUnavailable(f"Postgres cannot be used now: {POOLER}")
    if isinstance(error, asyncpg.LockNotAvailableError):
        return TransportUnavailable("A transaction of the application has published, and does not end")
    if isinstance(error, (*READ_ONLY, asyncpg.TargetServerAttributeNotMatched)):
        return TransportRefused("Postgres takes no writes: it is a standby, or set to read-only")
    if isinstance(error, asyncpg.DiskFullError):
        return TransportRefused("Postgres takes no writes: its disk is full (53100)")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return AppendRefused("Postgres refuses: the role of DATABASE_URL lacks a privilege (42501)")
    if isinstance(error, asyncpg.PostgresError) and not error.sqlstate.startswith(_OF_THE_SERVER):
        return AppendRefused(f"Postgres refuses ({error.sqlstate}, {type(error).__name__})")
    return TransportUnavailable(f"Postgres cannot be used now ({type(error).__name__})")


def event_refused(error: BaseException | None) -> EventRefused | None:
    """Return the publisher's error if Postgres refuses an event of an append; None if the server is the cause."""
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):  # the driver cannot encode it
        return EventRefused("Postgres cannot hold an event of this request")
    if not isinstance(error, asyncpg.PostgresError):
        return None
    code = error.sqlstate
    if code.startswith(_OF_ONE_EVENT) or code in _OPERATORS_RULE:
        return EventRefused(
            f"Postgres refuses an event of this request ({code}, {type(error).__name__}): nothing of the request was"
            " taken, and sent again as it is, it is refused again"
        )
    return None

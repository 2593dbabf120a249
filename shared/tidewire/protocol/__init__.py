"""The wire protocol as pure functions: requests, server-sent events, JSON pages, CloudEvents, problem details."""

"""The cloud's entry: TLS for every host on one machine, and a proxy through which clients reach them by name."""

import asyncio
import logging
import threading
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from tests.deployed.cloud.web import Hosts
from tests.support.processes import HOST, START_SECONDS, free_port, wait_until

READ_BYTES = 64 * 1024


class Front:
    """A thread with the servers; `proxy` is the address of an HTTP proxy that leads every name of the cloud here."""

    def __init__(self, hosts: Hosts, certificate: Path, key: Path, ports: Sequence[int] = ()) -> None:
        self._hosts = hosts
        self._ports = list(ports) or [free_port()]
        self._proxy_port = free_port()
        self._loop = asyncio.new_event_loop()
        self._servers = [uvicorn.Server(self._config(port, certificate, key)) for port in self._ports]
        self._open: set[asyncio.StreamWriter] = set()  # of the proxy
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.proxy = f"http://{HOST}:{self._proxy_port}"

    def start(self) -> None:
        """Return when all of it takes connections."""
        self._thread.start()
        wait_until(lambda: all(server.started for server in self._servers), START_SECONDS)

    def stop(self) -> None:
        """Close every connection."""
        for server in self._servers:
            server.should_exit = server.force_exit = True
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        proxy = await asyncio.start_server(self._connect, HOST, self._proxy_port)
        serving: list[Coroutine[Any, Any, None]] = [server.serve() for server in self._servers]
        await asyncio.gather(*serving)
        proxy.close()
        for writer in list(self._open):
            writer.close()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    def _config(self, port: int, certificate: Path, key: Path) -> uvicorn.Config:
        return uvicorn.Config(
            self._hosts,
            host=HOST,
            port=port,
            lifespan="off",
            log_config=None,
            log_level=logging.CRITICAL,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """CONNECT of a name that this cloud has, and of no other: nothing leaves the machine."""
        self._open.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, *_ = head.split(" ")
            if method != "CONNECT" or target.removesuffix(":443") not in self._hosts.apps:
                writer.write(b"HTTP/1.1 502 No such host\r\nContent-Length: 0\r\n\r\n")
                return
            onward_reader, onward_writer = await asyncio.open_connection(HOST, self._ports[0])
            self._open.add(onward_writer)
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await asyncio.gather(_pipe(reader, onward_writer), _pipe(onward_reader, writer))
            self._open.discard(onward_writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._open.discard(writer)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()

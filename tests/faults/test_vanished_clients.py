"""Clients disappear without closing: the instance detects it, and frees what they held."""

import asyncio
import socket
import struct
import sys
from asyncio.subprocess import PIPE

from tests.faults.crowd import LIVE
from tests.support.clients import count_subscribers, event, eventually_subscribed, follow, publish, receipts
from tests.support.instance_settings import on_redis
from tests.support.processes import HOST, ROOT, Instance, MakeInstance, MakeRedis, inherited
from tests.support.waiting import DEADLINE

CLIENTS = 100


async def test_100_clients_whose_process_is_killed_are_forgotten(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    crowd = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.crowd", str(instance.port), str(CLIENTS)),
        cwd=ROOT,
        env=inherited(),
        stdout=PIPE,
    )
    try:
        assert crowd.stdout is not None
        async with asyncio.timeout(DEADLINE):
            assert (await crowd.stdout.readline()).decode().strip() == LIVE
        assert await count_subscribers(instance) == CLIENTS
    finally:
        crowd.kill()
        await crowd.wait()
    await eventually_subscribed(instance, 0)


async def test_100_clients_that_reset_their_connections_are_forgotten(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance) as survivor:
        clients = [await asyncio.to_thread(connect, instance) for _ in range(CLIENTS)]
        await eventually_subscribed(instance, CLIENTS + 1)
        names = [f"event-{number}" for number in range(60)]
        for number, name in enumerate(names):
            receipts(await publish(instance, event(name) | {"data": {"name": name, "text": "x" * 20_000}}))
            for client in clients[number * 2 : number * 2 + 2]:
                reset(client)
        await survivor.has(*names)
        await eventually_subscribed(instance, 1)
    await eventually_subscribed(instance, 0)
    assert "Traceback" not in instance.log()


def connect(instance: Instance) -> socket.socket:
    """Request a stream, and never read it."""
    client = socket.create_connection((HOST, instance.port))
    client.sendall(f"GET /api/events HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
    return client


def reset(client: socket.socket) -> None:
    """Close with a RST, which drops all bytes in flight."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()

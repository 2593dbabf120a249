"""The servers of the fault tests break and come back as documented."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import processes, servers
from tests.support.processes import HOST, ROOT, Instance, MakeRedis, RedisServer, ServerError, free_port

ANSWERS_LIVE = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health/live" else 404)
        self.end_headers()
print("settings", os.environ.get("REALTIME_PREFIX"), os.environ.get("REDIS_URL"))
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def test_a_killed_redis_keeps_acknowledged_writes(make_redis: MakeRedis) -> None:
    """A kill after the reply loses no write."""
    redis = make_redis(aof=True)
    assert redis.ask("SET key value") == "+OK"
    port = redis.port
    redis.kill()
    assert not redis.is_running()
    with pytest.raises(ConnectionRefusedError):
        redis.ask("PING")
    redis.restart()
    assert redis.port == port
    assert redis.ask("EXISTS key") == ":1"


def test_a_redis_without_aof_comes_back_empty(make_redis: MakeRedis) -> None:
    redis = make_redis(aof=False)
    redis.ask("SET key value")
    redis.restart()
    assert redis.ask("EXISTS key") == ":0"


def test_a_paused_redis_answers_when_it_is_resumed(make_redis: MakeRedis) -> None:
    """Its connections stay open in between."""
    redis = make_redis()
    with socket.create_connection((HOST, redis.port), timeout=0.2) as connection:
        redis.pause()
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(16)
        redis.resume()
        connection.settimeout(5)
        assert connection.recv(16) == b"+PONG\r\n"


def test_a_paused_redis_can_be_stopped(make_redis: MakeRedis) -> None:
    redis = make_redis()
    redis.pause()
    redis.stop()
    assert not redis.is_running()


def test_the_shared_redis_is_handed_out_empty(redis_url: str, redis_server: RedisServer) -> None:
    assert redis_url == redis_server.url
    assert redis_server.ask("DBSIZE") == ":0"


def test_an_instance_sees_its_own_settings_and_none_of_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://somebody-elses")
    command = [sys.executable, "-c", ANSWERS_LIVE]
    instance = Instance(tmp_path, {"REALTIME_PREFIX": "mine"}, command=command).start()
    assert "settings mine None" in instance.log()
    instance.terminate()
    assert instance.wait() != 0
    instance.start()
    instance.stop()


def test_an_instance_that_ends_at_its_start_is_reported_at_once(tmp_path: Path) -> None:
    """The error has the exit code and the output."""
    instance = Instance(tmp_path, {}, command=[sys.executable, "-c", "exit('REDIS_URL: missing')"])
    began = time.monotonic()
    with pytest.raises(ServerError, match="ended with 1 at its start\nREDIS_URL: missing"):
        instance.start()
    assert time.monotonic() - began < 10


def test_the_port_of_a_stopped_server_stays_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process that calls free_port() gets it."""
    monkeypatch.setattr(processes, "PORTS", range(20_000, 20_200))
    mine = {free_port() for _ in range(50)}
    assert len(mine) == 50
    program = (
        "from tests.support import processes as p; p.PORTS = range(20_000, 20_200)\n"
        "print(*(p.free_port() for _ in range(50)))"
    )
    output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert mine.isdisjoint(map(int, output.stdout.split()))


def test_a_program_named_by_its_variable_is_used_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If it is too old or missing, no other one replaces it."""
    monkeypatch.setenv("TIDEWIRE_REDIS_SERVER", str(servers.find("redis")))
    assert servers.find("redis") == servers.find("redis")
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho Redis server v=6.0.16 sha=00000000:0\n")
    old.chmod(0o755)
    monkeypatch.setenv("TIDEWIRE_REDIS_SERVER", str(old))
    with pytest.raises(servers.ServerNotFoundError, match=r"is no redis-server 6\.2 or newer"):
        servers.find("redis")
    # If it is only the first one on PATH, the next one is used.
    monkeypatch.delenv("TIDEWIRE_REDIS_SERVER")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert servers.find("redis") != old

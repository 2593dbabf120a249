"""A server whose streams are wrong in known ways, so that the load client's verdicts can be checked: `faulty.py PORT`.

The path names the fault. Every stream sends the numbers 1 to 5, chunked, cut at every byte where the path says so.
"""

import asyncio
import sys

STREAMS = {
    "/good": [1, 2, 3, 4, 5],
    "/bytes": [1, 2, 3, 4, 5],
    "/crlf": [1, 2, 3, 4, 5],
    "/plain": [1, 2, 3, 4, 5],
    "/twice": [1, 2, 2, 3, 4, 5],
    "/swapped": [1, 3, 2, 4, 5],
    "/hole": [1, 2, 4, 5],
}
BEFORE = 'retry: 10\nid: c0\nevent: realtime.ready\ndata: {"n":9}\n\n: a comment\n\n'
AFTER = "id: c9\n\n"  # moves the cursor, is no event
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One stream, then silence until the client leaves."""
    path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
    events = "".join(f'id: c{n}\nevent: bench\ndata: {{"n": {n}, "t":{n}}}\n\n' for n in STREAMS[path])
    body = BEFORE + events + AFTER
    if path == "/crlf":
        body = body.replace("\n", "\r\n")
    if path == "/plain":
        writer.write(f"{HEAD}\r\n{body}".encode())
    else:
        chunks = body if path == "/bytes" else [body]
        answer = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n" + "".join(f"{len(c):x}\r\n{c}\r\n" for c in chunks)
        if path == "/bytes":  # a frame, a chunk and a header cut anywhere
            for byte in answer.encode():
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)
        else:
            writer.write(answer.encode())
    await writer.drain()
    await reader.read()
    writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

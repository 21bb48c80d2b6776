"""Runs Python's websockets for process_test.go, which says how the two talk."""

import asyncio
import functools
import itertools
import json
import ssl
import sys

try:
    from websockets.exceptions import ConnectionClosed
    from websockets.frames import Opcode
    from websockets.legacy.client import WebSocketClientProtocol, connect
    from websockets.legacy.server import WebSocketServerProtocol, serve
    from websockets.version import version
except ImportError as err:
    print(f"python3-websockets is not installed ({err}): run setup.sh", file=sys.stderr)
    sys.exit(3)

conns = {}
accepted = itertools.count(1)


def report(data=b"", **line):
    out = sys.stdout.buffer
    out.write(json.dumps({**line, "size": len(data)}).encode() + b"\n")
    out.write(data)
    out.flush()


class Watched:
    """Reports the control frames that the library keeps to itself."""

    def __init__(self, *args, conn=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.conn = conn or f"s{next(accepted)}"

    async def read_frame(self, max_size):
        frame = await super().read_frame(max_size)
        if frame.opcode is Opcode.PING:
            report(frame.data, event="ping", conn=self.conn)
        elif frame.opcode is Opcode.PONG:
            report(frame.data, event="pong", conn=self.conn)
        return frame


class Client(Watched, WebSocketClientProtocol):
    pass


class Server(Watched, WebSocketServerProtocol):
    pass


async def watch(ws):
    try:
        async for message in ws:
            binary = isinstance(message, bytes)
            data = message if binary else message.encode()
            report(data, event="message", conn=ws.conn, binary=binary)
    except ConnectionClosed:
        pass
    await ws.wait_closed()
    del conns[ws.conn]
    report(event="end", conn=ws.conn, code=ws.close_code, reason=ws.close_reason)


async def accept(ws):
    conns[ws.conn] = ws
    report(
        event="accept",
        conn=ws.conn,
        path=ws.path,
        subprotocol=ws.subprotocol,
        extensions=", ".join(ws.request_headers.get_all("Sec-WebSocket-Extensions")),
    )
    await watch(ws)


# Neither pings of the library's own nor a limit on what comes.
COMMON = {"max_size": None, "ping_interval": None}


async def dial(conn, url, origin, subprotocols, deflate=False, root=None):
    ws = await connect(
        url,
        origin=origin,
        subprotocols=subprotocols,
        compression="deflate" if deflate else None,
        ssl=ssl.create_default_context(cadata=root) if root else None,
        create_protocol=functools.partial(Client, conn=conn),
        **COMMON,
    )
    conns[conn] = ws
    spawn(watch(ws))
    extensions = ", ".join(ws.response_headers.get_all("Sec-WebSocket-Extensions"))
    return {"subprotocol": ws.subprotocol, "extensions": extensions}


async def listen(subprotocols):
    server = await serve(
        accept, "127.0.0.1", 0, subprotocols=subprotocols, create_protocol=Server, **COMMON
    )
    return {"port": server.sockets[0].getsockname()[1]}


async def send(conn, parts, binary=False):
    if not binary:
        parts = [p.decode() for p in parts]
    await conns[conn].send(parts if len(parts) > 1 else parts[0])


async def ping(conn, parts):
    await conns[conn].ping(parts[0])


async def close(conn, code, reason=""):
    await conns[conn].close(code, reason)


COMMANDS = {f.__name__: f for f in (dial, listen, send, ping, close)}


async def do(command):
    id, op = command.pop("id"), command.pop("op")
    try:
        report(id=id, **(await COMMANDS[op](**command) or {}))
    except Exception as err:
        report(id=id, error=f"{type(err).__name__}: {err}")


tasks = set()  # the event loop itself holds them but weakly


def spawn(coroutine):
    task = asyncio.create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def main():
    report(event="ready", version=f"websockets {version}, python {sys.version.split()[0]}")
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    async for line in stdin:
        command = json.loads(line)
        sizes = command.pop("sizes", None)
        if sizes is not None:
            command["parts"] = [await stdin.readexactly(n) for n in sizes]
        spawn(do(command))


asyncio.run(main())

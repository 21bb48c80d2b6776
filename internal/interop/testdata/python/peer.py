"""Runs Python's websockets for process_test.go, which says how the two talk."""

import asyncio
import base64
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

MAX_LINE = 64 << 20

conns = {}
accepted = itertools.count(1)


def report(**line):
    print(json.dumps(line), flush=True)


def encode(data):
    return base64.b64encode(data).decode()


class Watched:
    """Reports the control frames that the library keeps to itself."""

    def __init__(self, *args, conn=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.conn = conn or f"s{next(accepted)}"

    async def read_frame(self, max_size):
        frame = await super().read_frame(max_size)
        if frame.opcode is Opcode.PING:
            report(event="ping", conn=self.conn, data=encode(frame.data))
        elif frame.opcode is Opcode.PONG:
            report(event="pong", conn=self.conn, data=encode(frame.data))
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
            report(event="message", conn=ws.conn, binary=binary, data=encode(data))
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
    parts = [base64.b64decode(p) for p in parts]
    if not binary:
        parts = [p.decode() for p in parts]
    await conns[conn].send(parts if len(parts) > 1 else parts[0])


async def ping(conn, parts):
    await conns[conn].ping(base64.b64decode(parts[0]))


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
    lines = asyncio.StreamReader(limit=MAX_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    async for line in lines:
        spawn(do(json.loads(line)))


asyncio.run(main())

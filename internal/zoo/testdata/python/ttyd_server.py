# The Pings are 20 times as frequent as ttyd sends them, as is all in the short form.
# A server that speaks ttyd's protocol, with a shell in a terminal:
# https://github.com/tsl0922/ttyd/blob/main/src/protocol.c
import asyncio
import fcntl
import http
import json
import os
import pty
import struct
import sys
import termios

import websockets


async def page(path, headers):
    if path == "/token":
        return http.HTTPStatus.OK, [("Content-Type", "application/json")], b'{"token": "zoo"}'
    if path == "/":
        return http.HTTPStatus.OK, [("Content-Type", "text/html")], b"<title>ttyd - Terminal</title>"
    if path != "/ws":
        return http.HTTPStatus.NOT_FOUND, [], b""
    # As with ttyd's --check-origin.
    if headers.get("Origin", "").split("://")[-1] != headers["Host"]:
        return http.HTTPStatus.FORBIDDEN, [], b""


async def terminal(ws):
    loop, pid, fd = asyncio.get_running_loop(), 0, -1
    await ws.send(b"1sh (zoo)")
    await ws.send(b"2{}")
    reading = asyncio.Event()
    reading.set()

    async def copy():
        while True:
            await reading.wait()
            try:
                data = await loop.run_in_executor(None, os.read, fd, 65536)
            except OSError:  # the shell has ended
                data = b""
            if not data:
                os.waitpid(pid, 0)
                return ws.transport.close()  # without a Close frame, as ttyd does it
            await ws.send(b"0" + data)

    def size(columns, rows):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    copying = None
    try:
        async for message in ws:
            data = message if isinstance(message, bytes) else message.encode()
            if pid == 0:
                first = json.loads(data)
                if first.get("AuthToken") != "zoo":
                    return await ws.close(1008, "wrong token")
                pid, fd = pty.fork()
                if pid == 0:
                    os.execvpe("sh", ["sh"], {"PATH": os.environ["PATH"], "PS1": "$ ", "TERM": "xterm-256color"})
                size(first["columns"], first["rows"])
                copying = asyncio.create_task(copy())
            elif data[:1] == b"0":
                view = memoryview(data)[1:]
                while view:
                    view = view[await loop.run_in_executor(None, os.write, fd, view):]
            elif data[:1] == b"1":
                to = json.loads(data[1:])
                size(to["columns"], to["rows"])
            elif data[:1] == b"2":
                reading.clear()
            elif data[:1] == b"3":
                reading.set()
    except websockets.ConnectionClosed:
        pass
    finally:
        if pid:
            os.kill(pid, 9)
        if copying and not ws.open:
            copying.cancel()


async def main():
    async with websockets.serve(terminal, "127.0.0.1", int(sys.argv[1]), subprotocols=["tty"], process_request=page, ping_interval=5 / int(os.environ.get("ZOO_SCALE", 20))):
        await asyncio.Future()


asyncio.run(main())

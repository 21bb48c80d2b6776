# websockets as a server: https://websockets.readthedocs.io/
import asyncio
import http
import sys

import websockets


async def echo(ws, path=None):
    async for message in ws:
        if message == "leave":
            await ws.close(4001, "as asked")
            break
        await ws.send(message)


async def private(path, headers):
    if path == "/private" and "Authorization" not in headers:
        return http.HTTPStatus.UNAUTHORIZED, [("WWW-Authenticate", 'Basic realm="zoo"')], b"who are you\n"


async def main():
    async with websockets.serve(
        echo, "127.0.0.1", int(sys.argv[1]), subprotocols=["zoo.v2"], process_request=private, max_size=2**21
    ):
        await asyncio.Future()


asyncio.run(main())

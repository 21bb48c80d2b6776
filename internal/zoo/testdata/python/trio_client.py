"""trio-websocket as a client, which is wsproto on Trio."""

import ssl
import sys

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, open_websocket_url

url, root = sys.argv[1:]
origin = url.replace("ws", "http", 1).removesuffix("/zoo")
context = ssl.create_default_context(cafile=root) if url.startswith("wss") else None


def connect(path):
    return open_websocket_url(
        url.replace("/zoo", path),
        ssl_context=context,
        subprotocols=["zoo.v1", "zoo.v2"],
        extra_headers=[("Origin", origin)],
    )


async def main():
    async with connect("/zoo") as ws:
        print(f"open: {ws.subprotocol}")
        for sent in "small", "ä" * 35000, b"\0\xff", b"\7" * 300000:
            await ws.send_message(sent)
            assert await ws.get_message() == sent
        print("messages: all come back")
        await ws.ping(b"anybody")
        print("Ping: Pong")
        await ws.send_message("leave")
        try:
            await ws.get_message()
        except ConnectionClosed as e:
            print(f"server closes: {e.reason.code} {e.reason.reason}")
    async with connect("/zoo") as ws:
        await ws.aclose(1000, "bye")
        print(f"client closes: {ws.closed.code} {ws.closed.reason}")
    try:
        async with connect("/private"):
            pass
    except ConnectionRejected as e:
        print(f"without login: {e.status_code} {e.body.decode().strip()}")


trio.run(main)

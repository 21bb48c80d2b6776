"""websockets as a client."""

import asyncio
import ssl
import sys

import websockets

url, root = sys.argv[1:]
origin = url.replace("ws", "http", 1).removesuffix("/zoo")
context = ssl.create_default_context(cafile=root) if url.startswith("wss") else None


def connect(path):
    return websockets.connect(url.replace("/zoo", path), ssl=context, origin=origin, subprotocols=["zoo.v1", "zoo.v2"])


async def main():
    async with connect("/zoo") as ws:
        print(f"open: {ws.subprotocol}, {[e.name for e in ws.extensions]}")
        for sent in "small", "ä" * 35000, b"\0\xff", b"\7" * 300000:
            await ws.send(sent)
            assert await ws.recv() == sent
        print("messages: all come back")
        await (await ws.ping())
        print("Ping: Pong")
        await ws.send("leave")
        await ws.wait_closed()
        print(f"server closes: {ws.close_code} {ws.close_reason}")
    async with connect("/zoo") as ws:
        await ws.close(1000, "bye")
        print(f"client closes: {ws.close_code} {ws.close_reason}")
    try:
        await connect("/private")
    except websockets.InvalidStatusCode as e:
        print(f"without login: {e}")


asyncio.run(main())

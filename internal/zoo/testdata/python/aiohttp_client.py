"""aiohttp as a client."""

import asyncio
import ssl
import sys

import aiohttp

url, root = sys.argv[1:]
origin = url.replace("ws", "http", 1).removesuffix("/zoo")
context = ssl.create_default_context(cafile=root)


async def main():
    async with aiohttp.ClientSession() as session:

        def connect(path):
            return session.ws_connect(
                url.replace("/zoo", path), ssl=context, origin=origin, protocols=["zoo.v1", "zoo.v2"], compress=15
            )

        async with connect("/zoo") as ws:
            print(f"open: {ws.protocol}, compression {ws.compress}")
            for sent in "small", "ä" * 35000, b"\0\xff", b"\7" * 300000:
                await (ws.send_str if isinstance(sent, str) else ws.send_bytes)(sent)
                assert (await ws.receive()).data == sent
            print("messages: all come back")
            await ws.ping(b"anybody")
            await ws.send_str("leave")
            m = await ws.receive()
            print(f"server closes: {m.type.name} {m.data} {m.extra}")
        async with connect("/zoo") as ws:
            await ws.close(code=1000, message=b"bye")
            print(f"client closes: {ws.close_code}")
        try:
            await connect("/private")
        except aiohttp.WSServerHandshakeError as e:
            print(f"without login: {e.status} {e.message}")


asyncio.run(main())

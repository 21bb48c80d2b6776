"""autobahn-python as a client, with compression."""

import asyncio
import ssl
import sys

from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateResponse, PerMessageDeflateResponseAccept

url, root = sys.argv[1:]
origin = url.replace("ws", "http", 1).removesuffix("/zoo")
context = ssl.create_default_context(cafile=root) if url.startswith("wss") else None


class Client(WebSocketClientProtocol):
    def __init__(self):
        super().__init__()
        self.opened = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self.messages = asyncio.Queue()
        self.pongs = asyncio.Queue()

    def onConnect(self, response):
        self.opened.set_result(response)

    def onMessage(self, payload, isBinary):
        self.messages.put_nowait((payload, isBinary))

    def onPong(self, payload):
        self.pongs.put_nowait(payload)

    def onClose(self, wasClean, code, reason):
        self.ended.set_result((wasClean, code, reason))
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(reason))


async def connect(path):
    factory = WebSocketClientFactory(url.replace("/zoo", path), origin=origin, protocols=["zoo.v1", "zoo.v2"])
    factory.protocol = Client
    factory.setProtocolOptions(
        perMessageCompressionOffers=[PerMessageDeflateOffer()],
        perMessageCompressionAccept=lambda r: isinstance(r, PerMessageDeflateResponse)
        and PerMessageDeflateResponseAccept(r)
        or None,
    )
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(factory, factory.host, factory.port, ssl=context)
    return client, await client.opened


async def main():
    ws, response = await connect("/zoo")
    print(f"open: {response.protocol}, {[str(e) for e in response.extensions]}")
    for sent in "small", "ä" * 35000, b"\0\xff", b"\7" * 300000:
        binary = isinstance(sent, bytes)
        ws.sendMessage(sent if binary else sent.encode(), binary)
        assert await ws.messages.get() == (sent if binary else sent.encode(), binary)
    print("messages: all come back")
    ws.sendPing(b"anybody")
    print(f"Ping: Pong {(await ws.pongs.get()).decode()}")
    ws.sendMessage(b"leave")
    clean, code, reason = await ws.ended
    print(f"server closes: {code} {reason} {'cleanly' if clean else 'uncleanly'}")
    ws, _ = await connect("/zoo")
    ws.sendClose(1000, "bye")
    clean, code, reason = await ws.ended
    print(f"client closes: {code} {reason} {'cleanly' if clean else 'uncleanly'}")
    try:
        await connect("/private")
    except ConnectionError as e:
        print(f"without login: {e}")


asyncio.run(main())

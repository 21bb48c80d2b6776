# An application for uvicorn, Hypercorn and Daphne, written with Starlette:
# https://www.starlette.io/websockets/
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute


async def echo(ws):
    await ws.accept(subprotocol="zoo.v2" if "zoo.v2" in ws.scope["subprotocols"] else None)
    while True:
        message = await ws.receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("text") == "leave":
            await ws.close(4001)
            return
        if message.get("text") is not None:
            await ws.send_text(message["text"])
        else:
            await ws.send_bytes(message["bytes"])


async def private(ws):
    if "authorization" not in ws.headers:
        await ws.close(3000)  # before it is accepted: it is refused
    else:
        await echo(ws)


app = Starlette(routes=[WebSocketRoute("/echo", echo), WebSocketRoute("/private", private)])

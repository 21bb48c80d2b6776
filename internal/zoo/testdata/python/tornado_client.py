"""Tornado as a client."""

import asyncio
import sys

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

url, root = sys.argv[1:]
origin = url.replace("ws", "http", 1).removesuffix("/zoo")


def connect(path):
    request = HTTPRequest(url.replace("/zoo", path), ca_certs=root, headers={"Origin": origin})
    return websocket_connect(request, subprotocols=["zoo.v1", "zoo.v2"], compression_options={})


async def main():
    ws = await connect("/zoo")
    print(f"open: {ws.selected_subprotocol}")
    for sent in "small", "ä" * 35000, b"\0\xff", b"\7" * 300000:
        await ws.write_message(sent, binary=isinstance(sent, bytes))
        assert await ws.read_message() == sent
    print("messages: all come back")
    ws.ping(b"anybody")
    await ws.write_message("leave")
    assert await ws.read_message() is None
    print(f"server closes: {ws.close_code} {ws.close_reason}")
    ws = await connect("/zoo")
    ws.close(1000, "bye")
    assert await ws.read_message() is None
    print("client closes: ended")  # it knows the code only if the end comes after it
    try:
        await connect("/private")
    except HTTPClientError as e:
        print(f"without login: {e}")


asyncio.run(main())

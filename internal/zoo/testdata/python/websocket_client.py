"""websocket-client, which docker-compose and Slack's bots use."""

import sys

import websocket

url, root = sys.argv[1:]
origin = url.replace("ws", "http", 1).removesuffix("/zoo")


def connect(path):
    ws = websocket.WebSocket(sslopt={"ca_certs": root})
    ws.connect(url.replace("/zoo", path), origin=origin, subprotocols=["zoo.v1", "zoo.v2"], timeout=30)
    return ws


ws = connect("/zoo")
print(f"open: {ws.subprotocol}")
for sent in "small", "ä" * 35000, b"\0\xff", b"\7" * 300000:
    text = isinstance(sent, str)
    ws.send(sent, websocket.ABNF.OPCODE_TEXT if text else websocket.ABNF.OPCODE_BINARY)
    opcode, data = ws.recv_data()
    assert data == (sent.encode() if text else sent)
print("messages: all come back")
ws.ping("anybody")
opcode, data = ws.recv_data(control_frame=True)
assert opcode == websocket.ABNF.OPCODE_PONG
print(f"Ping: Pong {data.decode()}")
ws.send("leave")
opcode, data = ws.recv_data()
print(f"server closes: {int.from_bytes(data[:2], 'big')} {data[2:].decode()}")
ws.shutdown()

ws = connect("/zoo")
ws.close(1000, b"bye")
print(f"client closes: connected {ws.connected}")

try:
    connect("/private")
except websocket.WebSocketBadStatusException as e:
    print(f"without login: {e.status_code}")

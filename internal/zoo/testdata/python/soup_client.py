"""libsoup as a client, as GNOME's programs use it."""

import sys

import gi

gi.require_version("Soup", "3.0")
from gi.repository import Gio, GLib, Soup

url, root = sys.argv[1:]
origin = url.replace("ws", "http", 1).removesuffix("/zoo")
loop = GLib.MainLoop()
GLib.timeout_add_seconds(30, lambda: sys.exit("slow"))
session = Soup.Session(tls_database=Gio.TlsFileDatabase.new(root))


def open(path):
    got = []

    def done(session, result):
        try:
            got.append(session.websocket_connect_finish(result))
        except GLib.Error as e:
            got.append(e)
        loop.quit()

    message = Soup.Message.new("GET", url.replace("/zoo", path))
    session.websocket_connect_async(message, origin, ["zoo.v1", "zoo.v2"], GLib.PRIORITY_DEFAULT, None, done)
    loop.run()
    if isinstance(got[0], GLib.Error):
        raise got[0]
    ws = got[0]
    ws.props.max_incoming_payload_size = 1 << 20
    return ws


def wait(ws, signal):
    got = []

    def take(*args):
        got.extend(args)
        loop.quit()

    handler = ws.connect(signal, take)
    loop.run()
    ws.disconnect(handler)
    return got


ws = open("/zoo")
print(f"open: {ws.get_protocol()}, {[type(e).__name__ for e in ws.get_extensions()]}")
for sent in "small", "ä" * 35000, b"\0\xff", b"\7" * 300000:
    if isinstance(sent, str):
        ws.send_text(sent)
    else:
        ws.send_message(Soup.WebsocketDataType.BINARY, GLib.Bytes.new(sent))
    _, kind, data = wait(ws, "message")
    assert data.get_data() == (sent.encode() if isinstance(sent, str) else sent)
print("messages: all come back")
ws.send_text("leave")
wait(ws, "closed")
print(f"server closes: {ws.get_close_code()} {ws.get_close_data()}")

ws = open("/zoo")
ws.close(1000, "bye")
wait(ws, "closed")
print(f"client closes: {ws.get_close_code()} {ws.get_close_data()}")

try:
    open("/private")
except GLib.Error as e:
    print(f"without login: {e.message}")

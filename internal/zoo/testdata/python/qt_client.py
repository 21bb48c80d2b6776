"""Qt WebSockets as a client, through PyQt."""

import sys

from PyQt6.QtCore import QByteArray, QCoreApplication, QEventLoop, QTimer, QUrl
from PyQt6.QtNetwork import QAbstractSocket, QNetworkRequest, QSslCertificate, QSslConfiguration
from PyQt6.QtWebSockets import QWebSocket, QWebSocketHandshakeOptions

url, root = sys.argv[1:]
origin = url.replace("ws", "http", 1).removesuffix("/zoo")
app = QCoreApplication(sys.argv)
QTimer.singleShot(30000, lambda: sys.exit("slow"))


def wait(signal):
    loop, got = QEventLoop(), []

    def take(*args):
        got.extend(args)
        loop.quit()

    signal.connect(take)
    loop.exec()
    signal.disconnect(take)
    return got


def start(path):
    ws = QWebSocket(origin)
    ssl = QSslConfiguration.defaultConfiguration()
    ssl.setCaCertificates(QSslCertificate.fromPath(root))
    ws.setSslConfiguration(ssl)
    request = QNetworkRequest(QUrl(url.replace("/zoo", path)))
    options = QWebSocketHandshakeOptions()
    options.setSubprotocols(["zoo.v1", "zoo.v2"])
    ws.open(request, options)
    return ws


ws = start("/zoo")
wait(ws.connected)
print(f"open: {ws.subprotocol()}")
for sent in "small", "ä" * 35000:
    ws.sendTextMessage(sent)
    assert wait(ws.textMessageReceived) == [sent]
for sent in b"\0\xff", b"\7" * 300000:
    ws.sendBinaryMessage(QByteArray(sent))
    assert bytes(wait(ws.binaryMessageReceived)[0]) == sent
print("messages: all come back")
ws.ping(QByteArray(b"anybody"))
print(f"Ping: Pong {bytes(wait(ws.pong)[1]).decode()}")
ws.sendTextMessage("leave")
wait(ws.disconnected)
print(f"server closes: {ws.closeCode().value} {ws.closeReason()}")

ws = start("/zoo")
wait(ws.connected)
ws.close(reason="bye")
if ws.state() != QAbstractSocket.SocketState.UnconnectedState:  # it doesn't always wait for the answer
    wait(ws.disconnected)
print(f"client closes: {ws.closeCode().value} {ws.closeReason()}")

ws = start("/private")
wait(ws.errorOccurred if hasattr(ws, "errorOccurred") else ws.error)  # until Qt 6.4
print(f"without login: {ws.errorString()}")

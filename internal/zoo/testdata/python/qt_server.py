"""Qt WebSockets as a server: https://doc.qt.io/qt-6/qwebsocketserver.html"""

import sys

from PyQt6.QtCore import QCoreApplication
from PyQt6.QtNetwork import QHostAddress
from PyQt6.QtWebSockets import QWebSocketProtocol, QWebSocketServer

app = QCoreApplication(sys.argv)
server = QWebSocketServer("zoo", QWebSocketServer.SslMode.NonSecureMode)
server.setSupportedSubprotocols(["zoo.v2"])
clients = set()


def origin(authenticator):
    authenticator.setAllowed(authenticator.origin() != "http://elsewhere.example")


def text(ws, message):
    if message == "leave":
        ws.close(QWebSocketProtocol.CloseCode(4001), "as asked")
    else:
        ws.sendTextMessage(message)


def connect():
    ws = server.nextPendingConnection()
    clients.add(ws)
    ws.textMessageReceived.connect(lambda message: text(ws, message))
    ws.binaryMessageReceived.connect(ws.sendBinaryMessage)
    ws.disconnected.connect(lambda: clients.discard(ws))


server.originAuthenticationRequired.connect(origin)
server.newConnection.connect(connect)
if not server.listen(QHostAddress("127.0.0.1"), int(sys.argv[1])):
    sys.exit(server.errorString())
app.exec()

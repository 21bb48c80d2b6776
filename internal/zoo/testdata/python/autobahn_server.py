# Autobahn on Twisted as a server: https://autobahn.readthedocs.io/en/latest/websocket/programming.html
import sys

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.types import ConnectionDeny
from twisted.internet import reactor


class Echo(WebSocketServerProtocol):
    def onConnect(self, request):
        if request.path == "/private" and "authorization" not in request.headers:
            raise ConnectionDeny(401, "who are you")
        return "zoo.v2" if "zoo.v2" in request.protocols else None

    def onMessage(self, payload, isBinary):
        if payload == b"leave":
            self.sendClose(4001, "as asked")
        else:
            self.sendMessage(payload, isBinary)


def accept(offers):
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)


factory = WebSocketServerFactory(protocols=["zoo.v2"])
factory.protocol = Echo
factory.setProtocolOptions(perMessageCompressionAccept=accept, autoPingInterval=1)
reactor.listenTCP(int(sys.argv[1]), factory, interface="127.0.0.1")
reactor.run()

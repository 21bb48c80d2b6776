// Netty as a server, as Vert.x, Play and Spring WebFlux use it:
// https://netty.io/4.1/api/io/netty/handler/codec/http/websocketx/WebSocketServerProtocolHandler.html
import io.netty.bootstrap.ServerBootstrap;
import io.netty.channel.ChannelFutureListener;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.websocketx.CloseWebSocketFrame;
import io.netty.handler.codec.http.websocketx.TextWebSocketFrame;
import io.netty.handler.codec.http.websocketx.WebSocketFrame;
import io.netty.handler.codec.http.websocketx.WebSocketFrameAggregator;
import io.netty.handler.codec.http.websocketx.WebSocketServerProtocolHandler;
import io.netty.handler.codec.http.websocketx.extensions.compression.WebSocketServerCompressionHandler;

public class Netty {
	static class Door extends SimpleChannelInboundHandler<FullHttpRequest> {
		@Override
		protected void channelRead0(ChannelHandlerContext context, FullHttpRequest request) {
			if (!request.uri().equals("/private")) {
				context.fireChannelRead(request.retain());
				return;
			}
			var response = new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.UNAUTHORIZED);
			response.headers().set("WWW-Authenticate", "Basic realm=\"zoo\"").set("Content-Length", 0);
			context.writeAndFlush(response).addListener(ChannelFutureListener.CLOSE);
		}
	}

	static class Echo extends SimpleChannelInboundHandler<WebSocketFrame> {
		@Override
		protected void channelRead0(ChannelHandlerContext context, WebSocketFrame frame) {
			if (frame instanceof TextWebSocketFrame text && text.text().equals("leave"))
				context.writeAndFlush(new CloseWebSocketFrame(4001, "as asked")).addListener(ChannelFutureListener.CLOSE);
			else
				context.writeAndFlush(frame.retain());
		}
	}

	public static void main(String[] args) throws Exception {
		var group = new NioEventLoopGroup();
		new ServerBootstrap().group(group).channel(NioServerSocketChannel.class)
			.childHandler(new ChannelInitializer<SocketChannel>() {
				@Override
				protected void initChannel(SocketChannel channel) {
					channel.pipeline().addLast(new HttpServerCodec(), new HttpObjectAggregator(1 << 16), new Door(),
						new WebSocketServerCompressionHandler(),
						new WebSocketServerProtocolHandler("/echo", "zoo.v2", true, 1 << 21),
						new WebSocketFrameAggregator(1 << 21), new Echo());
				}
			})
			.bind("127.0.0.1", Integer.parseInt(args[0])).sync().channel().closeFuture().sync();
	}
}

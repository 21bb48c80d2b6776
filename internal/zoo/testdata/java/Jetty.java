// Jetty as a server: https://jetty.org/docs/jetty/9/websocket-intro.html
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import javax.servlet.http.HttpServlet;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;
import org.eclipse.jetty.websocket.api.Session;
import org.eclipse.jetty.websocket.api.WebSocketAdapter;
import org.eclipse.jetty.websocket.servlet.WebSocketServlet;
import org.eclipse.jetty.websocket.servlet.WebSocketServletFactory;

public class Jetty {
	public static class Echo extends WebSocketAdapter {
		@Override
		public void onWebSocketText(String text) {
			try {
				if (text.equals("leave"))
					getSession().close(4001, "as asked");
				else
					getRemote().sendString(text);
			} catch (IOException e) {
				e.printStackTrace();
			}
		}

		@Override
		public void onWebSocketBinary(byte[] data, int offset, int length) {
			try {
				getRemote().sendBytes(ByteBuffer.wrap(data, offset, length));
			} catch (IOException e) {
				e.printStackTrace();
			}
		}
	}

	public static class Door extends WebSocketServlet {
		@Override
		public void configure(WebSocketServletFactory factory) {
			factory.getPolicy().setMaxTextMessageSize(1 << 21);
			factory.getPolicy().setMaxBinaryMessageSize(1 << 21);
			factory.setCreator((request, response) -> {
				if (request.hasSubProtocol("zoo.v2"))
					response.setAcceptedSubProtocol("zoo.v2");
				return new Echo();
			});
		}
	}

	public static class Private extends HttpServlet {
		@Override
		protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
			response.setHeader("WWW-Authenticate", "Basic realm=\"zoo\"");
			response.sendError(401);
		}
	}

	public static void main(String[] args) throws Exception {
		var server = new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])));
		var context = new ServletContextHandler();
		context.addServlet(new ServletHolder(new Door()), "/echo");
		context.addServlet(new ServletHolder(new Private()), "/private");
		server.setHandler(context);
		server.start();
		server.join();
	}
}

// Tomcat as a server: https://tomcat.apache.org/tomcat-10.1-doc/web-socket-howto.html
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import jakarta.websocket.CloseReason;
import jakarta.websocket.OnMessage;
import jakarta.websocket.Session;
import jakarta.websocket.server.ServerEndpoint;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Set;
import org.apache.catalina.Context;
import org.apache.catalina.servlets.DefaultServlet;
import org.apache.tomcat.websocket.server.WsSci;

public class Tomcat {
	@ServerEndpoint(value = "/echo", subprotocols = {"zoo.v2"})
	public static class Echo {
		@OnMessage(maxMessageSize = 1 << 21)
		public void text(String text, Session session) throws IOException {
			if (text.equals("leave"))
				session.close(new CloseReason(CloseReason.CloseCodes.getCloseCode(4001), "as asked"));
			else
				session.getBasicRemote().sendText(text);
		}

		@OnMessage(maxMessageSize = 1 << 21)
		public void binary(ByteBuffer data, Session session) throws IOException {
			session.getBasicRemote().sendBinary(data);
		}
	}

	public static class Private extends HttpServlet {
		protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
			response.setHeader("WWW-Authenticate", "Basic realm=\"zoo\"");
			response.sendError(401);
		}
	}

	public static void main(String[] args) throws Exception {
		var tomcat = new org.apache.catalina.startup.Tomcat();
		tomcat.setBaseDir(new File(".").getAbsolutePath());
		tomcat.setPort(Integer.parseInt(args[0]));
		tomcat.getConnector().setProperty("address", "127.0.0.1");
		Context context = tomcat.addContext("", new File(".").getAbsolutePath());
		context.setParentClassLoader(Tomcat.class.getClassLoader());
		context.addServletContainerInitializer(new WsSci(), Set.of(Echo.class));
		// What is mapped nowhere comes to no filter, and the endpoints are behind one.
		org.apache.catalina.startup.Tomcat.addServlet(context, "default", new DefaultServlet());
		context.addServletMappingDecoded("/", "default");
		org.apache.catalina.startup.Tomcat.addServlet(context, "private", new Private());
		context.addServletMappingDecoded("/private", "private");
		tomcat.start();
		tomcat.getServer().await();
	}
}

// The JDK's own client: java.net.http.WebSocket.

import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.net.http.WebSocketHandshakeException;
import java.nio.ByteBuffer;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

class Errand implements WebSocket.Listener {
  final BlockingQueue<Object> came = new LinkedBlockingQueue<>();
  final StringBuilder text = new StringBuilder();
  byte[] bytes = {};

  public CompletionStage<?> onText(WebSocket ws, CharSequence data, boolean last) {
    text.append(data);
    if (last) {
      came.add(text.toString());
      text.setLength(0);
    }
    ws.request(1);
    return null;
  }

  public CompletionStage<?> onBinary(WebSocket ws, ByteBuffer data, boolean last) {
    int before = bytes.length;
    bytes = Arrays.copyOf(bytes, before + data.remaining());
    data.get(bytes, before, bytes.length - before);
    if (last) {
      came.add(bytes);
      bytes = new byte[0];
    }
    ws.request(1);
    return null;
  }

  public CompletionStage<?> onPong(WebSocket ws, ByteBuffer data) {
    byte[] pong = new byte[data.remaining()];
    data.get(pong);
    came.add("Pong " + new String(pong));
    ws.request(1);
    return null;
  }

  public CompletionStage<?> onClose(WebSocket ws, int code, String reason) {
    came.add(code + " " + reason);
    return null;
  }

  public void onError(WebSocket ws, Throwable e) {
    came.add(e.toString());
  }

  Object next() throws Exception {
    Object got = came.poll(20, TimeUnit.SECONDS);
    if (got == null) throw new Exception("nothing comes");
    return got;
  }

  static HttpClient client;
  static String url;

  static WebSocket open(String path, Errand listener) {
    return client.newWebSocketBuilder().subprotocols("zoo.v1", "zoo.v2")
        .buildAsync(URI.create(url.replace("/zoo", path)), listener).join();
  }

  public static void main(String[] args) throws Exception {
    url = args[0];
    KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
    trusted.load(null, null);
    try (FileInputStream root = new FileInputStream(args[1])) {
      trusted.setCertificateEntry("zoo", CertificateFactory.getInstance("X.509").generateCertificate(root));
    }
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(trusted);
    SSLContext tls = SSLContext.getInstance("TLS");
    tls.init(null, trust.getTrustManagers(), null);
    client = HttpClient.newBuilder().sslContext(tls).build();

    Errand errand = new Errand();
    WebSocket ws = open("/zoo", errand);
    System.out.println("open: " + ws.getSubprotocol());
    byte[] large = new byte[300000];
    Arrays.fill(large, (byte) 7);
    for (Object sent : new Object[] {"small", "ä".repeat(35000), new byte[] {0, -1}, large}) {
      if (sent instanceof String s) ws.sendText(s, true).join();
      else ws.sendBinary(ByteBuffer.wrap((byte[]) sent), true).join();
      Object back = errand.next();
      boolean same = sent instanceof String ? sent.equals(back) : back instanceof byte[] b && Arrays.equals((byte[]) sent, b);
      if (!same) throw new Exception("another message comes back");
    }
    System.out.println("messages: all come back");
    ws.sendPing(ByteBuffer.wrap("anybody".getBytes())).join();
    System.out.println("Ping: " + errand.next());
    ws.sendText("leave", true).join();
    System.out.println("server closes: " + errand.next());

    errand = new Errand();
    ws = open("/zoo", errand);
    ws.sendClose(1000, "bye").join();
    System.out.println("client closes: " + errand.next());

    try {
      open("/private", new Errand());
    } catch (CompletionException e) {
      WebSocketHandshakeException refused = (WebSocketHandshakeException) e.getCause();
      System.out.println("without login: " + refused.getResponse().statusCode());
    }
    System.exit(0);
  }
}

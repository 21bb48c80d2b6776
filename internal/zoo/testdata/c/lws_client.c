// libwebsockets as a client: https://libwebsockets.org/lws-api-doc-main/html/
#include <libwebsockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
  enum lws_write_protocol kind;
  size_t size;
  unsigned char *data;
} messages[4];

static int visit;  // 0: the server closes, 1: the client closes, 2: without a login
static size_t next, got;
static unsigned char back[LWS_PRE + 300000];
static int ping, due, leave, done;  // due: messages[next] is to be sent

static int callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len) {
  switch (reason) {
    case LWS_CALLBACK_CLIENT_ESTABLISHED: {
      if (visit == 0) {
        printf("open: %s\n", lws_get_protocol(wsi)->name);
        ping = due = 1;
      }
      lws_callback_on_writable(wsi);
      break;
    }
    case LWS_CALLBACK_CLIENT_WRITEABLE: {
      if (visit == 1) {
        lws_close_reason(wsi, LWS_CLOSE_STATUS_NORMAL, (unsigned char *)"bye", 3);
        return -1;
      }
      if (ping) {
        unsigned char frame[LWS_PRE + 7];
        memcpy(frame + LWS_PRE, "anybody", 7);
        lws_write(wsi, frame + LWS_PRE, 7, LWS_WRITE_PING);
        ping = 0;
        lws_callback_on_writable(wsi);
      } else if (leave) {
        unsigned char frame[LWS_PRE + 5];
        memcpy(frame + LWS_PRE, "leave", 5);
        lws_write(wsi, frame + LWS_PRE, 5, LWS_WRITE_TEXT);
        leave = 0;
      } else if (due) {
        due = 0;
        // It masks what it sends where it is.
        static unsigned char frame[LWS_PRE + 300000];
        memcpy(frame + LWS_PRE, messages[next].data, messages[next].size);
        lws_write(wsi, frame + LWS_PRE, messages[next].size, messages[next].kind);
      }
      break;
    }
    case LWS_CALLBACK_CLIENT_RECEIVE_PONG:
      printf("Ping: Pong %.*s\n", (int)len, (char *)in);
      break;
    case LWS_CALLBACK_CLIENT_RECEIVE:
      if (got + len <= sizeof back) memcpy(back + got, in, len);
      got += len;
      if (!lws_is_final_fragment(wsi) || lws_remaining_packet_payload(wsi)) break;
      if (got != messages[next].size || memcmp(back, messages[next].data, got) ||
          lws_frame_is_binary(wsi) != (messages[next].kind == LWS_WRITE_BINARY)) {
        fprintf(stderr, "another message comes back: %zu\n", got);
        exit(1);
      }
      got = 0;
      if (++next == 4) {
        printf("messages: all come back\n");
        leave = 1;
      }
      due = next < 4;
      lws_callback_on_writable(wsi);
      break;
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE: {
      unsigned char *p = in;
      printf("%s closes: %d %.*s\n", visit ? "client" : "server", len < 2 ? 0 : p[0] << 8 | p[1], len < 2 ? 0 : (int)len - 2, (char *)p + 2);
      break;
    }
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
      printf("without login: %s\n", in ? (char *)in : "error");
      done = 1;
      break;
    case LWS_CALLBACK_CLIENT_CLOSED:
      if (visit == 1) printf("client closes: closed\n");
      done = 1;
      break;
    default:
      break;
  }
  return 0;
}

static const struct lws_protocols protocols[] = {{"zoo.v1", callback, 0, 65536, 0, NULL, 0}, {"zoo.v2", callback, 0, 65536, 0, NULL, 0}, {NULL, NULL, 0, 0, 0, NULL, 0}};

int main(int argc, char **argv) {
  const char *scheme, *address, *path;
  int port;
  static const char *paths[] = {"/zoo", "/zoo", "/private"};
  char origin[64];
  struct lws_context_creation_info info;
  setvbuf(stdout, NULL, _IOLBF, 0);
  lws_set_log_level(LLL_ERR, NULL);
  for (int i = 0; i < 4; i++) {
    static const size_t sizes[] = {5, 70000, 2, 300000};
    messages[i].kind = i < 2 ? LWS_WRITE_TEXT : LWS_WRITE_BINARY;
    messages[i].size = sizes[i];
    messages[i].data = malloc(sizes[i]);
    memset(messages[i].data, 7, sizes[i]);
  }
  memcpy(messages[0].data, "small", 5);
  for (int i = 0; i < 70000; i += 2) memcpy(messages[1].data + i, "\xc3\xa4", 2);
  memcpy(messages[2].data, "\0\xff", 2);

  if (lws_parse_uri(argv[1], &scheme, &address, &port, &path)) return 1;
  int tls = !strcmp(scheme, "wss");
  snprintf(origin, sizeof origin, "%s://%s:%d", tls ? "https" : "http", address, port);
  memset(&info, 0, sizeof info);
  info.port = CONTEXT_PORT_NO_LISTEN;
  info.protocols = protocols;
  // Without that, it puts http:// in front of the origin, even over TLS.
  info.options = LWS_SERVER_OPTION_JUST_USE_RAW_ORIGIN | (tls ? LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT : 0);
  info.client_ssl_ca_filepath = tls ? argv[2] : NULL;
  struct lws_context *context = lws_create_context(&info);
  if (!context) return 1;
  for (visit = 0; visit < 3; visit++) {
    struct lws_client_connect_info to;
    char host[64];
    memset(&to, 0, sizeof to);
    snprintf(host, sizeof host, "%s:%d", address, port);
    to.context = context;
    to.address = address;
    to.port = port;
    to.path = paths[visit];
    to.host = host;
    to.origin = origin;
    to.protocol = "zoo.v1, zoo.v2";
    to.local_protocol_name = "zoo.v1";
    to.ssl_connection = tls ? LCCSCF_USE_SSL : 0;
    done = 0;
    if (!lws_client_connect_via_info(&to) && !done) return 1;
    while (!done) lws_service(context, 0);
  }
  lws_context_destroy(context);
  return 0;
}

// CivetWeb as a server: https://github.com/civetweb/civetweb/blob/master/docs/api/mg_set_websocket_handler.md
#include <civetweb.h>
#include <string.h>
#include <unistd.h>

static int data(struct mg_connection *c, int bits, char *text, size_t size, void *user) {
	(void)user;
	switch (bits & 15) {
	case MG_WEBSOCKET_OPCODE_CONNECTION_CLOSE:
		return 0;
	case MG_WEBSOCKET_OPCODE_TEXT:
		if (size == 5 && !memcmp(text, "leave", 5)) {
			mg_websocket_write(c, MG_WEBSOCKET_OPCODE_CONNECTION_CLOSE, "\x0f\xa1" "as asked", 10);
			return 0;
		}
		// Fall through.
	case MG_WEBSOCKET_OPCODE_BINARY:
		mg_websocket_write(c, bits & 15, text, size);
	}
	return 1;
}

int main(int argc, char **argv) {
	char listen[64] = "127.0.0.1:";
	const char *options[] = {"listening_ports", strncat(listen, argv[argc - 1], 16), "num_threads", "10",
		"websocket_timeout_ms", "3600000", NULL};
	mg_init_library(0);
	struct mg_context *server = mg_start(NULL, NULL, options);
	if (!server)
		return 1;
	mg_set_websocket_handler(server, "/echo", NULL, NULL, data, NULL, NULL);
	for (;;)
		pause();
}

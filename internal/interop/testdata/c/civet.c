/* A server on CivetWeb that sends back what it gets over WebSockets. */
#include <civetweb.h>
#include <unistd.h>

static int echo(struct mg_connection *c, int bits, char *data, size_t size, void *user) {
	int opcode = bits & 0xf;
	(void)user;
	if (opcode == MG_WEBSOCKET_OPCODE_TEXT || opcode == MG_WEBSOCKET_OPCODE_BINARY)
		return mg_websocket_write(c, opcode, data, size) > 0;
	return opcode != MG_WEBSOCKET_OPCODE_CONNECTION_CLOSE;
}

int main(int argc, char **argv) {
	const char *options[] = {"listening_ports", argc == 2 ? argv[1] : "", 0};
	struct mg_callbacks callbacks = {0};
	struct mg_context *ctx;

	mg_init_library(MG_FEATURES_WEBSOCKET);
	if ((ctx = mg_start(&callbacks, 0, options)) == 0)
		return 2;
	mg_set_websocket_handler(ctx, "/", 0, 0, echo, 0, 0);
	for (;;)
		pause();
}

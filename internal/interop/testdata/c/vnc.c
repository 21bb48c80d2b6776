/* A VNC server of LibVNCServer's with a small black screen. It speaks RFB over
 * WebSockets at the same port, for those who begin with GET. */
#include <rfb/rfb.h>
#include <stdlib.h>

int main(int argc, char **argv) {
	int none = 0, port = argc == 2 ? atoi(argv[1]) : 0;
	rfbScreenInfoPtr screen = rfbGetScreen(&none, NULL, 16, 16, 8, 3, 4);
	if (port <= 0 || screen == NULL)
		return 2;
	screen->frameBuffer = calloc(16 * 16, 4);
	screen->autoPort = FALSE;
	screen->port = port;
	screen->ipv6port = -1;
	rfbInitServer(screen);
	while (rfbIsActive(screen))
		rfbProcessEvents(screen, 10000);
	return 1;
}

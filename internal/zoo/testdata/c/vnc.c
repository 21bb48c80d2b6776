// A server of VNC, on LibVNCServer.
#include <rfb/rfb.h>
#include <stdlib.h>

int main(int argc, char **argv) {
	rfbScreenInfoPtr screen = rfbGetScreen(&argc, argv, 64, 64, 8, 3, 4);
	screen->frameBuffer = calloc(64 * 64, 4);
	for (int i = 0; i < 64 * 64 * 4; i++)
		screen->frameBuffer[i] = i / 4 % 64;
	screen->port = atoi(argv[argc - 1]);
	screen->ipv6port = 0;
	screen->listenInterface = inet_addr("127.0.0.1");
	screen->desktopName = "the zoo";
	rfbInitServer(screen);
	rfbRunEventLoop(screen, 100000, FALSE);
	return 0;
}

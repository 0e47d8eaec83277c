/* A sender that is never the limit: numbered frames over N connections, one thread each.
 *
 * usage: loadgen ADDRESS CONNECTIONS FRAMES BYTES_PER_WRITE RATE SPAN_SHARE SOURCES
 *   ADDRESS          HOST:PORT or the path of a Unix socket
 *   FRAMES           in all, an equal share on each connection
 *   BYTES_PER_WRITE  0: one frame a write, as an SDK does; else frames are gathered to this size
 *   RATE             frames a second in all; 0: flat out
 *   SPAN_SHARE       every n-th frame is a span; 0: none
 *   SOURCES          of one connection, in turn
 *
 * A frame is 214 bytes. It carries the connection and its number, so a reader can tell what is
 * lost, torn or twice. Prints on CLOCK_MONOTONIC, in seconds, when it began and when it ended.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define FRAME 214
static const char *address;
static int connections, span_share, sources;
static long frames, bytes_per_write, rate;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int dial(void) {
    int fd;
    char host[64];
    const char *colon = strrchr(address, ':');
    if (address[0] == '/' || !colon) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        strncpy(to.sun_path, address, sizeof to.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&to, sizeof to)) { perror(address); exit(1); }
        return fd;
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
    snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    inet_pton(AF_INET, host, &to.sin_addr);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) { perror(address); exit(1); }
    return fd;
}

/* A frame of exactly FRAME bytes; `pad` fills it up. */
static void frame(char *out, int connection, long number) {
    char head[FRAME + 1];
    int n;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    long ms = t.tv_sec * 1000L + t.tv_nsec / 1000000L, source = number % sources;
    long ids = (long)connection << 40; /* a span that comes over two connections would be told twice */
    if (span_share && number % span_share == 0)
        n = snprintf(head, sizeof head,
            "{\"v\":1,\"src\":\"bench-%d-%ld\",\"ts\":%ld,\"type\":\"span\",\"tid\":\"%032lx\",\"sid\":\"%016lx\","
            "\"data\":{\"name\":\"load\",\"duration_ms\":12,\"ctx\":{\"n\":%ld,\"p\":\"", connection, source, ms,
            ids + number / 100 + 1, ids + number + 1, number);
    else
        n = snprintf(head, sizeof head,
            "{\"v\":1,\"src\":\"bench-%d-%ld\",\"ts\":%ld,\"type\":\"event\",\"data\":{\"level\":\"info\",\"msg\":\"wafer loaded\","
            "\"ctx\":{\"n\":%ld,\"lot\":\"L1234567\",\"tool\":\"EQP07\",\"yield\":0.9731,\"rows\":1200,\"p\":\"",
            connection, source, ms, number);
    memcpy(out, head, n);
    memset(out + n, 'x', FRAME - 5 - n);
    memcpy(out + FRAME - 5, "\"}}}\n", 5);
}

static void send_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0) { if (errno == EINTR) continue; perror("send"); exit(1); }
        data += n;
        size -= n;
    }
}

static void *sender(void *arg) {
    int connection = (int)(long)arg, fd = dial();
    long count = frames / connections, per_write = bytes_per_write / FRAME;
    if (per_write < 1) per_write = 1;
    char *buffer = malloc(per_write * FRAME);
    double pace = rate ? (double)connections / rate : 0;
    double began = now() + pace * connection / connections; /* not all at one moment */
    for (long number = 0; number < count;) {
        long n = 0;
        while (n < per_write && number < count) frame(buffer + n++ * FRAME, connection, number++);
        if (pace) {
            double wait = began + number * pace - now();
            if (wait > 0) {
                struct timespec t = {(time_t)wait, (long)((wait - (time_t)wait) * 1e9)};
                nanosleep(&t, NULL);
            }
        }
        send_all(fd, buffer, n * FRAME);
    }
    free(buffer);
    close(fd);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 8) { fprintf(stderr, "usage: see the head of this file\n"); return 2; }
    address = argv[1]; connections = atoi(argv[2]); frames = atol(argv[3]);
    bytes_per_write = atol(argv[4]); rate = atol(argv[5]); span_share = atoi(argv[6]);
    sources = atoi(argv[7]);
    pthread_t threads[connections];
    double began = now();
    for (long i = 0; i < connections; i++) pthread_create(&threads[i], NULL, sender, (void *)i);
    for (int i = 0; i < connections; i++) pthread_join(threads[i], NULL);
    printf("%.6f %.6f\n", began, now());
    return 0;
}

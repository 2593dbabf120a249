/* redispair: the floor for anything that goes through a Redis stream. One process appends (XADD), another blocks (XREAD BLOCK);
   raw RESP over TCP, no client library. Prints one JSON line with the latency from before the write to after the read. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "hist.h"

#define STREAM "bench:pair"
#define WARMUP 100 /* records not counted: the first ones pay for page faults and a cold socket */

struct conn {
    int fd;
    size_t at, len; /* parsed up to, filled up to */
    char buf[1 << 20];
};

static void fail(const char *what) {
    perror(what);
    exit(2);
}

static void redis_open(struct conn *c, int port) {
    int on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    c->at = c->len = 0;
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a)) fail("connect to Redis");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void more(struct conn *c) {
    if (c->len == sizeof c->buf) fail("reply larger than the buffer");
    ssize_t n = read(c->fd, c->buf + c->len, sizeof c->buf - c->len);
    if (n <= 0) fail("read from Redis");
    c->len += (size_t)n;
}

/* The next line of the reply (without CR LF); reads until it is whole. */
static char *line(struct conn *c) {
    char *end;
    while (!(end = memchr(c->buf + c->at, '\n', c->len - c->at))) more(c);
    char *start = c->buf + c->at;
    end[-1] = 0;
    c->at = (size_t)(end - c->buf) + 1;
    return start;
}

static char *bulk(struct conn *c, size_t *len) {
    char *head = line(c);
    if (*head != '$') {
        fprintf(stderr, "unexpected reply from Redis: %s\n", head);
        exit(2);
    }
    *len = (size_t)atoi(head + 1);
    while (c->len - c->at < *len + 2) more(c);
    char *start = c->buf + c->at;
    c->at += *len + 2;
    return start;
}

static void reply_begin(struct conn *c) { c->at = c->len = 0; } /* one request at a time: the last reply was read whole */

static void ask(struct conn *c, const char *p, size_t n) {
    reply_begin(c);
    if (write(c->fd, p, n) != (ssize_t)n) fail("write to Redis");
}

static int xread(struct conn *c, char *last, size_t last_cap, struct hist *h, int seen) {
    char request[256];
    int n = snprintf(request, sizeof request,
                     "*8\r\n$5\r\nXREAD\r\n$5\r\nBLOCK\r\n$1\r\n0\r\n$5\r\nCOUNT\r\n$3\r\n100\r\n$7\r\nSTREAMS\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n",
                     strlen(STREAM), STREAM, strlen(last), last);
    ask(c, request, (size_t)n);
    size_t len;
    line(c), line(c), bulk(c, &len); /* *1 [ *2 [ key, entries ] ] */
    int entries = atoi(line(c) + 1);
    for (int i = 0; i < entries; i++) {
        line(c); /* *2 [ id, *2 [ field, value ] ] */
        char *id = bulk(c, &len);
        snprintf(last, last_cap, "%.*s", (int)len, id);
        line(c), bulk(c, &len);
        char *value = bulk(c, &len);
        if (++seen > WARMUP) hist_add(h, now_ns() - strtoll(value, NULL, 10));
    }
    return seen;
}

static void reader(int port, int events, int ready) {
    static struct conn c;
    static struct hist h;
    char last[64] = "0-0";
    int seen = 0;
    redis_open(&c, port);
    if (write(ready, "r", 1) != 1) fail("pipe");
    while (seen < events + WARMUP) seen = xread(&c, last, sizeof last, &h, seen);
    printf("{\"events\":%d,\"latency_us\":", events);
    hist_print(&h, stdout);
    printf("}\n");
    fflush(stdout);
    exit(0);
}

static void writer(int port, int events, double rate, int size) {
    static struct conn c;
    char *request = malloc((size_t)size + 512), *value = malloc((size_t)size + 32);
    redis_open(&c, port);
    int64_t due = now_ns();
    for (int i = 0; i < events + WARMUP; i++) {
        due += (int64_t)(1e9 / rate);
        int64_t wait = due - now_ns();
        struct timespec t = {wait / 1000000000, wait % 1000000000};
        if (wait > 0) nanosleep(&t, NULL);
        int k = snprintf(value, (size_t)size + 32, "%lld ", (long long)now_ns());
        while (k < size) value[k++] = 'x';
        int n = snprintf(request, (size_t)size + 512, "*5\r\n$4\r\nXADD\r\n$%zu\r\n%s\r\n$1\r\n*\r\n$1\r\nd\r\n$%d\r\n%.*s\r\n",
                         strlen(STREAM), STREAM, k, k, value);
        ask(&c, request, (size_t)n);
        size_t len;
        bulk(&c, &len);
    }
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: redispair PORT EVENTS RATE SIZE\n");
        return 2;
    }
    int port = atoi(argv[1]), events = atoi(argv[2]), size = atoi(argv[4]), ready[2], status = 0;
    char byte;
    static struct conn c;
    prctl(PR_SET_TIMERSLACK, 1UL);
    redis_open(&c, port);
    static const char del[] = "*2\r\n$3\r\nDEL\r\n$10\r\n" STREAM "\r\n";
    ask(&c, del, sizeof del - 1);
    line(&c);
    if (pipe(ready)) fail("pipe");
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, 9);
        reader(port, events, ready[1]);
    }
    if (read(ready[0], &byte, 1) != 1) fail("pipe");
    writer(port, events, atof(argv[3]), size);
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

#include "http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static void keep(struct line *l, const char *p, size_t n) {
    if (l->len + n >= l->cap) {
        l->cap = (uint32_t)(l->len + n + 256);
        if (!(l->buf = realloc(l->buf, l->cap))) abort();
    }
    memcpy(l->buf + l->len, p, n);
    l->len += (uint32_t)n;
    l->buf[l->len] = 0; /* numbers are read with strtol: it must stop here as it does at an LF */
}

int line_next(struct line *l, const char **p, const char *end, const char **text, size_t *len) {
    const char *lf = memchr(*p, '\n', (size_t)(end - *p));
    if (!lf) {
        if (*p < end) keep(l, *p, (size_t)(end - *p));
        *p = end;
        return 0;
    }
    if (l->len) {
        keep(l, *p, (size_t)(lf - *p));
        *text = l->buf;
        *len = l->len;
        l->len = 0;
    } else {
        *text = *p;
        *len = (size_t)(lf - *p);
    }
    *p = lf + 1;
    if (*len && (*text)[*len - 1] == '\r') --*len;
    return 1;
}

void line_free(struct line *l) {
    free(l->buf);
    memset(l, 0, sizeof *l);
}

void http_reset(struct http *h) {
    h->state = HTTP_STATUS;
    h->status = h->chunked = 0;
    h->left = -1;
    h->line.len = 0;
}

static void header(struct http *h, const char *s, size_t n) {
    if (n > 15 && !strncasecmp(s, "content-length:", 15)) h->left = strtoll(s + 15, NULL, 10);
    if (n > 18 && !strncasecmp(s, "transfer-encoding:", 18) && memmem(s, n, "chunked", 7)) h->chunked = 1;
}

static void headers_end(struct http *h) {
    if (h->status == 204 || h->status == 304) h->left = 0;
    if (h->chunked)
        h->state = HTTP_CHUNK_SIZE;
    else
        h->state = h->left == 0 ? HTTP_DONE : HTTP_BODY;
}

int http_feed(struct http *h, const char *p, size_t n, http_body body, void *owner) {
    const char *end = p + n, *s;
    size_t len;
    while (p < end) {
        if (h->state == HTTP_BODY) {
            size_t take = (size_t)(end - p);
            if (h->left >= 0 && (int64_t)take > h->left) take = (size_t)h->left;
            if (body) body(owner, p, take);
            p += take;
            if (h->left < 0) continue;
            h->left -= (int64_t)take;
            if (h->left == 0) h->state = h->chunked ? HTTP_CHUNK_END : HTTP_DONE;
            continue;
        }
        if (h->state == HTTP_DONE) return -1; /* nothing was asked for: no pipelining here */
        if (!line_next(&h->line, &p, end, &s, &len)) break;
        switch (h->state) {
        case HTTP_STATUS:
            if (len < 12 || memcmp(s, "HTTP/1.", 7)) return -1;
            h->status = atoi(s + 9);
            h->state = HTTP_HEADERS;
            break;
        case HTTP_HEADERS:
            if (len)
                header(h, s, len);
            else
                headers_end(h);
            break;
        case HTTP_CHUNK_SIZE:
            h->left = strtoll(s, NULL, 16);
            h->state = h->left ? HTTP_BODY : HTTP_TRAILERS;
            break;
        case HTTP_CHUNK_END:
            h->state = HTTP_CHUNK_SIZE;
            break;
        default:
            if (!len) h->state = HTTP_DONE;
        }
    }
    return 0;
}

int dial(int port, int source) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        perror("socket (is `ulimit -n` above the number of connections?)");
        exit(2);
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* Closing with a reset leaves no TIME_WAIT: thousands of them would slow the next run's connects. */
    struct linger reset = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000000u + (unsigned)source)};
    if (source > 1) {
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(fd, (struct sockaddr *)&a, sizeof a)) perror("bind");
    }
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)port);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

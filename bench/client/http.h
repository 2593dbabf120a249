/* Enough of HTTP/1.1 for a load client: a non-blocking dial and a push decoder of responses. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* A line that may arrive in pieces. `buf` is only allocated on the connections that ever saw a line cut in two. */
struct line {
    char *buf;
    uint32_t len, cap;
};

/* Finds the next whole line at *p; moves *p behind it. Returns 0 when the rest of the input was kept for later. The line is
   without its LF or CR LF, and valid until the next call. */
int line_next(struct line *l, const char **p, const char *end, const char **text, size_t *len);
void line_free(struct line *l);

enum http_state { HTTP_STATUS, HTTP_HEADERS, HTTP_BODY, HTTP_CHUNK_SIZE, HTTP_CHUNK_END, HTTP_TRAILERS, HTTP_DONE };

struct http {
    enum http_state state;
    int status;
    int chunked;
    int64_t left; /* bytes of this body or chunk still to come; -1: until the connection closes */
    struct line line;
};

typedef void (*http_body)(void *owner, const char *p, size_t n);

void http_reset(struct http *h);
/* Returns -1 on a response it cannot read. A response is complete when state is HTTP_DONE. */
int http_feed(struct http *h, const char *p, size_t n, http_body body, void *owner);

static inline int http_in_body(const struct http *h) { return h->state >= HTTP_BODY; }

/* A non-blocking TCP socket to 127.0.0.1:port, from 127.0.0.<source> so that more than one address' worth of ports is there. */
int dial(int port, int source);

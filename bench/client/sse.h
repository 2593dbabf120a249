/* A push decoder of event streams, for streams whose lines end in LF or CR LF. */
#pragma once
#include "http.h"

struct sse {
    struct line line;
    uint8_t has_data; /* a frame without a data line moves the cursor and is no event */
    uint8_t control;  /* its type starts with `realtime.` */
    uint8_t ready;    /* its type is `realtime.ready` */
    uint8_t gap;      /* its type is `realtime.gap` */
    uint8_t keep_id;
    uint64_t n;       /* the publisher's number, 0 where the data carries none */
    int64_t t;        /* the publisher's stamp */
    uint32_t retry_ms;
    char *id;         /* the cursor to come back with: set when a frame ends, as browsers do */
    char *pending_id;
};

typedef void (*sse_frame)(void *owner, struct sse *frame);

/* Calls back at the end of every frame, with or without data. */
void sse_feed(struct sse *s, const char *p, size_t n, sse_frame on_frame, void *owner);
/* A new connection: an unfinished frame is dropped, the cursor stays. */
void sse_reset(struct sse *s);

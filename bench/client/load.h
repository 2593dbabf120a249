/* The parts of the load client: options, what was counted, the connections, the publisher. One thread, one epoll. */
#pragma once
#include <stdint.h>
#include <stdio.h>

#include "hist.h"

enum mode {
    LISTEN, /* publishes nothing; ends when each connection has `events` events */
    ONE,    /* closed loop: the next event when every receiver has the last one */
    BURST,  /* as ONE, `burst` concurrent POSTs at a time */
    RATE    /* open loop: `rate` events a second whatever the server does */
};

struct options {
    int port, pub_port, reconnect_port;
    const char *path;     /* {i} = the connection's index */
    const char *pub_path;
    const char *body;     /* {d} = the data object, {u} = number modulo users */
    const char *headers;  /* whole lines, each with CR LF */
    const char *name;     /* goes to the results as it is */
    int conns, window, sources;
    int wait_ready;       /* connected means `realtime.ready` was read, not only the response's headers */
    enum mode mode;
    int events, warmup, burst, batch, size;
    int first;            /* the number of the first event published: goes on where another client stopped */
    int receivers;        /* connections that each event reaches; -1: all */
    int users;            /* 0: as many as connections */
    int spread;           /* event n is for connection n modulo conns only */
    double rate, timeout, drain;
    int reconnect;
    int retry_ms;         /* instead of what the server asked for; -1: as asked */
    int other_port;       /* a second instance: half of the connections start there, and each loss sends one to the other */
    int insist;           /* a POST that was refused or lost is sent again, the same bytes, until it is accepted */
    int cut;              /* connections a second that the client drops by itself */
    FILE *ticks;          /* what each second brought, a line of JSON a second */
    FILE *arrivals;       /* every event as it arrived: connection, number, cursor */
    int steps;            /* wait at each mark for a line on stdin */
};

struct tally { /* of the phase under way */
    int64_t started, finished;
    uint64_t received, bytes, foreign, misdelivered;
    uint64_t published, publish_errors, publish_retries, gaps;
    struct hist latency, publish, back; /* back: connection lost → ready again */
    uint64_t lost_connections, refused;
    int64_t first_loss, last_back;
};

struct second { /* the one under way */
    struct hist latency;
    uint64_t published;
};

extern struct options opt;
extern struct tally tally;
extern struct second second;
extern int epoll_fd;

/* What an epoll entry points to: the first member of everything that owns a socket. */
struct io {
    int fd;
    void (*on)(struct io *self, uint32_t events);
};
void io_watch(struct io *io, uint32_t events, int op);

/* One shared buffer: nothing is kept per connection but unfinished lines. */
#define RECV_SIZE (256 * 1024)
extern char recv_buffer[RECV_SIZE];

/* subscribers.c */
void subscribers_open(void);
int subscribers_pump(int64_t now);        /* dials what is due; returns how many are not ready yet */
int64_t subscribers_due(void);            /* when it wants to be pumped next; INT64_MAX: never */
int subscribers_ready(void);
void subscribers_cut(int count, int64_t now); /* drops so many, chosen at random */
int subscribers_listened(uint64_t events); /* each one has at least so many */
void subscribers_print(FILE *out, uint64_t sent_each);

/* publisher.c */
void publisher_open(void);
void publisher_begin(int events);
int publisher_pump(int64_t now); /* returns 1 when all was published, answered and (closed loop) received */
int64_t publisher_due(void);
uint64_t publisher_total(void);  /* events published since the start */
uint64_t publisher_expected(void); /* deliveries that the phase's events should make */

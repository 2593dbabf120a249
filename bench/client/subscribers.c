/* N event streams. Each counts its events, takes the latency from the publisher's stamp and checks the numbers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "load.h"
#include "seq.h"
#include "sse.h"

enum sub_state { IDLE, CONNECTING, OPENING, READY, WAITING };

struct sub {
    struct io io;
    enum sub_state state;
    int index, port;
    uint64_t events; /* since the start */
    int64_t lost_at, retry_at;
    struct http http;
    struct sse sse;
    struct seq seq;
};

static struct sub *subs;
static int opened, pending, ready;  /* dialled so far; dialled and not ready; ready */
static uint32_t *order;             /* the numbers in the order in which the first connection to get there saw them */
static uint64_t order_len, order_cap, disagreed;
static uint64_t heard;              /* events on all connections since the start */

static void remember_order(uint64_t k, uint64_t n) {
    if (k < order_len) {
        disagreed += order[k] != n;
        return;
    }
    if (k >= order_cap) {
        order_cap = order_cap ? order_cap * 2 : 4096;
        if (!(order = realloc(order, order_cap * sizeof *order))) abort();
    }
    order[order_len++] = (uint32_t)n;
}

static void become_ready(struct sub *s, int64_t now) {
    if (s->state != OPENING) return;
    s->state = READY;
    pending--;
    ready++;
    if (s->lost_at) {
        hist_add(&tally.back, now - s->lost_at);
        tally.last_back = now;
        s->lost_at = 0;
    }
}

static int64_t frame_now; /* one clock reading for all frames of one recv: they arrived together */

static void on_frame(void *owner, struct sse *f) {
    struct sub *s = owner;
    if (f->control) {
        tally.gaps += f->gap;
        if (f->ready && opt.wait_ready) become_ready(s, frame_now);
        return;
    }
    if (!f->has_data) return;
    tally.received++;
    tally.finished = frame_now;
    if (!f->n) {
        tally.foreign++;
        return;
    }
    hist_add(&tally.latency, frame_now - f->t);
    if (opt.ticks) hist_add(&second.latency, frame_now - f->t);
    uint64_t n = f->n;
    if (opt.arrivals) fprintf(opt.arrivals, "%d %llu %s\n", s->index, (unsigned long long)n, f->id ? f->id : "");
    if (opt.spread) {
        if ((int)(n % (uint64_t)opt.conns) != s->index) tally.misdelivered++;
        n = n / (uint64_t)opt.conns + (s->index > 0); /* the numbers of one connection, made contiguous from 1 */
    }
    seq_see(&s->seq, n);
    if (opt.receivers == opt.conns && !opt.spread) remember_order(s->events, n);
    s->events++;
    heard++;
}

static void on_body(void *owner, const char *p, size_t n) { sse_feed(&((struct sub *)owner)->sse, p, n, on_frame, owner); }

/* {i} in the path becomes the connection's index. */
static void ask(struct sub *s) {
    char request[4096], path[1024];
    const char *hole = strstr(opt.path, "{i}");
    if (hole)
        snprintf(path, sizeof path, "%.*s%d%s", (int)(hole - opt.path), opt.path, s->index, hole + 3);
    else
        snprintf(path, sizeof path, "%s", opt.path);
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n%s%s%s%s\r\n", path, s->port,
                     opt.headers, s->sse.id ? "Last-Event-ID: " : "", s->sse.id ? s->sse.id : "", s->sse.id ? "\r\n" : "");
    if (send(s->io.fd, request, (size_t)n, MSG_NOSIGNAL) != n) perror("send request");
}

static void on_lost(struct sub *s, int64_t now, int refused) {
    close(s->io.fd);
    s->io.fd = -1;
    if (s->state == READY)
        ready--;
    else
        pending--;
    if (refused)
        tally.refused++;
    else
        tally.lost_connections++;
    if (!opt.reconnect) {
        fprintf(stderr, "connection %d ended (HTTP status %d)\n", s->index, s->http.status);
        s->state = IDLE;
        return;
    }
    if (!s->lost_at) s->lost_at = now;
    if (!tally.first_loss) tally.first_loss = now;
    s->port = !opt.other_port ? opt.reconnect_port : s->port == opt.port ? opt.other_port : opt.port;
    s->state = WAITING;
    int wait = opt.retry_ms >= 0 ? opt.retry_ms : s->sse.retry_ms ? (int)s->sse.retry_ms : 3000;
    if (refused && wait < 50) wait = 50; /* never a busy loop of refused connects */
    s->retry_at = now + (int64_t)wait * 1000000;
}

static void on_socket(struct io *io, uint32_t events) {
    struct sub *s = (struct sub *)io;
    int64_t now = now_ns();
    if (s->state == CONNECTING) {
        int error = 0;
        socklen_t len = sizeof error;
        getsockopt(io->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error) {
            on_lost(s, now, 1);
            return;
        }
        ask(s);
        s->state = OPENING;
        io_watch(io, EPOLLIN, EPOLL_CTL_MOD);
        if (!(events & EPOLLIN)) return;
    }
    for (;;) {
        ssize_t n = recv(io->fd, recv_buffer, RECV_SIZE, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            on_lost(s, now, s->state != READY);
            return;
        }
        tally.bytes += (uint64_t)n;
        frame_now = now_ns();
        int bad = http_feed(&s->http, recv_buffer, (size_t)n, on_body, s) || s->http.state == HTTP_DONE;
        if (bad || (http_in_body(&s->http) && s->http.status != 200)) {
            on_lost(s, now, s->state != READY);
            return;
        }
        if (!opt.wait_ready && http_in_body(&s->http)) become_ready(s, frame_now);
        if (n < RECV_SIZE) return;
    }
}

static void start(struct sub *s, int64_t now) {
    http_reset(&s->http);
    sse_reset(&s->sse);
    s->state = CONNECTING;
    pending++;
    s->io.fd = dial(s->port, 1 + s->index % opt.sources);
    if (s->io.fd < 0)
        on_lost(s, now, 1);
    else
        io_watch(&s->io, EPOLLOUT, EPOLL_CTL_ADD);
}

void subscribers_open(void) {
    if (!(subs = calloc((size_t)opt.conns + 1, sizeof *subs))) abort();
    for (int i = 0; i < opt.conns; i++) {
        subs[i].index = i;
        subs[i].port = opt.other_port && i % 2 ? opt.other_port : opt.port;
        subs[i].io.on = on_socket;
        subs[i].sse.keep_id = opt.reconnect || opt.arrivals;
        seq_init(&subs[i].seq);
    }
}

int subscribers_pump(int64_t now) {
    for (; opened < opt.conns && pending < opt.window; opened++) start(&subs[opened], now);
    if (opt.reconnect && ready < opened)
        for (int i = 0; i < opened; i++) /* no window here: a herd does not queue up */
            if (subs[i].state == WAITING && subs[i].retry_at <= now) start(&subs[i], now);
    return opt.conns - ready;
}

int64_t subscribers_due(void) {
    int64_t due = INT64_MAX;
    if (opt.reconnect && ready < opened)
        for (int i = 0; i < opened; i++)
            if (subs[i].state == WAITING && subs[i].retry_at < due) due = subs[i].retry_at;
    return due;
}

int subscribers_ready(void) { return ready; }

void subscribers_cut(int count, int64_t now) {
    for (int i = 0; i < count && opened; i++) {
        struct sub *s = &subs[rand() % opened];
        if (s->state == READY) on_lost(s, now, 0);
    }
}

int subscribers_listened(uint64_t events) {
    if (heard < events * (uint64_t)opt.conns) return 0; /* saves the walk below while it cannot be true */
    for (int i = 0; i < opt.conns; i++)
        if (subs[i].seq.distinct < events) return 0;
    return 1;
}

void subscribers_print(FILE *out, uint64_t sent_each) {
    uint64_t distinct = 0, duplicated = 0, overtaken = 0, expected = 0;
    for (int i = 0; i < opt.conns; i++) {
        distinct += subs[i].seq.distinct;
        duplicated += subs[i].seq.duplicated;
        overtaken += subs[i].seq.overtaken;
    }
    expected = opt.spread ? sent_each : sent_each * (uint64_t)opt.receivers;
    fprintf(out, "\"ready\":%d,\"lost\":%lld,\"duplicated\":%llu,\"overtaken\":%llu,\"disagreed\":%llu", ready,
            (long long)expected - (long long)distinct, (unsigned long long)duplicated, (unsigned long long)overtaken,
            (unsigned long long)disagreed);
}

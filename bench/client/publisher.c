/* Publishes over keep-alive connections, one POST in flight on each. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "http.h"
#include "load.h"

#define MAX_SLOTS 64
#define RETRY_NS 100000000
#define STALE_NS 2000000000 /* a connection idle for longer may be closed by the server just as the next POST leaves */

struct slot {
    struct io io;
    int busy, connecting, events, port;
    int64_t began, ended, retry_at; /* retry_at: when the POST is sent again, 0 where it is under way */
    char *out;
    size_t len, sent, cap;
    struct http http;
};

static struct slot slots[MAX_SLOTS];
static int slot_count, in_flight, left, round_open;
static uint64_t total, phase_events, settled; /* settled: deliveries that the finished rounds made */
static int64_t due;
static char *padding;

static void put(struct slot *s, const char *p, size_t n) {
    if (s->len + n > s->cap) {
        s->cap = (s->len + n) * 2;
        if (!(s->out = realloc(s->out, s->cap))) abort();
    }
    memcpy(s->out + s->len, p, n);
    s->len += n;
}

static void put_event(struct slot *s, uint64_t n, int64_t t) {
    for (const char *p = opt.body; *p;) {
        const char *hole = strchr(p, '{');
        while (hole && (hole[1] == 0 || !strchr("dun", hole[1]) || hole[2] != '}')) hole = strchr(hole + 1, '{');
        put(s, p, hole ? (size_t)(hole - p) : strlen(p));
        if (!hole) return;
        char text[128];
        int k, head;
        if (hole[1] != 'd') {
            k = snprintf(text, sizeof text, "%llu", hole[1] == 'n' ? (unsigned long long)n : (unsigned long long)n % (unsigned)opt.users);
            put(s, text, (size_t)k);
        } else { /* the fields come first, where the subscriber looks for them */
            k = snprintf(text, sizeof text, "{\"n\":%llu,\"t\":%lld,\"pad\":\"", (unsigned long long)n, (long long)t);
            head = opt.size > k + 2 ? opt.size - k - 2 : 0;
            put(s, text, (size_t)k);
            put(s, padding, (size_t)head);
            put(s, "\"}", 2);
        }
        p = hole + 3;
    }
}

static void flush(struct slot *s) {
    while (s->sent < s->len) {
        ssize_t k = send(s->io.fd, s->out + s->sent, s->len - s->sent, MSG_NOSIGNAL);
        if (k < 0) break;
        s->sent += (size_t)k;
    }
    io_watch(&s->io, s->sent < s->len ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
}

static void reopen(struct slot *s) {
    if (s->io.fd >= 0) close(s->io.fd);
    http_reset(&s->http);
    s->connecting = 1;
    s->ended = now_ns();
    if (!s->port) s->port = opt.pub_port;
    if ((s->io.fd = dial(s->port, 1)) < 0) {
        if (opt.insist) {
            s->connecting = 0;
            if (opt.other_port) s->port = s->port == opt.pub_port ? opt.other_port : opt.pub_port;
            s->retry_at = now_ns() + RETRY_NS;
            return;
        }
        fprintf(stderr, "publisher: connection refused\n");
        exit(2);
    }
    io_watch(&s->io, EPOLLOUT, EPOLL_CTL_ADD);
}

static void post(struct slot *s, int count, int64_t now, int64_t stamp) {
    char head[1024];
    s->len = s->sent = 0;
    if (opt.batch > 1) put(s, "[", 1);
    for (int i = 0; i < count; i++) {
        if (i) put(s, ",", 1);
        put_event(s, (uint64_t)opt.first + total++, stamp);
    }
    if (opt.batch > 1) put(s, "]", 1);
    int k = snprintf(head, sizeof head,
                     "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n",
                     opt.pub_path, opt.pub_port, opt.headers, s->len);
    size_t body = s->len;
    put(s, head, (size_t)k); /* grows the buffer, then the head moves in front */
    memmove(s->out + k, s->out, body);
    memcpy(s->out, head, (size_t)k);
    s->busy = 1;
    s->events = count;
    s->began = now;
    http_reset(&s->http);
    in_flight++;
    left -= count;
    if (s->io.fd < 0 || now - s->ended > STALE_NS)
        reopen(s); /* sends once it is connected */
    else if (!s->connecting)
        flush(s);
}

/* The next try goes to the other instance, where there is one. */
static void again(struct slot *s) {
    tally.publish_retries++;
    if (s->io.fd >= 0) close(s->io.fd);
    s->io.fd = -1;
    if (opt.other_port) s->port = s->port == opt.pub_port ? opt.other_port : opt.pub_port;
    s->retry_at = now_ns() + RETRY_NS;
}

static void answered(struct slot *s, int ok) {
    if (!ok && opt.insist) {
        again(s);
        return;
    }
    if (ok) {
        second.published += (uint64_t)s->events;
        hist_add(&tally.publish, now_ns() - s->began);
        tally.published += (uint64_t)s->events;
    } else {
        if (!tally.publish_errors++) fprintf(stderr, "publisher: HTTP status %d\n", s->http.status);
    }
    s->busy = 0;
    in_flight--;
    tally.finished = s->ended = now_ns();
}

static void on_socket(struct io *io, uint32_t events) {
    struct slot *s = (struct slot *)io;
    if (s->connecting) {
        s->connecting = 0;
        if (s->busy)
            flush(s);
        else
            io_watch(io, EPOLLIN, EPOLL_CTL_MOD);
        return;
    }
    if (events & EPOLLOUT) flush(s);
    ssize_t n = recv(io->fd, recv_buffer, RECV_SIZE, 0);
    if (n < 0 && errno == EAGAIN) return;
    int over = n <= 0 || http_feed(&s->http, recv_buffer, (size_t)n, NULL, NULL);
    if (over) { /* an idle keep-alive connection that the server closed is dialled again when it is needed */
        close(io->fd);
        io->fd = -1;
    }
    if (s->busy && (over || s->http.state == HTTP_DONE)) answered(s, !over && s->http.status / 100 == 2);
}

void publisher_open(void) {
    slot_count = opt.mode == BURST ? opt.burst : opt.mode == RATE ? 32 : 1;
    if (slot_count > MAX_SLOTS) slot_count = MAX_SLOTS;
    padding = malloc((size_t)opt.size + 1);
    memset(padding, 'x', (size_t)opt.size + 1);
    for (int i = 0; i < slot_count; i++) {
        slots[i].io.fd = -1;
        slots[i].io.on = on_socket;
    }
}

void publisher_begin(int events) {
    left = events;
    phase_events = (uint64_t)events;
    settled = 0;
    round_open = 0;
    due = now_ns();
    /* Fresh connections: a server may have closed the old ones while the harness took its samples. */
    for (int i = 0; i < slot_count; i++) reopen(&slots[i]);
}

static int pump_rate(int64_t now) {
    for (int i = 0; opt.insist && i < slot_count; i++)
        if (slots[i].retry_at && slots[i].retry_at <= now) {
            slots[i].retry_at = 0;
            slots[i].sent = 0;
            reopen(&slots[i]);
        }
    for (int i = 0; left > 0 && due <= now && i < slot_count; i++) {
        if (slots[i].busy || slots[i].retry_at) continue;
        int count = left < opt.batch ? left : opt.batch;
        post(&slots[i], count, now, due); /* stamped when it should have left: a stalled server does not hide its delay */
        due += (int64_t)(1e9 * count / opt.rate);
    }
    return left == 0 && in_flight == 0 && tally.received >= publisher_expected();
}

int publisher_pump(int64_t now) {
    if (opt.mode == RATE) return pump_rate(now);
    if (in_flight) return 0;
    if (tally.publish_errors) return 1; /* what was refused never arrives: do not wait for it */
    if (tally.received < settled) return 0;
    if (left == 0) return 1;
    for (int i = 0; i < slot_count && left > 0; i++) {
        int count = left < opt.batch ? left : opt.batch;
        settled += (uint64_t)count * (uint64_t)(opt.spread ? 1 : opt.receivers);
        post(&slots[i], count, now_ns(), now_ns());
    }
    return 0;
}

int64_t publisher_due(void) {
    int64_t at = INT64_MAX;
    for (int i = 0; opt.insist && i < slot_count; i++)
        if (slots[i].retry_at && slots[i].retry_at < at) at = slots[i].retry_at;
    if (opt.mode != RATE || left == 0 || in_flight == slot_count) return at;
    return due < at ? due : at;
}

uint64_t publisher_total(void) { return total; }

uint64_t publisher_expected(void) { return phase_events * (uint64_t)(opt.spread ? 1 : opt.receivers); }

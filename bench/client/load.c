/* load: opens N event streams, publishes, and prints one JSON line at each mark.

   start → connected → warm → done. With --steps it waits at each mark for a line on stdin, so that the harness can read the
   server's CPU time while nothing moves; when stdin ends, so does the client. It uses one core and far less of it than any server. */
#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clock.h"

struct options opt = {.path = "/", .pub_path = "/", .body = "{d}", .headers = "", .name = "", .window = 64, .sources = 1,
                      .mode = LISTEN, .burst = 16, .batch = 1, .size = 200, .first = 1, .receivers = -1, .rate = 10, .timeout = 60,
                      .drain = 5, .retry_ms = -1};
struct tally tally;
struct second second;
int epoll_fd;
char recv_buffer[RECV_SIZE];

static int go; /* lines read from stdin and not used yet */

void io_watch(struct io *io, uint32_t events, int op) {
    struct epoll_event e = {.events = events, .data.ptr = io};
    if (epoll_ctl(epoll_fd, op, io->fd, &e)) perror("epoll_ctl");
}

static void on_stdin(struct io *io, uint32_t events) {
    (void)events;
    char line[256];
    ssize_t n = read(io->fd, line, sizeof line);
    if (n <= 0) exit(3); /* the harness is gone */
    for (ssize_t i = 0; i < n; i++) go += line[i] == '\n';
}

/* Waits until something happens, at most until `until`, and handles it. */
static void turn(int64_t until) {
    static struct epoll_event ready[1024];
    int64_t wait = until - now_ns();
    if (wait < 0) wait = 0;
    struct timespec t = {wait / 1000000000, wait % 1000000000};
    int n = epoll_pwait2(epoll_fd, ready, 1024, &t, NULL);
    for (int i = 0; i < n; i++) {
        struct io *io = ready[i].data.ptr;
        if (io->fd >= 0) io->on(io, ready[i].events);
    }
}

static int64_t earlier(int64_t a, int64_t b) { return a < b ? a : b; }

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* Once a second: what it brought, and the cuts that are due. */
static void every_second(int64_t now) {
    static int64_t began, next;
    if (!began) began = next = now;
    if (now < next) return;
    next += 1000000000;
    if (opt.cut) subscribers_cut(opt.cut, now);
    if (!opt.ticks) return;
    fprintf(opt.ticks, "{\"s\":%.1f,\"ready\":%d,\"published\":%llu,\"latency_us\":", (double)(now - began) / 1e9,
            subscribers_ready(), (unsigned long long)second.published);
    hist_print(&second.latency, opt.ticks);
    fprintf(opt.ticks, "}\n");
    fflush(opt.ticks);
    memset(&second, 0, sizeof second);
}

/* Everything that was counted in the phase that just ended. */
static void mark(const char *name, int timed_out) {
    uint64_t sent_each = opt.mode == LISTEN ? (uint64_t)opt.events : publisher_total();
    printf("{\"mark\":\"%s\",\"name\":\"%s\",\"timed_out\":%d,", name, opt.name, timed_out);
    subscribers_print(stdout, sent_each);
    printf(",\"wall_s\":%.6f,\"client_cpu_s\":%.6f,\"deliveries\":%llu,\"expected\":%llu,\"bytes\":%llu,\"foreign\":%llu,"
           "\"misdelivered\":%llu,\"gaps\":%llu,\"published\":%llu,\"publish_errors\":%llu,\"publish_retries\":%llu,\"lost_connections\":%llu,\"refused\":%llu,",
           tally.finished > tally.started ? (double)(tally.finished - tally.started) / 1e9 : 0.0, cpu_seconds(),
           (unsigned long long)tally.received,
           (unsigned long long)(opt.mode == LISTEN ? (uint64_t)opt.events * (uint64_t)opt.conns : publisher_expected()),
           (unsigned long long)tally.bytes, (unsigned long long)tally.foreign, (unsigned long long)tally.misdelivered,
           (unsigned long long)tally.gaps, (unsigned long long)tally.published, (unsigned long long)tally.publish_errors,
           (unsigned long long)tally.publish_retries,
           (unsigned long long)tally.lost_connections, (unsigned long long)tally.refused);
    printf("\"outage_s\":%.6f,\"latency_us\":", tally.last_back ? (double)(tally.last_back - tally.first_loss) / 1e9 : 0.0);
    hist_print(&tally.latency, stdout);
    printf(",\"publish_us\":");
    hist_print(&tally.publish, stdout);
    printf(",\"back_us\":");
    hist_print(&tally.back, stdout);
    printf("}\n");
    fflush(stdout);
    while (opt.steps && !go) turn(now_ns() + 1000000000);
    go -= opt.steps;
    memset(&tally, 0, sizeof tally);
    tally.started = now_ns();
}

static int connect_all(void) { /* returns 1 when one was refused, or time ran out */
    int64_t deadline = now_ns() + (int64_t)(opt.timeout * 1e9);
    while (subscribers_pump(now_ns())) {
        if (now_ns() > deadline || (tally.refused && !opt.reconnect)) return 1;
        turn(earlier(now_ns() + 100000000, subscribers_due()));
    }
    tally.finished = now_ns();
    return 0;
}

static int publish_phase(int events) {
    int64_t end_of_drain = INT64_MAX, deadline = now_ns() + (int64_t)(opt.timeout * 1e9);
    int64_t planned = opt.mode == RATE ? (int64_t)(1e9 * events / opt.rate) : 0;
    if (planned) end_of_drain = now_ns() + planned + (int64_t)(opt.drain * 1e9);
    publisher_begin(events);
    for (;;) {
        int64_t now = now_ns();
        if (publisher_pump(now)) return 0;
        if (now > deadline + planned || now > end_of_drain) return 1;
        every_second(now);
        subscribers_pump(now);
        turn(earlier(earlier(now + 100000000, publisher_due()), subscribers_due()));
    }
}

static int listen_phase(void) {
    int64_t deadline = now_ns() + (int64_t)(opt.timeout * 1e9);
    for (;;) {
        int64_t now = now_ns();
        int away = subscribers_pump(now);
        if (!away && subscribers_listened((uint64_t)opt.events)) return 0;
        if (now > deadline) return 1;
        turn(earlier(now + 100000000, subscribers_due()));
    }
}

enum { PORT = 256, PUB_PORT, RECONNECT_PORT, PATH, PUB_PATH, BODY, HEADER, NAME, CONNS, WINDOW, SOURCES, READY, MODE, EVENTS,
       WARMUP, BURST_SIZE, BATCH, SIZE, RECEIVERS, SPREAD, RATE_EACH, TIMEOUT, DRAIN, RETRY, STEPS, FIRST, USERS, OTHER_PORT,
       INSIST, CUT, TICKS, ARRIVALS };
static const struct option long_options[] = {
    {"port", 1, 0, PORT}, {"pub-port", 1, 0, PUB_PORT}, {"reconnect-port", 1, 0, RECONNECT_PORT}, {"path", 1, 0, PATH},
    {"pub-path", 1, 0, PUB_PATH}, {"body", 1, 0, BODY}, {"header", 1, 0, HEADER}, {"name", 1, 0, NAME}, {"conns", 1, 0, CONNS},
    {"window", 1, 0, WINDOW}, {"sources", 1, 0, SOURCES}, {"ready", 0, 0, READY}, {"mode", 1, 0, MODE}, {"events", 1, 0, EVENTS},
    {"warmup", 1, 0, WARMUP}, {"burst", 1, 0, BURST_SIZE}, {"batch", 1, 0, BATCH}, {"size", 1, 0, SIZE},
    {"receivers", 1, 0, RECEIVERS}, {"spread", 0, 0, SPREAD}, {"rate", 1, 0, RATE_EACH}, {"timeout", 1, 0, TIMEOUT},
    {"drain", 1, 0, DRAIN}, {"retry", 1, 0, RETRY}, {"users", 1, 0, USERS}, {"first", 1, 0, FIRST}, {"steps", 0, 0, STEPS},
    {"other-port", 1, 0, OTHER_PORT}, {"insist", 0, 0, INSIST}, {"cut", 1, 0, CUT}, {"ticks", 1, 0, TICKS},
    {"arrivals", 1, 0, ARRIVALS}, {0, 0, 0, 0}};

static enum mode mode_named(const char *name) {
    static const char *names[] = {"listen", "one", "burst", "rate"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, names[i])) return (enum mode)i;
    fprintf(stderr, "--mode is listen, one, burst or rate\n");
    exit(2);
}

static FILE *writable(const char *path) {
    FILE *file = fopen(path, "w");
    if (!file) {
        perror(path);
        exit(2);
    }
    return file;
}

static void read_options(int argc, char **argv) {
    static char headers[2048];
    for (int c; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) switch (c) {
        case PORT: opt.port = atoi(optarg); break;
        case PUB_PORT: opt.pub_port = atoi(optarg); break;
        case RECONNECT_PORT: opt.reconnect_port = atoi(optarg), opt.reconnect = 1; break;
        case PATH: opt.path = optarg; break;
        case PUB_PATH: opt.pub_path = optarg; break;
        case BODY: opt.body = optarg; break;
        case HEADER: strcat(strncat(headers, optarg, sizeof headers - strlen(headers) - 3), "\r\n"); break;
        case NAME: opt.name = optarg; break;
        case CONNS: opt.conns = atoi(optarg); break;
        case WINDOW: opt.window = atoi(optarg); break;
        case SOURCES: opt.sources = atoi(optarg); break;
        case READY: opt.wait_ready = 1; break;
        case MODE: opt.mode = mode_named(optarg); break;
        case EVENTS: opt.events = atoi(optarg); break;
        case WARMUP: opt.warmup = atoi(optarg); break;
        case BURST_SIZE: opt.burst = atoi(optarg); break;
        case BATCH: opt.batch = atoi(optarg); break;
        case SIZE: opt.size = atoi(optarg); break;
        case RECEIVERS: opt.receivers = atoi(optarg); break;
        case SPREAD: opt.spread = 1; break;
        case RATE_EACH: opt.rate = atof(optarg); break;
        case TIMEOUT: opt.timeout = atof(optarg); break;
        case DRAIN: opt.drain = atof(optarg); break;
        case RETRY: opt.retry_ms = atoi(optarg); break;
        case USERS: opt.users = atoi(optarg); break;
        case FIRST: opt.first = atoi(optarg); break;
        case STEPS: opt.steps = 1; break;
        case OTHER_PORT: opt.other_port = atoi(optarg), opt.reconnect = 1; break;
        case INSIST: opt.insist = 1; break;
        case CUT: opt.cut = atoi(optarg); break;
        case TICKS: opt.ticks = writable(optarg); break;
        case ARRIVALS: opt.arrivals = writable(optarg); break;
        default: exit(2);
        }
    opt.headers = headers;
    if (!opt.pub_port) opt.pub_port = opt.port;
    if (opt.receivers < 0) opt.receivers = opt.conns;
    if (!opt.users) opt.users = opt.conns > 0 ? opt.conns : 1;
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1UL); /* the default rounds every wait up by 50 µs, which would count as latency */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct io input = {STDIN_FILENO, on_stdin};
    if (opt.steps) io_watch(&input, EPOLLIN, EPOLL_CTL_ADD);
    subscribers_open();
    if (opt.mode != LISTEN) publisher_open();
    tally.started = now_ns();
    mark("start", 0);
    int timed_out = connect_all();
    mark("connected", timed_out);
    if (timed_out) return 1;
    if (opt.warmup) {
        timed_out = publish_phase(opt.warmup);
        mark("warm", timed_out);
    }
    if (!timed_out) timed_out = opt.mode == LISTEN ? listen_phase() : publish_phase(opt.events);
    if (opt.arrivals) fclose(opt.arrivals);
    mark("done", timed_out);
    return timed_out;
}

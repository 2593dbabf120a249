#include "sse.h"

#include <stdlib.h>
#include <string.h>

/* The publisher puts its fields first, so only the head of the data is searched. */
#define HEAD 96

static int number(const char *p, size_t n, const char *name, int64_t *out) {
    if (n > HEAD) n = HEAD;
    const char *at = memmem(p, n, name, strlen(name));
    if (!at) return 0;
    const char *digit = at + strlen(name), *end = p + n;
    int64_t v = 0;
    while (digit < end && *digit == ' ') digit++;
    while (digit < end && *digit >= '0' && *digit <= '9') v = v * 10 + (*digit++ - '0');
    *out = v;
    return 1;
}

static int field(const char *p, size_t n, const char *name, const char **value, size_t *len) {
    size_t k = strlen(name);
    if (n < k + 1 || memcmp(p, name, k) || p[k] != ':') return 0;
    *value = p + k + 1;
    *len = n - k - 1;
    if (*len && **value == ' ') ++*value, --*len;
    return 1;
}

static void take_line(struct sse *s, const char *p, size_t n) {
    const char *v;
    size_t len;
    int64_t k;
    switch (*p) {
    case 'd':
        if (!field(p, n, "data", &v, &len)) return;
        s->has_data = 1;
        if (number(v, len, "\"n\":", &k)) s->n = (uint64_t)k;
        if (number(v, len, "\"t\":", &k)) s->t = k;
        return;
    case 'e':
        if (!field(p, n, "event", &v, &len)) return;
        s->control = len > 9 && !memcmp(v, "realtime.", 9);
        s->ready = len == 14 && !memcmp(v, "realtime.ready", 14);
        s->gap = len == 12 && !memcmp(v, "realtime.gap", 12);
        return;
    case 'i':
        if (!s->keep_id || !field(p, n, "id", &v, &len)) return;
        free(s->pending_id);
        s->pending_id = strndup(v, len);
        return;
    case 'r':
        if (field(p, n, "retry", &v, &len)) s->retry_ms = (uint32_t)strtoul(v, NULL, 10);
    }
}

static void clear_frame(struct sse *s) {
    s->has_data = s->control = s->ready = s->gap = 0;
    s->n = 0;
    s->t = 0;
}

void sse_feed(struct sse *s, const char *p, size_t n, sse_frame on_frame, void *owner) {
    const char *end = p + n, *text;
    size_t len;
    while (p < end && line_next(&s->line, &p, end, &text, &len)) {
        if (len) {
            take_line(s, text, len);
            continue;
        }
        if (s->pending_id) {
            free(s->id);
            s->id = s->pending_id;
            s->pending_id = NULL;
        }
        on_frame(owner, s);
        clear_frame(s);
    }
}

void sse_reset(struct sse *s) {
    s->line.len = 0;
    free(s->pending_id);
    s->pending_id = NULL;
    clear_frame(s);
}

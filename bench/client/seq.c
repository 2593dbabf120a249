#include "seq.h"

#include <string.h>

void seq_init(struct seq *s) {
    memset(s, 0, sizeof *s);
    s->base = 1;
}

static uint64_t *word(struct seq *s, uint64_t n) { return &s->seen[n % SEQ_WINDOW / 64]; }
static uint64_t bit(uint64_t n) { return 1ull << (n % 64); }

void seq_see(struct seq *s, uint64_t n) {
    if (n < s->last) s->overtaken++;
    s->last = n;
    if (n < s->base) {
        s->duplicated++;
        return;
    }
    while (n >= s->base + SEQ_WINDOW) { /* give up the oldest: its bit is about to stand for another number */
        *word(s, s->base) &= ~bit(s->base);
        s->base++;
    }
    if (*word(s, n) & bit(n)) {
        s->duplicated++;
        return;
    }
    *word(s, n) |= bit(n);
    s->distinct++;
    while (*word(s, s->base) & bit(s->base)) {
        *word(s, s->base) &= ~bit(s->base);
        s->base++;
    }
}

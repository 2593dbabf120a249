/* Checks one connection's numbers 1, 2, 3, …: what came twice, and what came after a higher number. What never came is sent
   minus distinct. */
#pragma once
#include <stdint.h>

/* Concurrent publishes may be appended in another order than they were numbered; the window is how far apart they may land.
   A number older than the window counts as a duplicate, which no correct server produces either. */
#define SEQ_WINDOW 1024

struct seq {
    uint64_t base;     /* every number below it was seen, or was given up */
    uint64_t last;     /* the number before this one, to see a step back */
    uint64_t distinct; /* numbers seen at least once */
    uint64_t duplicated, overtaken;
    uint64_t seen[SEQ_WINDOW / 64]; /* a ring of bits for [base, base + SEQ_WINDOW) */
};

void seq_init(struct seq *s);
void seq_see(struct seq *s, uint64_t n);

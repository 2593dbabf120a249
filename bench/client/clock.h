/* One clock for everybody: publisher and subscriber share CLOCK_MONOTONIC, so a difference of two stamps is a latency. */
#pragma once
#include <stdint.h>
#include <time.h>

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

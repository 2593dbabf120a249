/* A log-linear histogram of nanoseconds: 64 steps to each power of two, so a quantile is right within 1.6 %. */
#pragma once
#include <stdint.h>
#include <stdio.h>

#define HIST_SUB 64
#define HIST_SIZE (HIST_SUB * 40)

struct hist {
    uint64_t count;
    int64_t sum, max;
    uint32_t bucket[HIST_SIZE];
};

void hist_clear(struct hist *h);
void hist_add(struct hist *h, int64_t ns);
double hist_quantile_us(const struct hist *h, double q);
/* {"count":..,"mean":..,"p50":..,"p90":..,"p99":..,"max":..} in microseconds. */
void hist_print(const struct hist *h, FILE *out);

#include "hist.h"

#include <string.h>

void hist_clear(struct hist *h) { memset(h, 0, sizeof *h); }

static int slot(uint64_t v) {
    if (v < HIST_SUB) return (int)v;
    int shift = 63 - __builtin_clzll(v) - 6; /* keeps the top 7 bits: 64..127 */
    int i = (shift + 1) * HIST_SUB + (int)(v >> shift) - HIST_SUB;
    return i < HIST_SIZE ? i : HIST_SIZE - 1;
}

static double middle(int i) {
    if (i < HIST_SUB) return i;
    int shift = i / HIST_SUB - 1;
    return ((double)(i % HIST_SUB + HIST_SUB) + 0.5) * (double)(1ull << shift);
}

void hist_add(struct hist *h, int64_t ns) {
    if (ns < 0) ns = 0;
    h->count++;
    h->sum += ns;
    if (ns > h->max) h->max = ns;
    h->bucket[slot((uint64_t)ns)]++;
}

double hist_quantile_us(const struct hist *h, double q) {
    uint64_t rank = (uint64_t)(q * (double)h->count), seen = 0;
    for (int i = 0; i < HIST_SIZE; i++)
        if ((seen += h->bucket[i]) > rank) return middle(i) / 1e3;
    return (double)h->max / 1e3;
}

void hist_print(const struct hist *h, FILE *out) {
    if (!h->count) {
        fprintf(out, "null");
        return;
    }
    fprintf(out, "{\"count\":%llu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}",
            (unsigned long long)h->count, (double)h->sum / (double)h->count / 1e3, hist_quantile_us(h, 0.5),
            hist_quantile_us(h, 0.9), hist_quantile_us(h, 0.99), hist_quantile_us(h, 0.999), (double)h->max / 1e3);
}

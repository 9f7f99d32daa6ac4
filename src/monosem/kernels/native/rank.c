/* Selection from rows of scores, float32: exact, ties to the lower column, columns ascending. NaN is never chosen. */
#include <math.h>
#include <string.h>

#include "cells.h"

#define GROUP 64

static inline float group_max(const float *s, int64_t n) {
    float best = -INFINITY;
#pragma omp simd reduction(max : best)
    for (int64_t i = 0; i < n; i++) best = s[i] > best ? s[i] : best;
    return best;
}

/* A floor that at least k entries of s reach, as high as is cheap to find, from the groups' maxima where k is small
 * and from a strided sample where it is large. scratch holds n floats.
 */
static float floor_of(const float *s, int64_t n, const float *maxima, int64_t groups, int64_t k, float *scratch) {
    if (2 * k <= groups) { /* k groups of largest maximum hold k entries at or above the k-th maximum */
        memcpy(scratch, maxima, (size_t)groups * sizeof(float));
        return kth_largest(scratch, groups, k);
    }
    const int64_t stride = n / 512 > 1 ? n / 512 : 1, sampled = (n + stride - 1) / stride;
    const int64_t rank = k / stride + 2 * (int64_t)sqrt((double)k / (double)stride) + 4; /* two deviations of slack */
    if (rank >= sampled) return -INFINITY;
    for (int64_t i = 0; i < sampled; i++) scratch[i] = s[i * stride];
    const float floor = kth_largest(scratch, sampled, rank);
    int64_t count = 0;
    for (int64_t start = 0; start < n; start += 4096) { /* narrow counters, so that the comparison fills the lanes */
        const int64_t stop = start + 4096 < n ? start + 4096 : n;
        int32_t part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = start; i < stop; i++) part += s[i] >= floor;
        count += part;
    }
    return count >= k ? floor : -INFINITY;
}

/* Columns of s[0..n) that are at least floor, in order; the count. */
static int64_t at_least(const float *s, int64_t n, const float *maxima, float floor, int32_t *found) {
    int64_t count = 0;
    for (int64_t start = 0; start < n; start += GROUP) {
        if (!(maxima[start / GROUP] >= floor)) continue;
        const int64_t stop = start + GROUP < n ? start + GROUP : n;
        for (int64_t i = start; i < stop; i++) {
            found[count] = (int32_t)i;
            count += s[i] >= floor;
        }
    }
    return count;
}

/* The k largest of each row of s[rows, n] + bias (NULL: 0) among the columns `among` (NULL: all): columns into
 * index[rows, k] and their entries into value[rows, k]. work holds 4 n floats. Returns the number of rows with fewer
 * than k numbers (NaN), whose output is undefined.
 */
int64_t monosem_top(const float *s, int64_t ld, int64_t rows, int64_t n, const float *bias, const int64_t *among,
                    int64_t k, int64_t *index, float *value, float *work) {
    const int64_t groups = (n + GROUP - 1) / GROUP;
    int64_t short_rows = 0;
    float *row = work, *scratch = work + n, *maxima = work + 2 * n;
    int32_t *found = (int32_t *)(work + 3 * n);
    for (int64_t r = 0; r < rows; r++) {
        const float *from = s + r * ld;
        if (among) {
            for (int64_t i = 0; i < n; i++) row[i] = from[among[i]] + (bias ? bias[among[i]] : 0.0f);
            from = row;
        }
        for (int64_t g = 0; g < groups; g++) {
            const int64_t start = g * GROUP, size = n - start < GROUP ? n - start : GROUP;
            if (bias && !among) {
#pragma omp simd
                for (int64_t i = start; i < start + size; i++) row[i] = from[i] + bias[i];
            }
            maxima[g] = group_max((bias && !among ? row : from) + start, size);
        }
        if (bias && !among) from = row;
        const float floor = floor_of(from, n, maxima, groups, k, scratch);
        const int64_t count = at_least(from, n, maxima, floor, found);
        if (count < k) {
            short_rows++;
            continue;
        }
        for (int64_t i = 0; i < count; i++) scratch[i] = from[found[i]];
        const float least = kth_largest(scratch, count, k);
        int64_t above = 0;
        for (int64_t i = 0; i < count; i++) above += from[found[i]] > least;
        int64_t ties = k - above, place = r * k;
        for (int64_t i = 0; i < count; i++) {
            const float v = from[found[i]];
            if (v > least || (v == least && ties-- > 0)) {
                index[place] = among ? among[found[i]] : found[i];
                value[place++] = v;
            }
        }
    }
    return short_rows;
}

/* Entries of s + bias (NULL: 0) above a floor: their number in row r into counts[r]; columns and entries, where there
 * is room. The floor of column j is floors[j], or `floor` where floors is NULL. work holds n floats. Returns the
 * total, which may exceed room.
 */
int64_t monosem_above(const float *s, int64_t ld, int64_t rows, int64_t n, const float *bias, const float *floors,
                      float floor, int64_t room, int64_t *counts, int64_t *index, float *value, float *work) {
    int64_t total = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *row = s + r * ld;
        const int64_t before = total;
        for (int64_t start = 0; start < n; start += GROUP) {
            const int64_t stop = start + GROUP < n ? start + GROUP : n;
            const float *here = row;
            if (bias) {
#pragma omp simd
                for (int64_t i = start; i < stop; i++) work[i] = row[i] + bias[i];
                here = work;
            }
            int32_t any = 0;
            if (floors) {
#pragma omp simd reduction(| : any)
                for (int64_t i = start; i < stop; i++) any |= here[i] > floors[i];
            } else {
#pragma omp simd reduction(| : any)
                for (int64_t i = start; i < stop; i++) any |= here[i] > floor;
            }
            if (!any) continue;
            for (int64_t i = start; i < stop; i++)
                if (here[i] > (floors ? floors[i] : floor)) {
                    if (total < room) {
                        index[total] = i;
                        value[total] = here[i];
                    }
                    total++;
                }
        }
        counts[r] = total - before;
    }
    return total;
}

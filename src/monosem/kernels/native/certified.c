/* Exact selection from a bfloat16 encoder product: the low precision proposes, float32 decides, a bound proves.
 *
 * The product gives y[b, j] ~ <w_j, x_b>. With bfloat16 copies w', x' and their residuals,
 *     |<w, x> - y| <= |w - w'| |x| + |w'| |x - x'| + rounding(y) + summation,
 * so that up[b, j] = y + bias_j + that bound is at least the float32 value z[b, j] = <w_j, x_b> + bias_j, summed in
 * the one order of `dot` in cells.h. Only latents whose `up` reaches what is already certain are computed exactly.
 */
#include <math.h>
#include <string.h>

#include "cells.h"

#define GROUP 64

/* Rows of a[rows, width] to bfloat16 (nearest, ties to even); lost[j] = |a_j - half_j| and size[j] = |half_j|,
 * both rounded up.
 */
void monosem_halve(const float *a, int64_t ld, int64_t rows, int64_t width, uint16_t *half, float *lost,
                   float *size) {
    for (int64_t j = 0; j < rows; j++) {
        const float *from = a + j * ld;
        uint16_t *to = half + j * width;
        float residual = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : residual, square)
        for (int64_t i = 0; i < width; i++) {
            union {
                float f;
                uint32_t u;
            } v = {.f = from[i]}, h;
            h.u = (v.u + 0x7fffu + ((v.u >> 16) & 1u)) & 0xffff0000u;
            to[i] = (uint16_t)(h.u >> 16);
            const float d = v.f - h.f;
            residual += d * d;
            square += h.f * h.f;
        }
        lost[j] = sqrtf(residual) * 1.001f + 1e-30f;
        size[j] = sqrtf(square) * 1.001f + 1e-30f;
    }
}

struct product {
    const uint16_t *y; /* [rows, n] bfloat16 */
    const float *bias, *lost, *size, *w, *x; /* per latent [n]; w[n, width]; x[rows, width] */
    const float *x_lost, *x_size;            /* per row */
    int64_t ld_y, ld_w, ld_x, n, width;
    float summation; /* relative error of a float32 sum of width products, in any order */
};

/* near[i] = y + bias and up[i] = its upper bound, for one row; the maxima of both over groups of columns. */
static void bounds(const struct product *p, int64_t r, float *restrict near, float *restrict up,
                   float *restrict near_max, float *restrict up_max) {
    const uint16_t *restrict y = p->y + r * p->ld_y;
    const float *restrict bias = p->bias, *restrict lost = p->lost, *restrict size = p->size;
    const float of_lost = (p->x_size[r] + p->x_lost[r]) * (1.0f + p->summation) * 1.001f;
    const float of_size = (p->x_lost[r] + 2.0f * p->summation * (p->x_size[r] + p->x_lost[r])) * 1.001f;
    const float rounding = 1.0f / 256.0f;
    for (int64_t start = 0; start < p->n; start += GROUP) {
        const int64_t stop = start + GROUP < p->n ? start + GROUP : p->n;
        float near_best = -INFINITY, up_best = -INFINITY;
#pragma omp simd reduction(max : near_best, up_best)
        for (int64_t i = start; i < stop; i++) {
            union {
                uint32_t u;
                float f;
            } v = {.u = (uint32_t)y[i] << 16};
            const float a = v.f + bias[i];
            const float u = a + (lost[i] * of_lost + size[i] * of_size + fabsf(v.f) * rounding +
                                 (fabsf(v.f) + fabsf(bias[i])) * 1e-6f);
            near[i] = a;
            up[i] = u < 3e38f ? u : 3e38f; /* INFINITY marks what is known */
            near_best = a > near_best ? a : near_best;
            up_best = u > up_best ? u : up_best;
        }
        near_max[start / GROUP] = near_best;
        up_max[start / GROUP] = up_best;
    }
}

static inline float exact(const struct product *p, int64_t r, int64_t j) {
    return dot(p->w + j * p->ld_w, p->x + r * p->ld_x, p->width) + p->bias[j];
}

/* Columns whose entry is at least floor, in order, at most `room`; the count (room + 1 where there are more). */
static int64_t at_least(const float *s, const float *maxima, int64_t n, float floor, int64_t room, int32_t *found) {
    int64_t count = 0;
    for (int64_t start = 0; start < n; start += GROUP) {
        if (!(maxima[start / GROUP] >= floor)) continue;
        const int64_t stop = start + GROUP < n ? start + GROUP : n;
        for (int64_t i = start; i < stop; i++)
            if (s[i] >= floor) {
                if (count == room) return room + 1;
                found[count++] = (int32_t)i;
            }
    }
    return count;
}

/* Candidates lie anywhere in W: the next one's row is asked for while this one is computed. */
static inline void ask_for(const struct product *p, int64_t j) {
    const float *w = p->w + j * p->ld_w;
    for (int64_t i = 0; i < p->width; i += 16) __builtin_prefetch(w + i, 0, 3);
}

/* The k largest z of rows [from, to), columns ascending, ties to the lower. A row that needs more than `limit` exact
 * values, or meets NaN, is marked in failed. work holds 7 n floats. Returns the number of exact values computed.
 */
int64_t monosem_certified_top(const struct product *p, int64_t from, int64_t to, int64_t k, int64_t limit,
                              int64_t *index, float *value, uint8_t *failed, float *work) {
    const int64_t n = p->n, groups = (n + GROUP - 1) / GROUP;
    float *near = work, *up = work + n, *scratch = work + 2 * n, *z = work + 3 * n;
    float *near_max = work + 4 * n, *up_max = work + 5 * n;
    int32_t *found = (int32_t *)(work + 6 * n);
    int64_t computed = 0;
    for (int64_t r = from; r < to; r++) {
        failed[r] = 1;
        bounds(p, r, near, up, near_max, up_max);
        /* a first guess, the k largest near values: the least of their exact values is reached by k latents */
        float floor = -INFINITY;
        if (k <= groups) {
            memcpy(scratch, near_max, (size_t)groups * sizeof(float));
            floor = kth_largest(scratch, groups, k);
        }
        int64_t count = at_least(near, near_max, n, floor, n, found);
        if (count < k) continue; /* NaN */
        for (int64_t c = 0; c < count; c++) scratch[c] = near[found[c]];
        floor = kth_largest(scratch, count, k);
        float certain = INFINITY;
        for (int64_t c = 0, guessed = 0; c < count && guessed < k; c++) {
            const int64_t i = found[c];
            if (c + 1 < count) ask_for(p, found[c + 1]);
            if (!(near[i] >= floor)) continue;
            near[i] = exact(p, r, i);
            certain = near[i] < certain ? near[i] : certain;
            up[i] = up_max[i / GROUP] = INFINITY;
            guessed++;
        }
        /* whatever could still reach that value is computed too */
        count = at_least(up, up_max, n, certain, limit, found);
        if (count > limit || count < k) continue;
        for (int64_t c = 0; c < count; c++) {
            const int64_t i = found[c];
            if (c + 1 < count && up[found[c + 1]] != INFINITY) ask_for(p, found[c + 1]);
            scratch[c] = z[c] = up[i] == INFINITY ? near[i] : exact(p, r, i);
        }
        computed += count;
        const float least = kth_largest(scratch, count, k);
        int64_t above = 0;
        for (int64_t c = 0; c < count; c++) above += z[c] > least;
        int64_t ties = k - above, place = r * k;
        for (int64_t c = 0; c < count; c++)
            if (z[c] > least || (z[c] == least && ties-- > 0)) {
                index[place] = found[c];
                value[place++] = z[c];
            }
        failed[r] = 0;
    }
    return computed;
}

/* Every cell of rows [from, to) whose z may be above its column's floor (floors, or one `floor` where that is NULL):
 * the number of a row into counts, columns one after another where there is room. Returns the total found, room + 1
 * where there are more, -1 on NaN. work holds 4 n floats.
 */
int64_t monosem_certified_above(const struct product *p, int64_t from, int64_t to, const float *floors, float floor,
                                int64_t room, int64_t *counts, int64_t *index, float *work) {
    const int64_t n = p->n;
    float *near = work, *up = work + n, *near_max = work + 2 * n, *up_max = work + 3 * n;
    int64_t total = 0;
    for (int64_t r = from; r < to; r++) {
        const int64_t before = total;
        bounds(p, r, near, up, near_max, up_max);
        for (int64_t start = 0; start < n; start += GROUP) {
            const int64_t stop = start + GROUP < n ? start + GROUP : n;
            int32_t any = 0, wrong = 0;
#pragma omp simd reduction(| : any, wrong)
            for (int64_t i = start; i < stop; i++) {
                any |= up[i] > (floors ? floors[i] : floor);
                wrong |= near[i] != near[i];
            }
            if (wrong) return -1;
            if (!any) continue;
            for (int64_t i = start; i < stop; i++)
                if (up[i] > (floors ? floors[i] : floor)) {
                    if (total == room) return room + 1;
                    index[total++] = i;
                }
        }
        counts[r] = total - before;
    }
    return total;
}

/* z of chosen rows, in the same order of summation: out[c, j] = z[chosen[c], j] for latents [first, last). */
void monosem_exact_rows(const struct product *p, const int64_t *chosen, int64_t count, int64_t first, int64_t last,
                        float *out) {
    for (int64_t j = first; j < last; j++)
        for (int64_t c = 0; c < count; c++) out[c * p->n + j] = exact(p, chosen[c], j);
}

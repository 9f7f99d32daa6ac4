/* Exact selection from a bfloat16 encoder product: the low precision proposes, float32 decides, a bound proves.
 *
 * The product gives y[b, j] ~ <w_j, x_b>. With bfloat16 copies w', x' and their residuals,
 *     |<w, x> - y| <= |w - w'| |x| + |w'| |x - x'| + rounding(y) + summation,
 * so that the float32 value z[b, j] = <w_j, x_b> + bias_j, summed in the one order of `dot` in cells.h, lies between
 * low and up = y + bias_j -+ that bound. Only latents whose `up` reaches what is already certain are computed exactly.
 * What underflows on the way is in the bound too: of tiny numbers it decides nothing, and all are computed.
 */
#include "cells.h"

#define SMALLEST 1.2e-38f /* a little more than the smallest normal number: what is below it may be taken as 0 */

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
        const float under = (float)width * SMALLEST; /* squares below it may count as 0 */
        lost[j] = sqrtf(residual + under) * 1.001f;
        size[j] = sqrtf(square + under) * 1.001f;
    }
}

struct product {
    const uint16_t *y; /* [rows, n] bfloat16: latents first, first + 1, ... */
    const float *bias, *lost, *size, *w, *x; /* per latent, of all; w[all, width]; x[rows, width] */
    const float *x_lost, *x_size;            /* per row */
    int64_t ld_y, ld_w, ld_x, first, n, width;
    float summation; /* relative error of a float32 sum of width products, in any order */
};

/* low <= z <= up for n <= LANES latents of one row from column `start` on. Whether one is NaN. */
ALWAYS int some_bounds(const struct product *p, int64_t r, int64_t start, int64_t n, float *restrict low,
                       float *restrict up) {
    const uint16_t *restrict y = p->y + r * p->ld_y + start;
    const int64_t at = p->first + start;
    const float *restrict bias = p->bias + at, *restrict lost = p->lost + at, *restrict size = p->size + at;
    const float of_lost = (p->x_size[r] + p->x_lost[r]) * (1.0f + p->summation) * 1.001f;
    const float of_size = (p->x_lost[r] + 2.0f * p->summation * (p->x_size[r] + p->x_lost[r])) * 1.001f;
    const float rounding = 1.0f / 256.0f, under = 4.0f * (float)(p->width + 2) * SMALLEST; /* products that vanish */
    int32_t wrong = 0;
#pragma omp simd reduction(| : wrong)
    for (int64_t i = 0; i < n; i++) {
        union {
            uint32_t u;
            float f;
        } v = {.u = (uint32_t)y[i] << 16};
        const float near = v.f + bias[i];
        const float most = lost[i] * of_lost + size[i] * of_size + fabsf(v.f) * rounding +
                           (fabsf(v.f) + fabsf(bias[i])) * 1e-6f + under;
        up[i] = near + most < 3e38f ? near + most : 3e38f; /* infinities that cancel say nothing */
        low[i] = near - most > -3e38f ? near - most : -3e38f;
        wrong |= near != near;
    }
    return wrong;
}

/* The same for LANES latents, or as many as there are: -INFINITY beyond the last. */
static inline int bounds(const struct product *p, int64_t r, int64_t start, float *restrict low, float *restrict up) {
    const int64_t n = p->n - start;
    if (n >= LANES) return some_bounds(p, r, start, LANES, low, up);
    for (int64_t i = n; i < LANES; i++) low[i] = up[i] = -INFINITY;
    return some_bounds(p, r, start, n, low, up);
}

/* The same for all of a tile: into low and up [rows, ld]. */
void monosem_bounds(const struct product *p, int64_t from, int64_t to, int64_t ld, float *low, float *up) {
    for (int64_t r = from; r < to; r++)
        for (int64_t start = 0; start < p->n; start += LANES)
            bounds(p, r, start, low + r * ld + p->first + start, up + r * ld + p->first + start);
}

/* The latents of each row that may be among its k largest, after some of its columns. */
struct proposed {
    int64_t k, room;  /* room >= k + LANES */
    int32_t *index;   /* [rows, room], ascending, */
    float *low, *up;  /* and the bounds of their z */
    int64_t *filled;  /* [rows]; -1: NaN, or more than there is room for */
    float *floors;    /* [rows]: k latents are certain to reach it */
};

/* Drop what cannot reach what k latents are certain to. */
static int64_t tighten(const struct proposed *t, int64_t r, int64_t filled, float *scratch) {
    int32_t *index = t->index + r * t->room;
    float *low = t->low + r * t->room, *up = t->up + r * t->room;
    if (filled < t->k) return filled;
    memcpy(scratch, low, (size_t)filled * sizeof(float));
    const float certain = kth_largest(scratch, filled, t->k);
    if (certain > t->floors[r]) t->floors[r] = certain;
    int64_t place = 0;
    for (int64_t i = 0; i < filled; i++) {
        index[place] = index[i], low[place] = low[i], up[place] = up[i];
        place += up[i] >= t->floors[r];
    }
    return place;
}

/* The next columns of rows [from, to). work holds 2 (n + LANES) floats, or room of them. */
void monosem_propose(const struct proposed *t, const struct product *p, int64_t from, int64_t to, float *work) {
    const int64_t blocks = (p->n + LANES - 1) / LANES;
    for (int64_t r = from; r < to; r++) {
        int32_t *index = t->index + r * t->room;
        int64_t filled = t->filled[r];
        float low[LANES], up[LANES];
        if (filled == 0 && t->k <= p->n) { /* the first columns say what there is to reach */
            for (int64_t b = 0; b < blocks; b++) bounds(p, r, b * LANES, work + b * LANES, up);
            t->floors[r] = floor_of(work, p->n, t->k, work + blocks * LANES);
        }
        for (int64_t b = 0; b < blocks && filled >= 0; b++) {
            if (bounds(p, r, b * LANES, low, up)) {
                filled = -1;
                break;
            }
            const float below = nextafterf(t->floors[r], -INFINITY);
            uint64_t bits = above_block(up, nothing, &below, 0);
            if (bits && filled + LANES > t->room) {
                filled = tighten(t, r, filled, work);
                if (filled + LANES > t->room) filled = -1;
            }
            while (bits && filled >= 0) {
                const int64_t l = next_bit(&bits);
                index[filled] = (int32_t)(p->first + b * LANES + l);
                t->low[r * t->room + filled] = low[l];
                t->up[r * t->room + filled++] = up[l];
            }
        }
        if (filled > 2 * t->k) filled = tighten(t, r, filled, work);
        t->filled[r] = filled;
    }
}

/* After all columns: rows of fewer than k or more than `limit` latents are given up (filled 0). work holds room floats.
 * Returns how many latents are left in all.
 */
int64_t monosem_proposed(const struct proposed *t, int64_t from, int64_t to, int64_t limit, float *work) {
    int64_t total = 0;
    for (int64_t r = from; r < to; r++) {
        int64_t filled = t->filled[r] < 0 ? 0 : tighten(t, r, t->filled[r], work);
        if (filled < t->k || filled > limit) filled = 0;
        total += t->filled[r] = filled;
    }
    return total;
}

/* Those latents of all rows one after another into col; or, where col is NULL, their z back, as `low`. */
void monosem_hand(const struct proposed *t, int64_t from, int64_t to, int64_t *col, const float *z) {
    int64_t place = 0;
    for (int64_t r = from; r < to; r++)
        for (int64_t i = 0; i < t->filled[r]; i++, place++) {
            if (col)
                col[place] = t->index[r * t->room + i];
            else
                t->low[r * t->room + i] = z[place];
        }
}

/* Every cell of rows [from, to) whose z may be above its column's floor (floors, or floors[0] unless `each`): the number
 * of a row into counts, columns one after another where there is room. Returns the total, which may exceed room, or
 * -1 on NaN.
 */
int64_t monosem_certified_above(const struct product *p, int64_t from, int64_t to, const float *floors, int64_t each,
                                int64_t room, int64_t *counts, int64_t *index) {
    int64_t total = 0;
    float low[LANES], up[LANES], last[LANES] = {0.0f}; /* floors of a block that is not whole */
    const int64_t whole = p->n / LANES * LANES;
    if (each) memcpy(last, floors + p->first + whole, (size_t)(p->n - whole) * sizeof(float));
    for (int64_t r = from; r < to; r++) {
        const int64_t before = total;
        for (int64_t start = 0; start < p->n; start += LANES) {
            if (bounds(p, r, start, low, up)) return -1;
            const float *here = start < whole ? floors + p->first + start : last;
            uint64_t bits = each ? above_block(up, nothing, here, 1) : above_block(up, nothing, floors, 0);
            for (; bits; total++) {
                const int64_t i = p->first + start + next_bit(&bits);
                if (total < room) index[total] = i;
            }
        }
        counts[r] = total - before;
    }
    return total;
}

/* z of chosen rows, in the same order of summation: out[c, j] = z[chosen[c], j] for latents [first, last) of all n_q. */
void monosem_exact_rows(const struct product *p, const int64_t *chosen, int64_t count, int64_t n_q, int64_t first,
                        int64_t last, float *out) {
    for (int64_t j = first; j < last; j++)
        for (int64_t c = 0; c < count; c++)
            out[c * n_q + j] = dot(p->w + j * p->ld_w, p->x + chosen[c] * p->ld_x, p->width) + p->bias[j];
}

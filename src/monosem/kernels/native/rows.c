/* The update of a weight's rows in one pass, float32: gradient from cells, projection, clipping, Adam, row norms.
 *
 * The gradient of row j is base[j] (where base is not NULL) plus, for each set of ordered cells, the sum of
 * values[cell] * x[row] over latent j's cells. It is built in the first cache and never written to memory.
 */
#include <math.h>
#include <string.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include "cells.h"

struct set {
    const int64_t *starts, *order_cell;
    const int32_t *order_row;
    const float *values, *x;
    int64_t ld_x, first; /* the latent, in the code's numbering, of row 0 */
};

struct rows {
    float *w, *m, *v, *share; /* share: pieces numbers per row, from monosem_rows_norm to monosem_rows_step */
    const float *base;
    float *kept; /* NULL, or [rows, width]: where monosem_rows_norm leaves the gradient for monosem_rows_step */
    const struct set *sets;
    const int64_t *bounds; /* pieces + 1 columns: each piece of a row is projected and normalised by itself */
    int64_t width, n_sets, pieces;
    int32_t project, unit, shared; /* shared: whether `share` is filled already */
    float scale, beta1, beta2, step, root, eps; /* root = sqrt(1 - beta2^t), step = lr / (1 - beta1^t) */
};

static inline double folded(float *sums) {
    for (int64_t step = LANES / 2; step > 0; step /= 2)
        for (int64_t l = 0; l < step; l++) sums[l] += sums[l + step];
    return (double)sums[0];
}

static inline double square(const float *restrict g, int64_t width) {
    float gg[LANES] = {0.0f};
    double total = 0.0;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (int64_t l = 0; l < LANES; l++) gg[l] += g[i + l] * g[i + l];
    for (; i < width; i++) total += (double)(g[i] * g[i]);
    return total + folded(gg);
}

/* <g, w> and <w, w>. */
static inline void products(const float *restrict g, const float *restrict w, int64_t width, double *gw, double *ww) {
    float a[LANES] = {0.0f}, b[LANES] = {0.0f};
    int64_t i = 0;
    *gw = *ww = 0.0;
    for (; i + LANES <= width; i += LANES)
        for (int64_t l = 0; l < LANES; l++) a[l] += g[i + l] * w[i + l], b[l] += w[i + l] * w[i + l];
    for (; i < width; i++) *gw += (double)(g[i] * w[i]), *ww += (double)(w[i] * w[i]);
    *gw += folded(a);
    *ww += folded(b);
}

static int has_cells(const struct rows *s, int64_t j) {
    for (int64_t t = 0; t < s->n_sets; t++)
        if (s->sets[t].starts[s->sets[t].first + j] != s->sets[t].starts[s->sets[t].first + j + 1]) return 1;
    return 0;
}

/* The gradient of row j, built in g unless it is there already; NULL where it has no part. */
static const float *gradient(const struct rows *s, int64_t j, float *g) {
    const float *base = s->base ? s->base + j * s->width : 0;
    if (!has_cells(s, j)) return base;
    if (base)
        memcpy(g, base, (size_t)s->width * sizeof(float));
    else
        memset(g, 0, (size_t)s->width * sizeof(float));
    for (int64_t t = 0; t < s->n_sets; t++) {
        const struct set *c = s->sets + t;
        const int64_t from = c->starts[c->first + j], to = c->starts[c->first + j + 1];
        monosem_gather(from, to, c->order_row, c->order_cell, c->values, c->x, c->ld_x, s->width, g);
    }
    return g;
}

/* The share of w_j in g_j, per piece: <g, w> / <w, w>. Returns the squared norm of what remains of g. */
static double shares(const struct rows *s, const float *g, const float *w, float *share) {
    double rest = 0.0;
    for (int64_t p = 0; p < s->pieces; p++) {
        const int64_t a = s->bounds[p], n = s->bounds[p + 1] - a;
        const double gg = square(g + a, n);
        share[p] = 0.0f;
        rest += gg;
        if (s->project && gg != 0.0) {
            double gw, ww;
            products(g + a, w + a, n, &gw, &ww);
            ww = ww > 1e-30 ? ww : 1e-30;
            share[p] = (float)(gw / ww);
            rest -= gw * gw / ww;
        }
    }
    return rest > 0.0 ? rest : 0.0;
}

/* squares[j] = the squared norm of the projected gradient, for rows [from, to) that have one. g holds width floats. */
void monosem_rows_norm(const struct rows *s, int64_t from, int64_t to, double *squares, float *g) {
    for (int64_t j = from; j < to; j++) {
        const float *found = gradient(s, j, s->kept ? s->kept + j * s->width : g);
        if (found) squares[j] = shares(s, found, s->w + j * s->width, s->share + j * s->pieces);
    }
}

/* For latents [from, to) of one set of cells whose gradient alone is row j's, and which is to be freed of its part
 * along w_j: products[cell] = <x[row], w_j>, the share of w_j in the gradient, and the squared norm of the rest (`share` and
 * `rest` by latent). W is read once, and the gradient is built while its x are near. g holds width floats.
 */
void monosem_rows_inner(const struct set *c, const float *w, int64_t width, int64_t from, int64_t to, float *products,
                        float *share, double *rest, float *g) {
    for (int64_t j = from; j < to; j++) {
        const int64_t first = c->starts[j], last = c->starts[j + 1];
        share[j] = 0.0f;
        rest[j] = 0.0;
        if (first == last) continue;
        const float *here = w + j * width;
        double gw = 0.0, ww = (double)dot(here, here, width);
        for (int64_t p = first; p < last; p++) {
            const int64_t cell = c->order_cell[p];
            products[cell] = dot(c->x + c->order_row[p] * c->ld_x, here, width);
            gw += (double)c->values[cell] * (double)products[cell];
        }
        memset(g, 0, (size_t)width * sizeof(float));
        monosem_gather(first, last, c->order_row, c->order_cell, c->values, c->x, c->ld_x, width, g);
        ww = ww > 1e-30 ? ww : 1e-30;
        share[j] = (float)(gw / ww);
        const double left = square(g, width) - gw * gw / ww;
        rest[j] = left > 0.0 ? left : 0.0;
    }
}

/* Row j, which is in reach; and row `ahead`, which is asked for meanwhile: the pass waits for memory, and a core asks for
 * more of it at a time than the processor foresees.
 */
struct moving {
    float *restrict w, *restrict m, *restrict v;
    const float *base; /* may be NULL */
    int64_t ahead; /* from row j to the next one that moves, in floats */
};

ALWAYS void ask_ahead(const struct moving *row, int64_t from, int64_t to) {
    for (int64_t i = from + row->ahead; i < to + row->ahead; i += 16) {
        __builtin_prefetch(row->w + i, 0, 2);
        __builtin_prefetch(row->m + i, 0, 2);
        __builtin_prefetch(row->v + i, 0, 2);
        if (row->base) __builtin_prefetch(row->base + i, 0, 2);
    }
}

/* Adam on n <= LANES columns of a row, from `from` on, with gradient (g - part w) scale (g NULL: 0). The squares
 * of the new w are added to `squares`.
 */
ALWAYS void adam(const struct rows *s, const struct moving *row, const float *restrict g, float part, int64_t from,
                 int64_t n, float *restrict squares) {
    const float b1 = s->beta1, b2 = s->beta2, c1 = 1.0f - b1, c2 = 1.0f - b2, step = s->step, scale = s->scale;
    float *restrict w = row->w + from, *restrict m = row->m + from, *restrict v = row->v + from;
    const float inverse_root = 1.0f / s->root, eps = s->eps;
    if (g)
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            const float d = (g[from + i] - part * w[i]) * scale;
            m[i] = b1 * m[i] + c1 * d;
            v[i] = b2 * v[i] + c2 * d * d;
        }
    else
#pragma omp simd
        for (int64_t i = 0; i < n; i++) m[i] *= b1, v[i] *= b2;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        w[i] -= step * m[i] / (sqrtf(v[i]) * inverse_root + eps);
        squares[i] += w[i] * w[i];
    }
}

/* The first row from j on that has a gradient, or had one at any time. */
static int64_t next_moving(const struct rows *s, int64_t j, int64_t to, const uint8_t *moved) {
    while (j < to && !s->base && !moved[j] && !has_cells(s, j)) j++;
    return j;
}

/* One step of Adam on rows [from, to). moved[j] is 0 as long as row j never had a gradient: its moments are zero and
 * so is its update, so it is left alone.
 */
void monosem_rows_step(const struct rows *s, int64_t from, int64_t to, uint8_t *moved, float *built) {
#ifdef __SSE__
    const unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040); /* denormal moments of latents that rest would cost a hundred cycles each */
#endif
    for (int64_t j = next_moving(s, from, to, moved), next; j < to; j = next) {
        next = next_moving(s, j + 1, to, moved);
        moved[j] = 1;
        const int64_t at = j * s->width;
        const float *base = s->base ? s->base + at : 0;
        const float *g = s->kept && s->shared ? (has_cells(s, j) ? s->kept + at : base) : gradient(s, j, built);
        const struct moving row = {s->w + at, s->m + at, s->v + at, base, ((next < to ? next : j) - j) * s->width};
        float *share = s->share + j * s->pieces;
        if (g && s->project && !s->shared) shares(s, g, row.w, share);
        for (int64_t p = 0; p < s->pieces; p++) {
            const int64_t a = s->bounds[p], b = s->bounds[p + 1];
            const float part = s->project && g ? share[p] : 0.0f;
            float squares[LANES] = {0.0f};
            int64_t i = a;
            for (; i + LANES <= b; i += LANES) {
                ask_ahead(&row, i, i + LANES);
                adam(s, &row, g, part, i, LANES, squares);
            }
            if (i < b) adam(s, &row, g, part, i, b - i, squares);
            if (!s->unit) continue;
            const float norm = (float)folded(squares), factor = 1.0f / sqrtf(norm > 1e-30f ? norm : 1e-30f);
#pragma omp simd
            for (i = a; i < b; i++) row.w[i] *= factor;
        }
    }
#ifdef __SSE__
    _mm_setcsr(csr);
#endif
}

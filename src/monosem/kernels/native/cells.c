/* Sums over the cells of a sparse code, float32.
 *
 * A cell is (row, latent). Cells are visited latent by latent inside a tile of rows, so that one weight row stays in
 * the first cache while the tile's rows stay in the second. Each output is a sum in one fixed order (latents
 * ascending for a row, rows ascending for a latent), whatever the tile or the number of threads.
 */
#include "cells.h"

/* Order the cells of rows [row0, row1) by latent, stable in rows: counting sort. starts has n_q + 1 entries. */
void monosem_latent_major(const int64_t *crow, const int64_t *col, int64_t row0, int64_t row1, int64_t n_q,
                          int64_t *starts, int32_t *order_row, int64_t *order_cell) {
    const int64_t first = crow[row0], last = crow[row1];
    memset(starts, 0, (size_t)(n_q + 1) * sizeof(int64_t));
    for (int64_t c = first; c < last; c++) starts[col[c] + 1]++;
    for (int64_t j = 0; j < n_q; j++) starts[j + 1] += starts[j];
    for (int64_t r = row0; r < row1; r++)
        for (int64_t c = crow[r]; c < crow[r + 1]; c++) {
            const int64_t place = starts[col[c]]++;
            order_row[place] = (int32_t)r;
            order_cell[place] = c;
        }
    memmove(starts + 1, starts, (size_t)n_q * sizeof(int64_t)); /* each start had moved on to the next latent's */
    starts[0] = 0;
}

static inline void add_scaled(float *restrict out, const float *restrict x, float v, int64_t width) {
#pragma omp simd
    for (int64_t i = 0; i < width; i++) out[i] += v * x[i];
}

/* out[row] += values[cell] * weight[latent - first] for the ordered cells of latents [first, last). */
void monosem_scatter(const int64_t *starts, const int32_t *order_row, const int64_t *order_cell, int64_t first,
                     int64_t last, const float *values, const float *weight, int64_t ld_weight, int64_t width,
                     float *out, int64_t ld_out) {
    for (int64_t j = first; j < last; j++) {
        const float *w = weight + (j - first) * ld_weight;
        for (int64_t p = starts[j]; p < starts[j + 1]; p++)
            add_scaled(out + order_row[p] * ld_out, w, values[order_cell[p]], width);
    }
}

/* values[cell] += <x[row], weight[latent - first]> for the ordered cells of latents [first, last). */
void monosem_inner(const int64_t *starts, const int32_t *order_row, const int64_t *order_cell, int64_t first,
                   int64_t last, const float *x, int64_t ld_x, const float *weight, int64_t ld_weight, int64_t width,
                   float *values) {
    for (int64_t j = first; j < last; j++) {
        const float *w = weight + (j - first) * ld_weight;
        for (int64_t p = starts[j]; p < starts[j + 1]; p++)
            values[order_cell[p]] += dot(x + order_row[p] * ld_x, w, width);
    }
}

/* out[latent - first] = sum over the latent's cells of values[cell] * x[row]; latents without cells give zero. */
void monosem_bags(const int64_t *starts, const int32_t *order_row, const int64_t *order_cell, int64_t first,
                  int64_t last, const float *values, const float *x, int64_t ld_x, int64_t width, float *out,
                  int64_t ld_out) {
    for (int64_t j = first; j < last; j++) {
        float *g = out + (j - first) * ld_out;
        memset(g, 0, (size_t)width * sizeof(float));
        monosem_gather(starts[j], starts[j + 1], order_row, order_cell, values, x, ld_x, width, g);
    }
}

/* The sum that several kernels share. */
#ifndef MONOSEM_CELLS_H
#define MONOSEM_CELLS_H
#include <stdint.h>

/* g += sum over ordered cells p in [from, to) of values[cell] * x[row]; four rows at a time, to touch g less often. */
static inline void monosem_gather(int64_t from, int64_t to, const int32_t *order_row, const int64_t *order_cell,
                                  const float *values, const float *x, int64_t ld_x, int64_t width,
                                  float *restrict g) {
    int64_t p = from;
    for (; p + 4 <= to; p += 4) {
        const float *restrict a = x + order_row[p] * ld_x, *restrict b = x + order_row[p + 1] * ld_x;
        const float *restrict c = x + order_row[p + 2] * ld_x, *restrict d = x + order_row[p + 3] * ld_x;
        const float va = values[order_cell[p]], vb = values[order_cell[p + 1]];
        const float vc = values[order_cell[p + 2]], vd = values[order_cell[p + 3]];
#pragma omp simd
        for (int64_t i = 0; i < width; i++) g[i] = (((g[i] + va * a[i]) + vb * b[i]) + vc * c[i]) + vd * d[i];
    }
    for (; p < to; p++) {
        const float *restrict a = x + order_row[p] * ld_x;
        const float va = values[order_cell[p]];
#pragma omp simd
        for (int64_t i = 0; i < width; i++) g[i] += va * a[i];
    }
}

#endif

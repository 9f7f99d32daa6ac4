/* What several kernels share. */
#ifndef MONOSEM_CELLS_H
#define MONOSEM_CELLS_H
#include <stdint.h>

#define LANES 64

/* <a, b>, in LANES running sums so that the additions do not wait for each other. */
static inline float dot(const float *restrict a, const float *restrict b, int64_t width) {
    float sums[LANES] = {0.0f}, total = 0.0f;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (int64_t l = 0; l < LANES; l++) sums[l] += a[i + l] * b[i + l];
    for (; i < width; i++) total += a[i] * b[i];
    for (int64_t step = LANES / 2; step > 0; step /= 2)
        for (int64_t l = 0; l < step; l++) sums[l] += sums[l + step];
    return total + sums[0];
}

/* The k-th largest (k >= 1) of a[0..n), which is reordered. */
static inline float kth_largest(float *a, int64_t n, int64_t k) {
    int64_t left = 0, right = n - 1, target = k - 1;
    while (left < right) {
        const int64_t mid = left + (right - left) / 2;
        const float x = a[left], y = a[mid], z = a[right];
        const float pivot = x > y ? (y > z ? y : (x > z ? z : x)) : (x > z ? x : (y > z ? z : y));
        int64_t i = left, j = right;
        while (i <= j) {
            while (a[i] > pivot) i++;
            while (a[j] < pivot) j--;
            if (i <= j) {
                const float t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        if (target <= j) right = j;
        else if (target >= i) left = i;
        else break;
    }
    return a[target];
}

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

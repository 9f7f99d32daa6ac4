/* What several kernels share. */
#ifndef MONOSEM_CELLS_H
#define MONOSEM_CELLS_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES 64 /* entries whose comparison fits the bits of one number */

/* For what is called with a length that is known then: the loops are a third faster for it. */
#define ALWAYS static inline __attribute__((always_inline))

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

typedef int32_t __attribute__((may_alias)) key;

/* The k-th largest (k >= 1) of a[0..n), which is overwritten: floats as integers of the same order, halved in value
 * until the k largest stand alone, since counting takes far less time than moving. NaN counts as large or small.
 */
static inline float kth_largest(float *a, int64_t n, int64_t k) {
    key *keys = (key *)a;
    int32_t low = INT32_MAX, high = INT32_MIN;
#pragma omp simd reduction(min : low) reduction(max : high)
    for (int64_t i = 0; i < n; i++) {
        const int32_t bits = keys[i], ordered = bits ^ ((bits >> 31) & INT32_MAX);
        keys[i] = ordered;
        low = ordered < low ? ordered : low;
        high = ordered > high ? ordered : high;
    }
    while (low < high) { /* low is reached by k or more, high + 1 by fewer */
        const int32_t middle = (int32_t)(low + ((int64_t)high - low + 1) / 2);
        int32_t count = 0;
#pragma omp simd reduction(+ : count)
        for (int64_t i = 0; i < n; i++) count += keys[i] >= middle;
        if (count < k) {
            high = middle - 1;
            continue;
        }
        low = middle;
        if (count > k) continue;
        low = INT32_MAX;
#pragma omp simd reduction(min : low)
        for (int64_t i = 0; i < n; i++) low = keys[i] >= middle && keys[i] < low ? keys[i] : low;
        break;
    }
    const union {
        int32_t i;
        float f;
    } found = {.i = low ^ ((low >> 31) & INT32_MAX)};
    return found.f;
}

/* A floor that at least k entries of s[0..n) reach, as high as is cheap to find; -INFINITY where none is. scratch holds
 * n floats. For small k, entries are dealt out to 2 k heaps or more: k of them hold an entry that reaches the k-th
 * largest of their maxima. For large k, a strided sample tells.
 */
static inline float floor_of(const float *s, int64_t n, int64_t k, float *scratch) {
    const int64_t heaps = (2 * k + LANES - 1) / LANES * LANES;
    if (4 * heaps <= n) {
        memcpy(scratch, s, (size_t)heaps * sizeof(float));
        for (int64_t start = heaps; start < n; start += heaps) {
            const int64_t size = n - start < heaps ? n - start : heaps;
#pragma omp simd
            for (int64_t i = 0; i < size; i++) scratch[i] = s[start + i] > scratch[i] ? s[start + i] : scratch[i];
        }
        for (int64_t i = 0; i < heaps; i++)
            if (scratch[i] != scratch[i]) return -INFINITY;
        return kth_largest(scratch, heaps, k);
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

static const float nothing[LANES];

/* Bit l: whether s[l] + bias[l] > floors[l], or floors[0] for all where `each` is 0; for LANES entries. */
static inline uint64_t above_block(const float *s, const float *bias, const float *floors, int each) {
    uint64_t bits = 0;
#ifdef __AVX512F__
    for (int64_t l = 0; l < LANES; l += 16) {
        const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(s + l), _mm512_loadu_ps(bias + l));
        const __m512 floor = each ? _mm512_loadu_ps(floors + l) : _mm512_set1_ps(floors[0]);
        bits |= (uint64_t)_mm512_cmp_ps_mask(sum, floor, _CMP_GT_OQ) << l;
    }
#else
    for (uint32_t l = 0; l < LANES; l++) bits |= (uint64_t)(s[l] + bias[l] > floors[each ? l : 0]) << l;
#endif
    return bits;
}

/* The place of the lowest bit, which is taken away; bits is not 0. */
static inline int64_t next_bit(uint64_t *bits) {
    const int64_t place = __builtin_ctzll(*bits);
    *bits &= *bits - 1;
    return place;
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

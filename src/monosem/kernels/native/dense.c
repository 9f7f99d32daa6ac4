/* Passes over dense [rows, n] arrays, float32, that also sum over rows: one for what would take several.
 *
 * Each call takes rows [from, to), one after the other, and adds to sums of its own, which stay in the second cache.
 */
#include <math.h>
#include <stdint.h>

/* value = z where z > theta, else 0; sums[j] += value. NaN stays. theta may be NULL: 0. */
void monosem_jump(const float *restrict z, const float *restrict theta, float *restrict value, int64_t n, int64_t from,
                  int64_t to, float *restrict sums) {
    for (int64_t r = from; r < to; r++) {
        const float *restrict here = z + r * n;
        float *restrict there = value + r * n;
        if (theta) {
#pragma omp simd
            for (int64_t j = 0; j < n; j++) {
                const float kept = here[j] <= theta[j] ? 0.0f : here[j];
                there[j] = kept;
                sums[j] += kept;
            }
        } else {
#pragma omp simd
            for (int64_t j = 0; j < n; j++) {
                const float kept = here[j] <= 0.0f ? 0.0f : here[j];
                there[j] = kept;
                sums[j] += kept;
            }
        }
    }
}

/* of_z = g + of_sums[j] where z > theta, else 0; total[j] += of_z;
 * pull[j] += g + of_sums[j] where |z - theta| < *width. theta (and with it pull) may be NULL: 0.
 */
void monosem_jump_back(const float *restrict z, const float *restrict theta, const float *restrict g,
                       const float *restrict of_sums, const float *width, float *restrict of_z, int64_t n,
                       int64_t from, int64_t to, float *restrict total, float *restrict pull) {
    const float half = *width;
    for (int64_t r = from; r < to; r++) {
        const float *restrict here = z + r * n, *restrict above = g + r * n;
        float *restrict there = of_z + r * n;
        if (theta) {
#pragma omp simd
            for (int64_t j = 0; j < n; j++) {
                const float whole = above[j] + of_sums[j];
                const float kept = here[j] > theta[j] ? whole : 0.0f;
                there[j] = kept;
                total[j] += kept;
                pull[j] += fabsf(here[j] - theta[j]) < half ? whole : 0.0f;
            }
        } else {
#pragma omp simd
            for (int64_t j = 0; j < n; j++) {
                const float kept = here[j] > 0.0f ? above[j] + of_sums[j] : 0.0f;
                there[j] = kept;
                total[j] += kept;
            }
        }
    }
}

/* above[j] += number of z > theta; near[j] += number of |z - theta| < *width. */
void monosem_steps(const float *restrict z, const float *restrict theta, const float *width, int64_t n, int64_t from,
                   int64_t to, float *restrict above, float *restrict near) {
    const float half = *width;
    for (int64_t r = from; r < to; r++) {
        const float *restrict here = z + r * n;
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            above[j] += here[j] > theta[j] ? 1.0f : 0.0f;
            near[j] += fabsf(here[j] - theta[j]) < half ? 1.0f : 0.0f;
        }
    }
}

/* used[j] = 1 where a column holds a number that is not 0. */
void monosem_used(const float *restrict values, int64_t n, int64_t from, int64_t to, float *restrict used) {
    for (int64_t r = from; r < to; r++) {
        const float *restrict here = values + r * n;
#pragma omp simd
        for (int64_t j = 0; j < n; j++) used[j] = here[j] != 0.0f ? 1.0f : used[j];
    }
}

/* How many of values [from, to) are not 0. */
int64_t monosem_count(const float *restrict values, int64_t from, int64_t to) {
    int64_t total = 0;
    for (int64_t a = from; a < to; a += 4096) { /* 32 bits hold the count of a piece: twice as many lanes */
        int32_t some = 0;
#pragma omp simd reduction(+ : some)
        for (int64_t i = a; i < (to - a < 4096 ? to : a + 4096); i++) some += values[i] != 0.0f;
        total += some;
    }
    return total;
}

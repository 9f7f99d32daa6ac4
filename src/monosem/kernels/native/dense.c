/* Passes over dense [rows, n] arrays, float32, that also sum over rows: one for what would take several.
 *
 * Each call takes columns [from, to), block by block, so that the sums stay in the first cache; rows ascending.
 */
#include <math.h>
#include <stdint.h>

#define BLOCK 2048

#define OVER_BLOCKS(a, b) \
    for (int64_t a = from, b; b = to - a < BLOCK ? to : a + BLOCK, a < to; a = b) \
        for (int64_t r = 0; r < rows; r++)

/* out = z where z > theta, else 0. */
void monosem_jump(const float *restrict z, const float *restrict theta, int64_t rows, int64_t n, int64_t from,
                  int64_t to, float *restrict out) {
    OVER_BLOCKS(a, b) {
        const float *restrict here = z + r * n;
        float *restrict there = out + r * n;
#pragma omp simd
        for (int64_t j = a; j < b; j++) there[j] = here[j] > theta[j] ? here[j] : 0.0f;
    }
}

/* of_z = g where z > theta, else 0; pull[j] += g where |z - theta| < half. */
void monosem_jump_back(const float *restrict z, const float *restrict theta, const float *restrict g, float half,
                       int64_t rows, int64_t n, int64_t from, int64_t to, float *restrict of_z,
                       float *restrict pull) {
    OVER_BLOCKS(a, b) {
        const float *restrict here = z + r * n, *restrict above = g + r * n;
        float *restrict there = of_z + r * n;
#pragma omp simd
        for (int64_t j = a; j < b; j++) {
            there[j] = here[j] > theta[j] ? above[j] : 0.0f;
            pull[j] += fabsf(here[j] - theta[j]) < half ? above[j] : 0.0f;
        }
    }
}

/* above[j] += number of z > theta; near[j] += number of |z - theta| < half. */
void monosem_steps(const float *restrict z, const float *restrict theta, float half, int64_t rows, int64_t n,
                   int64_t from, int64_t to, float *restrict above, float *restrict near) {
    OVER_BLOCKS(a, b) {
        const float *restrict here = z + r * n;
#pragma omp simd
        for (int64_t j = a; j < b; j++) {
            above[j] += here[j] > theta[j] ? 1.0f : 0.0f;
            near[j] += fabsf(here[j] - theta[j]) < half ? 1.0f : 0.0f;
        }
    }
}

/* used[j] = 1 where a column holds a number that is not 0. */
void monosem_used(const float *restrict values, int64_t rows, int64_t n, int64_t from, int64_t to,
                  float *restrict used) {
    OVER_BLOCKS(a, b) {
        const float *restrict here = values + r * n;
#pragma omp simd
        for (int64_t j = a; j < b; j++) used[j] = here[j] != 0.0f ? 1.0f : used[j];
    }
}

/* The kernels on small and odd sizes, from several threads at once, against plain loops: for the sanitizers.
 *
 * cc -fsanitize=address,undefined driver.c <the kernels' sources> -lm -lpthread; exits with 1 on a wrong number.
 */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tops {
    int64_t k, room;
    int32_t *index;
    float *value;
    int64_t *filled;
    float *floors;
};
struct set {
    const int64_t *starts, *order_cell;
    const int32_t *order_row;
    const float *values, *x;
    int64_t ld_x, first;
};
struct rows {
    float *w, *m, *v, *share;
    const float *base;
    float *kept;
    const struct set *sets;
    const int64_t *bounds;
    int64_t width, n_sets, pieces;
    int32_t project, unit, shared;
    float scale, beta1, beta2, step, root, eps;
};
struct product {
    const uint16_t *y;
    const float *bias, *lost, *size, *w, *x, *x_lost, *x_size;
    int64_t ld_y, ld_w, ld_x, first, n, width;
    float summation;
};
struct proposed {
    int64_t k, room;
    int32_t *index;
    float *low, *up;
    int64_t *filled;
    float *floors;
};
struct job {
    void *call;
    int64_t arity, units;
    const int64_t *arguments;
    int64_t *results;
    int64_t next;
};

void monosem_latent_major(const int64_t *, const int64_t *, int64_t, int64_t, int64_t, int64_t *, int32_t *, int64_t *);
void monosem_scatter(const int64_t *, const int32_t *, const int64_t *, int64_t, int64_t, const float *, const float *,
                     int64_t, int64_t, float *, int64_t);
void monosem_inner(const int64_t *, const int32_t *, const int64_t *, int64_t, int64_t, const float *, int64_t,
                   const float *, int64_t, int64_t, float *);
void monosem_bags(const int64_t *, const int32_t *, const int64_t *, int64_t, int64_t, const float *, const float *,
                  int64_t, int64_t, float *, int64_t);
void monosem_top(const struct tops *, const float *, int64_t, int64_t, int64_t, int64_t, int64_t, const float *,
                 const int64_t *, float *);
int64_t monosem_topped(const struct tops *, int64_t, int64_t, int64_t *, float *, float *);
int64_t monosem_above(const float *, int64_t, int64_t, int64_t, int64_t, const float *, const float *, int64_t, int64_t,
                      int64_t *, int64_t *, float *, float *);
void monosem_rows_norm(const struct rows *, int64_t, int64_t, double *, float *);
void monosem_rows_inner(const struct set *, const float *, int64_t, int64_t, int64_t, float *, float *, double *, float *);
void monosem_rows_step(const struct rows *, int64_t, int64_t, uint8_t *, float *);
void monosem_jump(const float *, const float *, float *, int64_t, int64_t, int64_t, float *);
void monosem_jump_back(const float *, const float *, const float *, const float *, const float *, float *, int64_t,
                       int64_t, int64_t, float *, float *);
void monosem_steps(const float *, const float *, const float *, int64_t, int64_t, int64_t, float *, float *);
void monosem_used(const float *, int64_t, int64_t, int64_t, float *);
int64_t monosem_count(const float *, int64_t, int64_t);
void monosem_halve(const float *, int64_t, int64_t, int64_t, uint16_t *, float *, float *);
void monosem_propose(const struct proposed *, const struct product *, int64_t, int64_t, float *);
int64_t monosem_proposed(const struct proposed *, int64_t, int64_t, int64_t, float *);
void monosem_hand(const struct proposed *, int64_t, int64_t, int64_t *, const float *);
int64_t monosem_certified_above(const struct product *, int64_t, int64_t, const float *, int64_t, int64_t, int64_t *,
                                int64_t *);
void monosem_exact_rows(const struct product *, const int64_t *, int64_t, int64_t, int64_t, int64_t, float *);
void monosem_work(struct job *);

enum { THREADS = 3, LANES = 64 };
static int wrong = 0;

static void expect(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "wrong: %s\n", what);
    __atomic_store_n(&wrong, 1, __ATOMIC_RELAXED);
}

/* Exactly as much memory as is asked for, so that one number too far is seen. */
static void *room(int64_t count, size_t size) { return calloc(count ? (size_t)count : 1, size); }

static uint32_t state = 1;
static float number(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}
static float *numbers(int64_t count) {
    float *a = room(count, sizeof(float));
    for (int64_t i = 0; i < count; i++) a[i] = number();
    return a;
}

static void *work(void *job) {
    monosem_work(job);
    return 0;
}

/* One kernel over units of work, by several threads, as the library does it. */
static int64_t each(void *call, int64_t arity, int64_t units, const int64_t *arguments) {
    int64_t *results = room(units, sizeof(int64_t)), total = 0;
    struct job job = {call, arity, units, arguments, results, 0};
    pthread_t team[THREADS];
    for (int t = 0; t < THREADS; t++) pthread_create(team + t, 0, work, &job);
    for (int t = 0; t < THREADS; t++) pthread_join(team[t], 0);
    for (int64_t u = 0; u < units; u++) total += results[u];
    free(results);
    return total;
}
#define A(x) ((int64_t)(intptr_t)(x))

/* Sums over cells and the update of rows, in units of latents. */
static void cells(int64_t rows, int64_t n, int64_t width) {
    int64_t *crow = room(rows + 1, 8), nnz = 0, *col = room(rows * n, 8);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < n; j++)
            if (number() > 0.6f) col[nnz++] = j;
        crow[r + 1] = nnz;
    }
    int64_t *starts = room(n + 1, 8), *cell = room(nnz, 8);
    int32_t *row = room(nnz, 4);
    monosem_latent_major(crow, col, 0, rows, n, starts, row, cell);
    float *values = numbers(nnz), *w = numbers(n * width), *x = numbers(rows * width);
    float *out = room(rows * width, 4), *found = room(nnz, 4), *bags = room(n * width, 4);
    const int64_t half = n / 2, cut[3] = {0, half, n};
    monosem_scatter(starts, row, cell, 0, n, values, w, width, width, out, width);
    int64_t inner[2][11], bag[2][11];
    for (int u = 0; u < 2; u++) {
        const int64_t a = cut[u], b = cut[u + 1];
        const int64_t i[11] = {A(starts), A(row), A(cell), a, b, A(x), width, A(w + a * width), width, width, A(found)};
        const int64_t g[11] = {A(starts), A(row), A(cell), a, b, A(values), A(x), width, width, A(bags + a * width), width};
        memcpy(inner[u], i, sizeof i);
        memcpy(bag[u], g, sizeof g);
    }
    each((void *)monosem_inner, 11, 2, inner[0]);
    each((void *)monosem_bags, 11, 2, bag[0]);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = crow[r]; c < crow[r + 1]; c++) {
            double product = 0;
            for (int64_t i = 0; i < width; i++) product += (double)x[r * width + i] * w[col[c] * width + i];
            expect(fabs(product - found[c]) < 1e-4, "inner");
        }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) {
            double sum = 0;
            for (int64_t c = crow[r]; c < crow[r + 1]; c++) sum += (double)values[c] * w[col[c] * width + i];
            expect(fabs(sum - out[r * width + i]) < 1e-4, "scatter");
        }
    double *squares = room(n, 8), *rest = room(n, 8), total = 0, sum = 0;
    float *m = room(n * width, 4), *v = room(n * width, 4), *share = room(n, 4), *built = room(2 * width, 4);
    uint8_t *moved = room(n, 1);
    const struct set set = {starts, cell, row, values, x, width, 0};
    const int64_t bounds[2] = {0, width};
    struct rows s = {w, m, v, share, 0, 0, &set, bounds, width, 1, 1, 1, 1, 0, 1.0f, 0.9f, 0.999f, 1e-3f, 0.03f, 1e-8f};
    int64_t norm[2][5], inside[2][9], step[2][5];
    float *products = room(nnz, 4), *apart = room(n, 4);
    for (int u = 0; u < 2; u++) {
        const int64_t a = cut[u], b = cut[u + 1], own = A(built + u * width);
        const int64_t p[5] = {A(&s), a, b, A(squares), own}, q[5] = {A(&s), a, b, A(moved), own};
        const int64_t z[9] = {A(&set), A(w), width, a, b, A(products), A(apart), A(rest), own};
        memcpy(norm[u], p, sizeof p);
        memcpy(step[u], q, sizeof q);
        memcpy(inside[u], z, sizeof z);
    }
    each((void *)monosem_rows_norm, 5, 2, norm[0]);
    each((void *)monosem_rows_inner, 9, 2, inside[0]);
    for (int64_t j = 0; j < n; j++) total += squares[j], sum += rest[j];
    expect(fabs(total - sum) <= 1e-3 * (1 + total), "norms");
    each((void *)monosem_rows_step, 5, 2, step[0]);
    for (int64_t j = 0; j < n; j++) {
        double length = 0;
        for (int64_t i = 0; i < width; i++) length += (double)w[j * width + i] * w[j * width + i];
        expect(!moved[j] || fabs(length - 1) < 1e-4, "rows_step");
    }
    void *all[] = {crow, col, starts, cell, row, values, w, x, out, found, bags, squares, rest, m, v, share, built,
                   moved, products, apart};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* The largest of rows and those above a floor, columns in two pieces. */
static void ranks(int64_t rows, int64_t n, int64_t k, int spoil) {
    float *z = numbers(rows * n), *bias = numbers(n), *floors = numbers(n);
    if (spoil)
        for (int64_t i = 0; i < rows * n; i++) z[i] = spoil == 1 ? floorf(z[i] * 2) : i % 3 ? z[i] : NAN;
    const int64_t space = 2 * k + 2 * LANES;
    struct tops t = {k, space, room(rows * space, 4), room(rows * space, 4), room(rows, 8), room(rows, 4)};
    for (int64_t r = 0; r < rows; r++) t.floors[r] = -INFINITY;
    float *own = room(n + LANES + (n > space ? n : space), 4), *value = room(rows * k, 4);
    const int64_t left = n / 3;
    monosem_top(&t, z, n, 0, rows, left, 0, bias, 0, own);
    monosem_top(&t, z + left, n, 0, rows, n - left, left, bias, 0, own);
    int64_t *index = room(rows * k, 8), *counts = room(rows, 8), *columns = room(rows * n, 8);
    const int64_t few = monosem_topped(&t, 0, rows, index, value, own);
    for (int64_t r = 0; few == 0 && r < rows; r++)
        for (int64_t i = 0; i < k; i++) {
            int64_t larger = 0;
            for (int64_t j = 0; j < n; j++) larger += z[r * n + j] + bias[j] > value[r * k + i];
            expect(larger < k, "top");
        }
    float *entries = room(rows * n, 4);
    for (int64_t apart = 0; apart < 2; apart++) {
        int64_t wanted = 0;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < n; j++) wanted += z[r * n + j] + bias[j] > floors[apart ? j : 0];
        const int64_t have =
            monosem_above(z, n, rows, n, 0, bias, floors, apart, rows * n, counts, columns, entries, own);
        expect(have == wanted, "above");
        monosem_above(z, n, rows, n, 0, bias, floors, apart, wanted / 2, counts, columns, entries, own); /* too little */
    }
    void *all[] = {z, bias, floors, t.index, t.value, t.filled, t.floors, own, value, index, counts, columns, entries};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* Selection by bounds: every latent among the k largest must be proposed, every cell above the floor too. */
static void bounds(int64_t rows, int64_t n, int64_t width, int64_t k, float of_w) {
    float *x = numbers(rows * width), *w = numbers(n * width), *bias = room(n, 4);
    for (int64_t i = 0; i < n * width; i++) w[i] *= of_w;
    uint16_t *half_w = room(n * width, 2), *half_x = room(rows * width, 2), *y = room(rows * n, 2);
    float *lost = room(n, 4), *size = room(n, 4), *x_lost = room(rows, 4), *x_size = room(rows, 4);
    monosem_halve(w, width, n, width, half_w, lost, size);
    monosem_halve(x, width, rows, width, half_x, x_lost, x_size);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < n; j++) {
            union {
                uint32_t u;
                float f;
            } a, b, c = {.f = 0};
            for (int64_t i = 0; i < width; i++) {
                a.u = (uint32_t)half_w[j * width + i] << 16, b.u = (uint32_t)half_x[r * width + i] << 16;
                c.f += a.f * b.f;
            }
            y[r * n + j] = (uint16_t)(c.u >> 16);
        }
    struct product p = {y, bias, lost, size, w, x, x_lost, x_size, n, width, width, 0, n, width,
                        (float)(width + 2) * 6.1e-8f};
    const int64_t space = n + 2 * LANES;
    struct proposed t = {k, space, room(rows * space, 4), room(rows * space, 4), room(rows * space, 4), room(rows, 8),
                         room(rows, 4)};
    for (int64_t r = 0; r < rows; r++) t.floors[r] = -INFINITY;
    float *own = room(2 * (n + LANES) + space, 4), *z = room(rows * n, 4), floor = 0.0f;
    int64_t *all_rows = room(rows, 8), *counts = room(rows, 8), *index = room(rows * n, 8);
    for (int64_t r = 0; r < rows; r++) all_rows[r] = r;
    monosem_exact_rows(&p, all_rows, rows, n, 0, n, z);
    monosem_propose(&t, &p, 0, rows, own);
    const int64_t total = monosem_proposed(&t, 0, rows, n, own);
    int64_t *col = room(total, 8), place = 0;
    float *back = room(total, 4);
    monosem_hand(&t, 0, rows, col, 0);
    monosem_hand(&t, 0, rows, 0, back);
    for (int64_t r = 0; r < rows; place += t.filled[r], r++)
        for (int64_t j = 0; t.filled[r] && j < n; j++) {
            int64_t larger = 0, there = 0;
            for (int64_t i = 0; i < n; i++) larger += z[r * n + i] > z[r * n + j];
            for (int64_t i = 0; i < t.filled[r]; i++) there |= col[place + i] == j;
            expect(larger >= k || there, "propose");
        }
    const int64_t many = monosem_certified_above(&p, 0, rows, &floor, 0, rows * n, counts, index);
    int64_t at = 0;
    for (int64_t r = 0; r < rows; at += counts[r], r++)
        for (int64_t j = 0; j < n; j++) {
            int64_t there = 0;
            for (int64_t i = 0; i < counts[r]; i++) there |= index[at + i] == j;
            expect(z[r * n + j] <= floor || there, "certified_above");
        }
    expect(many == at, "counts");
    void *all[] = {x, w, bias, half_w, half_x, y, lost, size, x_lost, x_size, t.index, t.low, t.up, t.filled, t.floors,
                   own, z, all_rows, counts, index, col, back};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void dense(int64_t rows, int64_t n) {
    float *z = numbers(rows * n), *theta = numbers(n), *value = room(rows * n, 4), *back = room(rows * n, 4);
    float *sums[6], width = 0.5f;
    for (int i = 0; i < 6; i++) sums[i] = room(n, 4);
    monosem_jump(z, theta, value, n, 0, rows, sums[0]);
    monosem_jump_back(z, theta, value, theta, &width, back, n, 0, rows, sums[1], sums[2]);
    monosem_steps(z, theta, &width, n, 0, rows, sums[3], sums[4]);
    monosem_used(value, n, 0, rows, sums[5]);
    int64_t above = 0;
    double steps = 0;
    for (int64_t i = 0; i < rows * n; i++) above += z[i] > theta[i % n] && z[i] != 0.0f;
    for (int64_t j = 0; j < n; j++) steps += sums[3][j];
    expect(above == (int64_t)steps && above == monosem_count(value, 0, rows * n), "steps and count");
    for (int i = 0; i < 6; i++) free(sums[i]);
    free(z), free(theta), free(value), free(back);
}

int main(void) {
    const int64_t sizes[][3] = {{1, 1, 1}, {5, 3, 7}, {9, 65, 63}, {3, 130, 64}, {7, 64, 65}, {0, 5, 3}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t rows = sizes[i][0], n = sizes[i][1], width = sizes[i][2];
        cells(rows, n, width);
        dense(rows, n);
        for (int spoil = 0; spoil < 3; spoil++)
            for (int64_t k = 0; k <= n && k <= 40; k = k * 3 + 1) ranks(rows, n, k, spoil);
        bounds(rows, n, width, n < 4 ? 1 : 4, 1.0f);
        bounds(rows, n, width, n < 4 ? 1 : 4, 1e-25f);
    }
    return wrong;
}

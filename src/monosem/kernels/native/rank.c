/* Selection from rows of scores, float32: exact, ties to the lower column, columns ascending. NaN is never chosen. */
#include "cells.h"

/* row[0..n) = s[first + i] + bias[i] (NULL: 0), or, of the columns `among`, s[among[i] - first] + bias[among[i]]; then
 * NaN up to a multiple of LANES.
 */
static void lay(const float *s, int64_t n, int64_t first, const float *bias, const int64_t *among, float *row) {
    if (among)
        for (int64_t i = 0; i < n; i++) row[i] = s[among[i] - first] + (bias ? bias[among[i]] : 0.0f);
    else if (bias)
#pragma omp simd
        for (int64_t i = 0; i < n; i++) row[i] = s[i] + bias[first + i];
    else
        memcpy(row, s, (size_t)n * sizeof(float));
    for (int64_t i = n; i % LANES; i++) row[i] = NAN;
}

/* Keep the k largest of index[0..count), value[0..count), in order, of ties the first. Returns the k-th value. */
static float keep_largest(int32_t *index, float *value, int64_t count, int64_t k, float *scratch) {
    memcpy(scratch, value, (size_t)count * sizeof(float));
    const float least = kth_largest(scratch, count, k);
    int64_t above = 0;
    for (int64_t i = 0; i < count; i++) above += value[i] > least;
    int64_t ties = k - above, place = 0;
    for (int64_t i = 0; i < count; i++) { /* without branches, which nobody could foretell */
        const float v = value[i];
        const int64_t tie = v == least, taken = (v > least) | (tie & (ties > 0));
        index[place] = index[i];
        value[place] = v;
        ties -= tie;
        place += taken;
    }
    return least;
}

/* What is known of the k largest of each row after some of its columns. */
struct tops {
    int64_t k, room;  /* room >= k + LANES */
    int32_t *index;   /* [rows, room]: columns that may be among the k largest, ascending, */
    float *value;     /* and their entries */
    int64_t *filled;  /* [rows] */
    float *floors;    /* [rows]: only entries above it count; where it is -INFINITY, those equal to it too */
};

/* Columns first, first + 1, ... of rows [from, to): s[rows, n] + bias[column] (NULL: 0); or, of the n columns `among`
 * (ascending, not NULL), those entries of s. Columns come in ascending order from call to call. work holds n + LANES
 * floats and the larger of n and room.
 */
void monosem_top(const struct tops *t, const float *s, int64_t ld, int64_t from, int64_t to, int64_t n, int64_t first,
                 const float *bias, const int64_t *among, float *work) {
    float *row = work, *scratch = work + n + LANES;
    for (int64_t r = from; r < to; r++) {
        int32_t *index = t->index + r * t->room;
        float *value = t->value + r * t->room, floor = t->floors[r];
        int64_t filled = t->filled[r];
        const int direct = bias && !among && floor > -INFINITY && n % LANES == 0; /* each entry is read once */
        const float *entry = direct ? s + r * ld : row;
        if (!direct) lay(s + r * ld, n, first, bias, among, row);
        if (filled == 0 && t->k && t->k <= n && !direct) floor = nextafterf(floor_of(row, n, t->k, scratch), -INFINITY);
        for (int64_t start = 0; start < n; start += LANES) {
            const float *plus = direct ? bias + first + start : nothing;
            uint64_t bits = above_block(entry + start, plus, &floor, 0);
            if (floor == -INFINITY)
                for (uint32_t l = 0; l < LANES; l++) bits |= (uint64_t)(entry[start + l] == floor) << l;
            if (!bits) continue;
            if (filled + LANES > t->room) {
                floor = keep_largest(index, value, filled, t->k, scratch);
                filled = t->k;
                bits = above_block(entry + start, plus, &floor, 0);
            }
            while (bits) {
                const int64_t l = next_bit(&bits), i = start + l;
                index[filled] = (int32_t)(among ? among[i] : first + i);
                value[filled++] = entry[i] + plus[l];
            }
        }
        if (filled > 2 * t->k) {
            floor = keep_largest(index, value, filled, t->k, scratch);
            filled = t->k;
        }
        t->filled[r] = filled;
        t->floors[r] = floor;
    }
}

/* The k largest of rows [from, to) after all columns, into out_index and out_value [rows, k]. Returns the number of
 * rows with fewer than k numbers (NaN), whose output is undefined. work holds `room` floats.
 */
int64_t monosem_topped(const struct tops *t, int64_t from, int64_t to, int64_t *out_index, float *out_value,
                       float *work) {
    int64_t short_rows = 0;
    for (int64_t r = from; r < to; r++) {
        int32_t *index = t->index + r * t->room;
        float *value = t->value + r * t->room;
        if (t->filled[r] < t->k) {
            short_rows++;
            continue;
        }
        if (t->filled[r] > t->k) keep_largest(index, value, t->filled[r], t->k, work);
        for (int64_t i = 0; i < t->k; i++) out_index[r * t->k + i] = index[i], out_value[r * t->k + i] = value[i];
    }
    return short_rows;
}

/* Entries of s + bias (NULL: 0) above a floor: their number in row r into counts[r]; columns (numbered from `first`)
 * and entries, where there is room. The floor of column j is floors[j], or floors[0] unless `each`. work
 * holds n + LANES floats. Returns the total, which may exceed room.
 */
int64_t monosem_above(const float *s, int64_t ld, int64_t rows, int64_t n, int64_t first, const float *bias,
                      const float *floors, int64_t each, int64_t room, int64_t *counts, int64_t *index, float *value,
                      float *work) {
    const int direct = bias && n % LANES == 0; /* each entry is read once */
    int64_t total = 0;
    float last[LANES] = {0.0f}; /* floors of a block that is not whole */
    if (each && n % LANES) memcpy(last, floors + first + n / LANES * LANES, (size_t)(n % LANES) * sizeof(float));
    for (int64_t r = 0; r < rows; r++) {
        const int64_t before = total;
        const float *entry = direct ? s + r * ld : work;
        if (!direct) lay(s + r * ld, n, first, bias, 0, work);
        for (int64_t start = 0; start < n; start += LANES) {
            const float *plus = direct ? bias + first + start : nothing;
            const float *here = n - start < LANES ? last : floors + each * (first + start);
            uint64_t bits = each ? above_block(entry + start, plus, here, 1)
                                 : above_block(entry + start, plus, floors, 0);
            while (bits) {
                const int64_t l = next_bit(&bits);
                if (total < room) {
                    index[total] = first + start + l;
                    value[total] = entry[start + l] + plus[l];
                }
                total++;
            }
        }
        counts[r] = total - before;
    }
    return total;
}

/* Cells of some columns into their places among those of all columns: rows [0, rows) have counts[r] of them here, and
 * place[r] is where row r's next cell belongs. value and out_value may be NULL.
 */
void monosem_place(int64_t rows, const int64_t *counts, const int64_t *index, const float *value, int64_t *place,
                   int64_t *out_index, float *out_value) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < counts[r]; i++) {
            if (value) out_value[place[r]] = *value++;
            out_index[place[r]++] = *index++;
        }
}

/* The k-th largest of a[0..n), which is overwritten. */
void monosem_kth_largest(float *a, int64_t n, int64_t k, float *found) { *found = kth_largest(a, n, k); }

/* One kernel over many units of work, on several threads that need no interpreter. */
#include <stdint.h>

struct job {
    void *call; /* takes `arity` numbers of 64 bits, integers or addresses; what it returns goes into results */
    int64_t arity, units;
    const int64_t *arguments; /* [units, arity] */
    int64_t *results;         /* [units] */
    int64_t next;             /* shared: whoever is done takes the next unit */
};

typedef int64_t n;

static int64_t one(const struct job *j, const int64_t *a) {
    switch (j->arity) {
        case 3: return ((n(*)(n, n, n))j->call)(a[0], a[1], a[2]);
        case 4: return ((n(*)(n, n, n, n))j->call)(a[0], a[1], a[2], a[3]);
        case 5: return ((n(*)(n, n, n, n, n))j->call)(a[0], a[1], a[2], a[3], a[4]);
        case 6: return ((n(*)(n, n, n, n, n, n))j->call)(a[0], a[1], a[2], a[3], a[4], a[5]);
        case 7: return ((n(*)(n, n, n, n, n, n, n))j->call)(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
        case 8: return ((n(*)(n, n, n, n, n, n, n, n))j->call)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
        case 9:
            return ((n(*)(n, n, n, n, n, n, n, n, n))j->call)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]);
        case 10:
            return ((n(*)(n, n, n, n, n, n, n, n, n, n))j->call)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8],
                                                                 a[9]);
        case 11:
            return ((n(*)(n, n, n, n, n, n, n, n, n, n, n))j->call)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7],
                                                                    a[8], a[9], a[10]);
        case 12:
            return ((n(*)(n, n, n, n, n, n, n, n, n, n, n, n))j->call)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7],
                                                                       a[8], a[9], a[10], a[11]);
        case 13:
            return ((n(*)(n, n, n, n, n, n, n, n, n, n, n, n, n))j->call)(a[0], a[1], a[2], a[3], a[4], a[5], a[6],
                                                                          a[7], a[8], a[9], a[10], a[11], a[12]);
        default: __builtin_trap();
    }
}

/* What each thread does. */
void monosem_work(struct job *j) {
    for (;;) {
        const int64_t unit = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        if (unit >= j->units) return;
        j->results[unit] = one(j, j->arguments + unit * j->arity);
    }
}

/* The whole job; `parallel` is GOMP_parallel, or NULL where one thread does it. */
void monosem_job(struct job *j, void (*parallel)(void (*)(void *), void *, unsigned, unsigned), int64_t threads) {
    if (parallel && threads > 1)
        parallel((void (*)(void *))monosem_work, j, (unsigned)threads, 0);
    else
        monosem_work(j);
}

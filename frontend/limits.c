/* limits.c - measures arithmetic and reading on as many threads as a run uses.
 *
 * A probe (codegen/llvm/probe.c) is run a few times by all threads at once, the best of the tries counts: what disturbs can
 * only make it slower. Reading is measured for working sets that lie in a core's caches, in the shared one and in memory. */
#include "frontend/limits.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_THREADS = 256, TRIES = 8 };
static const double LEAST_TIME = 1e-3;                                                   /* seconds of one try */
static const size_t read_sizes[LIMIT_SIZES] = {32 << 10, 512 << 10, 8 << 20, 128 << 20}; /* of all threads */

typedef struct Crew {
    OctetKernel probe;
    char *data;
    size_t bytes; /* of one thread */
    int64_t rounds;
    int threads;
    atomic_int ready;
    _Atomic int64_t nanoseconds; /* of the slowest */
} Crew;
typedef struct Member {
    Crew *crew;
    int number;
} Member;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *member_work(void *arg)
{
    const Member *m = arg;
    Crew *c = m->crew;
    _Alignas(64) char result[PROBE_ALIGN];
    void *buf[] = {c->data + c->bytes * (size_t)m->number, result};
    int64_t size = (int64_t)c->bytes;
    c->probe(buf, &size, 0, 1, NULL); /* its data are in its caches */
    atomic_fetch_add(&c->ready, 1);
    while (atomic_load(&c->ready) < c->threads) {}
    int64_t begin = now();
    c->probe(buf, &size, 0, c->rounds, NULL);
    int64_t took = now() - begin, most = atomic_load(&c->nanoseconds);
    while (took > most && !atomic_compare_exchange_weak(&c->nanoseconds, &most, took)) {}
    return NULL;
}

/* Seconds of one try; 0: the threads could not be started. */
static double crew_run(Crew *c, int64_t rounds)
{
    pthread_t thread[MOST_THREADS];
    Member member[MOST_THREADS];
    int started = 0, wanted = c->threads;
    atomic_store(&c->ready, 0), atomic_store(&c->nanoseconds, 1);
    c->rounds = rounds;
    for (; started < wanted; started++) {
        member[started] = (Member){c, started};
        if (started && pthread_create(&thread[started], NULL, member_work, &member[started])) break;
    }
    if (started < wanted) atomic_fetch_add(&c->ready, wanted - started); /* the others go on without */
    member_work(&member[0]);
    for (int i = 1; i < started; i++) pthread_join(thread[i], NULL);
    return started < wanted ? 0 : (double)atomic_load(&c->nanoseconds) * 1e-9;
}

/* Rounds a second of all threads. */
static double crew_rate(Crew *c)
{
    double best = 0, took = 0;
    int64_t rounds = 1;
    for (; (took = crew_run(c, rounds)) < LEAST_TIME; rounds *= 2)
        if (took == 0) return 0;
    for (int i = 0; i < TRIES; i++) {
        if (i) took = crew_run(c, rounds);
        if (took > 0 && (double)rounds / took > best) best = (double)rounds / took;
    }
    return best * c->threads;
}

static bool probes_run(Limits *l, const Target *t, const bool *unit, Crew *c, LlvmJit *jit)
{
    static const ProbeKind kinds[OCTET_MATHS] = {
        [OCTET_MATH_F32] = PROBE_F32, [OCTET_MATH_BF16] = PROBE_BF16, [OCTET_MATH_INT8] = PROBE_INT8};
    double per_round = 0;
    c->bytes = PROBE_ALIGN;
    for (int u = 0; u < OCTET_MATHS; u++) {
        if (!unit[u]) continue;
        if (!(c->probe = llvm_probe(jit, t, kinds[u], &per_round))) return false;
        l->operations[u] = crew_rate(c) * per_round;
    }
    if (!(c->probe = llvm_probe(jit, t, PROBE_READ, &per_round))) return false;
    for (int i = 0; i < LIMIT_SIZES; i++) {
        c->bytes = read_sizes[i] / (size_t)c->threads / PROBE_ALIGN * PROBE_ALIGN;
        if (!c->bytes) c->bytes = PROBE_ALIGN;
        l->read[i].bytes = read_sizes[i], l->read[i].rate = crew_rate(c) * (double)c->bytes;
    }
    for (int i = LIMIT_SIZES - 1; i > 0; i--) /* what is nearer is no slower: short loops are, a little */
        if (l->read[i - 1].rate < l->read[i].rate) l->read[i - 1].rate = l->read[i].rate;
    return true;
}

bool limits_measure(Limits *l, const char *level, int threads, const bool *unit, Diag *d)
{
    const Target *t = target_find(level);
    *l = (Limits){.operations = {0}};
    if (!t || t->gpu) return diag_error(d, NULL, "this octet does not know the level '%s' of the artefact", level);
    Crew c = {.threads = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads};
    size_t bytes = read_sizes[LIMIT_SIZES - 1] + (size_t)c.threads * PROBE_ALIGN;
    if (!(c.data = aligned_alloc(PROBE_ALIGN, bytes))) return diag_error(d, NULL, "out of memory");
    memset(c.data, 0, bytes);
    for (size_t i = 0; i < PROBE_ALIGN / sizeof(float); i++) ((float *)(void *)c.data)[i] = 0.5f;
    LlvmJit *jit = llvm_jit_new(d);
    bool ok = jit && probes_run(l, t, unit, &c, jit);
    llvm_jit_drop(jit);
    free(c.data);
    return ok;
}

/* Data of a step are at best where as many bytes are when they are read again and again. */
double limits_least(const Limits *l, const OctetWork *w)
{
    int i = 0;
    while (i < LIMIT_SIZES - 1 && w->bytes > (double)l->read[i].bytes) i++;
    double moving = l->read[i].rate > 0 ? w->bytes / l->read[i].rate : 0;
    double rate = w->math >= 0 && w->math < OCTET_MATHS ? l->operations[w->math] : 0;
    double counting = rate > 0 ? w->operations / rate : 0;
    return moving > counting ? moving : counting;
}

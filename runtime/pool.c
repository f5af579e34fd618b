/* pool.c - the built-in thread pool: threads - 1 workers that sleep until a run begins, the caller is thread 0.
 *
 * A pool is a host's parallel_for like any other: its first member is the function, so rt.c needs nothing of this
 * file. One run at a time: a second context that shares the pool waits for its turn. Everything lives in the caller's
 * memory. */
#include "model.h"
#include "wait.h"
#include <pthread.h>
#include <signal.h>

typedef struct Worker {
    OctetPool *pool;
    pthread_t thread;
    int32_t index;
} Worker;

struct OctetPool {
    OctetPoolHead head; /* first: rt.c reads it */
    int spin;
    pthread_mutex_t turn;
    OctetTask task;
    void *arg;
    int32_t n;
    int stop;
    OctetWord job;  /* changes when a job is set */
    OctetWord done; /* changes when the last worker is through */
    _Alignas(64) _Atomic int32_t busy;
    Worker worker[];
};

static void *worker_main(void *arg)
{
    Worker *w = arg;
    OctetPool *p = w->pool;
    for (uint32_t seen = 0;; seen++) {
        word_wait(&p->job, seen, p->spin);
        if (p->stop) return NULL;
        if (w->index < p->n) p->task(p->arg, w->index);
        if (atomic_fetch_sub(&p->busy, 1) == 1) word_change(&p->done);
    }
}

/* Every worker passes every job, also those beyond n: a late one must not find the next job's fields half written. */
static void pool_for(void *host, int32_t n, OctetTask task, void *arg)
{
    OctetPool *p = host;
    pthread_mutex_lock(&p->turn);
    uint32_t before = atomic_load(&p->done.value);
    p->task = task, p->arg = arg, p->n = n;
    atomic_store(&p->busy, p->head.threads - 1);
    if (p->head.threads > 1) word_change(&p->job);
    task(arg, 0);
    if (p->head.threads > 1) word_wait(&p->done, before, p->spin);
    pthread_mutex_unlock(&p->turn);
}

size_t octet_pool_bytes(int32_t threads)
{
    size_t n = threads > 1 ? (size_t)threads : 1;
    return (sizeof(OctetPool) + n * sizeof(Worker) + 63) / 64 * 64;
}

static void pool_stop(OctetPool *p, int32_t started)
{
    p->stop = 1;
    word_change(&p->job);
    for (int32_t i = 1; i < started; i++) pthread_join(p->worker[i].thread, NULL);
    pthread_mutex_destroy(&p->turn);
}

/* Signals stay with the host's own threads. */
OctetStatus octet_pool_init(OctetPool *p, int32_t threads)
{
    if (!p || (uintptr_t)p % 64 || threads < 1) return OCTET_ERR_ARGUMENT;
    *p = (OctetPool){.head = {pool_for, threads}, .spin = spin_for(threads)};
    if (pthread_mutex_init(&p->turn, NULL) != 0) return OCTET_ERR_SYSTEM;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int32_t started = 1;
    for (; started < threads; started++) {
        p->worker[started] = (Worker){.pool = p, .index = started};
        if (pthread_create(&p->worker[started].thread, NULL, worker_main, &p->worker[started]) != 0) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started == threads) return OCTET_OK;
    pool_stop(p, started);
    return OCTET_ERR_SYSTEM;
}

void octet_pool_finish(OctetPool *p)
{
    if (p) pool_stop(p, p->head.threads);
}

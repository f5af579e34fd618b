/* pool.c - the built-in thread pool: threads - 1 workers that sleep until a job begins, the caller is thread 0.
 *
 * The team that shares out the job lives here, in the pool's memory, because a worker may come late: a job ends when
 * all of its chunks are done, whether or not every worker has heard of it. One job at a time: a second context that
 * shares the pool waits for its turn. Everything lives in the caller's memory. */
#include "model.h"
#include "team.h"
#include <pthread.h>
#include <signal.h>

typedef struct Worker {
    OctetPool *pool;
    pthread_t thread;
    int32_t index;
} Worker;

struct OctetPool {
    OctetPoolHead head; /* first: rt.c reads it */
    pthread_mutex_t turn;
    OctetTeam team;
    Worker worker[];
};

static void *worker_main(void *arg)
{
    Worker *w = arg;
    team_work(&w->pool->team, w->index, true);
    return NULL;
}

static void pool_run(OctetPool *p, const OctetJob *job, int32_t threads, const OctetUnit *first)
{
    enum { CALLER = 1 };
    pthread_mutex_lock(&p->turn);
    team_begin(&p->team, job, threads, *first, CALLER);
    team_work(&p->team, 0, false);
    pthread_mutex_unlock(&p->turn);
}

size_t octet_pool_bytes(int32_t threads)
{
    size_t n = threads > 1 ? (size_t)threads : 1;
    return (sizeof(OctetPool) + n * sizeof(Worker) + 63) / 64 * 64;
}

static void pool_stop(OctetPool *p, int32_t started)
{
    team_say(&p->team, OCTET_TEAM_CLOSED, UINT32_MAX, UINT32_MAX);
    for (int32_t i = 1; i < started; i++) pthread_join(p->worker[i].thread, NULL);
    pthread_mutex_destroy(&p->turn);
}

/* Signals stay with the host's own threads. */
OctetStatus octet_pool_init(OctetPool *p, int32_t threads)
{
    if (!p || (uintptr_t)p % 64 || threads < 1 || threads > OCTET_MOST_THREADS) return OCTET_ERR_ARGUMENT;
    *p = (OctetPool){.head = {pool_run, threads}};
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

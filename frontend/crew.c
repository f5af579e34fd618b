/* crew.c - see crew.h. Fewer threads than asked for do as well: the caller works too. */
#include "frontend/crew.h"
#include <pthread.h>
#include <stdatomic.h>

typedef struct Crew {
    CrewWork *work;
    void *ctx;
    uint32_t n;
    atomic_uint next;
} Crew;

static void *crew_some(void *arg)
{
    Crew *c = arg;
    for (uint32_t i; (i = atomic_fetch_add(&c->next, 1)) < c->n;) c->work(c->ctx, i);
    return 0;
}

void crew_run(int threads, uint32_t n, CrewWork *work, void *ctx)
{
    enum { MOST = 64 };
    pthread_t thread[MOST];
    int started = 0;
    Crew c = {.work = work, .ctx = ctx, .n = n};
    while (started < threads - 1 && started < MOST && !pthread_create(&thread[started], 0, crew_some, &c)) started++;
    crew_some(&c);
    while (started) pthread_join(thread[--started], 0);
}

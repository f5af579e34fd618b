/* team.h - how threads share out the work of a run: chunks that are claimed, never handed out.
 *
 * A job is a row of units, a unit is a number of chunks that may run in any order. One word says which chunks of the unit
 * nobody has taken; a thread takes one by a compare-and-swap, from the low end or from the high end (so that two threads
 * keep to the halves whose data their caches hold). The thread that completes the last chunk of a unit opens the next.
 * So nobody waits for a thread to begin: what one that is not running does not claim, others do. Only a thread that loses
 * its CPU amid a chunk is waited for; rt.c sees to it that this does not happen often.
 *
 * Threads of a pool look at the word at any time, also long after the job: until its compare-and-swap has succeeded, a
 * thread touches nothing but the team itself, which lies in the pool's memory. After it, the unit cannot end before
 * the chunk is counted, so the job's memory is there. That makes stale words harmless too: what was claimed is what the
 * word says now, also when it has come back to an earlier value in between. */
#ifndef OCTET_TEAM_H
#define OCTET_TEAM_H
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef struct OctetUnit {
    uint32_t chunks;           /* 0: the job is over */
    uint32_t first, end, flag; /* the job's own */
} OctetUnit;

typedef struct OctetJob {
    void (*chunk)(void *arg, int32_t thread, OctetUnit unit, uint32_t chunk);
    /* Of one thread, when all chunks are done: the next unit. since: when another thread went to sleep over the last chunk,
     * which it did not run, in nanoseconds; 0: none did. */
    OctetUnit (*next)(void *arg, int32_t thread, uint64_t since);
    void *arg;
} OctetJob;

enum {
    OCTET_SPIN = 4000, /* looks at the word before sleeping: 20 to 60 microseconds */
    OCTET_MOST_THREADS = 65534,
    OCTET_MOST_CHUNKS = (1 << 24) - 1
};

/* The word: threads << 48 | first free chunk << 24 | end of the free ones. */
#define OCTET_TEAM_IDLE   ((uint64_t)0)  /* no job */
#define OCTET_TEAM_CLOSED (~(uint64_t)0) /* no job any more */

/* What a claim touches is one cache line. */
typedef struct OctetTeam {
    _Alignas(64) _Atomic uint64_t word;
    OctetUnit unit;
    OctetJob job;
    int32_t threads;         /* indices [0, threads) take part */
    _Atomic uint32_t left;   /* chunks of the unit that are not done */
    _Atomic uint32_t asleep; /* a bit for every thread (index modulo 32) that may sleep; who wakes it clears it */
    _Atomic uint32_t tick;   /* slept on; changes before sleepers are woken */
    _Atomic uint64_t since;  /* see OctetJob.next */
    uint32_t enders;         /* bits of those that wait for the end of the job */
} OctetTeam;
_Static_assert(offsetof(OctetTeam, since) == 64, "one cache line");

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

static inline uint64_t nanoseconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint32_t team_bits(int32_t threads) { return threads < 32 ? ((uint32_t)1 << threads) - 1 : UINT32_MAX; }

static inline bool word_offers(uint64_t word, int32_t self)
{
    return (uint64_t)self < word >> 48 && (word >> 24 & OCTET_MOST_CHUNKS) < (word & OCTET_MOST_CHUNKS);
}

/* Takes one of the chunks that `word` offers. */
static inline uint64_t word_take(uint64_t word, int32_t self, uint32_t *chunk)
{
    if (self % 2) {
        *chunk = (uint32_t)(word & OCTET_MOST_CHUNKS) - 1;
        return word - 1;
    }
    *chunk = (uint32_t)(word >> 24 & OCTET_MOST_CHUNKS);
    return word + ((uint64_t)1 << 24);
}

/* Changes the word and wakes those of `bits` that sleep, `most` at most. A sleeper sets its bit and then looks at the word
 * once more; here it is the other way round, so one of the two sees the other. */
static inline void team_say(OctetTeam *t, uint64_t word, uint32_t bits, uint32_t most)
{
    atomic_store(&t->word, word);
    uint32_t wake = atomic_load(&t->asleep) & bits;
    if (!wake) return;
    for (uint32_t rest = wake; rest; rest &= rest - 1) {
        if (most > 0) most--;
        else wake &= ~(rest & -rest);
    }
    if (!wake) return;
    atomic_fetch_and(&t->asleep, ~wake);
    atomic_fetch_add(&t->tick, 1);
    syscall(SYS_futex, &t->tick, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, wake);
}

/* Whether there is nothing for `self` in the word but to wait. */
static inline bool word_waits(uint64_t word, int32_t self, bool stays)
{
    return word != OCTET_TEAM_CLOSED && (word != OCTET_TEAM_IDLE || stays) && !word_offers(word, self);
}

static inline void team_sleep(OctetTeam *t, int32_t self, bool stays)
{
    uint32_t tick = atomic_load(&t->tick), bit = (uint32_t)1 << self % 32;
    atomic_fetch_or(&t->asleep, bit);
    uint64_t word = atomic_load(&t->word);
    if (!word_waits(word, self, stays)) return;
    if (word != OCTET_TEAM_IDLE && atomic_load(&t->left) == 1) atomic_store(&t->since, nanoseconds_now());
    syscall(SYS_futex, &t->tick, FUTEX_WAIT_BITSET_PRIVATE, tick, NULL, NULL, bit);
}

/* false: the team is closed, or without a job and the thread does not stay. */
static inline bool team_claim(OctetTeam *t, int32_t self, bool stays, uint32_t *chunk)
{
    for (int spun = 0;;) {
        uint64_t word = atomic_load_explicit(&t->word, memory_order_acquire);
        if (!word_waits(word, self, stays)) {
            if (!word_offers(word, self)) return false;
            if (atomic_compare_exchange_weak(&t->word, &word, word_take(word, self, chunk))) return true;
        } else if (spun++ < OCTET_SPIN) {
            cpu_relax();
        } else {
            team_sleep(t, self, stays);
            spun = 0;
        }
    }
}

/* After a chunk: true when it was the last of its unit, the next unit is open and this thread has a chunk of it.
 * Nothing of the job may be touched after its end is said. */
static inline bool team_pass(OctetTeam *t, int32_t self, uint32_t *chunk)
{
    if (atomic_fetch_sub(&t->left, 1) != 1) return false;
    uint64_t since = atomic_load_explicit(&t->since, memory_order_relaxed);
    if (since) atomic_store_explicit(&t->since, 0, memory_order_relaxed);
    t->unit = t->job.next(t->job.arg, self, since);
    uint32_t chunks = t->unit.chunks, bits = team_bits(t->threads);
    if (!chunks) {
        team_say(t, OCTET_TEAM_IDLE, t->enders, UINT32_MAX);
        return false;
    }
    atomic_store_explicit(&t->left, chunks, memory_order_relaxed);
    team_say(t, word_take((uint64_t)t->threads << 48 | chunks, self, chunk), bits, chunks - 1);
    return true;
}

/* A thread takes part: until the job ends, or, when it stays, until the team is closed. */
static inline void team_work(OctetTeam *t, int32_t self, bool stays)
{
    uint32_t chunk;
    while (team_claim(t, self, stays, &chunk)) do {
            t->job.chunk(t->job.arg, self, t->unit, chunk);
        } while (team_pass(t, self, &chunk));
}

/* Opens a job's first unit. `enders`: see OctetTeam. */
static inline void team_begin(OctetTeam *t, const OctetJob *job, int32_t threads, OctetUnit unit, uint32_t enders)
{
    t->job = *job, t->threads = threads, t->unit = unit, t->enders = enders;
    atomic_store_explicit(&t->left, unit.chunks, memory_order_relaxed);
    atomic_store_explicit(&t->since, 0, memory_order_relaxed);
    team_say(t, (uint64_t)threads << 48 | unit.chunks, team_bits(threads), unit.chunks);
}
#endif

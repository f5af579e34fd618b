/* wait.h - how threads wait for each other: a word that changes, spun on for a moment, then slept on.
 *
 * Spinning wins when every thread has a CPU (a hand-over takes a quarter of a microsecond); when there are more
 * threads than CPUs the waiting one must get out of the way at once, so the caller chooses how long to spin. */
#ifndef OCTET_WAIT_H
#define OCTET_WAIT_H
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OCTET_SPIN = 4000 }; /* looks at the word before sleeping: 20 to 60 microseconds */

typedef struct OctetWord {
    _Alignas(64) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
} OctetWord;

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* Returns once the word differs from `old`. */
static inline void word_wait(OctetWord *w, uint32_t old, int spin)
{
    for (int i = 0; i < spin; i++) {
        if (atomic_load_explicit(&w->value, memory_order_acquire) != old) return;
        cpu_relax();
    }
    atomic_fetch_add(&w->sleepers, 1);
    while (atomic_load(&w->value) == old) syscall(SYS_futex, &w->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&w->sleepers, 1);
}

static inline void word_change(OctetWord *w)
{
    atomic_fetch_add(&w->value, 1);
    if (atomic_load(&w->sleepers)) syscall(SYS_futex, &w->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* How long to spin when `threads` work together: not at all when they outnumber the CPUs this process may use. */
static inline int spin_for(int32_t threads)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return OCTET_SPIN / 20;
    return CPU_COUNT(&set) >= threads ? OCTET_SPIN : 0;
}
#endif

/* plan.c - where intermediate results live: lifetimes over steps, barriers between threads, offsets in the arena.
 *
 * Threads walk the steps on their own and meet at barriers; between two barriers any two steps may overlap. So a
 * barrier stands before a step only when it touches what another thread wrote (or writes what another thread read)
 * since the last one, and a buffer's memory is another's only from the next barrier on. Offsets: largest first, each
 * at the lowest offset free for its life. */
#include "codegen/image.h"
#include <assert.h>
#include <stdlib.h>

/* A step that stores apart (the border of an image) waits for nobody: nothing else stores there, and nothing reads there before. Who reads
 * the buffer waits for it. */

/* What a group of steps without a barrier did to a buffer; the epoch says which group. Steps that thread 0 does alone
 * keep their order among themselves. */
typedef struct Touched {
    uint32_t epoch;
    bool read, written, apart, read_shared, written_shared, apart_shared;
} Touched;

static bool step_conflicts(const PlanStep *s, const Touched *t, uint32_t epoch)
{
    for (uint32_t i = 0; i < s->bufs; i++) {
        const Touched *b = &t[s->buf[i]];
        if (b->epoch != epoch || s->apart[i]) continue;
        bool written = s->single ? b->written_shared : b->written, read = s->single ? b->read_shared : b->read;
        bool apart = s->single ? b->apart_shared : b->apart;
        if (written || (s->writes[i] ? read : apart)) return true;
    }
    return false;
}

static void step_touch(const PlanStep *s, Touched *t, uint32_t epoch)
{
    for (uint32_t i = 0; i < s->bufs; i++) {
        Touched *b = &t[s->buf[i]];
        if (b->epoch != epoch) *b = (Touched){.epoch = epoch};
        if (s->apart[i]) {
            b->apart = true, b->apart_shared |= !s->single;
            continue;
        }
        b->read = true, b->read_shared |= !s->single;
        b->written |= s->writes[i], b->written_shared |= s->writes[i] && !s->single;
    }
}

void plan_barriers(Plan *p, Arena *mem)
{
    Touched *t = NEW_ARRAY(mem, Touched, p->bufs + 1);
    uint32_t epoch = 1;
    for (uint32_t s = 0; s < p->steps; s++) {
        if (!p->barrier[s]) p->barrier[s] = step_conflicts(&p->step[s], t, epoch);
        if (p->barrier[s]) epoch++;
        step_touch(&p->step[s], t, epoch);
    }
}

void plan_lifetimes(Plan *p, Arena *mem)
{
    uint32_t *begin = NEW_ARRAY(mem, uint32_t, p->steps + 1), *end = NEW_ARRAY(mem, uint32_t, p->steps + 1);
    for (uint32_t s = 0; s < p->steps; s++) begin[s] = s && !p->barrier[s] ? begin[s - 1] : s;
    for (uint32_t s = p->steps; s-- > 0;) end[s] = s + 1 < p->steps && !p->barrier[s + 1] ? end[s + 1] : s;
    for (uint32_t s = 0; s < p->steps; s++)
        for (uint32_t i = 0; i < p->step[s].bufs; i++) {
            PlanBuf *b = &p->buf[p->step[s].buf[i]];
            if (!b->used) b->first = begin[s];
            b->used = true;
            b->last = end[s];
        }
}

typedef struct Placed {
    const PlanBuf *buf;
    uint32_t which;
} Placed;

static int by_bytes(const void *x, const void *y)
{
    const Placed *a = x, *b = y;
    if (a->buf->bytes != b->buf->bytes) return a->buf->bytes < b->buf->bytes ? 1 : -1;
    return (a->which > b->which) - (a->which < b->which);
}

static uint64_t lowest_free(const PlanBuf *b, const Placed *placed, uint32_t n)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < n; i++) { /* by offset */
        const PlanBuf *o = placed[i].buf;
        if (o->last < b->first || b->last < o->first || o->offset + o->bytes <= at) continue;
        if (at + b->bytes <= o->offset) break;
        at = o->offset + o->bytes;
    }
    return at;
}

void plan_offsets(Plan *p, Arena *mem, const uint32_t *which, uint32_t n)
{
    Placed *todo = NEW_ARRAY(mem, Placed, n + 1), *placed = NEW_ARRAY(mem, Placed, n + 1);
    for (uint32_t i = 0; i < n; i++) todo[i] = (Placed){&p->buf[which[i]], which[i]};
    qsort(todo, n, sizeof *todo, by_bytes);
    p->arena = 0;
    for (uint32_t i = 0; i < n; i++) {
        PlanBuf *b = &p->buf[todo[i].which];
        assert(b->used && b->bytes % PLAN_ALIGN == 0);
        b->offset = lowest_free(b, placed, i);
        if (b->offset + b->bytes > p->arena) p->arena = b->offset + b->bytes;
        uint32_t at = i;
        for (; at > 0 && placed[at - 1].buf->offset > b->offset; at--) placed[at] = placed[at - 1];
        placed[at] = todo[i];
    }
}

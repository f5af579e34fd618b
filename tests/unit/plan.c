/* Plans of random programs: no two buffers that may be alive together overlap, and every conflict has a barrier. */
#include "codegen/image.h"
#include <criterion/criterion.h>

static uint32_t state = 1;
static uint32_t pick(uint32_t n)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % n;
}

/* Each step writes one new buffer and reads up to two earlier ones. */
static Plan program_make(Arena *mem, uint32_t steps)
{
    Plan p = {.step = NEW_ARRAY(mem, PlanStep, steps),
              .steps = steps,
              .buf = NEW_ARRAY(mem, PlanBuf, steps),
              .bufs = steps,
              .barrier = NEW_ARRAY(mem, bool, steps)};
    for (uint32_t s = 0; s < steps; s++) {
        uint32_t *buf = NEW_ARRAY(mem, uint32_t, 3), n = 0;
        bool *writes = NEW_ARRAY(mem, bool, 3), *apart = NEW_ARRAY(mem, bool, 3);
        buf[n] = s, writes[n++] = true;
        for (int r = 0; r < 2 && s; r++) buf[n++] = s - 1 - pick(s < 6 ? s : 6);
        p.step[s] = (PlanStep){.buf = buf, .writes = writes, .apart = apart, .bufs = n, .single = pick(3) == 0};
        p.buf[s].bytes = plan_bytes(pick(5000));
    }
    return p;
}

static bool conflict(const PlanStep *a, const PlanStep *b)
{
    for (uint32_t i = 0; i < a->bufs; i++)
        for (uint32_t k = 0; k < b->bufs; k++)
            if (a->buf[i] == b->buf[k] && (a->writes[i] || b->writes[k])) return !(a->single && b->single);
    return false;
}

Test(plan, barriers_stand_before_every_conflict)
{
    for (int round = 0; round < 50; round++) {
        Arena mem = {0};
        Plan p = program_make(&mem, 30);
        plan_barriers(&p, &mem);
        cr_assert(!p.barrier[0]);
        for (uint32_t a = 0; a < p.steps; a++) {
            bool between = false;
            for (uint32_t b = a + 1; b < p.steps && !between; b++) {
                between = p.barrier[b];
                cr_assert(between || !conflict(&p.step[a], &p.step[b]));
            }
        }
        arena_drop(&mem);
    }
}

/* Two buffers are alive together when the spans of steps that may overlap in time touch: from the barrier before the
 * first use to the barrier after the last. */
Test(plan, offsets_never_overlap)
{
    for (int round = 0; round < 50; round++) {
        Arena mem = {0};
        Plan p = program_make(&mem, 60);
        uint32_t *which = NEW_ARRAY(&mem, uint32_t, p.bufs);
        uint64_t sum = 0;
        for (uint32_t b = 0; b < p.bufs; b++) which[b] = b, sum += p.buf[b].bytes;
        plan_barriers(&p, &mem);
        plan_lifetimes(&p, &mem);
        plan_offsets(&p, &mem, which, p.bufs);
        cr_assert_lt(p.arena, sum / 2, "memory is reused");
        for (uint32_t a = 0; a < p.bufs; a++) {
            const PlanBuf *x = &p.buf[a];
            cr_assert(x->offset % 64 == 0 && x->offset + x->bytes <= p.arena && x->first <= a && x->last >= a);
            cr_assert(x->first == 0 || p.barrier[x->first]);
            cr_assert(x->last + 1 == p.steps || p.barrier[x->last + 1]);
            for (uint32_t b = 0; b < a; b++) {
                const PlanBuf *y = &p.buf[b];
                bool together = x->first <= y->last && y->first <= x->last;
                cr_assert(!together || x->offset + x->bytes <= y->offset || y->offset + y->bytes <= x->offset);
            }
        }
        arena_drop(&mem);
    }
}

/* A border waits for none of those that store elsewhere in its buffer, nor they for it; who reads the buffer waits for all. */
Test(plan, what_stores_apart_waits_for_nobody)
{
    static const uint32_t buf[] = {0};
    static const bool yes[] = {true}, no[] = {false};
    const PlanStep inside = {buf, yes, no, 1, false}, border = {buf, yes, yes, 1, false}, reader = {buf, no, no, 1, false};
    const PlanStep order[][4] = {{inside, border, reader, reader}, {border, inside, reader, reader}, {inside, reader, border, reader}};
    static const bool want[][4] = {{false, false, true, false}, {false, false, true, false}, {false, true, false, true}};
    for (int i = 0; i < 3; i++) {
        Arena mem = {0};
        Plan p = {.step = NEW_ARRAY(&mem, PlanStep, 4), .steps = 4, .barrier = NEW_ARRAY(&mem, bool, 4), .bufs = 1};
        memcpy(p.step, order[i], sizeof order[i]);
        plan_barriers(&p, &mem);
        for (int s = 0; s < 4; s++) cr_expect_eq(p.barrier[s], want[i][s], "order %d, step %d", i, s);
        arena_drop(&mem);
    }
}

Test(plan, steps_of_one_thread_need_no_barrier)
{
    Arena mem = {0};
    Plan p = program_make(&mem, 20);
    for (uint32_t s = 0; s < p.steps; s++) p.step[s].single = true;
    plan_barriers(&p, &mem);
    for (uint32_t s = 0; s < p.steps; s++) cr_assert(!p.barrier[s]);
    arena_drop(&mem);
}

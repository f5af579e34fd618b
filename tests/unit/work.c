/* What a profile says of a step, with free sizes too; and that the probes count what they do. */
#include "codegen/image.h"
#include "frontend/limits.h"
#include "tests/unit/kernel_runs.h"

static int64_t value(const Program *p, Dim d)
{
    int64_t v = -1;
    cr_assert(dim_eval(p->dim, d, p->symbol, &v));
    return v;
}

static StepWork work_of(Program *p, Cut *c, uint32_t step)
{
    Sizes *z = NEW(&p->mem, Sizes);
    Kernel *k = c->kernel.at[c->step[step].kernel];
    bool *has_memory = NEW_ARRAY(&p->mem, bool, k->buf.n);
    memset(has_memory, true, k->buf.n);
    sizes_new(z, &p->mem, p->dim);
    return step_work(k, z, &c->step[step], has_memory);
}

static void expect(const Program *p, const StepWork *w, const char *what, const int64_t *size, int64_t operations, int64_t bytes)
{
    cr_assert_str_eq(w->what, what);
    for (int i = 0; i < WORK_SIZES; i++) cr_assert_eq(value(p, w->size[i]), size[i], "size %d is %lld", i, (long long)value(p, w->size[i]));
    cr_assert_eq(value(p, w->operations), operations);
    cr_assert_eq(value(p, w->bytes), bytes, "%lld bytes", (long long)value(p, w->bytes));
}

Test(work, contractions)
{
    Program *p = program_new("kernel k(N) { in X[N, 32] const W[32, 48] out Y[N, 48] Y[m, n] = sum(k: 32) X[m, k] * W[k, n] then max(it, 0) }");
    p->symbol[0] = 5;
    StepWork w = work_of(p, program_through(p), 0);
    expect(p, &w, "contraction f32", (int64_t[]){1, 5, 48, 32}, 2 * 5 * 48 * 32, 4 * (5 * 32 + 32 * 48 + 5 * 48));
    program_drop(p);
    p = program_new("kernel k() { in A: u8[6, 7, 64], B: i8[6, 64, 9] out Y: i32[6, 7, 9] Y[h, m, n] = sum(k: 64) i32(A[h, m, k]) * i32(B[h, k, n]) }");
    Cut *c = program_through(p);
    w = work_of(p, c, c->steps - 1);
    expect(p, &w, "contraction u8 i8", (int64_t[]){6, 7, 9, 64}, 2 * 6 * 7 * 9 * 64, 6 * (7 * 64 + 64 * 9 + 4 * 7 * 9));
    cr_assert_eq(w.math, OCTET_MATH_INT8);
    program_drop(p);
}

Test(work, other_forms)
{
    Program *p = program_new("kernel k(N) { in X[N, 10, 4] out Y[N, 8, 4] Y[n, i, c] = max(j: 3) X[n, i + j, c] }");
    p->symbol[0] = 2;
    StepWork w = work_of(p, program_through(p), 0);
    expect(p, &w, "window f32", (int64_t[]){1, 64, 1, 3}, 0, 4 * (80 + 64));
    program_drop(p);
    p = program_new("kernel k() { in X[50, 4], B[4] out Y[20, 4] Y[i, c] = exp(X[i + 7, c]) + B[c] }");
    w = work_of(p, program_through(p), 0);
    expect(p, &w, "map f32", (int64_t[]){1, 80, 1, 1}, 0, 4 * (80 + 4 + 80));
    program_drop(p);
}

/* A step that does not run has nothing to do. */
Test(work, what_is_skipped)
{
    for (int64_t runs = 0; runs < 2; runs++) {
        Program *p = program_new("kernel k(N, C) { in X[N, 32], Z[32, 8] out Y[N, 8] Y[m, n] = sum(k: 32) X[m, k] * Z[k, n] when C }");
        p->symbol[0] = 5, p->symbol[1] = runs;
        StepWork w = work_of(p, program_cut(p->k, &p->mem), 0);
        expect(p, &w, "contraction f32", (int64_t[]){1, 5, 8, 32}, runs * 2 * 5 * 8 * 32, runs * 4 * (5 * 32 + 32 * 8 + 5 * 8));
        program_drop(p);
    }
}

Test(work, probes_compile_for_every_level)
{
    Arena mem = {0};
    Diag d = {.mem = &mem};
    LlvmJit *jit = llvm_jit_new(&d);
    for (uint32_t i = 0; target_at(i); i++)
        for (ProbeKind kind = PROBE_F32; kind <= PROBE_READ && !target_at(i)->gpu; kind++) {
            double operations = -1;
            cr_assert(llvm_probe(jit, target_at(i), kind, &operations) && (operations > 0) == (kind != PROBE_READ));
        }
    llvm_jit_drop(jit);
    arena_drop(&mem);
}

/* A probe that lost its loop to the optimiser, or does something else than it says, is off by far more. */
Test(work, limits_are_plausible)
{
    Arena mem = {0};
    Diag d = {.mem = &mem};
    Limits l;
    bool all[OCTET_MATHS] = {true, true, true};
    uint64_t have = target_host_features();
    for (uint32_t i = 0; target_at(i); i++) {
        const Target *t = target_at(i);
        if (t->gpu || t->needs & ~have) continue;
        cr_assert(limits_measure(&l, t->name, 1, all, &d));
        for (int u = 0; u < OCTET_MATHS; u++)
            cr_assert(l.operations[u] > 1e8 && l.operations[u] < 1e14, "%s: %g", t->name, l.operations[u]);
        for (int k = 0; k < LIMIT_SIZES; k++)
            cr_assert(l.read[k].rate > 1e8 && l.read[k].rate < 1e13, "%s reads %g", t->name, l.read[k].rate);
    }
    arena_drop(&mem);
}

/* Those of least time, as many as together take little of all; equal times in their order. */
Test(work, what_is_hardly_seen)
{
    Arena mem = {0};
    const double time[] = {1000, 4, 3, 2, 500, 4}, equal[] = {1, 1, 1};
    const bool expected[] = {false, true, true, true, false, true};
    const bool *hardly = hardly_seen(time, COUNT_OF(time), &mem), *none = hardly_seen(equal, COUNT_OF(equal), &mem);
    for (size_t i = 0; i < COUNT_OF(time); i++) cr_expect_eq(hardly[i], expected[i], "%zu", i);
    for (size_t i = 0; i < COUNT_OF(equal); i++) cr_expect_not(none[i]);
    hardly_seen(NULL, 0, &mem);
    arena_drop(&mem);
}

/* A level may run the code of its spare one: that comes before it and needs nothing it lacks. */
Test(work, spare_levels_run_everywhere)
{
    for (uint32_t i = 0; target_at(i); i++) {
        const Target *t = target_at(i), *spare = t->spare ? target_find(t->spare) : t;
        cr_assert(spare && spare <= t && !(spare->needs & ~t->needs), "%s", t->name);
    }
}

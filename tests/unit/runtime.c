/* The runtime on hand-made models: guards, static and dynamic plans, sizes read from data, threads, levels, pool. */
#include "runtime/model.h"
#include <criterion/criterion.h>
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Stands in for libc's: a machine of as many CPUs as a test says, so that threads outnumber the real ones. */
static int cpus;
int sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set)
{
    (void)pid;
    int n = cpus ? cpus : (int)sysconf(_SC_NPROCESSORS_ONLN);
    memset(set, 0, bytes);
    for (int i = 0; i < n && (size_t)i < 8 * bytes; i++) CPU_SET_S((size_t)i, bytes, set);
    return 0;
}

/* Y = 2 * X + 1 over N elements in two steps, through one temporary. */
static int32_t twice(void *const *buf, const int64_t *size, int64_t lo, int64_t hi, void *scratch)
{
    (void)size, (void)scratch;
    for (int64_t i = lo; i < hi; i++) ((float *)buf[1])[i] = 2 * ((const float *)buf[0])[i];
    return 0;
}

static int32_t plus_one(void *const *buf, const int64_t *size, int64_t lo, int64_t hi, void *scratch)
{
    (void)size, (void)scratch;
    for (int64_t i = lo; i < hi; i++) ((float *)buf[1])[i] = ((const float *)buf[0])[i] + 1;
    return 0;
}

static int32_t plus_two(void *const *buf, const int64_t *size, int64_t lo, int64_t hi, void *scratch)
{
    (void)size, (void)scratch;
    for (int64_t i = lo; i < hi; i++) ((float *)buf[1])[i] = ((const float *)buf[0])[i] + 2;
    return 0;
}

static int32_t refuse(void *const *buf, const int64_t *size, int64_t lo, int64_t hi, void *scratch)
{
    (void)buf, (void)size, (void)lo, (void)hi, (void)scratch;
    return OCTET_ERR_INDEX;
}

/* sizes: 0: N, 1: 4 * N (bytes), 2: the constant 3, 3: M */
static const OctetTensorInfo ends[] = {{"X", 1, 1, {-1}, {"N"}}, {"Y", 1, 1, {-1}, {"N"}}};
static const OctetCode code[] = {
    {OCTET_CODE_CONST, 0}, {OCTET_CODE_SYM, 0}, {OCTET_CODE_MUL, 0}, {OCTET_CODE_CONST, 1}};
static const int64_t number[] = {4, 1000000};
static const OctetSpan program[] = {{0, 3}, {3, 1}};
static const OctetSymbol symbol[] = {{SOURCE_DIM, 0, 0, 0, UINT32_MAX}};
static const uint32_t dims[] = {0};
static const uint32_t caller[] = {UINT32_MAX};
static const OctetGuard guard[] = {{1, 2, 0, 0, "N must be at most 1000000"}}; /* 1000000 >= N */
static const OctetPhase phase[] = {{0, 1, 3, 1, 1}};
static const OctetBuffer buffer[] = {{SEG_INPUT, 0, 0}, {SEG_OUTPUT, 0, 0}, {SEG_BLOCK, 0, 0}};
static const OctetBlock block[] = {{0, 1, 1, 0}};
static const OctetStep step[] = {{0, {0, 2}, {4, 0}, 0}, {1, {2, 2}, {4, 0}, 1}};
static const uint32_t arg[] = {0, 2, 2, 1};
static const char *const level_name[] = {"first", "second", "never", NULL};
static const uint64_t needs[] = {0, 0, (uint64_t)1 << 63};
static const OctetKernel kernels[] = {twice, plus_one, plus_two}, failing[] = {twice, refuse};
static const uint32_t as_they_are[] = {0, 1}, better[] = {0, 2}, all_alike[] = {0, 0};
static const uint32_t *const level_kernel[] = {as_they_are, as_they_are, as_they_are},
                             *const level_better[] = {as_they_are, better, as_they_are};
static const OctetSlice slice[] = {{0, 1, UINT32_MAX}};
static const uint32_t *const level_slice[] = {all_alike, all_alike, all_alike};
static const char *const step_name[] = {"twice", "plus"};

/* Functions as a model has them; each table once. */
static const int32_t *functions(const OctetKernel *kernel, int n)
{
    enum { TABLES = 8, MOST = 3 };
    static struct {
        const OctetKernel *of;
        int32_t at[MOST];
    } table[TABLES];
    int t = 0;
    while (table[t].of && table[t].of != kernel) t++;
    cr_assert(t < TABLES - 1 && n <= MOST);
    table[t].of = kernel;
    for (int i = 0; i < n; i++) table[t].at[i] = (int32_t)((intptr_t)kernel[i] - (intptr_t)&table[t].at[i]);
    return table[t].at;
}

static OctetModel model_make(void)
{
    return (OctetModel){.name = "test",
                        .inputs = 1,
                        .outputs = 1,
                        .input = &ends[0],
                        .output = &ends[1],
                        .input_dim = dims,
                        .output_dim = dims,
                        .output_buffer = caller,
                        .symbols = 1,
                        .sizes = 3,
                        .symbol = symbol,
                        .program = program,
                        .code = code,
                        .number = number,
                        .guards = 1,
                        .phases = 1,
                        .guard = guard,
                        .phase = phase,
                        .buffers = 3,
                        .steps = 2,
                        .args = 4,
                        .blocks = 1,
                        .buffer = buffer,
                        .step = step,
                        .arg = arg,
                        .block = block,
                        .arena_bytes = UINT64_MAX,
                        .levels = 3,
                        .kernels = 2,
                        .level_name = level_name,
                        .level_needs = needs,
                        .function = functions(kernels, 3),
                        .level_kernel = level_kernel,
                        .slice = slice,
                        .level_slice = level_slice,
                        .step_name = step_name};
}

static OctetContext *context_make(const OctetModel *m)
{
    OctetContext *c = aligned_alloc(64, octet_context_size(m->sizes, m->args, m->blocks));
    cr_assert_eq(octet_context_init(c, m), OCTET_OK);
    return c;
}

/* Runs N elements counting up; Y must be 2 * X + add. */
static void run_check(OctetContext *c, int64_t n, float add)
{
    float *x = malloc(sizeof *x * (size_t)(n + 1)), *y = malloc(sizeof *y * (size_t)(n + 1));
    for (int64_t i = 0; i < n; i++) x[i] = (float)i;
    OctetTensor in = {x, {n}}, out = {y, {0}};
    size_t bytes = 0;
    cr_assert_eq(octet_prepare(c, &in, &out, &bytes), OCTET_OK);
    cr_assert_eq(out.dim[0], n);
    cr_assert_geq(bytes, 4 * (size_t)n);
    void *arena = aligned_alloc(64, bytes);
    cr_assert_eq(octet_run(c, &in, &out, arena, bytes), OCTET_OK, "%s", octet_error_text(c));
    for (int64_t i = 0; i < n; i++) cr_assert_eq(y[i], 2 * (float)i + add);
    cr_assert_eq(octet_run(c, &in, &out, arena, 0), OCTET_ERR_ARENA);
    cr_assert_eq(octet_run(c, &in, &out, (char *)arena + 4, bytes), OCTET_ERR_ARENA);
    free(arena), free(x), free(y);
}

Test(runtime, sizes_change_between_runs)
{
    OctetModel m = model_make();
    OctetContext *c = context_make(&m);
    for (int64_t n = 0; n < 100; n += 33) run_check(c, n, 1);
    free(c);
}

Test(runtime, guards_refuse_with_their_text)
{
    OctetModel m = model_make();
    OctetContext *c = context_make(&m);
    OctetTensor in = {NULL, {1000001}}, out = {0};
    size_t bytes;
    cr_assert_eq(octet_prepare(c, &in, &out, &bytes), OCTET_ERR_GUARD);
    cr_assert_str_eq(octet_error_text(c), "N must be at most 1000000 (1000000 and 1000001)");
    in.dim[0] = -1;
    cr_assert_eq(octet_prepare(c, &in, &out, &bytes), OCTET_ERR_DIM);
    in.dim[0] = INT64_MAX;
    cr_assert_eq(octet_prepare(c, &in, &out, &bytes), OCTET_ERR_OVERFLOW);
    in.dim[0] = 3;
    cr_assert_eq(octet_run(c, &in, &out, c, 1 << 20), OCTET_ERR_ARGUMENT, "an input without data");
    free(c);
}

Test(runtime, a_failed_kernel_is_an_index_error)
{
    OctetModel m = model_make();
    m.function = functions(failing, 2);
    OctetContext *c = context_make(&m);
    float x = 1, y;
    OctetTensor in = {&x, {1}}, out = {&y, {0}};
    _Alignas(64) char arena[256];
    cr_assert_eq(octet_run(c, &in, &out, arena, sizeof arena), OCTET_ERR_INDEX);
    cr_assert_str_eq(octet_error_text(c), "plus: an index in the data is out of range");
    free(c);
}

Test(runtime, levels_are_capped_and_never_beyond_the_processor)
{
    OctetModel m = model_make();
    m.level_kernel = level_better;
    OctetContext *c = context_make(&m);
    cr_assert_eq(octet_cpu_level(&m), 1);
    run_check(c, 5, 2);
    octet_context_level(c, 0), run_check(c, 5, 1);
    octet_context_level(c, 2), run_check(c, 5, 2);
    free(c);
}

Test(runtime, threads_give_the_same_and_share_the_pool)
{
    OctetModel m = model_make();
    cpus = 5;
    for (int32_t threads = 1; threads <= 5;
         threads++) { /* more than the machine has: they must get out of each other's way */
        OctetPool *p = aligned_alloc(64, octet_pool_bytes(threads));
        cr_assert_eq(octet_pool_init(p, threads), OCTET_OK);
        OctetContext *a = context_make(&m), *b = context_make(&m);
        octet_context_threads(a, p, NULL, NULL, threads), octet_context_threads(b, p, NULL, NULL, 100);
        for (int i = 0; i < 50; i++) run_check(i % 2 ? a : b, i, 1);
        octet_pool_finish(p);
        free(a), free(b), free(p);
    }
}

typedef struct Call {
    OctetTask task;
    void *arg;
    int32_t i;
} Call;
static void *call_main(void *p)
{
    Call *c = p;
    c->task(c->arg, c->i);
    return NULL;
}

static void host_for(void *host, int32_t n, OctetTask task, void *task_arg)
{
    pthread_t t[8];
    Call call[8];
    ++*(int *)host;
    for (int32_t i = 0; i < n; i++)
        call[i] = (Call){task, task_arg, i}, pthread_create(&t[i], NULL, call_main, &call[i]);
    for (int32_t i = 0; i < n; i++) pthread_join(t[i], NULL);
}

Test(runtime, a_host_brings_its_threads)
{
    OctetModel m = model_make();
    OctetContext *c = context_make(&m);
    int calls = 0;
    cpus = 3;
    octet_context_threads(c, NULL, host_for, &calls, 3);
    run_check(c, 1000, 1);
    cr_assert_eq(calls, 1);
    run_check(c, 1, 1);
    cr_assert_eq(calls, 1, "one element is no work for several threads");
    free(c);
}

/* As if the thread that got the last items lost its CPU. */
static int32_t twice_late(void *const *buf, const int64_t *size, int64_t lo, int64_t hi, void *scratch)
{
    if (hi == 1000) usleep(3000);
    return twice(buf, size, lo, hi, scratch);
}

Test(runtime, threads_that_lose_their_cpus_are_given_a_rest)
{
    static const OctetKernel late[] = {twice_late, plus_one};
    OctetModel m = model_make();
    m.function = functions(late, 2);
    OctetContext *c = context_make(&m);
    int calls = 0, rested = 0;
    cpus = 2;
    octet_context_threads(c, NULL, host_for, &calls, 2);
    for (int i = 0; i < 200 && rested < 2; i++) {
        int before = calls;
        run_check(c, 1000, 1);
        rested += calls == before;
    }
    cr_assert(rested == 2 && calls >= 2);
    int before = calls;
    for (int i = 0; i < 1000 && calls == before; i++) run_check(c, 1000, 1);
    cr_assert_gt(calls, before, "and tried again later");
    free(c);
}

static void one_after_another(void *host, int32_t n, OctetTask task, void *task_arg)
{
    (void)host;
    for (int32_t i = n; i-- > 0;) task(task_arg, i);
}

Test(runtime, a_host_may_run_its_tasks_one_after_another)
{
    OctetModel m = model_make();
    OctetContext *c = context_make(&m);
    cpus = 4;
    octet_context_threads(c, NULL, one_after_another, NULL, 4);
    run_check(c, 1000, 1);
    free(c);
}

/* A ladder: every rung mixes what two places of the rung below hold. Every third is one item, every fifth too short for several
 * threads; two in a row may be independent of each other (no barrier). */
enum { LADDER = 60, WIDE = 4096 };
static int32_t rung(void *const *buf, const int64_t *size, int64_t lo, int64_t hi, void *scratch)
{
    (void)size;
    const uint32_t *x = buf[0];
    for (int64_t i = lo; i < hi; i++) {
        uint32_t *sum = scratch;
        *sum = x[i] * 3;
        *sum += x[(i + 1031) % WIDE];
        ((uint32_t *)buf[1])[i] = *sum;
    }
    return 0;
}

static int32_t rung_single(void *const *buf, const int64_t *size, int64_t lo, int64_t hi, void *scratch)
{
    (void)lo, (void)hi;
    return rung(buf, size, 0, WIDE, scratch);
}

static void ladder_run(OctetPool *pool, int32_t threads, uint32_t *y)
{
    static const OctetTensorInfo x_info = {"X", 12, 1, {WIDE}, {0}}, y_info = {"Y", 12, 1, {WIDE}, {0}};
    static const OctetCode codes[] = {{OCTET_CODE_CONST, 0}, {OCTET_CODE_CONST, 1}, {OCTET_CODE_CONST, 2}};
    static const int64_t numbers[] = {WIDE, 1, 64};
    static const OctetSpan programs[] = {{0, 1}, {1, 1}, {2, 1}};
    static const OctetPhase phases[] = {{0, 0, 3, 0, 0}};
    static const OctetKernel kernel[] = {rung, rung_single};
    static const uint32_t at[] = {0};
    enum { EACH = 4 * WIDE + 64 };
    OctetStep steps[LADDER];
    OctetSlice slices[LADDER];
    OctetBuffer buffers[LADDER + 1];
    uint32_t args[2 * LADDER], each[LADDER];
    const char *names[LADDER];
    for (uint32_t s = 0; s < LADDER; s++) {
        uint32_t single = s % 3 == 0;
        uint32_t from = s % 10 == 8 ? s - 1 : s; /* as the rung before: the two do not depend on each other */
        steps[s] = (OctetStep){single, {2 * s, 2}, {0, 0}, s % 10 != 8};
        slices[s] = (OctetSlice){single, s % 5 == 4 ? 3000 : 1 + s % 7, 2}, each[s] = s;
        args[2 * s] = from, args[2 * s + 1] = s + 1;
        buffers[s] = s ? (OctetBuffer){SEG_ARENA, 0, (uint64_t)s * EACH} : (OctetBuffer){SEG_INPUT, 0, 0};
        names[s] = "rung";
    }
    buffers[LADDER] = (OctetBuffer){SEG_OUTPUT, 0, 0};
    const uint32_t *const level_slices[] = {each, each, each};
    OctetModel m = model_make();
    m.input = &x_info, m.output = &y_info, m.input_dim = m.output_dim = at, m.symbols = 0, m.sizes = 3, m.guards = 0;
    m.program = programs, m.code = codes, m.number = numbers, m.phase = phases, m.buffer = buffers, m.buffers = LADDER + 1, m.blocks = 0;
    m.step = steps, m.steps = LADDER, m.arg = args, m.args = 2 * LADDER, m.kernels = 2, m.step_name = names;
    m.function = functions(kernel, 2), m.slice = slices, m.level_slice = level_slices;
    m.arena_bytes = (uint64_t)(LADDER + 1) * EACH;
    uint32_t *x = malloc(sizeof *x * WIDE);
    for (uint32_t i = 0; i < WIDE; i++) x[i] = i * 2654435761u;
    OctetContext *c = context_make(&m);
    octet_context_threads(c, pool, NULL, NULL, threads);
    OctetTensor in = {x, {WIDE}}, out = {y, {0}};
    size_t bytes = 0;
    cr_assert_eq(octet_prepare(c, &in, &out, &bytes), OCTET_OK, "%s", octet_error_text(c));
    void *arena = aligned_alloc(64, bytes);
    cr_assert_eq(octet_run(c, &in, &out, arena, bytes), OCTET_OK);
    /* a late worker must not look at what was the context's, the arena's or the model's */
    memset(c, 0xa5, octet_context_size(m.sizes, m.args, m.blocks));
    memset(arena, 0xa5, bytes);
    free(c), free(arena), free(x);
}

Test(runtime, results_do_not_depend_on_threads_nor_on_late_workers)
{
    uint32_t *want = malloc(sizeof *want * WIDE), *y = malloc(sizeof *y * WIDE);
    ladder_run(NULL, 1, want);
    cpus = 4; /* as if: on fewer, threads lose their CPU amid a run */
    for (int32_t threads = 1; threads <= 4; threads++) {
        OctetPool *p = aligned_alloc(64, octet_pool_bytes(threads));
        cr_assert_eq(octet_pool_init(p, threads), OCTET_OK);
        for (int i = 0; i < 100; i++) {
            memset(y, 0, sizeof *y * WIDE);
            ladder_run(p, threads, y);
            cr_assert_eq(memcmp(y, want, sizeof *y * WIDE), 0, "%d threads, run %d", threads, i);
        }
        octet_pool_finish(p);
        memset(p, 0xa5, octet_pool_bytes(threads));
        free(p);
    }
    free(want), free(y);
}

typedef struct Caller {
    OctetPool *pool;
    const uint32_t *want;
    bool same;
} Caller;
static void *caller_main(void *p)
{
    Caller *a = p;
    uint32_t *y = malloc(sizeof *y * WIDE);
    a->same = true;
    for (int i = 0; i < 30; i++) ladder_run(a->pool, 4, y), a->same &= !memcmp(y, a->want, sizeof *y * WIDE);
    free(y);
    return NULL;
}

Test(runtime, callers_on_threads_share_a_pool)
{
    uint32_t *want = malloc(sizeof *want * WIDE);
    ladder_run(NULL, 1, want);
    cpus = 4;
    OctetPool *p = aligned_alloc(64, octet_pool_bytes(4));
    cr_assert_eq(octet_pool_init(p, 4), OCTET_OK);
    pthread_t t[3];
    Caller a[3];
    for (int i = 0; i < 3; i++) a[i] = (Caller){p, want, false}, pthread_create(&t[i], NULL, caller_main, &a[i]);
    for (int i = 0; i < 3; i++) {
        pthread_join(t[i], NULL);
        cr_assert(a[i].same);
    }
    octet_pool_finish(p);
    free(p), free(want);
}

Test(runtime, two_callers_wait_for_one_pool)
{
    OctetModel m = model_make();
    OctetPool *p = aligned_alloc(64, octet_pool_bytes(2));
    cr_assert_eq(octet_pool_init(p, 2), OCTET_OK);
    OctetContext *c[2] = {context_make(&m), context_make(&m)};
    float x[2][64], y[2][64];
    static _Alignas(64) char arena[2][1024];
    OctetTensor in[2] = {{x[0], {64}}, {x[1], {64}}}, out[2] = {{y[0], {0}}, {y[1], {0}}};
    for (int i = 0; i < 64; i++) x[0][i] = (float)i, x[1][i] = (float)-i;
    for (int t = 0; t < 2; t++) octet_context_threads(c[t], p, NULL, NULL, 2);
    for (int i = 0; i < 20; i++)
        for (int t = 0; t < 2; t++) cr_assert_eq(octet_run(c[t], &in[t], &out[t], arena[t], sizeof arena[t]), OCTET_OK);
    for (int i = 0; i < 64; i++) cr_assert(y[0][i] == 2.0f * (float)i + 1 && y[1][i] == -2.0f * (float)i + 1);
    octet_pool_finish(p);
    free(c[0]), free(c[1]), free(p);
}

Test(runtime, the_float_environment_is_left_alone)
{
    OctetModel m = model_make();
    OctetContext *c = context_make(&m);
    fesetround(FE_TOWARDZERO);
    run_check(c, 10, 1);
    cr_assert_eq(fegetround(), FE_TOWARDZERO);
    fesetround(FE_TONEAREST);
    free(c);
}

Test(runtime, profile_counts_every_step)
{
    OctetModel m = model_make();
    OctetContext *c = context_make(&m);
    uint64_t ns[2] = {0, 0};
    octet_context_profile(c, ns);
    run_check(c, 100000, 1);
    cr_assert(ns[0] > 0 && ns[1] > 0);
    free(c);
}

/* Y holds as many elements as the first element of X says: known after step 0, which copies it to a buffer. */
static int32_t count(void *const *buf, const int64_t *size, int64_t lo, int64_t hi, void *scratch)
{
    (void)size, (void)scratch, (void)lo, (void)hi;
    *(int64_t *)buf[1] = (int64_t) * (const float *)buf[0];
    return 0;
}

static int32_t fill(void *const *buf, const int64_t *size, int64_t lo, int64_t hi, void *scratch)
{
    (void)scratch;
    for (int64_t i = lo; i < hi; i++) ((float *)buf[0])[i] = (float)size[0];
    return 0;
}

Test(runtime, sizes_from_data_come_in_phases)
{
    /* sizes: 0: N, 1: K (data), 2: 8, 3: 1, 4: 4 * K */
    static const OctetCode codes[] = {
        {OCTET_CODE_CONST, 0}, {OCTET_CODE_CONST, 1}, {OCTET_CODE_CONST, 2}, {OCTET_CODE_SYM, 1}, {OCTET_CODE_MUL, 0}};
    static const int64_t numbers[] = {8, 1, 4};
    static const OctetSpan programs[] = {{0, 1}, {1, 1}, {2, 3}};
    static const OctetSymbol symbols[] = {{SOURCE_DIM, 0, 0, 0, UINT32_MAX}, {SOURCE_BUFFER, 1, 0, 7, UINT32_MAX}};
    static const OctetPhase phases[] = {{0, 1, 4, 0, 1}, {1, 2, 5, 0, 2}};
    static const OctetBuffer buffers[] = {{SEG_INPUT, 0, 0}, {SEG_BLOCK, 0, 0}, {SEG_BLOCK, 1, 0}};
    static const OctetBlock blocks[] = {{0, 1, 2, 0}, {1, 2, 4, 0}};
    static const OctetStep steps[] = {{0, {0, 2}, {0, 0}, 0}, {1, {2, 1}, {3, 1}, 1}};
    static const uint32_t args[] = {0, 1, 2, 1}, out_dim[] = {1}, out_at[] = {2};
    static const OctetSlice slices[] = {{3, 1, UINT32_MAX}, {1, 1, UINT32_MAX}};
    static const OctetKernel kernel[] = {count, fill};
    OctetModel m = model_make();
    m.symbols = 2, m.sizes = 5, m.symbol = symbols, m.program = programs, m.code = codes, m.number = numbers, m.guards = 0, m.phases = 2,
    m.phase = phases;
    m.buffer = buffers, m.block = blocks, m.blocks = 2, m.step = steps, m.arg = args, m.output_dim = out_dim,
    m.output_buffer = out_at;
    m.slice = slices, m.level_slice = level_kernel, m.function = functions(kernel, 2); /* each step its own */
    OctetContext *c = context_make(&m);
    float x[] = {500, 0};
    OctetTensor in = {x, {2}}, out = {0};
    size_t first = 0, bytes = 0;
    cr_assert_eq(octet_prepare(c, &in, &out, &first), OCTET_OK);
    cr_assert_eq(out.dim[0], -1);
    cr_assert_eq(first % 64, 0, "as the header says");
    void *small = aligned_alloc(64, first);
    cr_assert_eq(octet_run(c, &in, &out, small, first), OCTET_ERR_ARENA);
    cr_assert_eq(octet_prepare(c, &in, &out, &bytes), OCTET_OK);
    cr_assert_gt(bytes, first);
    void *arena = aligned_alloc(64, bytes);
    cr_assert_eq(octet_run(c, &in, &out, arena, bytes), OCTET_OK, "%s", octet_error_text(c));
    cr_assert_eq(out.dim[0], 500);
    for (int i = 0; i < 500; i++) cr_assert_eq(((float *)out.data)[i], 500);
    x[0] = -3;
    cr_assert_neq(octet_run(c, &in, &out, arena, bytes), OCTET_OK, "a negative size");
    x[0] = 0;
    cr_assert_eq(octet_run(c, &in, &out, arena, bytes), OCTET_OK);
    cr_assert_eq(out.dim[0], 0);
    free(small), free(arena), free(c);
}

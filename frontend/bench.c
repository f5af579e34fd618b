/* bench.c - `octet bench`: how long a run takes, measured on buffers prepared once, nothing else inside the timed region.
 *
 * Inputs are those of --input, else small random numbers of a fixed seed (0 and 1 for integers, which are indices more often
 * than not). Free sizes without --dim are 1, and the output says so. */
#include "frontend/cli.h"
#include "frontend/profile.h"
#include "frontend/runner.h"
#include "ir/base/stage.h"
#include <stdlib.h>

enum { LEAST_RUNS = 10, MOST_RUNS = 100000 };
static const double BUDGET = 1.0; /* seconds */

typedef struct Bench {
    const OctetApi *api;
    Arena *mem;
    OctetContext *context;
    OctetPool *pool;
    OctetTensor *in, *out;
    void *arena;
    size_t arena_bytes;
    int threads;
    int32_t level;
    double first; /* seconds of the first run: code, weights and work memory are touched for the first time */
    double *time; /* of each run that counts */
    uint32_t runs;
    uint64_t *profile;
} Bench;

/* --dim INPUT:AXIS=VALUE speaks of one axis, NAME=VALUE of every free size of that name; -1: nothing was said. */
static int64_t dim_given(Arena *mem, const ImportOptions *o, const OctetTensorInfo *info, int axis, bool *used)
{
    const char *place = arena_printf(mem, "%s:%d", info->name, axis), *name = info->dim_name[axis];
    for (uint32_t k = 0; k < o->dims; k++)
        if (!strcmp(o->dim[k].name, place) || (name && !strcmp(o->dim[k].name, name)))
            return used[k] = true, o->dim[k].value;
    return -1;
}

static Tensor *made_up(Arena *mem, const OctetTensorInfo *info, const ImportOptions *o, bool *used)
{
    int64_t dim[OCTET_MAX_RANK];
    for (int32_t i = 0; i < info->rank; i++) {
        dim[i] = info->dim[i] < 0 ? dim_given(mem, o, info, i, used) : info->dim[i];
        if (dim[i] < 0)
            dim[i] = 1,
            fprintf(stderr, "%s: free size %s is 1 (--dim)\n", info->name, info->dim_name[i] ? info->dim_name[i] : "?");
    }
    return tensor_made_up(mem, (DType)info->dtype, info->rank, dim, 0);
}

static bool failed(Bench *b, Diag *d, OctetStatus s)
{
    return s != OCTET_OK &&
           !diag_error(d, NULL, "the artefact refused the run (code %d) %s", s, b->api->error_text(b->context));
}

static OctetStatus work_memory(Bench *b)
{
    OctetStatus s = b->api->prepare(b->context, b->in, b->out, &b->arena_bytes);
    if (s == OCTET_OK) b->arena = arena_alloc(b->mem, b->arena_bytes);
    return s;
}

static bool prepare(Bench *b, Runner *r, const Options *o, Diag *d)
{
    const OctetApi *api = b->api;
    const Tensor **given = NEW_ARRAY(b->mem, const Tensor *, r->inputs + 1);
    ImportOptions sizes;
    if (!runner_inputs(r, o, b->mem, d, given) || !import_options(o, d, &sizes)) return false;
    bool *used = NEW_ARRAY(b->mem, bool, sizes.dims + 1);
    b->in = NEW_ARRAY(b->mem, OctetTensor, api->inputs + 1), b->out = NEW_ARRAY(b->mem, OctetTensor, api->outputs + 1);
    for (int32_t i = 0; i < api->inputs; i++) {
        const Tensor *t = given[i] ? given[i] : made_up(b->mem, &api->input[i], &sizes, used);
        b->in[i].data = (void *)t->data;
        if (t->rank != api->input[i].rank)
            return diag_error(d, NULL, "input '%s' has rank %d, expected %d", r->input[i], t->rank, api->input[i].rank);
        for (int k = 0; k < t->rank; k++) b->in[i].dim[k] = t->dim[k];
    }
    for (uint32_t k = 0; k < sizes.dims && !r->compiled; k++) /* a model's were taken when it was compiled */
        if (!used[k])
            return diag_error(d, NULL, "--dim %s: no input that is made up has a free size of that name",
                              sizes.dim[k].name);
    b->context = arena_alloc(b->mem, api->context_bytes);
    if (failed(b, d, api->context_init(b->context, api->model))) return false;
    if (b->threads > 1) {
        OctetPool *pool = arena_alloc(b->mem, api->pool_bytes(b->threads));
        if (failed(b, d, api->pool_init(pool, b->threads))) return false;
        b->pool = pool;
        api->context_threads(b->context, b->pool, NULL, NULL, b->threads);
    }
    b->level = o->value[OPT_isa] ? r->level : api->cpu_level(api->model);
    api->context_level(b->context, b->level);
    if (failed(b, d, work_memory(b))) return false;
    for (int32_t i = 0; i < api->outputs; i++) {
        size_t bytes = (size_t)dtypes[api->output[i].dtype].bytes;
        bool known = true; /* others are placed in the work memory by every run */
        for (int k = 0; k < api->output[i].rank; k++)
            known = known && b->out[i].dim[k] >= 0, bytes *= (size_t)b->out[i].dim[k];
        if (known) b->out[i].data = arena_alloc(b->mem, bytes);
    }
    return true;
}

/* The same data every time: how much memory sizes that depend on it need is known after the first run, one phase after the other. */
static OctetStatus first_run(Bench *b)
{
    OctetStatus s = b->api->run(b->context, b->in, b->out, b->arena, b->arena_bytes);
    for (int again = 0; s == OCTET_ERR_ARENA && again < 64; again++) {
        s = work_memory(b);
        if (s == OCTET_OK) s = b->api->run(b->context, b->in, b->out, b->arena, b->arena_bytes);
    }
    return s;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool measure(Bench *b, const Options *o, Diag *d)
{
    const OctetApi *api = b->api;
    double start = seconds_now();
    for (int i = 0; i < 3 && (i == 0 || seconds_now() - start < BUDGET); i++) {
        if (failed(b, d, first_run(b))) return false;
        if (i == 0) b->first = seconds_now() - start;
    }
    if (o->value[OPT_profile])
        b->profile = NEW_ARRAY(b->mem, uint64_t, api->steps + 1), api->context_profile(b->context, b->profile);
    int64_t asked = option_int(o, OPT_runs, 0), most = asked > 0 && asked < MOST_RUNS ? asked : MOST_RUNS;
    b->time = NEW_ARRAY(b->mem, double, most);
    start = seconds_now();
    for (double before = start; b->runs < most && (asked || b->runs < LEAST_RUNS || before - start < BUDGET);) {
        if (failed(b, d, api->run(b->context, b->in, b->out, b->arena, b->arena_bytes))) return false;
        double after = seconds_now();
        b->time[b->runs++] = after - before;
        before = after;
    }
    qsort(b->time, b->runs, sizeof *b->time, by_value);
    return true;
}

static void print_result(const Bench *b, bool json, const Profile *profile, bool by_time)
{
    double sum = 0;
    for (uint32_t i = 0; i < b->runs; i++) sum += b->time[i];
    double mean = sum / b->runs * 1e3, least = b->time[0] * 1e3, median = b->time[b->runs / 2] * 1e3;
    const char *name = b->level >= 0 ? b->api->levels[b->level] : "none";
    if (json) {
        printf("{\"median_ms\": %.6f, \"min_ms\": %.6f, \"mean_ms\": %.6f, \"first_ms\": %.6f, \"runs\": %u, "
               "\"threads\": %d, \"level\": "
               "\"%s\", \"arena_bytes\": %zu",
               median, least, mean, b->first * 1e3, b->runs, b->threads, name, b->arena_bytes);
        if (profile) printf(", \"profile\": "), profile_json(profile, by_time, stdout);
        puts("}");
        return;
    }
    printf("median %.4f ms, least %.4f ms, mean %.4f ms, first %.4f ms (%u runs, %d thread%s, %s, %.1f kB of memory)\n",
           median, least, mean, b->first * 1e3, b->runs, b->threads, b->threads > 1 ? "s" : "", name,
           (double)b->arena_bytes / 1e3);
    if (profile) profile_print(profile, by_time, stdout);
}

int command_bench(const Options *o, Diag *d)
{
    Arena mem = {0};
    Runner r;
    ImportOptions io;
    if (!import_options(o, d, &io)) return EXIT_USAGE;
    bool ok = runner_open(&r, o, &mem, d, o->arg.at[0]);
    Bench b = {.api = r.loaded.api, .mem = &mem, .threads = (int)option_int(o, OPT_threads, usable_cpus())};
    ok = ok && prepare(&b, &r, o, d) && measure(&b, o, d);
    Profile profile = {
        .api = b.api, .context = b.context, .nanoseconds = b.profile, .runs = b.runs, .threads = b.threads};
    if (ok) profile.level = b.api->levels[b.level];
    if (ok && b.profile) ok = profile_limits(&profile, d);
    if (ok) print_result(&b, o->value[OPT_json] != NULL, b.profile ? &profile : NULL, option_is(o, OPT_sort, "time"));
    if (b.pool) b.api->pool_finish(b.pool);
    runner_close(&r);
    arena_drop(&mem);
    return ok ? 0 : EXIT_MODEL;
}

/* session.c - one context with its pool and arena, for the compiler's own use of artefacts: calibration, run, verify,
 * bench.
 *
 * Comes in: constant tensors, checked here against the model's types. Goes out: new tensors. The work memory grows
 * as needed and stays for the next call. */
#include "codegen/artefact.h"
#include "ir/base/stage.h"
#include <assert.h>

struct Session {
    Arena mem;  /* the session itself, the context, the pool */
    Arena work; /* the model's arena; dropped when a larger one is needed */
    const OctetApi *api;
    OctetContext *context;
    OctetPool *pool;
    void *arena;
    size_t arena_bytes;
    double seconds; /* of the last run */
};

Session *session_new(const Loaded *l, int threads, Diag *diag)
{
    Arena mem = {0};
    const OctetApi *api = l->api;
    Session *s = NEW(&mem, Session);
    s->api = api;
    s->context = arena_alloc(&mem, api->context_bytes);
    OctetStatus status = api->context_init(s->context, api->model);
    if (status == OCTET_OK && threads > 1 && api->pool_bytes) {
        s->pool = arena_alloc(&mem, api->pool_bytes(threads));
        status = api->pool_init(s->pool, threads);
        if (status == OCTET_OK) api->context_threads(s->context, s->pool, NULL, NULL, threads);
    }
    s->mem = mem;
    if (status == OCTET_OK) return s;
    const char *why = status == OCTET_ERR_SYSTEM ? "its threads could not be started" : api->error_text(s->context);
    diag_error(diag, NULL, "the model cannot run here: %s", why);
    if (status == OCTET_ERR_SYSTEM) s->pool = NULL;
    session_drop(s);
    return NULL;
}

void session_drop(Session *s)
{
    if (!s) return;
    if (s->pool) s->api->pool_finish(s->pool);
    Arena mem = s->mem, work = s->work; /* the session lies in its own arena */
    arena_drop(&work);
    arena_drop(&mem);
}

void session_level(Session *s, int level) { s->api->context_level(s->context, level); }

void session_profile(Session *s, uint64_t *nanoseconds) { s->api->context_profile(s->context, nanoseconds); }

double session_seconds(const Session *s) { return s->seconds; }

size_t session_memory(const Session *s) { return s->arena_bytes; }

static bool failed(const Session *s, OctetStatus status, Diag *diag)
{
    const char *text = s->api->error_text(s->context);
    return diag_error(diag, NULL, "%s",
                      *text ? text : arena_printf(diag->mem, "the model failed with status %d", (int)status));
}

static bool inputs_fill(const Session *s, const Tensor *const *in, OctetTensor *to, Diag *diag)
{
    for (int32_t i = 0; i < s->api->inputs; i++) {
        const OctetTensorInfo *info = &s->api->input[i];
        if (in[i]->type != (DType)info->dtype)
            return diag_error(diag, NULL, "input '%s' is %s, expected %s", info->name, dtypes[in[i]->type].name,
                              dtypes[info->dtype].name);
        if (in[i]->rank != info->rank)
            return diag_error(diag, NULL, "input '%s' has rank %d, expected %d", info->name, in[i]->rank, info->rank);
        to[i].data = (void *)(uintptr_t)in[i]->data;
        memcpy(to[i].dim, in[i]->dim, sizeof *to[i].dim * (size_t)info->rank);
    }
    return true;
}

static void arena_grow(Session *s, size_t need)
{
    if (s->arena && need <= s->arena_bytes) return;
    arena_drop(&s->work);
    s->arena = arena_alloc(&s->work, need), s->arena_bytes = need;
}

/* Memory for the outputs whose sizes are known before the run; the others come back lying in the arena. */
static void outputs_take(const Session *s, Arena *mem, OctetTensor *out)
{
    for (int32_t o = 0; o < s->api->outputs; o++) {
        const OctetTensorInfo *info = &s->api->output[o];
        size_t bytes = (size_t)dtypes[info->dtype].bytes;
        bool known = true;
        for (int32_t a = 0; a < info->rank; a++) known = known && out[o].dim[a] >= 0, bytes *= (size_t)out[o].dim[a];
        out[o].data = known ? arena_alloc(mem, bytes) : NULL;
    }
}

static OctetStatus run(Session *s, Arena *mem, const OctetTensor *in, OctetTensor *out)
{
    OctetStatus status;
    for (int tries = 0;; tries++) { /* a run may find out that it needs more memory, once for each of its phases */
        size_t need = 0;
        status = s->api->prepare(s->context, in, out, &need);
        if (status != OCTET_OK) return status;
        arena_grow(s, need);
        if (!tries) outputs_take(s, mem, out);
        double since = seconds_now();
        status = s->api->run(s->context, in, out, s->arena, s->arena_bytes);
        s->seconds = seconds_now() - since;
        if (status != OCTET_ERR_ARENA || tries == 64) return status;
    }
}

bool session_run(Session *s, Arena *mem, const Tensor *const *in, const Tensor **out, Diag *diag)
{
    OctetTensor *from = NEW_ARRAY(mem, OctetTensor, s->api->inputs + 1),
                *to = NEW_ARRAY(mem, OctetTensor, s->api->outputs + 1);
    if (!inputs_fill(s, in, from, diag)) return false;
    OctetStatus status = run(s, mem, from, to);
    if (status != OCTET_OK) return failed(s, status, diag);
    for (int32_t o = 0; o < s->api->outputs; o++) {
        const OctetTensorInfo *info = &s->api->output[o];
        Tensor *t = NEW(mem, Tensor);
        *t = (Tensor){.type = (DType)info->dtype, .rank = info->rank, .data = to[o].data};
        memcpy(t->dim, to[o].dim, sizeof *t->dim * (size_t)info->rank);
        char *p = to[o].data;
        bool inside = s->arena && p >= (char *)s->arena && p < (char *)s->arena + s->arena_bytes;
        if (inside) t->data = arena_copy(mem, p, tensor_bytes(t));
        out[o] = t;
    }
    return true;
}

/* Compiled code against the interpreter, for every operator that is a scalar body: all element types, sizes around a vector, nothing at
 * all, broadcasting, and sizes that are known only when called. A new row is tested by being there. The many cases of one row are one
 * graph with many outputs, so one artefact; it is run at every instruction-set level that this machine has. */
#include "codegen/artefact.h"
#include "frontend/interpret.h"
#include "tests/unit/worlds.h"
#include <stdlib.h>
#include <unistd.h>

/* The sizes of inputs by number; the last given stands for all others. N is -1. */
typedef struct Shape {
    int rank[2];
    int64_t dim[2][2];
    bool optional; /* optional inputs are given */
} Shape;
enum { N = -1 };
static const Shape shapes[] = {
    {{0, 0}, {{0}, {0}}, true},    {{1, 1}, {{0}, {0}}, false}, {{1, 0}, {{17}, {0}}, true},
    {{2, 1}, {{5, 1}, {3}}, true}, {{1, 1}, {{N}, {N}}, true},  {{2, 2}, {{N, 3}, {1, 3}}, false},
};
static const int64_t sizes[] = {0, 1, 5, 16, 17, 40};

/* Angles are exact below 4e8 (ir/prim.def), so none is larger. */
static double special(uint32_t r)
{
    static const double values[] = {0, -0.0, 1, -1, 0.5, NAN, INFINITY, -INFINITY, 1e-30, -3e-39, 88, -104, 1000, -1e6, 3e4, 3e8};
    return values[r % COUNT_OF(values)];
}

static Tensor *data_of(Arena *mem, DType type, int rank, const int64_t *dim, uint32_t seed)
{
    static const int64_t whole[] = {0, 1, -1, 2, INT32_MIN, INT32_MAX, INT64_MIN, INT64_MAX, 255, -128};
    Tensor *t = tensor_random(mem, type, rank, dim, seed);
    void *data = (void *)(uintptr_t)t->data;
    for (int64_t i = 0; i < tensor_count(t); i++) {
        uint32_t r = random_step(&seed);
        if (r % 5) continue;
        if (dtype_is_float(type)) dtype_store(type, data, i, special(r / 5));
        else if (type != DT_bool) dtype_store_int(type, data, i, whole[r / 5 % COUNT_OF(whole)]);
    }
    return t;
}

static DType input_type(const OpArg *a, DType t) { return a->type[0] >= 'A' && a->type[0] <= 'Z' ? t : dtype_find(a->type, (int)strlen(a->type)); }

static Val input_new(World *w, Graph *g, DType type, int rank, const int64_t *dim)
{
    Type t = {.dtype = type, .rank = rank};
    for (int d = 0; d < rank; d++) t.dim[d] = dim[d] == N ? dim_symbol(w->module.dim, "N", DIM_INPUT, 0) : dim_const(w->module.dim, dim[d]);
    return graph_input(g, arena_printf(&w->mem, "x%u", g->input.n), t);
}

static void add_case(World *w, Graph *g, const OpDef *op, DType t, const Shape *s)
{
    const OpSchema *schema = op_schema(op);
    Val in[24] = {{0}};
    for (uint32_t i = 0; i < schema->nin; i++) {
        int which = i > 0;
        if (schema->in[i].optional && !s->optional) continue;
        in[i] = input_new(w, g, input_type(&schema->in[i], t), s->rank[which], s->dim[which]);
    }
    Val y = graph_emit(g, op, NULL, in, schema->nin, 1, NULL, NULL);
    cr_assert(!w->diag.errors, "%s at %s: %s", op->name, dtypes[t].name, w->diag.line.n ? w->diag.line.at[0] : "");
    graph_output(g, y, arena_printf(&w->mem, "y%u", g->output.n));
}

static bool same_value(DType t, const Tensor *a, const Tensor *b, int64_t i)
{
    if (!dtype_is_float(t)) return dtype_load_int(t, a->data, i) == dtype_load_int(t, b->data, i);
    double x = dtype_load(t, a->data, i), y = dtype_load(t, b->data, i);
    double room = t == DT_f64 ? 1e-12 : t == DT_f32 ? 4e-6 : t == DT_f16 ? 0x1p-10 : 0x1p-7;
    return x == y || (isnan(x) && isnan(y)) || fabs(x - y) <= room * fmax(1, fabs(y));
}

static void run_and_compare(World *w, const OpDef *op, const Graph *g, Kernel *program, Session *session, const char *level, int64_t n)
{
    Arena mem = {0};
    const Tensor **in = NEW_ARRAY(&mem, const Tensor *, g->input.n), **want = NEW_ARRAY(&mem, const Tensor *, g->output.n),
                 **got = NEW_ARRAY(&mem, const Tensor *, g->output.n);
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Type *t = val_type(g, g->input.at[i]);
        int64_t dim[MAX_RANK];
        for (int d = 0; d < t->rank; d++)
            if (!dim_is_const(w->module.dim, t->dim[d], &dim[d])) dim[d] = n;
        in[i] = data_of(&mem, t->dtype, t->rank, dim, 7 * i + (uint32_t)n);
    }
    bool ok = interpret(g, program, &mem, in, want, &w->diag) && session_run(session, &mem, in, got, &w->diag);
    cr_assert(ok, "%s, %s: %s", op->name, level, w->diag.line.at[0]);
    for (uint32_t o = 0; o < g->output.n; o++) {
        DType t = want[o]->type;
        for (int64_t i = 0; i < tensor_count(want[o]); i++)
            cr_assert(same_value(t, got[o], want[o], i), "%s, %s, N=%d: output %u (%s), element %d is %.17g, the interpreter says %.17g (x0 %.17g)", op->name,
                      level, (int)n, o, type_text(&w->module, val_type(g, g->output.at[o]), &mem), (int)i, dtype_load(t, got[o]->data, i),
                      dtype_load(t, want[o]->data, i), dtype_load(in[0]->type, in[0]->data, 0));
    }
    arena_drop(&mem);
}

static bool host_has(const char *level)
{
    const Target *t = target_find(level);
    return t && !(t->needs & ~target_host_features());
}

static void check_artefact(World *w, const OpDef *op, const Graph *g, Kernel *program, const char *path)
{
    CodegenOptions c = {.target = "portable", .out = path, .kind = ARTEFACT_SO, .jobs = 1, .quiet = true};
    Loaded l = {0};
    Session *s = NULL;
    bool ok = codegen_graph(g, &c, &w->diag) && artefact_load(path, &l, &w->diag) && (s = session_new(&l, 1, &w->diag));
    cr_assert(ok, "%s: %s", op->name, w->diag.line.n ? w->diag.line.at[0] : "");
    for (int i = 0; l.api->levels[i]; i++) {
        if (!host_has(l.api->levels[i])) continue;
        session_level(s, i);
        for (size_t n = 0; n < COUNT_OF(sizes); n++) run_and_compare(w, op, g, program, s, l.api->levels[i], sizes[n]);
    }
    session_drop(s), artefact_unload(&l);
}

static void check_row(const OpDef *op)
{
    World w;
    int *buf_of;
    char folder[] = "/tmp/octet-diff-XXXXXX";
    world_open(&w);
    Graph *g = graph_new(&w.module, &w.mem, "row");
    for (DType t = DT_NONE + 1; t < DT_COUNT; t++)
        for (size_t s = 0; s < COUNT_OF(shapes) && (op->T ? list_takes(op->T, t) : t == DT_bool); s++) add_case(&w, g, op, t, &shapes[s]);
    cr_assert(g->output.n, "%s: no type to test", op->name);
    cr_assert(mkdtemp(folder));
    const char *path = arena_printf(&w.mem, "%s/row.so", folder);
    Kernel *program = lower_graph(g, &w.mem, &buf_of);
    cr_assert(program, "%s: %s", op->name, w.diag.line.n ? w.diag.line.at[0] : "not lowered");
    check_artefact(&w, op, g, program, path);
    unlink(path), unlink(arena_printf(&w.mem, "%s/row.h", folder)), rmdir(folder);
    world_close(&w);
}

/* Each share of the rows is a test, so that they run side by side. */
static void check_share(uint32_t share)
{
    enum { SHARES = 6 };
    uint32_t rows = 0;
    for (uint32_t i = 0; op_at(i); i++)
        if (op_at(i)->body && rows++ % SHARES == share) check_row(op_at(i));
    cr_assert(rows > 20);
}

Test(diff, bodies_0) { check_share(0); }
Test(diff, bodies_1) { check_share(1); }
Test(diff, bodies_2) { check_share(2); }
Test(diff, bodies_3) { check_share(3); }
Test(diff, bodies_4) { check_share(4); }
Test(diff, bodies_5) { check_share(5); }

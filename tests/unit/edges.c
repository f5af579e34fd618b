/* Every primitive on every type it takes, at the edges of the type, compiled for every level of this machine, against the interpreter.
 * Nothing is listed here: a new row of prim.def is tested by being there. */
#include "codegen/codegen.h"
#include "tests/unit/worlds.h"

enum { K = 24, COUNT = K * K, MOST = 80 };
static const DType types[] = {DT_f32, DT_f64, DT_i8, DT_i16, DT_i32, DT_i64, DT_u8, DT_u16, DT_u32, DT_u64, DT_bool};

static const double reals[K] = {0,     -0.0,  1,     -1,    0.5,   -0.5,  NAN,     INFINITY, -INFINITY, 1e-45, -1e-39, 3.4028234e38,
                                1e30,  -1e30, 88.8,  -103,  2.5,   -2.5,  1.0 / 3, 127,      -128.5,    0x1p24, 250,    9.1};
static const int64_t wholes[K] = {0,   1,   -1,  2,     -2,     3,     7,         -7,        31,        32,          63,        64,
                                  127, 128, 255, -128,  32767,  65535, INT32_MIN, INT32_MAX, INT64_MIN, INT64_MAX,   -32768,    100};

typedef struct Edge { /* one output */
    Prim p;
    DType to; /* of P_cast and P_sat; or DT_NONE */
} Edge;
typedef struct Edges {
    World w;
    Kernel *k;
    DType type;
    int buf[4]; /* A, B, C, condition */
    int outs;
    Edge edge[MOST];
    int out[MOST];
} Edges;

static void add_stage(Edges *x, Edge e)
{
    Kernel *k = x->k;
    int axis = kernel_axis(k, NULL, expr_index(k, COUNT));
    Expr at[MAX_RANK] = {expr_axis(k, axis)}, a = expr_load(k, x->buf[0], at), b = expr_load(k, x->buf[1], at), c = expr_load(k, x->buf[2], at), r;
    bool chooses = prim_chooses(e.p);
    if (e.p == P_cast) r = expr_cast(k, e.to, a);
    else if (e.p == P_sat) r = expr_sat(k, e.to, a);
    else if (chooses) r = expr_prim(k, e.p, expr_load(k, x->buf[3], at), a, b);
    else r = expr_prim(k, e.p, a, prims[e.p].arity > 1 ? b : 0, prims[e.p].arity > 2 ? c : 0);
    Buf out = {.kind = BUF_OUT, .type = (DType)expr_node(k, r)->type, .rank = 1, .dim = {expr_index(k, COUNT)}};
    out.name = arena_printf(&x->w.mem, "y%d", x->outs);
    cr_assert(x->outs < MOST);
    x->edge[x->outs] = e, x->out[x->outs++] = kernel_buf(k, out);
    Compute s = {.out = x->out[x->outs - 1], .rank = 1, .space = {axis}, .at = {expr_axis(k, axis)}, .value = r};
    vec_push(k->mem, &k->stage, s);
}

/* A float to an integer is defined in range only; clamped first it always is. */
static bool casts(Prim p, DType from, DType to)
{
    if (p == P_sat) return from != DT_bool && dtype_is_int(to);
    return !dtype_is_float(from) || dtype_is_float(to);
}

static void add_prim(Edges *x, Prim p)
{
    if (p != P_cast && p != P_sat) {
        if (p != P_bits || type_bits(x->type)) add_stage(x, (Edge){p, DT_NONE});
        return;
    }
    for (size_t t = 0; t < COUNT_OF(types); t++)
        if (types[t] != x->type && casts(p, x->type, types[t])) add_stage(x, (Edge){p, types[t]});
}

static void edges_new(Edges *x, DType t)
{
    static const char *const names[] = {"A", "B", "C", "D"};
    memset(x, 0, sizeof *x);
    world_open(&x->w);
    x->k = kernel_new(&x->w.mem, x->w.module.dim, "edges"), x->type = t;
    for (int i = 0; i < 4; i++)
        x->buf[i] = kernel_buf(x->k, (Buf){.name = names[i], .kind = BUF_IN, .type = i == 3 ? DT_bool : t, .rank = 1, .dim = {expr_index(x->k, COUNT)}});
    for (Prim p = P_NONE + 1; p < PRIM_COUNT; p++)
        if (prim_takes(p, t) || prim_chooses(p)) add_prim(x, p);
}

static void *input(Edges *x, int which)
{
    DType t = x->k->buf.at[x->buf[which]].type;
    void *p = arena_alloc(&x->w.mem, COUNT * 8);
    for (int i = 0; i < COUNT; i++) {
        int v = which == 0 ? i % K : which == 1 ? i / K : (i * 7 + i / K) % K;
        if (dtype_is_float(t)) dtype_store(t, p, i, reals[v]);
        else dtype_store_int(t, p, i, t == DT_bool ? wholes[v] & 1 : wholes[v]);
    }
    return p;
}

/* Where a primitive says nothing: scale2 by what is no small integer, angles too large to reduce. */
static bool is_defined(Edge e, DType t, const void *a, const void *b, int i)
{
    double x = dtype_load(t, a, i), y = dtype_load(t, b, i);
    if (e.p == P_scale2) return y == rint(y) && fabs(y) <= 250;
    if (e.p == P_sin || e.p == P_cos || e.p == P_tan) return !(fabs(x) > 4e8) || isinf(x);
    return true;
}

static bool same(Edge e, DType from, DType t, const void *a, const void *b, int i)
{
    bool bits_differ = memcmp((const char *)a + i * dtypes[t].bytes, (const char *)b + i * dtypes[t].bytes, (size_t)dtypes[t].bytes) != 0;
    if (!bits_differ || !dtype_is_float(t)) return !bits_differ;
    double x = dtype_load(t, a, i), y = dtype_load(t, b, i), room = from == DT_f64 ? 1e-13 : 4e-6;
    if (isnan(x) || isnan(y)) return isnan(x) && isnan(y);
    bool rounded = prims[e.p].libm || prims[e.p].expansion;
    return x == y || (rounded && fabs(x - y) <= room * fmax(1, fabs(y)));
}

static void check_level(Edges *x, LlvmJit *jit, const Target *t)
{
    enum { BUFS = 128 };
    void *want[BUFS] = {0}, *got[BUFS] = {0};
    Kernel copy = *x->k, *s;
    const char *error = NULL;
    int64_t none[1] = {0};
    tune(&copy, t, false);
    cr_assert(s = schedule_apply(&copy, &error), "%s", error);
    OctetKernel f = llvm_jit_add(jit, &(LlvmJob){s, t, "edges", false});
    cr_assert(f && s->buf.n < BUFS, "%s on %s", dtypes[x->type].name, t->name);
    for (int i = 0; i < 4; i++) want[x->buf[i]] = got[x->buf[i]] = input(x, i);
    for (int o = 0; o < x->outs; o++) want[x->out[o]] = arena_alloc(&x->w.mem, COUNT * 8), got[x->out[o]] = arena_alloc(&x->w.mem, COUNT * 8);
    cr_assert_eq(interp_compute(x->k, none, want), 0);
    int64_t range = 1;
    expr_is_index(s, kernel_range(s), &range);
    int64_t scratch = 0;
    cr_assert(expr_is_index(s, kernel_scratch(s), &scratch));
    cr_assert_eq(f(got + 1, none, 0, range, arena_alloc(&x->w.mem, (size_t)scratch + 64)), 0);
    const void *a = want[x->buf[0]], *b = want[x->buf[1]];
    for (int o = 0; o < x->outs; o++) {
        DType to = x->k->buf.at[x->out[o]].type;
        Edge e = x->edge[o];
        for (int i = 0; i < COUNT; i++)
            cr_assert(!is_defined(e, x->type, a, b, i) || (e.p == P_fma && !t->fma) || same(e, x->type, to, got[x->out[o]], want[x->out[o]], i),
                      "%s on %s: %s%s%s(%.9g, %.9g) is %.17g, the interpreter says %.17g", dtypes[x->type].name, t->name, prims[e.p].name,
                      e.to ? " to " : "", e.to ? dtypes[e.to].name : "", dtype_load(x->type, a, i), dtype_load(x->type, b, i),
                      dtype_load(to, got[x->out[o]], i), dtype_load(to, want[x->out[o]], i));
    }
}

static void check_type(DType type)
{
    Edges x;
    edges_new(&x, type);
    LlvmJit *jit = llvm_jit_new(&x.w.diag);
    cr_assert(jit);
    for (uint32_t i = 0; target_at(i); i++) {
        const Target *t = target_at(i);
        bool plain = t->dot == DOT_NONE || i == 0 || strcmp(t->cpu, target_at(i - 1)->cpu) != 0; /* dot products are not tested here */
        if (!t->gpu && plain && !(t->needs & ~target_host_features())) check_level(&x, jit, t);
    }
    llvm_jit_drop(jit);
    world_close(&x.w);
}

Test(edges, floats) { check_type(DT_f32); }
Test(edges, doubles) { check_type(DT_f64); }
Test(edges, signed_integers) { check_type(DT_i8), check_type(DT_i16), check_type(DT_i32), check_type(DT_i64); }
Test(edges, unsigned_integers) { check_type(DT_u8), check_type(DT_u16), check_type(DT_u32), check_type(DT_u64); }
Test(edges, bools) { check_type(DT_bool); }

/* split.c - float sums of products by bf16 products: the policies --fp32 bf16, bf16x2 and bf16x3.
 *
 * Comes in: the clustered program with its halos, all f32. Goes out: the same program, in which the factors of deep sums of products are
 * bf16. A factor x is split into planes: x0 = bf16(x), x1 = bf16(x - x0), x2 = bf16(x - x0 - x1), and the sum takes the products of planes
 * i and j with i + j below their number, smallest first, along one more summed axis:
 *
 *   planes  products   what is lost
 *      1        1      2^-9 of every factor
 *      2        3      about 2^-17 (x1 * y1, and the rest of x)
 *      3        6      about 2^-25: as float32 itself
 *
 * Weights are split here, planes of one panel beside each other. Activations keep their f32 form for whoever else reads them, and a copy
 * of their planes is made once for all sums that read them, until somebody writes there again (the next part of a concatenation); with one
 * plane, what only such sums read is stored as bf16 to begin with.
 * Sums inside groups of stages (attention in blocks) and over factors that are computed while they are read stay exact.
 *
 * Source: Henry, Tang, Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations". */
#include "codegen/analyse.h"

enum { MOST_PLANES = 3, MOST_PRODUCTS = 6 };
static const int products[MOST_PLANES + 1] = {0, 1, 3, 6};
static const int plane_of[MOST_PLANES + 1][2][MOST_PRODUCTS] = {
    {{0}}, {{0}, {0}}, {{1, 0, 0}, {0, 1, 0}}, {{2, 1, 0, 1, 0, 0}, {0, 1, 2, 0, 1, 0}}};

typedef struct Split {
    Kernel *k;
    const Storage *store;
    Arena *mem;
    int planes;
    int *copy;    /* per buffer: its planes, or 0 */
    bool *narrow; /* per buffer: becomes bf16 itself */
} Split;

/* ---- planes ---- */
static Expr plane_value(Kernel *k, Expr x, int plane)
{
    Expr part = 0;
    for (int p = 0; p <= plane; p++) {
        if (part) x = expr_sub(k, x, expr_cast(k, DT_f32, part));
        part = expr_cast(k, DT_bf16, x);
    }
    return part;
}

static const Tensor *constant_planes(Split *s, const Tensor *from)
{
    int64_t dim[MAX_RANK] = {s->planes}, n = tensor_count(from);
    for (int d = 0; d < from->rank; d++) dim[d + 1] = from->dim[d];
    Tensor *to = tensor_new(s->k->mem, DT_bf16, from->rank + 1, dim);
    for (int64_t i = 0; i < n; i++) {
        float x = (float)dtype_load(DT_f32, from->data, i);
        for (int p = 0; p < s->planes; p++) {
            dtype_store(DT_bf16, (void *)to->data, p * n + i, (double)x);
            x -= (float)dtype_load(DT_bf16, to->data, p * n + i);
        }
    }
    return to;
}

/* A buffer for the planes of another, outermost in memory. */
static int planes_buffer(Split *s, int buf)
{
    Kernel *k = s->k;
    Buf b = k->buf.at[buf];
    Layout order = {0};
    for (int i = 0; i < b.layout.n; i++) {
        if (!i) order.axis[order.n++] = (LayoutAxis){0, 1, 0};
        order.axis[order.n++] = (LayoutAxis){b.layout.axis[i].dim + 1, b.layout.axis[i].div, b.layout.axis[i].size};
    }
    for (int d = b.rank++; d > 0; d--) b.dim[d] = b.dim[d - 1];
    b.name = arena_printf(k->mem, "%s.planes", b.name), b.dim[0] = expr_index(k, s->planes), b.type = DT_bf16,
    b.layout = order, b.source = 0;
    if (b.kind == BUF_CONST) b.data = constant_planes(s, b.data);
    else b.kind = BUF_TMP;
    return s->copy[buf] = kernel_buf(k, b);
}

/* One group of stages, so that all planes are made of one reading. Inserted before stage `at`; yields how many they are. */
static uint32_t fill_planes(Split *s, int buf, uint32_t at)
{
    Kernel *k = s->k;
    int rank = k->buf.at[buf].rank, share = 0;
    Compute c = {.out = s->copy[buf], .rank = rank, .loc = k->stage.at[at].loc};
    for (uint32_t i = 0; i < k->stage.n; i++) share = k->stage.at[i].share > share ? k->stage.at[i].share : share;
    c.share = s->planes > 1 ? share + 1 : 0;
    for (int d = 0; d < rank; d++)
        c.space[d] = kernel_axis(k, NULL, k->buf.at[buf].dim[d]), c.at[d + 1] = expr_axis(k, c.space[d]);
    Expr x = expr_load(k, buf, c.at + 1);
    for (int p = 0; p < s->planes; p++) {
        c.at[0] = expr_index(k, p), c.value = plane_value(k, x, p);
        vec_push(k->mem, &k->stage, c);
        memmove(k->stage.at + at + 1, k->stage.at + at, sizeof c * (k->stage.n - 1 - at));
        k->stage.at[at++] = c;
    }
    return (uint32_t)s->planes;
}

/* ---- sums ---- */
typedef struct Factors {
    ExprNode load[2];
} Factors;

static bool factors_of(Split *s, const Compute *c, Factors *f)
{
    Kernel *k = s->k;
    Contraction r;
    if (c->share || !is_deep_sum(k, c, s->store->keep) || !contraction_of(k, c, &r)) return false;
    Expr side[2] = {r.left, r.right};
    for (int i = 0; i < 2; i++) {
        f->load[i] = *expr_node(k, side[i]);
        const Buf *b = &k->buf.at[f->load[i].id];
        if (f->load[i].kind != E_LOAD || b->type != DT_f32 || b->rank == MAX_RANK) return false;
        if (b->kind == BUF_CONST && !b->data) return false;
    }
    return c->reduces < MAX_RANK;
}

static Expr plane_index(Kernel *k, Expr t, const int *plane, int n)
{
    Expr e = expr_index(k, plane[n - 1]);
    for (int i = n - 1; i-- > 0;)
        if (plane[i] != plane[n - 1] || plane[i + 1] != plane[n - 1])
            e = expr_prim(k, P_select, expr_lt(k, t, expr_index(k, i + 1)), expr_index(k, plane[i]), e);
    return e;
}

static Expr factor(Split *s, const ExprNode *load, int side, Expr product)
{
    Kernel *k = s->k;
    Expr at[MAX_RANK] = {plane_index(k, product, plane_of[s->planes][side], products[s->planes])};
    if (s->narrow[load->id]) return expr_load(k, (int)load->id, load->arg);
    for (int d = 0; d < k->buf.at[load->id].rank; d++) at[d + 1] = load->arg[d];
    return expr_load(k, s->copy[load->id], at);
}

static void split_sum(Split *s, Compute *c, const Factors *f)
{
    Kernel *k = s->k;
    int n = products[s->planes];
    Expr product = expr_index(k, 0), value[2];
    if (n > 1) {
        int axis = kernel_axis(k, NULL, expr_index(k, n));
        memmove(c->reduce + 1, c->reduce, sizeof *c->reduce * (size_t)c->reduces);
        c->reduce[0] = axis, c->reduces++, product = expr_axis(k, axis);
    }
    for (int i = 0; i < 2; i++) value[i] = expr_cast(k, DT_f32, factor(s, &f->load[i], i, product));
    c->value = expr_mul(k, value[0], value[1]);
}

/* With one plane a temporary that such sums alone read, and weights, are bf16 themselves. */
static void choose_narrow(Split *s)
{
    Kernel *k = s->k;
    Factors f;
    bool *other = NEW_ARRAY(s->mem, bool, k->buf.n);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *c = &k->stage.at[i];
        LoadList loads = {0};
        bool sum = factors_of(s, c, &f);
        if (c->keep || c->update || c->scan || c->share) other[c->out] = true;
        loads_of(k, s->mem, sum ? c->epilogue : c->value, &loads), loads_of(k, s->mem, sum ? 0 : c->epilogue, &loads);
        loads_of(k, s->mem, c->keep, &loads), loads_of(k, s->mem, c->check, &loads),
            loads_of(k, s->mem, c->where, &loads);
        for (int d = 0; d < k->buf.at[c->out].rank; d++) loads_of(k, s->mem, c->at[d], &loads);
        for (uint32_t l = 0; l < loads.at.n; l++) other[expr_node(k, loads.at.at[l])->id] = true;
        for (int d = 0; sum && d < 2; d++) s->narrow[f.load[d].id] = true;
    }
    for (uint32_t b = 1; b < k->buf.n; b++)
        s->narrow[b] = s->narrow[b] && !other[b] && (k->buf.at[b].kind == BUF_TMP || k->buf.at[b].kind == BUF_CONST);
}

/* Yields where the stage stands then, behind those that fill planes. */
static uint32_t split_stage(Split *s, uint32_t at)
{
    Kernel *k = s->k;
    Factors f;
    if (!factors_of(s, &k->stage.at[at], &f)) return at;
    for (int d = 0; d < 2; d++) {
        int buf = (int)f.load[d].id;
        if (s->narrow[buf] || s->copy[buf]) continue;
        planes_buffer(s, buf);
        if (k->buf.at[buf].kind != BUF_CONST) at += fill_planes(s, buf, at);
    }
    split_sum(s, &k->stage.at[at], &f);
    return at;
}

void program_split(Kernel *k, const Storage *store)
{
    Arena scratch = {0};
    uint32_t bufs = k->buf.n;
    Split s = {.k = k, .store = store, .mem = &scratch, .planes = store->planes};
    s.copy = NEW_ARRAY(&scratch, int, bufs), s.narrow = NEW_ARRAY(&scratch, bool, bufs);
    if (s.planes == 1) choose_narrow(&s);
    bool *narrow = NEW_ARRAY(&scratch, bool, bufs + 3 * k->stage.n);
    memcpy(narrow, s.narrow, sizeof *narrow * bufs);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        i = split_stage(&s, i);
        s.copy[k->stage.at[i].out] = 0; /* planes of what it held before */
    }
    program_narrow(k, DT_bf16, narrow);
    arena_drop(&scratch);
}

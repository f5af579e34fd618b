/* widen.c - weights that are stored as codes are widened where they are used.
 *
 * Comes in: the program, laid out. Weights of few bits are stages that read constants alone, (code - zero point) * scale. Goes out: the same
 * program, where
 *
 *   join   such a stage and a product whose right factor it makes stand side by side under one Compute.share number. Their kernel shares the
 *          loop over blocks of columns: a block is widened once, stays in the cache, and all rows are multiplied with it by the register
 *          tiles of any product. With one row (a language model that writes) what is read from memory are the codes.
 *   pack   codes of 4 and 2 bits lie two and four in a byte, which is said by the formula, q[k / 2, n] >> (k % 2 * 4) & 15: nothing else
 *          knows of them. Floats of 4 bits (E2M1) do too, and are made of their bits by arithmetic. They are packed along what is summed, so that lanes take whole bytes.
 *   order  codes, scales and zero points lie in panels of 16 columns, in the order the loop reads them; scales
 *          that f16 holds are f16, and zero points in few steps of a power of two bytes, those of tables too.
 *
 * A window that passes over an image channel by channel (a depthwise convolution) reads the formula: neighbours in registers share what is
 * widened, so it costs nothing beside their products, and the codes are a quarter of what the nearest cache would hold. That is decided first
 * (program_widen_windows()), since the codes then lie as its weights do.
 *
 * A stage that is not joined (few columns under many rows, a recurrent state) widens all of its weights once a call. */
#include "codegen/analyse.h"
#include <assert.h>
#include <math.h>

enum { PANEL = 16, BYTE = 8, MOST_WIDENED = 1 << 18, MANY_ROWS = 1024, FEW_BLOCKS = 8 }; /* MOST_WIDENED: elements of a panel */

typedef struct Packed {
    int buf, dim; /* 0: not packed */
} Packed;

typedef struct Narrow {
    int buf; /* 0: not asked yet */
    double times;
} Narrow;

typedef struct Widen {
    Kernel *k;
    Arena *mem;
    bool join;
    uint32_t bufs; /* there were so many */
    int *def;      /* per buffer of those: 1 + the stage that widens into it, or 0 */
    VEC(Packed) packed;
    VEC(Narrow) narrow; /* per buffer: the same in fewer bytes */
    VEC(Compute) out;
    int share;
} Widen;

/* ---- which stages ---- */
bool is_widening(Kernel *k, const LoadList *l)
{
    bool codes = false;
    for (uint32_t i = 0; i < l->at.n; i++) {
        const Buf *b = &k->buf.at[expr_node(k, l->at.at[i])->id];
        if (b->kind != BUF_CONST) return false;
        codes = codes || (dtypes[b->type].bits <= BYTE && b->type != DT_bool && b->rank > 1);
    }
    return codes;
}

int *widened_buffers(Kernel *k, Arena *mem)
{
    int *def = NEW_ARRAY(mem, int, k->buf.n), *writers = NEW_ARRAY(mem, int, k->buf.n);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *s = &k->stage.at[i];
        LoadList l = {0};
        writers[s->out]++;
        if (s->keep) writers[expr_node(k, s->keep)->id]++;
        if (!stage_is_plain(s) || !stage_at_axes(k, s) || k->buf.at[s->out].kind != BUF_TMP || s->share) continue;
        if (!dtype_is_float(k->buf.at[s->out].type) || expr_node(k, s->value)->kind == E_LOAD) continue;
        stage_loads(k, mem, s, &l);
        if (is_widening(k, &l)) def[s->out] = (int)i + 1;
    }
    for (uint32_t b = 1; b < k->buf.n; b++)
        if (writers[b] != 1) def[b] = 0;
    return def;
}

/* ---- pack ---- */
/* Is the code only ever converted to a wider type? Then a formula can stand for it. */
static bool only_cast(const Kernel *k, Expr e, Expr load)
{
    ExprNode n = *expr_node(k, e);
    if (e == load) return false;
    for (int i = 0; n.kind == E_PRIM && i < 3 && n.arg[i]; i++)
        if (!(n.arg[i] == load && n.prim == P_cast && dtypes[n.type].bits >= 32) && !only_cast(k, n.arg[i], load))
            return false;
    return true;
}

static const Tensor *packed_data(Kernel *k, const Tensor *from, int dim)
{
    int per = BYTE / dtypes[from->type].bits, bits = dtypes[from->type].bits;
    int64_t size[MAX_RANK], inner = 1, outer = 1, n = from->dim[dim], bytes = (n + per - 1) / per;
    memcpy(size, from->dim, sizeof size);
    for (int d = 0; d < from->rank; d++) *(d < dim ? &outer : &inner) *= d == dim ? 1 : from->dim[d];
    size[dim] = bytes;
    Tensor *to = tensor_new(k->mem, DT_u8, from->rank, size);
    uint8_t *code = (uint8_t *)(uintptr_t)to->data;
    int64_t least = dtype_is_int(from->type) ? dtype_min(from->type) : 0; /* signed codes are counted from their least */
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t e = 0; e < inner; e++) {
                int64_t at = (o * n + i) * inner + e;
                int64_t v = from->type == DT_f4e2m1 ? ((const uint8_t *)from->data)[at] & 15 : dtype_load_int(from->type, from->data, at) - least;
                code[(o * bytes + i / per) * inner + e] |= (uint8_t)(v << (i % per * bits));
            }
    return to;
}

static int packed_buffer(Widen *w, int buf, int dim)
{
    Kernel *k = w->k;
    while (w->packed.n < k->buf.n) vec_push(w->mem, &w->packed, (Packed){0});
    if (w->packed.at[buf].buf) return w->packed.at[buf].buf;
    Buf b = k->buf.at[buf];
    Expr per = expr_index(k, BYTE / dtypes[b.type].bits);
    b.dim[dim] = expr_div(k, expr_add(k, b.dim[dim], expr_sub(k, per, expr_index(k, 1))), per);
    b.data = b.data ? packed_data(k, b.data, dim) : NULL, b.type = DT_u8, b.layout.n = 0, b.source = 0;
    b.name = arena_printf(k->mem, "%s.packed", b.name);
    w->packed.at[buf] = (Packed){kernel_buf(k, b), dim};
    return w->packed.at[buf].buf;
}

/* The code as i32. */
static Expr unpacked(Widen *w, const ExprNode *load, int dim)
{
    Kernel *k = w->k;
    DType t = k->buf.at[load->id].type;
    int bits = dtypes[t].bits, per = BYTE / bits;
    ExprNode n = *load;
    int buf = packed_buffer(w, (int)load->id, dim);
    dim = w->packed.at[load->id].dim;
    Expr at = n.arg[dim], which = expr_mod(k, at, expr_index(k, per));
    n.arg[dim] = expr_div(k, at, expr_index(k, per));
    Expr byte = expr_cast(k, DT_i32, expr_load(k, buf, n.arg));
    Expr shift = expr_cast(k, DT_i32, expr_mul(k, which, expr_index(k, bits)));
    Expr code = expr_prim(k, P_and, expr_prim(k, P_shr, byte, shift, 0), expr_int(k, DT_i32, (1 << bits) - 1), 0);
    return dtype_is_int(t) ? expr_add(k, code, expr_int(k, DT_i32, dtype_min(t))) : code;
}

/* The number that the bits of an E2M1 are: 0, 1/2, 1, 3/2, 2, 3, 4, 6, and a sign. In halves these are t, or (2 + t % 2) << (t / 2 - 1). */
static Expr e2m1(Kernel *k, Expr bits)
{
    const char *error = NULL;
    static const char body[] = "select(and(c, 8) == 8, -1, 1) * select(and(c, 7) < 2, and(c, 7), shl(or(and(c, 1), 2), max(shr(and(c, 7), 1) - 1, 0)))";
    Expr halves = scalar_parse(k, body, (const char *const[]){"c"}, &bits, 1, &error);
    assert(halves && !error);
    return expr_mul(k, expr_cast(k, DT_f32, halves), expr_float(k, DT_f32, 0.5));
}

/* Is the index a block of the other one, x / G where that is x? */
static bool is_block(const Kernel *k, Expr block, Expr of)
{
    const ExprNode *n = expr_node(k, block);
    return n->kind == E_PRIM && n->prim == P_div && n->arg[0] == of && expr_node(k, of)->kind != E_INT;
}

/* Along which dimension codes are packed: the one that has blocks, or the longest that lanes do not walk. -1: none. */
static int pack_dim(Kernel *k, const LoadList *all, const ExprNode *load, int lane)
{
    int best = -1;
    const Buf *b = &k->buf.at[load->id];
    for (int d = 0; d < b->rank; d++) {
        if (lane && expr_uses(k, load->arg[d], lane)) continue;
        for (uint32_t i = 0; i < all->at.n; i++) {
            ExprNode o = *expr_node(k, all->at.at[i]);
            for (int e = 0; e < MAX_RANK && o.arg[e]; e++)
                if (is_block(k, o.arg[e], load->arg[d])) return d;
        }
        if (best < 0 || expr_constant(k, b->dim[d], 0) >= expr_constant(k, b->dim[best], 0)) best = d;
    }
    return best;
}

static Expr pack_codes(Widen *w, Expr e, int lane)
{
    Kernel *k = w->k;
    LoadList l = {0};
    loads_of(k, w->mem, e, &l);
    for (uint32_t i = 0; i < l.at.n; i++) {
        ExprNode n = *expr_node(k, l.at.at[i]);
        const Buf *b = &k->buf.at[n.id];
        bool real = b->type == DT_f4e2m1;
        if (b->kind != BUF_CONST || !(dtype_is_int(b->type) || real) || dtypes[b->type].bits >= BYTE || b->rank < 2) continue;
        int dim = pack_dim(k, &l, &n, lane);
        if (dim < 0 || !only_cast(k, e, l.at.at[i])) continue;
        Expr code = unpacked(w, &n, dim);
        e = real ? expr_replace(k, e, expr_cast(k, DT_f32, l.at.at[i]), e2m1(k, code)) : expr_replace(k, e, l.at.at[i], code);
    }
    return e;
}

/* ---- numbers and scales ---- */
static bool is_uniform(const Tensor *t)
{
    size_t n = tensor_bytes(t), one = (size_t)dtypes[t->type].bytes;
    return n > one && !memcmp(t->data, (const char *)t->data + one, n - one);
}

/* Numbers that are few steps of a power of two are bytes: 2^-*shift times 0 to 255. (Zero points in sixteenths.) */
static bool is_stepped(const Tensor *t, int *shift)
{
    enum { MOST_SHIFT = 8 };
    *shift = 0;
    for (int64_t i = 0, n = tensor_count(t); i < n; i++) {
        double v = dtype_load(t->type, t->data, i);
        while (*shift < MOST_SHIFT && v >= 0 && ldexp(v, *shift) != rint(ldexp(v, *shift))) ++*shift;
    }
    for (int64_t i = 0, n = tensor_count(t); i < n; i++) {
        double v = ldexp(dtype_load(t->type, t->data, i), *shift);
        if (!(v >= 0 && v <= UINT8_MAX && v == rint(v))) return false;
    }
    return true;
}

static bool survives(const Tensor *t, DType to)
{
    for (int64_t i = 0, n = tensor_count(t); i < n; i++) {
        double v = dtype_load(t->type, t->data, i);
        if (float_round(to, v) != v) return false;
    }
    return true;
}

/* A constant of floats in the type that holds it; yields the buffer, and what its elements are multiplied with. */
static int narrowed(Widen *w, int buf, double *times)
{
    Kernel *k = w->k;
    while (w->narrow.n < k->buf.n) vec_push(w->mem, &w->narrow, (Narrow){0});
    *times = w->narrow.at[buf].times;
    if (w->narrow.at[buf].buf) return w->narrow.at[buf].buf;
    Buf b = k->buf.at[buf];
    int shift;
    bool bytes = is_stepped(b.data, &shift);
    DType type = bytes ? DT_u8 : survives(b.data, DT_f16) ? DT_f16 : b.type;
    *times = bytes ? ldexp(1, -shift) : 1;
    int to = buf;
    if (type != b.type) {
        Tensor *t = tensor_new(k->mem, type, b.data->rank, b.data->dim);
        for (int64_t i = 0, n = tensor_count(t); i < n; i++)
            dtype_store(type, (void *)t->data, i, dtype_load(b.type, b.data->data, i) / *times);
        b.data = t, b.type = type, b.layout.n = 0, b.source = 0;
        b.name = arena_printf(k->mem, "%s.%s", b.name, dtypes[type].name);
        to = kernel_buf(k, b);
    }
    w->narrow.at[buf] = (Narrow){to, *times};
    return to;
}

/* Zero points that are all the same are a number; scales and zero points take the fewest bytes that hold them. */
static Expr simplify(Widen *w, Expr e)
{
    Kernel *k = w->k;
    LoadList l = {0};
    double times;
    loads_of(k, w->mem, e, &l);
    for (uint32_t i = 0; i < l.at.n; i++) {
        ExprNode n = *expr_node(k, l.at.at[i]);
        const Buf *b = &k->buf.at[n.id];
        if (b->kind != BUF_CONST || !b->data || !b->data->data) continue;
        if (dtype_is_int(b->type) && is_uniform(b->data)) {
            e = expr_replace(k, e, l.at.at[i], expr_int(k, b->type, dtype_load_int(b->type, b->data->data, 0)));
        } else if (b->type == DT_f32 && b->rank > 1) {
            int to = narrowed(w, (int)n.id, &times);
            Expr wide = expr_cast(k, DT_f32, expr_load(k, to, n.arg));
            if (times != 1) wide = expr_mul(k, wide, expr_float(k, DT_f32, times));
            if (to != (int)n.id) e = expr_replace(k, e, l.at.at[i], wide);
        }
    }
    return e;
}

/* ---- order ---- */
/* Batches, panels of 16 columns, inside them one line of lanes after the other. The first product that reads a buffer says how it lies. */
static void lay_panel(Kernel *k, const ExprNode *load, int lane, const int *batch, int batches)
{
    Buf *b = &k->buf.at[load->id];
    int at = -1;
    bool outer[MAX_RANK] = {0};
    for (int d = 0; d < b->rank; d++) {
        int a = axis_of_index(k, load->arg[d]);
        if (a == lane) at = d;
        for (int i = 0; i < batches; i++) outer[d] = outer[d] || a == batch[i];
    }
    if (b->layout.n || at < 0 || b->rank < 2 || b->rank >= MAX_PHYS - 1) return;
    Layout l = {0};
    for (int d = 0; d < b->rank; d++)
        if (outer[d]) l.axis[l.n++] = (LayoutAxis){d, 1, 0};
    l.axis[l.n++] = (LayoutAxis){at, PANEL, 0};
    for (int d = 0; d < b->rank; d++)
        if (!outer[d] && d != at) l.axis[l.n++] = (LayoutAxis){d, 1, 0};
    l.axis[l.n++] = (LayoutAxis){at, 1, PANEL};
    b->layout = l;
}

static void lay_panels(Widen *w, Expr e, int lane, const int *batch, int batches)
{
    LoadList l = {0};
    loads_of(w->k, w->mem, e, &l);
    for (uint32_t i = 0; i < l.at.n; i++) {
        ExprNode n = *expr_node(w->k, l.at.at[i]);
        lay_panel(w->k, &n, lane, batch, batches);
    }
}

/* ---- join ---- */
static int64_t product_of(Kernel *k, const int *axis, int n, Expr but, int64_t otherwise) /* extents of those that `but` does not use */
{
    int64_t all = 1;
    for (int i = 0; i < n && all < INT32_MAX; i++)
        if (!but || !expr_uses(k, but, axis[i])) all *= expr_constant(k, k->axis.at[axis[i]].extent, otherwise);
    return all;
}

static bool may_join(Widen *w, const Compute *s, const Contraction *r)
{
    Kernel *k = w->k;
    int64_t columns = expr_constant(k, k->axis.at[r->lane].extent, 0);
    int64_t rows = product_of(k, s->space, s->rank, r->right, 1), depth = product_of(k, s->reduce, s->reduces, 0, 0);
    if (s->share || s->scan || s->check || r->acc != DT_f32 || columns < PANEL) return false;
    if (depth < 1 || depth * PANEL > MOST_WIDENED) return false;
    return rows < MANY_ROWS || columns >= FEW_BLOCKS * 2 * PANEL;
}

/* The axes that choose what the factor reads: batches, those that are summed, columns. Yields how many; *batches: of the first kind. */
static int factor_axes(Kernel *k, const Compute *s, const Contraction *r, int *axis, int *batches)
{
    int n = 0;
    for (int d = 0; d < s->rank; d++)
        if (s->space[d] != r->lane && expr_uses(k, r->right, s->space[d])) axis[n++] = s->space[d];
    *batches = n;
    for (int d = 0; d < s->reduces; d++)
        if (expr_uses(k, r->right, s->reduce[d])) axis[n++] = s->reduce[d];
    axis[n++] = r->lane;
    return n;
}

/* The stage that widens, over the axes of the product: s reads what it makes, a block of columns at a time. */
static bool join(Widen *w, Compute *s, const Contraction *r, Expr factor)
{
    Kernel *k = w->k;
    int own[2 * MAX_RANK], batches, n = factor_axes(k, s, r, own, &batches);
    if (n > MAX_RANK) return false;
    Compute c = {.loc = s->loc, .share = ++w->share, .rank = n};
    Buf b = {.kind = BUF_TMP, .type = (DType)expr_node(k, r->right)->type, .rank = n};
    b.name = arena_printf(k->mem, "wide.%u", (unsigned)k->buf.n);
    Expr *map = NEW_ARRAY(w->mem, Expr, k->axis.n), at[MAX_RANK] = {0};
    for (int d = 0; d < n; d++) {
        bool summed = d >= batches && d < n - 1;
        b.dim[d] = k->axis.at[own[d]].extent, at[d] = expr_axis(k, own[d]);
        c.space[d] = summed ? kernel_axis(k, NULL, b.dim[d]) : own[d], c.at[d] = expr_axis(k, c.space[d]);
        map[own[d]] = c.at[d];
    }
    c.out = kernel_buf(k, b);
    c.value = pack_codes(w, simplify(w, expr_map(k, factor, map)), r->lane);
    lay_panels(w, c.value, r->lane, own, batches);
    s->value = expr_replace(k, s->value, r->right, expr_load(k, c.out, at)), s->share = c.share;
    vec_push(w->mem, &w->out, c), vec_push(w->mem, &w->out, *s);
    return true;
}

/* Scales that are codes themselves are taken in as formulas. */
static Expr with_formulas(Widen *w, Expr e)
{
    LoadList l = {0};
    loads_of(w->k, w->mem, e, &l);
    for (uint32_t i = 0; i < l.at.n; i++) {
        uint32_t buf = expr_node(w->k, l.at.at[i])->id;
        if (buf < w->bufs && w->def[buf]) e = expr_inline(w->k, e, &w->k->stage.at[w->def[buf] - 1]);
    }
    return e;
}

/* Codes that are multiplied as they are: their scales and zero points lie as the codes do. */
static void lay_blocks(Widen *w, Compute *s, const Contraction *r)
{
    Expr of[] = {r->scale, r->zero};
    for (int i = 0; i < 2; i++) {
        if (!of[i]) continue;
        Expr now = simplify(w, with_formulas(w, of[i]));
        s->value = expr_replace(w->k, s->value, of[i], now);
        lay_panels(w, now, r->lane, NULL, 0);
    }
}

static void take(Widen *w, Compute s)
{
    Kernel *k = w->k;
    Contraction r;
    ExprNode load = {0};
    if (w->join && contraction_of(k, &s, &r) && r.scale) lay_blocks(w, &s, &r);
    if (contraction_of(k, &s, &r)) load = *expr_node(k, r.right);
    if (load.kind == E_LOAD && load.id < w->bufs && w->def[load.id]) {
        Expr factor = expr_inline(k, r.right, &k->stage.at[w->def[load.id] - 1]);
        if (!w->join) s.value = expr_replace(k, s.value, r.right, simplify(w, factor));
        else if (may_join(w, &s, &r) && join(w, &s, &r, factor)) return;
        else if (!s.scan) lay_panel(k, &load, r.lane, NULL, 0);
    }
    vec_push(w->mem, &w->out, s);
}

/* Stages that widen for nobody any more go. */
static void drop_idle(Widen *w)
{
    Kernel *k = w->k;
    int *reads = NEW_ARRAY(w->mem, int, k->buf.n);
    uint32_t n = 0;
    for (uint32_t i = 0; i < k->stage.n; i++) {
        LoadList l = {0};
        stage_loads(k, w->mem, &k->stage.at[i], &l);
        for (uint32_t j = 0; j < l.at.n; j++) reads[expr_node(k, l.at.at[j])->id]++;
    }
    for (uint32_t i = 0; i < k->stage.n; i++) {
        Compute c = k->stage.at[i];
        if ((uint32_t)c.out >= w->bufs || !w->def[c.out] || reads[c.out]) k->stage.at[n++] = c;
    }
    k->stage.n = n;
}

/* A table of codes: data says which are read. */
static bool looks_up(Widen *w, Expr e)
{
    LoadList l = {0};
    loads_of(w->k, w->mem, e, &l);
    for (uint32_t i = 0; i < l.at.n; i++) {
        ExprNode n = *expr_node(w->k, l.at.at[i]);
        const Buf *b = &w->k->buf.at[n.id];
        if (b->kind != BUF_CONST || dtypes[b->type].bits > BYTE || b->type == DT_bool || b->rank < 2) continue;
        for (int d = 0; d < b->rank; d++)
            if (depends_on_data(w->k, n.arg[d])) return true;
    }
    return false;
}

/* What is left of codes is packed where it is read. */
static void settle(Widen *w)
{
    Kernel *k = w->k;
    k->stage.at = arena_copy(k->mem, w->out.at, w->out.n * sizeof *w->out.at), k->stage.n = k->stage.cap = w->out.n;
    drop_idle(w);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        Compute *c = &k->stage.at[i];
        bool rows = (uint32_t)c->out < w->bufs && w->def[c->out] && !k->buf.at[c->out].layout.n && c->rank > 1; /* lanes walk the last axis */
        if (rows || looks_up(w, c->value)) c->value = simplify(w, c->value);
        c->value = pack_codes(w, c->value, rows ? c->space[c->rank - 1] : 0);
    }
}

void program_widen(Kernel *k, bool join_stages)
{
    Arena scratch = {0};
    Widen w = {.k = k, .mem = &scratch, .join = join_stages, .bufs = k->buf.n};
    w.def = widened_buffers(k, &scratch);
    for (uint32_t i = 0; i < k->stage.n; i++)
        if (k->stage.at[i].share > w.share) w.share = k->stage.at[i].share;
    for (uint32_t i = 0; i < k->stage.n; i++) take(&w, k->stage.at[i]);
    settle(&w);
    arena_drop(&scratch);
}

/* ---- windows ---- */
static bool has_packed(Widen *w, Expr e) /* codes of less than a byte: lanes would take parts of one */
{
    LoadList l = {0};
    loads_of(w->k, w->mem, e, &l);
    for (uint32_t i = 0; i < l.at.n; i++)
        if (dtypes[w->k->buf.at[expr_node(w->k, l.at.at[i])->id].type].bits < BYTE) return true;
    return false;
}

/* The formula of the factor, if a stage widens bytes into it; else 0. */
static Expr widened(Widen *w, Expr factor)
{
    ExprNode load = *expr_node(w->k, factor);
    if (load.kind != E_LOAD || load.id >= w->bufs || !w->def[load.id]) return 0;
    Expr formula = expr_inline(w->k, factor, &w->k->stage.at[w->def[load.id] - 1]);
    return has_packed(w, formula) ? 0 : simplify(w, formula);
}

static void take_window(Widen *w, Compute *s)
{
    Kernel *k = w->k;
    Contraction r;
    ExprNode v = *expr_node(k, s->value);
    if (s->how != P_add || s->keep || s->check || s->update || v.kind != E_PRIM || v.prim != P_mul || v.type != DT_f32) return;
    if (contraction_of(k, s, &r) || !stage_is_window(k, s)) return;
    for (int i = 0; i < 2; i++) {
        Expr factor = widened(w, v.arg[i]);
        if (factor) s->value = expr_mul(k, v.arg[!i], factor);
        if (factor) return;
    }
}

void program_widen_windows(Kernel *k)
{
    Arena scratch = {0};
    Widen w = {.k = k, .mem = &scratch, .bufs = k->buf.n};
    w.def = widened_buffers(k, &scratch);
    for (uint32_t i = 0; i < k->stage.n; i++) take_window(&w, &k->stage.at[i]);
    drop_idle(&w);
    arena_drop(&scratch);
}

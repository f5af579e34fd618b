/* analyse.c - linear indices, loads, contractions, shareable loops. */
#include "codegen/analyse.h"

/* ---- linear forms ---- */
static void lin_add_term(Lin *l, Expr atom, int64_t by)
{
    for (int i = 0; i < l->n; i++)
        if (l->term[i].atom == atom) {
            l->term[i].by += by;
            if (!l->term[i].by) l->term[i] = l->term[--l->n];
            return;
        }
    if (l->n == LIN_TERMS) l->ok = false;
    else if (by) l->term[l->n].atom = atom, l->term[l->n++].by = by;
}

static void lin_collect(Kernel *k, Expr e, int64_t by, Lin *l)
{
    ExprNode n = *expr_node(k, e);
    int64_t c;
    if (!l->ok) return;
    if (n.kind == E_INT) {
        l->base += n.u.i * by;
        return;
    }
    if (n.kind == E_SYM) {
        l->size = dim_add(k->dim, l->size, dim_mul(k->dim, (Dim){n.id}, dim_const(k->dim, by)));
        return;
    }
    if (n.kind == E_PRIM && (n.prim == P_add || n.prim == P_sub)) {
        lin_collect(k, n.arg[0], by, l), lin_collect(k, n.arg[1], n.prim == P_add ? by : -by, l);
        return;
    }
    if (n.kind == E_PRIM && n.prim == P_mul && expr_is_index(k, n.arg[1], &c)) {
        lin_collect(k, n.arg[0], by * c, l);
        return;
    }
    if (n.kind == E_PRIM && n.prim == P_mul && expr_is_index(k, n.arg[0], &c)) {
        lin_collect(k, n.arg[1], by * c, l);
        return;
    }
    lin_add_term(l, e, by);
}

/* Sizes are added as sizes, so that N - 1 and N differ by a number; what is left of them is one atom. */
static Lin lin_close(Kernel *k, Lin l)
{
    int64_t v;
    if (dim_is_const(k->dim, l.size, &v)) l.base += v;
    else lin_add_term(&l, expr_dim(k, l.size), 1);
    return l;
}

Lin lin_of(Kernel *k, Expr e)
{
    Lin l = {.ok = true, .size = dim_const(k->dim, 0)};
    lin_collect(k, e, 1, &l);
    return lin_close(k, l);
}

bool lin_differ(Kernel *k, Expr a, Expr b, int64_t *by)
{
    Lin l = {.ok = true, .size = dim_const(k->dim, 0)};
    lin_collect(k, a, 1, &l), lin_collect(k, b, -1, &l);
    l = lin_close(k, l), *by = l.base;
    return l.ok && !l.n;
}

/* ---- loads ---- */
typedef struct Collect {
    Arena *mem;
    LoadList *l;
} Collect;

static bool collect(void *ctx, Expr load)
{
    Collect *c = ctx;
    for (uint32_t i = 0; i < c->l->at.n; i++)
        if (c->l->at.at[i] == load) return true;
    vec_push(c->mem, &c->l->at, load);
    return true;
}

void loads_of(Kernel *k, Arena *mem, Expr e, LoadList *l)
{
    if (e) expr_loads(k, e, collect, &(Collect){mem, l});
}

void stage_loads(Kernel *k, Arena *mem, const Compute *c, LoadList *l)
{
    Expr e[] = {c->value, c->epilogue, c->check, c->where, c->keep};
    for (size_t i = 0; i < COUNT_OF(e); i++) loads_of(k, mem, e[i], l);
    for (int d = 0; d < k->buf.at[c->out].rank; d++) loads_of(k, mem, c->at[d], l);
}

void stage_replace(Kernel *k, Compute *c, Expr from, Expr to)
{
    Expr *e[] = {&c->value, &c->epilogue, &c->check, &c->where, &c->keep};
    for (size_t i = 0; i < COUNT_OF(e); i++)
        if (*e[i]) *e[i] = expr_replace(k, *e[i], from, to);
    for (int d = 0; d < k->buf.at[c->out].rank; d++) c->at[d] = expr_replace(k, c->at[d], from, to);
}

/* ---- small questions ---- */
int axis_of_index(const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_AXIS ? (int)n->id : 0;
}

bool stage_is_plain(const Compute *c)
{
    return !c->how && !c->check && !c->where && !c->scan && !c->update && !c->keep && !c->when;
}

bool stage_at_axes(const Kernel *k, const Compute *c)
{
    if (k->buf.at[c->out].rank != c->rank) return false;
    for (int d = 0; d < c->rank; d++) {
        int a = axis_of_index(k, c->at[d]);
        if (!a) return false;
        for (int e = 0; e < d; e++)
            if (c->at[e] == c->at[d]) return false;
    }
    return true;
}

bool depends_on_data(const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    if (n->kind == E_LOAD || n->kind == E_IT) return true;
    for (int i = 0; n->kind == E_PRIM && i < 3 && n->arg[i]; i++)
        if (depends_on_data(k, n->arg[i])) return true;
    return false;
}

bool stage_is_window(Kernel *k, const Compute *c)
{
    Arena scratch = {0};
    LoadList l = {0};
    bool is = false;
    stage_loads(k, &scratch, c, &l);
    for (uint32_t i = 0; i < l.at.n && c->reduces; i++)
        for (int d = 0; d < MAX_RANK && expr_node(k, l.at.at[i])->arg[d]; d++) {
            Expr at = expr_node(k, l.at.at[i])->arg[d];
            bool space = false, reduced = false;
            for (int a = 0; a < c->rank; a++) space = space || expr_uses(k, at, c->space[a]);
            for (int a = 0; a < c->reduces; a++) reduced = reduced || expr_uses(k, at, c->reduce[a]);
            is = is || (space && reduced);
        }
    arena_drop(&scratch);
    return is;
}

bool stage_places(Kernel *k, const Compute *c)
{
    if (c->where && depends_on_data(k, c->where)) return false;
    for (int d = 0; d < k->buf.at[c->out].rank; d++)
        if (depends_on_data(k, c->at[d])) return false;
    return true;
}

int64_t expr_constant(const Kernel *k, Expr e, int64_t otherwise)
{
    int64_t v;
    return e && expr_is_index(k, e, &v) ? v : otherwise;
}

int innermost_dim(const Buf *b) { return b->layout.n ? b->layout.axis[b->layout.n - 1].dim : b->rank - 1; }

/* Do two axes of an index never give the same value twice? A wide step must pass over all of the narrow ones. */
static bool passes(Kernel *k, Expr wide, Expr narrow, Expr extent)
{
    Expr all = expr_mul(k, narrow, extent);
    return wide == all || (expr_is_index(k, wide, NULL) && expr_is_index(k, all, NULL) &&
                           expr_constant(k, wide, 0) >= expr_constant(k, all, 1));
}

static bool overlaps(Kernel *k, Expr index, int a, int b)
{
    if (!expr_uses(k, index, a) || !expr_uses(k, index, b)) return false;
    Expr x = expr_step(k, index, a), y = expr_step(k, index, b);
    return !x || !y || (!passes(k, x, y, k->axis.at[b].extent) && !passes(k, y, x, k->axis.at[a].extent));
}

bool is_rereading(Kernel *k, const Compute *c, Expr load, bool reduced)
{
    ExprNode n = *expr_node(k, load);
    int axis[2 * MAX_RANK], axes = 0;
    for (int d = 0; d < c->rank + (reduced ? c->reduces : 0); d++) {
        int a = d < c->rank ? c->space[d] : c->reduce[d - c->rank];
        if (expr_is(k, k->axis.at[a].extent, 1)) continue;
        if (!expr_uses(k, load, a)) return true;
        axis[axes++] = a;
    }
    for (int i = 0; i < axes; i++)
        for (int j = 0; j < i; j++)
            for (int d = 0; d < MAX_RANK && n.arg[d]; d++)
                if (overlaps(k, n.arg[d], axis[i], axis[j])) return true;
    return false;
}

Expr uncast(const Kernel *k, Expr e, DType acc)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_PRIM && n->prim == P_cast && n->type == acc ? n->arg[0] : e;
}

static bool is_prim(const Kernel *k, Expr e, Prim p, DType t, ExprNode *n)
{
    *n = *expr_node(k, e);
    return n->kind == E_PRIM && n->prim == p && n->type == t;
}

static bool expr_is_int(const Kernel *k, Expr e, int64_t i)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_INT && n->u.i == i;
}

static bool is_load_of(const Kernel *k, Expr e, DType t)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_LOAD && n->type == t;
}

/* A code without a sign: i32(byte), (i32(byte) >> shift) & mask, or i32(signed byte) + 128; yields the byte's load, or 0. */
static Expr code_load(const Kernel *k, Expr e, InByte *p)
{
    enum { LEAST = 128 };
    ExprNode n, at;
    *p = (InByte){0};
    if (is_prim(k, e, P_add, DT_i32, &n) && expr_is_int(k, n.arg[1], LEAST)) {
        Expr load = uncast(k, n.arg[0], DT_i32);
        return is_load_of(k, load, DT_i8) ? load : 0;
    }
    if (is_prim(k, e, P_and, DT_i32, &n) && expr_node(k, n.arg[1])->kind == E_INT) {
        p->mask = expr_node(k, n.arg[1])->u.i, e = n.arg[0];
        if (is_prim(k, e, P_shr, DT_i32, &at)) p->shift = at.arg[1], e = at.arg[0];
    }
    e = uncast(k, e, DT_i32);
    return is_load_of(k, e, DT_u8) ? e : 0;
}

/* select(first == 0, sum * zero, 0) */
static bool zero_factors(const Kernel *k, Expr e, Summand *f)
{
    ExprNode s = *expr_node(k, e), none, is, p;
    if (s.kind != E_PRIM || s.prim != P_select || s.type != DT_f32) return false;
    none = *expr_node(k, s.arg[2]), is = *expr_node(k, s.arg[0]);
    if (none.kind != E_FLOAT || none.u.f != 0 || !is_prim(k, s.arg[1], P_mul, DT_f32, &p)) return false;
    if (is.kind != E_PRIM || is.prim != P_eq || !expr_is(k, is.arg[1], 0)) return false;
    f->first = is.arg[0];
    for (int i = 0; i < 2; i++) {
        f->sum = p.arg[i], f->zero = p.arg[!i];
        if (is_load_of(k, f->sum, DT_f32)) return true;
    }
    return false;
}

/* Codes of signed values times codes of weights without a sign, less what the zero point takes from the block. */
static bool block_factors(const Kernel *k, Expr e, Summand *f)
{
    ExprNode p, minus, times;
    if (is_prim(k, e, P_sub, DT_f32, &minus)) {
        if (!zero_factors(k, minus.arg[1], f)) return false;
        e = minus.arg[0];
    }
    if (!is_prim(k, uncast(k, e, DT_f32), P_mul, DT_i32, &p)) return false;
    for (int i = 0; i < 2; i++) {
        Expr a = uncast(k, p.arg[i], DT_i32), code = p.arg[!i];
        if (!is_load_of(k, a, DT_i8)) continue;
        f->steps = 1;
        if (is_prim(k, code, P_mul, DT_i32, &times) && expr_node(k, times.arg[1])->kind == E_INT)
            code = times.arg[0], f->steps = expr_node(k, times.arg[1])->u.i;
        f->a = a, f->b = code_load(k, code, &f->packed), f->acc = DT_i32;
        if (f->b) return true;
    }
    return false;
}

bool summand_of(const Kernel *k, Expr value, Summand *f)
{
    ExprNode v = *expr_node(k, value);
    if (v.kind != E_PRIM || v.prim != P_mul || (v.type != DT_f32 && v.type != DT_i32)) return false;
    for (int i = 0; i < 2 && v.type == DT_f32; i++) {
        *f = (Summand){.scale = v.arg[!i]};
        if (block_factors(k, v.arg[i], f)) return true;
    }
    DType t = (DType)v.type;
    *f = (Summand){.a = uncast(k, v.arg[0], t), .b = uncast(k, v.arg[1], t), .acc = t};
    return true;
}

/* The axis that moves only `by`, not `other`: the one innermost in the output if there is a choice. */
static int only_axis(Kernel *k, const Compute *c, Expr by, Expr other)
{
    int found = 0, inner = innermost_dim(&k->buf.at[c->out]);
    for (int d = 0; d < c->rank; d++) {
        int a = c->space[d];
        if (!expr_uses(k, by, a) || expr_uses(k, other, a)) continue;
        if (inner >= 0 && expr_uses(k, c->at[inner], a)) return a;
        if (!found || expr_constant(k, k->axis.at[a].extent, 64) > 1) found = a;
    }
    return found;
}

bool layout_equal(const Layout *a, const Layout *b)
{
    return a->n == b->n && !memcmp(a->axis, b->axis, sizeof(LayoutAxis) * (size_t)a->n);
}

bool is_constant_load(const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_LOAD && k->buf.at[n->id].kind == BUF_CONST;
}

/* Does an index of the operand move with the lane and with what is summed: an image under a window? */
static bool slides(Kernel *k, const Compute *c, Expr e, int lane)
{
    Arena scratch = {0};
    LoadList loads = {0};
    bool found = false;
    loads_of(k, &scratch, e, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        ExprNode n = *expr_node(k, loads.at.at[i]);
        for (int d = 0; d < MAX_RANK && n.arg[d]; d++)
            for (int j = 0; j < c->reduces; j++)
                found = found || (expr_uses(k, n.arg[d], lane) && expr_uses(k, n.arg[d], c->reduce[j]));
    }
    arena_drop(&scratch);
    return found;
}

static bool is_single(const Kernel *k, int axis) { return expr_is(k, k->axis.at[axis].extent, 1); }

/* Does a shifted and masked word of bytes hold each byte's code, the same one of all lanes? */
static bool word_holds(Kernel *k, const Compute *c, const Summand *f)
{
    enum { BYTE = 8, MOST_MASK = 127 };
    int64_t lo = 0, hi = 0, mask = f->packed.mask;
    Expr shift = f->packed.shift;
    if (!mask) return true;
    if (mask < 0 || mask > MOST_MASK || mask & (mask + 1)) return false;
    if (!shift) return true;
    for (int i = 0; i < c->rank; i++)
        if (expr_uses(k, shift, c->space[i])) return false;
    if (expr_uses(k, shift, c->reduce[c->reduces - 1]) || !expr_range(k, uncast(k, shift, DT_i32), &lo, &hi))
        return false;
    return lo >= 0 && hi < BYTE && mask << hi <= UINT8_MAX;
}

bool chooses_block(const Kernel *k, const Summand *f, int axis)
{
    return expr_uses(k, f->scale, axis) || (f->zero && (expr_uses(k, f->zero, axis) || expr_uses(k, f->sum, axis)));
}

/* Terms of a block; 0: not known, or too many for 32 bits to hold their sum. */
static int64_t block_terms(Kernel *k, const Compute *c, const Summand *f)
{
    enum { MOST_VALUE = 128, MOST_CODE = 255 };
    int64_t terms = 1, most = INT32_MAX / (MOST_VALUE * MOST_CODE);
    for (int i = 0; i < c->reduces && terms <= most; i++)
        terms *= chooses_block(k, f, c->reduce[i]) ? 1 : expr_constant(k, k->axis.at[c->reduce[i]].extent, most + 1);
    return terms > 0 && terms <= most && f->steps > 0 && f->steps <= most / terms ? terms : 0;
}

/* Is the index 0 at one point of a block alone? */
static bool is_first(Kernel *k, const Compute *c, const Summand *f)
{
    Arena scratch = {0};
    Expr *map = NEW_ARRAY(&scratch, Expr, k->axis.n);
    bool is = true;
    for (int i = 0; i < c->reduces; i++) {
        int a = c->reduce[i];
        if (chooses_block(k, f, a)) continue;
        Expr by = expr_step(k, f->first, a);
        is = is && (expr_is(k, k->axis.at[a].extent, 1) || (by && expr_constant(k, by, 0) > 0));
        map[a] = expr_index(k, 0);
    }
    is = is && expr_is(k, expr_map(k, f->first, map), 0);
    arena_drop(&scratch);
    return is;
}

/* Of the axes that are summed, the first ones choose scale and zero point, the others do not; rows have no zero points of weights, nor columns sums
 * of values. */
static bool blocks_lead(Kernel *k, const Compute *c, const Summand *f)
{
    bool inside = false;
    for (int i = 0; i < c->reduces; i++) {
        bool chooses = chooses_block(k, f, c->reduce[i]);
        if (chooses && inside) return false;
        inside = inside || !chooses;
    }
    for (int i = 0; i < c->rank && f->zero; i++) {
        int a = c->space[i];
        if (expr_uses(k, f->zero, a) && !expr_uses(k, f->b, a)) return false;
        if (expr_uses(k, f->sum, a) && !expr_uses(k, f->a, a)) return false;
    }
    bool steps = f->steps > 0 && !(f->steps & (f->steps - 1)); /* a power of two, which floats are divided by */
    return inside && steps && word_holds(k, c, f) && block_terms(k, c, f) && (!f->zero || is_first(k, c, f));
}

/* An image under a window is never the right factor: of a convolution with one result a place, it may seem so, for they lie side by side. */
bool contraction_of(Kernel *k, const Compute *c, Contraction *r)
{
    Summand f;
    if (c->how != P_add || !c->reduces || c->keep || c->where || c->update || !summand_of(k, c->value, &f))
        return false;
    Expr a = f.a, b = f.b;
    bool both = false;
    for (int i = 0; i < c->reduces; i++)
        both = both || (expr_uses(k, a, c->reduce[i]) && expr_uses(k, b, c->reduce[i]));
    if (!both) return false;
    int lane_a = only_axis(k, c, a, b), lane_b = only_axis(k, c, b, a);
    if (!lane_a && !lane_b) return false;
    int inner = innermost_dim(&k->buf.at[c->out]);
    bool swap = !lane_b;
    if (!(lane_a && lane_b) && slides(k, c, lane_a ? a : b, lane_a ? lane_a : lane_b)) return false;
    /* A depthwise sum shares its channels between both factors: no outer product, though the image has axes of its own. */
    if (!(lane_a && lane_b) && inner >= 0 && !expr_uses(k, c->at[inner], lane_a ? lane_a : lane_b)) return false;
    if (lane_a && lane_b) {
        bool a_inner = inner >= 0 && expr_uses(k, c->at[inner], lane_a),
             b_inner = inner >= 0 && expr_uses(k, c->at[inner], lane_b);
        swap = a_inner != b_inner ? a_inner : is_constant_load(k, a) && !is_constant_load(k, b);
        if (is_single(k, swap ? lane_b : lane_a) && slides(k, c, swap ? a : b, swap ? lane_a : lane_b)) swap = !swap;
    }
    *r = (Contraction){.left = swap ? b : a,
                       .right = swap ? a : b,
                       .lane = swap ? lane_a : lane_b,
                       .row = swap ? lane_b : lane_a,
                       .acc = f.acc,
                       .scale = f.scale,
                       .zero = f.zero,
                       .few_bits = f.packed.mask != 0};
    if (f.scale) r->terms = block_terms(k, c, &f);
    return !f.scale || (r->right == f.b && blocks_lead(k, c, &f));
}

/* Rows of the dot products that levels may have: bytes of which one has a sign into i32, bf16 x bf16 into f32. */
typedef struct Dot {
    DType left, right, acc;
    int word;
} Dot;
static const Dot dots[] = {{DT_u8, DT_i8, DT_i32, 4}, {DT_i8, DT_u8, DT_i32, 4}, {DT_bf16, DT_bf16, DT_f32, 2}};

DType sum_type(const Kernel *k, const Contraction *r)
{
    DType t = (DType)expr_node(k, r->right)->type;
    return r->scale && t == DT_i8 ? DT_u8 : t;
}

int word_of(const Kernel *k, const Contraction *r)
{
    DType left = (DType)expr_node(k, r->left)->type, right = sum_type(k, r);
    for (size_t i = 0; i < COUNT_OF(dots); i++)
        if (dots[i].left == left && dots[i].right == right && dots[i].acc == r->acc) return dots[i].word;
    return 0;
}

int panel_word(Kernel *k, const Contraction *r, int inner)
{
    ExprNode n = *expr_node(k, r->right);
    int word = n.kind == E_LOAD ? word_of(k, r) : 0;
    const Layout *l = word ? &k->buf.at[n.id].layout : NULL;
    if (!word || l->n < 2 || l->axis[l->n - 1].size != word || l->axis[l->n - 1].div != 1) return 0;
    return axis_of_index(k, n.arg[l->axis[l->n - 1].dim]) == inner ? word : 0;
}

int64_t summed_run(Kernel *k, const Compute *c, Expr factor)
{
    ExprNode n = *expr_node(k, factor);
    int64_t run = 1;
    if (n.kind != E_LOAD) return run;
    Expr at = buf_address(k, (int)n.id, n.arg);
    for (bool longer = true; longer;) {
        int64_t was = run;
        for (int i = 0; i < c->reduces; i++)
            if (step_is(k, at, c->reduce[i], run)) run *= expr_constant(k, k->axis.at[c->reduce[i]].extent, 1);
        longer = run > was;
    }
    return run;
}

/* Do neighbours read what lies side by side, or overlaps at a few places' distance? */
static bool results_run(Kernel *k, const Compute *c, Expr factor, int64_t run)
{
    enum { APART = 4 };
    ExprNode n = *expr_node(k, factor);
    for (int d = 0; n.kind == E_LOAD && d < c->rank; d++) {
        Expr step = expr_step(k, buf_address(k, (int)n.id, n.arg), c->space[d]);
        int64_t by = step ? expr_constant(k, step, 0) : 0;
        if (by == 1 || (by > 1 && by <= APART && by < run)) return true;
    }
    return false;
}

bool fills_panels(Kernel *k, const Compute *c, const Contraction *r, int word)
{
    /* Steps to finish a row; to add lanes up and finish their sum. */
    enum { COLUMNS = 16, FINISH = 20, ADD_LANES = 40, USUAL = 64 };
    int64_t n = expr_constant(k, k->axis.at[r->lane].extent, COLUMNS), depth = 1;
    if (n >= COLUMNS / 2) return true;
    if (!r->row) return false;
    if (word || n < 2) return word;
    for (int i = 0; i < c->reduces; i++) depth *= expr_constant(k, k->axis.at[c->reduce[i]].extent, USUAL);
    int64_t run = summed_run(k, c, r->left);
    if (run < LEAST_RUN) return !results_run(k, c, r->left, run);
    return depth + FINISH <= n * (depth / COLUMNS + ADD_LANES);
}

bool has_terms_beside(Kernel *k, const Compute *c, const Contraction *r)
{
    ExprNode left = *expr_node(k, r->left), right = *expr_node(k, r->right);
    if (c->reduces != 1 || r->acc != DT_f32 || r->scale || left.kind != E_LOAD || right.kind != E_LOAD) return false;
    int64_t terms = expr_constant(k, k->axis.at[c->reduce[0]].extent, 0);
    Expr from = buf_address(k, (int)left.id, left.arg), with = buf_address(k, (int)right.id, right.arg);
    Expr apart = expr_step(k, with, r->lane);
    return terms > 0 && terms % DOTS == 0 && step_is(k, from, c->reduce[0], 1) && step_is(k, with, c->reduce[0], 1) &&
           apart && expr_constant(k, apart, DOTS) >= DOTS;
}

int64_t piece_of(Kernel *k, Expr e, int axis)
{
    ExprNode n = *expr_node(k, e);
    int64_t piece = 0, by;
    if (!expr_uses(k, e, axis)) return 0;
    bool divides = n.kind == E_PRIM && n.prim == P_div && axis_of_index(k, n.arg[0]) == axis;
    if (n.kind != E_LOAD) return divides && expr_is_index(k, n.arg[1], &by) && by > 0 ? by : 1;
    for (int i = 0; i < MAX_RANK && n.arg[i]; i++) {
        by = piece_of(k, n.arg[i], axis);
        if (by) piece = !piece || piece == by ? by : 1;
    }
    return piece;
}

int64_t panel_rows(Kernel *k, const Compute *c, const Contraction *r)
{
    int64_t rows = expr_constant(k, k->axis.at[c->reduce[0]].extent, 1) / 2;
    for (int d = 0; d < c->rank && rows > 1; d++) {
        int a = c->space[d];
        if (a == r->row || a == r->lane) continue;
        int64_t share =
            expr_uses(k, r->right, a) ? piece_of(k, r->right, a) : expr_constant(k, k->axis.at[a].extent, 1);
        if (share > 0) rows /= share;
    }
    return rows > 1 ? rows : 1;
}

Dim rows_are_many(Kernel *k, const Compute *c, const Contraction *r)
{
    const ExprNode *n = r->row ? expr_node(k, k->axis.at[r->row].extent) : NULL;
    Dim rows = {n && n->kind == E_SYM ? n->id : 0};
    if (!rows.id || dim_has_data(k->dim, rows)) return (Dim){0};
    return dim_ge(k->dim, rows, dim_const(k->dim, panel_rows(k, c, r)));
}

bool has_batches(const Kernel *k, const Compute *c, const Contraction *r)
{
    for (int d = 0; d < c->rank; d++)
        if (expr_uses(k, r->right, c->space[d]) && expr_uses(k, r->left, c->space[d])) return true;
    return false;
}

bool has_few_rows(Kernel *k, const Compute *c, const Contraction *r)
{
    if (!r->row || is_constant_load(k, r->right) || !has_terms_beside(k, c, r)) return false;
    int64_t rows = expr_constant(k, k->axis.at[r->row].extent, 0);
    if (rows) return rows < panel_rows(k, c, r);
    Dim many = rows_are_many(k, c, r);
    return many.id && (dim_is(k->dim, many, 0) || c->when == expr_dim(k, dim_not(k->dim, many)));
}

int summed_word(Kernel *k, const Compute *c)
{
    Contraction r;
    return c->reduces && contraction_of(k, c, &r) ? panel_word(k, &r, c->reduce[c->reduces - 1]) : 0;
}

void stage_rename(Kernel *k, Compute *s, int from, int to)
{
    Expr *map = NEW_ARRAY(k->mem, Expr, k->axis.n);
    map[from] = expr_axis(k, to);
    Expr *e[] = {&s->value, &s->epilogue, &s->keep, &s->check, &s->where};
    for (size_t i = 0; i < COUNT_OF(e); i++)
        if (*e[i]) *e[i] = expr_map(k, *e[i], map);
    for (int d = 0; d < k->buf.at[s->out].rank; d++) s->at[d] = expr_map(k, s->at[d], map);
    for (int d = 0; d < s->rank; d++)
        if (s->space[d] == from) s->space[d] = to;
    for (int d = 0; d < s->reduces; d++)
        if (s->reduce[d] == from) s->reduce[d] = to;
}

bool stage_has_axis(const Compute *s, int a)
{
    for (int d = 0; d < s->rank + s->reduces; d++)
        if ((d < s->rank ? s->space[d] : s->reduce[d - s->rank]) == a) return true;
    return false;
}

bool stage_writes(const Kernel *k, const Compute *s, int buf)
{
    return s->out == buf || (s->keep && (int)expr_node(k, s->keep)->id == buf);
}

/* ---- shared loops ---- */
static bool shares_axis(Kernel *k, Arena *mem, uint32_t first, uint32_t last, int a)
{
    for (uint32_t i = first; i < last; i++) {
        LoadList l = {0};
        stage_loads(k, mem, &k->stage.at[i], &l);
        for (uint32_t j = 0; j < l.at.n; j++) {
            ExprNode n = *expr_node(k, l.at.at[j]);
            for (uint32_t w = first; w < last; w++) {
                const Compute *def = &k->stage.at[w];
                if (def->out != (int)n.id) continue;
                for (int d = 0; d < k->buf.at[def->out].rank; d++)
                    if (expr_uses(k, def->at[d], a) && n.arg[d] != def->at[d]) return false;
                bool stored = false;
                for (int d = 0; d < k->buf.at[def->out].rank; d++) stored = stored || expr_uses(k, def->at[d], a);
                if (!stored) return false; /* written once per value of the axis: not a shareable loop */
            }
        }
    }
    return true;
}

int share_axes(Kernel *k, uint32_t first, uint32_t last, int *axis)
{
    Arena scratch = {0};
    int n = 0;
    const Compute *c = &k->stage.at[first];
    for (int d = 0; d < c->rank; d++) {
        int a = c->space[d];
        bool all = true;
        for (uint32_t i = first; i < last && all; i++) {
            const Compute *s = &k->stage.at[i];
            bool has = false;
            for (int e = 0; e < s->rank; e++) has = has || s->space[e] == a;
            all = has;
        }
        if (all && shares_axis(k, &scratch, first, last, a)) axis[n++] = a;
    }
    arena_drop(&scratch);
    return n;
}

int rows_apart(Kernel *k, Expr at, int line, int row)
{
    Expr by = expr_step(k, at, line), one = expr_step(k, at, row);
    int64_t all = by ? expr_constant(k, by, 0) : 0, each = one ? expr_constant(k, one, 0) : 0;
    return all > 0 && each > 0 && all % each == 0 && all / each < INT32_MAX ? (int)(all / each) : 0;
}

bool step_is(Kernel *k, Expr at, int axis, int64_t n)
{
    Expr step = expr_step(k, at, axis);
    return step && expr_is(k, step, n);
}

int dim_of_axis(const Kernel *k, const ExprNode *load, int axis)
{
    int at = -1;
    for (int d = 0; d < k->buf.at[load->id].rank; d++) {
        if (!expr_uses(k, load->arg[d], axis)) continue;
        if (at >= 0) return -1;
        at = d;
    }
    return at;
}

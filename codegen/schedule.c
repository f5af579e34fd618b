/* schedule.c - directives in, loops out.
 *
 * A stage's loops are its axes (or their parts) in order. The loops before the first reduction loop are its outer loops.
 * Inside them a reduction needs one accumulator for every inner output element, and one for every value of a `partial`
 * axis; both are the same thing, an array `acc` over those axes:
 *
 *     alloc acc;  acc[..] = identity;  for all inner loops: acc[..] how= value;  out[..] = epilogue(fold of acc)
 *
 * So a register tile, several accumulators, vector accumulators and a GPU block reduction are one construction.
 *
 * Consecutive stages with the same shared (or scanned) loops are one group: those loops are made once around all of them,
 * and a temporary that only the group touches loses the shared dimensions.
 *
 * A ragged split (parts overrun the extent) puts an `if` where its last part is bound. A loop over whole tiles is then cut:
 * a serial one in two ranges, whole tiles without the `if` and the rest with it; a parallel one, whose range belongs to the
 * caller, by one test per tile. The rest of a register tile with a known size is not guarded: it becomes a smaller tile. */
#include "codegen/analyse.h"
#include <assert.h>

enum { MAX_LOOPS = 40, LOCAL_ELEMENTS = 1 << 18, ROW = 16 };
typedef enum Guards { NOT_GUARDED, GUARD_SPACE, GUARD_ALL } Guards;
typedef struct Nest {
    Kernel *k;
    const Compute *c;
    int n, shared, outer,
        loop[MAX_LOOPS]; /* loop[0, shared) belong to the group, loop[0, outer) lie outside the first reduction loop */
    int check_at;        /* the innermost loop the check depends on; -1: before all loops */
    Expr check;
    const char **error;
} Nest;

/* ---- splits ---- */
int schedule_split(Kernel *k, int axis, const int *factor, int n)
{
    assert(n >= 1 && n < MAX_STEP && !k->axis.at[axis].parts);
    Step t = {.what = STEP_SPLIT, .n = n};
    t.axis[0] = axis;
    memcpy(t.factor, factor, sizeof *factor * (size_t)n);
    int first = (int)k->axis.n;
    for (int i = 0; i <= n; i++) {
        Axis part = {.name = arena_printf(k->mem, "%s.%d", k->axis.at[axis].name, i), .parent = axis};
        part.extent = expr_index(k, i ? factor[i - 1] : 1);
        vec_push(k->mem, &k->axis, part);
    }
    k->axis.at[axis].part = first, k->axis.at[axis].parts = n + 1;
    vec_push(k->mem, &k->schedule.step, t);
    return first;
}

/* Fills in what the parts of a split mean. The parts may exist already (whoever wrote the step named them) or not. */
static bool axis_split(Kernel *k, int a, const int *factor, int n)
{
    int64_t tile = 1;
    for (int i = 0; i < n; i++) tile *= factor[i];
    if (tile < 1) return false;
    if (!k->axis.at[a].parts) {
        k->axis.at[a].part = (int)k->axis.n, k->axis.at[a].parts = n + 1;
        for (int i = 0; i <= n; i++) {
            Axis part = {.name = arena_printf(k->mem, "%s.%d", k->axis.at[a].name, i)};
            vec_push(k->mem, &k->axis, part);
        }
    }
    if (k->axis.at[a].parts != n + 1 || k->axis.at[a].whole) return false;
    Expr size = k->axis.at[a].extent, whole = expr_index(k, 0);
    k->axis.at[a].ragged = !expr_is(k, expr_mod(k, size, expr_index(k, tile)), 0);
    Expr tiles = expr_div(k, expr_add(k, size, expr_index(k, tile - 1)), expr_index(k, tile));
    for (int i = 0; i <= n; i++) {
        Axis *part = &k->axis.at[k->axis.at[a].part + i];
        part->parent = a, part->extent = i ? expr_index(k, factor[i - 1]) : tiles;
        tile /= i ? factor[i - 1] : 1;
        whole = expr_add(k, whole, expr_mul(k, expr_axis(k, k->axis.at[a].part + i), expr_index(k, tile)));
    }
    k->axis.at[a].whole = whole;
    return true;
}

static const char *axes_apply(Kernel *k)
{
    for (uint32_t i = 0; i < k->axis.n; i++) {
        Axis *a = &k->axis.at[i];
        a->kind = LOOP_SERIAL, a->shared = a->partial = a->guarded = a->ragged = false, a->whole = 0;
    }
    for (const Step *t = k->schedule.step.at; t < k->schedule.step.at + k->schedule.step.n; t++)
        for (int i = 0; i < (t->what == STEP_SPLIT ? 1 : t->n); i++) {
            int a = t->axis[i];
            if (a <= 0 || a >= (int)k->axis.n) return "schedule names an unknown axis";
            if (t->what == STEP_SPLIT && !axis_split(k, a, t->factor, t->n)) return "axis cannot be split";
            if (t->what == STEP_SHARE) k->axis.at[a].shared = true;
            if (t->what == STEP_PARTIAL) k->axis.at[a].partial = true;
            if (t->what == STEP_GUARD) k->axis.at[a].guarded = true;
            if (t->what == STEP_LOOP) k->axis.at[a].kind = t->loop;
        }
    return NULL;
}

/* ---- which axes a stage has; whether one is reduced is a fact about the stage, not about the axis ---- */
static const Axis *axis_of(const Nest *x, int leaf) { return &x->k->axis.at[leaf]; }
static int whole_of(const Kernel *k, int leaf) { return k->axis.at[leaf].parent ? k->axis.at[leaf].parent : leaf; }

static bool reduced(const Nest *x, int leaf)
{
    for (int i = 0; i < x->c->reduces; i++)
        if (x->c->reduce[i] == whole_of(x->k, leaf)) return true;
    return false;
}

static bool has(const Nest *x, int leaf)
{
    for (int i = 0; i < x->c->rank; i++)
        if (x->c->space[i] == whole_of(x->k, leaf)) return true;
    return reduced(x, leaf);
}

static bool is_shared(const Nest *x, int leaf)
{
    int whole = whole_of(x->k, leaf);
    return whole == x->c->scan || axis_of(x, leaf)->shared || x->k->axis.at[whole].shared;
}

static bool is_constant(const Kernel *k, Expr e) { return expr_is_index(k, e, &(int64_t){0}); }

/* ---- statements ---- */
static Stmt *stmt(Kernel *k, StmtKind kind, Stmt *body)
{
    Stmt *s = NEW(k->mem, Stmt);
    s->kind = kind, s->body = body;
    return s;
}

static Stmt *seq(Stmt *a, Stmt *b)
{
    Stmt *last = a;
    while (last && last->next) last = last->next;
    if (last) last->next = b;
    return a ? a : b;
}

static Stmt *put(Kernel *k, StmtKind kind, int buf, const Expr *at, Expr value, Prim how)
{
    Stmt *s = stmt(k, kind, NULL);
    s->buf = buf, s->value = value, s->how = how;
    if (at) memcpy(s->at, at, sizeof s->at);
    return s;
}

static Stmt *when(Kernel *k, Expr cond, int axis, Stmt *body)
{
    Stmt *s = stmt(k, S_IF, body);
    s->cond = cond, s->axis = axis;
    return s;
}

static Stmt *alloc(Kernel *k, int buf, Stmt *rest) { return seq(put(k, S_ALLOC, buf, NULL, 0, P_NONE), rest); }
static Expr guard(Kernel *k, int a) { return expr_lt(k, k->axis.at[a].whole, k->axis.at[a].extent); }

static Stmt *unguarded(Kernel *k, const Stmt *s, int a) /* a copy without the `if`s of axis a */
{
    if (!s) return NULL;
    Stmt *rest = unguarded(k, s->next, a), *body = unguarded(k, s->body, a);
    if (s->kind == S_IF && s->axis == a) return seq(body, rest);
    Stmt *copy = NEW(k->mem, Stmt);
    *copy = *s, copy->body = body, copy->next = rest;
    if (s->kind == S_CALL && s->tile.line_guard == guard(k, a)) copy->tile.line_guard = 0;
    if (s->kind == S_CALL && s->tile.row_guard == guard(k, a)) copy->tile.row_guard = 0;
    if (s->kind == S_CALL && s->tile.lane_guard == guard(k, a)) copy->tile.lane_guard = 0;
    return copy;
}

static Expr mapped(Kernel *k, Expr e, const Expr *map) { return e ? expr_map(k, e, map) : 0; }

static Stmt *renamed(Kernel *k, const Stmt *s, int from, int to,
                     const Expr *map) /* a copy with another loop variable */
{
    if (!s) return NULL;
    Stmt *copy = NEW(k->mem, Stmt);
    *copy = *s;
    copy->next = renamed(k, s->next, from, to, map), copy->body = renamed(k, s->body, from, to, map);
    copy->lo = mapped(k, s->lo, map), copy->hi = mapped(k, s->hi, map), copy->cond = mapped(k, s->cond, map);
    copy->value = mapped(k, s->value, map);
    for (int d = 0; d < MAX_RANK; d++) copy->at[d] = mapped(k, s->at[d], map);
    if (s->kind == S_FOR && s->axis == from) copy->axis = to, copy->hi = k->axis.at[to].extent;
    if (s->kind != S_CALL) return copy;
    Tile *t = &copy->tile;
    if (t->line == from) t->line = to;
    if (t->row == from) t->row = to;
    t->left = mapped(k, t->left, map), t->right = mapped(k, t->right, map), t->epilogue = mapped(k, t->epilogue, map);
    t->scale = mapped(k, t->scale, map), t->sum = mapped(k, t->sum, map);
    t->line_guard = mapped(k, t->line_guard, map);
    t->row_guard = mapped(k, t->row_guard, map), t->lane_guard = mapped(k, t->lane_guard, map);
    return copy;
}

static int called_part(const Stmt *s, const Kernel *k,
                       int a) /* of axis a: the lines or rows of a call; 0: there is none */
{
    for (; s; s = s->next) {
        int inner = called_part(s->body, k, a);
        if (inner) return inner;
        if (s->kind != S_CALL) continue;
        if (k->axis.at[s->tile.line].parent == a) return s->tile.line;
        if (k->axis.at[s->tile.row].parent == a) return s->tile.row;
    }
    return 0;
}

static Stmt *loop(Kernel *k, int a, Expr lo, Expr hi, Stmt *body)
{
    if (lo == hi || !body) return NULL;
    Stmt *s = stmt(k, S_FOR, body);
    s->axis = a, s->lo = lo, s->hi = hi, s->loop = k->axis.at[a].kind;
    return s;
}

/* ---- the rest of an unrolled tile: its elements one after the other, each with arrays of one place ---- */
typedef struct OneByOne {
    Kernel *k;
    int from, place; /* the last part of the axis, and what stands for it in loops and arrays: an axis of one value */
    Expr element;
    Arena mem; /* scratch */
} OneByOne;

static Expr said_of(OneByOne *o, Expr e, Expr by)
{
    Expr *map = NEW_ARRAY(&o->mem, Expr, o->k->axis.n);
    map[o->from] = by;
    return mapped(o->k, e, map);
}

static Expr element_of(OneByOne *o, Expr e)
{
    Kernel *k = o->k;
    LoadList loads = {0};
    if (!e || !expr_uses(k, e, o->from)) return e;
    loads_of(k, &o->mem, e, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        ExprNode n = *expr_node(k, loads.at.at[i]);
        if (k->buf.at[n.id].kind != BUF_LOCAL) continue;
        for (int d = 0; d < k->buf.at[n.id].rank; d++) n.arg[d] = said_of(o, n.arg[d], expr_axis(k, o->place));
        e = expr_replace(k, e, loads.at.at[i], expr_load(k, (int)n.id, n.arg));
    }
    return said_of(o, e, o->element);
}

static Stmt *elements_of(OneByOne *o, const Stmt *s)
{
    Kernel *k = o->k;
    if (!s) return NULL;
    Stmt *copy = NEW(k->mem, Stmt);
    *copy = *s;
    copy->next = elements_of(o, s->next), copy->body = elements_of(o, s->body);
    copy->lo = element_of(o, s->lo), copy->hi = element_of(o, s->hi), copy->cond = element_of(o, s->cond);
    copy->value = element_of(o, s->value);
    bool own = (s->kind == S_STORE || s->kind == S_UPDATE) && k->buf.at[s->buf].kind == BUF_LOCAL;
    for (int d = 0; d < MAX_RANK; d++)
        copy->at[d] = own ? said_of(o, s->at[d], expr_axis(k, o->place)) : element_of(o, s->at[d]);
    if (s->kind == S_FOR && s->axis == o->from) copy->axis = o->place, copy->hi = k->axis.at[o->place].extent;
    return copy;
}

static bool has_call(const Stmt *s) { return s && (s->kind == S_CALL || has_call(s->body) || has_call(s->next)); }

typedef struct Owned {
    const Kernel *k;
    bool *made, all; /* per buffer: allocated inside */
} Owned;

static bool load_is_owned(void *ctx, Expr load)
{
    Owned *w = ctx;
    uint32_t buf = expr_node(w->k, load)->id;
    w->all = w->all && (w->k->buf.at[buf].kind != BUF_LOCAL || w->made[buf]);
    return w->all;
}

static void note_owned(Owned *w, const Stmt *s)
{
    for (; s; s = s->next) {
        const Expr e[] = {s->cond, s->value, s->lo, s->hi};
        bool stores = s->kind == S_STORE || s->kind == S_UPDATE;
        if (s->kind == S_ALLOC) w->made[s->buf] = true;
        if (stores && w->k->buf.at[s->buf].kind == BUF_LOCAL) w->all = w->all && w->made[s->buf];
        for (size_t i = 0; i < COUNT_OF(e); i++)
            if (e[i]) expr_loads(w->k, e[i], load_is_owned, w);
        note_owned(w, s->body);
    }
}

/* A reduction whose arrays are all made inside, and no call, which knows how to do the rest of its tile. */
static bool owns_arrays(const Kernel *k, const Stmt *body)
{
    Arena mem = {0};
    Owned w = {k, NEW_ARRAY(&mem, bool, k->buf.n), true};
    note_owned(&w, body);
    bool any = false;
    for (uint32_t b = 1; b < k->buf.n; b++) any = any || w.made[b];
    arena_drop(&mem);
    return any && w.all && !has_call(body);
}


/* A tile of which any number of elements may be left: each by itself, not all of them with a test in every step. Only arrays of the body's
 * own are known to be the tile's. */
static Stmt *one_by_one(Kernel *k, int tiles, const Stmt *body)
{
    int a = k->axis.at[tiles].parent, last = k->axis.at[a].part + 1;
    int element = kernel_axis(k, NULL, k->axis.at[last].extent), place = kernel_axis(k, NULL, expr_index(k, 1));
    OneByOne o = {.k = k, .from = last, .place = place, .element = expr_axis(k, element)};
    k->axis.at[place].kind = LOOP_UNROLL;
    Expr left = expr_sub(k, k->axis.at[a].extent, expr_mul(k, expr_axis(k, tiles), k->axis.at[last].extent));
    Stmt *each = loop(k, element, expr_index(k, 0), left, elements_of(&o, unguarded(k, body, a)));
    arena_drop(&o.mem);
    return each;
}

/* What runs for the last, partial tile of an axis: a smaller register tile when its size is known, the elements of an unrolled one, or
 * the guarded body. */
static Stmt *rest_of(Kernel *k, Stmt *body, int tiles, int64_t tile)
{
    int64_t extent;
    int a = k->axis.at[tiles].parent;
    int part = called_part(body, k, a);
    bool two = k->axis.at[a].parts == 2, known = expr_is_index(k, k->axis.at[a].extent, &extent);
    bool unrolled = two && k->axis.at[k->axis.at[a].part + 1].kind == LOOP_UNROLL;
    if (unrolled && owns_arrays(k, body)) return one_by_one(k, tiles, body);
    if (!part || !two || !known) return body;
    int less = kernel_axis(k, NULL, expr_index(k, extent % tile));
    k->axis.at[less].kind = k->axis.at[part].kind;
    Expr *map = NEW_ARRAY(k->mem, Expr, k->axis.n);
    map[part] = expr_axis(k, less);
    return renamed(k, unguarded(k, body, a), part, less, map);
}

static bool completes(const Nest *x, int i) /* does loop i bind the last part of its axis? */
{
    int p = axis_of(x, x->loop[i])->parent, bound = 0;
    for (int j = 0; j <= i; j++) bound += axis_of(x, x->loop[j])->parent == p;
    return p && bound == x->k->axis.at[p].parts;
}

static int64_t tile_of(const Kernel *k, int a)
{
    int64_t tile = 1, n;
    for (int i = 1; i < k->axis.at[a].parts; i++)
        tile *= expr_is_index(k, k->axis.at[k->axis.at[a].part + i].extent, &n) ? n : 1;
    return tile;
}

/* The loop over the tiles of a ragged axis: whole tiles run without its guard. */
static Stmt *cut_loop(Nest *x, int i, Stmt *body)
{
    Kernel *k = x->k;
    int a = x->loop[i], p = k->axis.at[a].parent;
    int64_t tile = tile_of(k, p);
    Expr zero = expr_index(k, 0), end = k->axis.at[a].extent,
         full = expr_div(k, k->axis.at[p].extent, expr_index(k, tile));
    Stmt *whole = unguarded(k, body, p), *rest = rest_of(k, body, a, tile);
    if (expr_is(k, full, 0)) return loop(k, a, zero, end, rest);
    if (k->axis.at[a].kind == LOOP_SERIAL) return seq(loop(k, a, zero, full, whole), loop(k, a, full, end, rest));
    Expr tiles = expr_axis(k, a);
    return loop(k, a, zero, end,
                seq(when(k, expr_lt(k, tiles, full), 0, whole), when(k, expr_le(k, full, tiles), 0, rest)));
}

static bool is_cut(const Nest *x, int i, int to, Guards guards)
{
    const Axis *a = axis_of(x, x->loop[i]);
    if (!guards || !a->parent || x->k->axis.at[a->parent].guarded || !x->k->axis.at[a->parent].ragged || x->loop[i] != x->k->axis.at[a->parent].part)
        return false;
    for (int j = 0; j < i; j++)
        if (axis_of(x, x->loop[j])->parent == a->parent)
            return false; /* ordered inside out: the range is not a prefix */
    if (guards == GUARD_SPACE && reduced(x, x->loop[i])) return false;
    if (a->kind == LOOP_SERIAL) return true;
    bool last =
        i + 1 >= to || axis_of(x, x->loop[i + 1])->kind != LOOP_PARALLEL; /* parallel loops must stay directly nested */
    return a->kind == LOOP_PARALLEL && last;
}

static Stmt *with_check(Nest *x, Stmt *body)
{
    Stmt *check = stmt(x->k, S_CHECK, NULL);
    check->cond = x->check;
    return seq(check, body);
}

static Stmt *wrap(Nest *x, Stmt *body, int from, int to, Guards guards)
{
    Kernel *k = x->k;
    for (int i = to - 1; i >= from; i--) {
        int a = x->loop[i], p = k->axis.at[a].parent;
        if (guards == GUARD_ALL && x->check && i == x->check_at) body = with_check(x, body);
        if (guards && completes(x, i) && k->axis.at[p].ragged && (guards == GUARD_ALL || !reduced(x, p)))
            body = when(k, guard(k, p), p, body);
        body =
            is_cut(x, i, to, guards) ? cut_loop(x, i, body) : loop(k, a, expr_index(k, 0), k->axis.at[a].extent, body);
    }
    return body;
}

/* ---- one stage ---- */
static int local(Kernel *k, const char *name, DType type, const int *axis, int rank, const char **error)
{
    Buf b = {.name = name, .kind = BUF_LOCAL, .type = type, .rank = rank};
    for (int d = 0; d < rank; d++) {
        b.dim[d] = k->axis.at[axis[d]].extent;
        if (!is_constant(k, b.dim[d])) *error = "an accumulator needs a constant size";
        if (k->axis.at[axis[d]].kind >= LOOP_THREAD_X) b.kind = BUF_SHARED;
    }
    for (int lane = 0; lane + 1 < rank; lane++) { /* lanes lie side by side, whatever follows them */
        if (k->axis.at[axis[lane]].kind != LOOP_VECTOR) continue;
        for (int d = 0; d < rank; d++)
            if (d != lane) b.layout.axis[b.layout.n++] = (LayoutAxis){d, 1, 0};
        b.layout.axis[b.layout.n++] = (LayoutAxis){lane, 1, 0};
        break;
    }
    return kernel_buf(k, b);
}

static void indices(Kernel *k, const int *axis, int n, Expr *at)
{
    for (int d = 0; d < n; d++) at[d] = expr_axis(k, axis[d]);
}

/* What a partial sum begins with: it is added to `it`, which begins with zero, so its own zero may be the one that changes no term at all, and its first
 * term needs no addition. */
static Expr partial_identity(Kernel *k, Prim how, DType type)
{
    return how == P_add && dtype_is_float(type) ? expr_float(k, type, -0.0) : reduce_identity(k, how, type);
}

/* acc holds inner output axes, then partial axes. Fold all partial axes but the last into their element 0, then the
 * last one into `it`: for a vector axis that is one horizontal reduction. */
static Stmt *fold(Nest *in, int acc, int it, int inner)
{
    Kernel *k = in->k;
    Stmt *s = NULL;
    DType type = k->buf.at[acc].type;
    int rank = in->n - in->outer, last = in->n - 1;
    Expr at[MAX_RANK] = {0}, from[MAX_RANK] = {0}, to[MAX_RANK] = {0};
    indices(k, in->loop + in->outer, rank, at), memcpy(from, at, sizeof at),
        memcpy(to, at, sizeof(Expr) * (size_t)inner);
    for (int q = inner; q < rank - 1; q++) {
        at[q] = expr_index(k, 0);
        Nest rest = *in;
        memmove(rest.loop + in->outer + q, rest.loop + in->outer + q + 1, sizeof(int) * (size_t)(rank - 1 - q)),
            rest.n--;
        for (int j = inner; j < q; j++) { /* partial axes before q are folded already */
            memmove(rest.loop + in->outer + inner, rest.loop + in->outer + inner + 1,
                    sizeof(int) * (size_t)(rest.n - in->outer - inner - 1));
            rest.n--;
        }
        Stmt *update = put(k, S_UPDATE, acc, at, expr_load(k, acc, from), in->c->how);
        update = wrap(&rest, update, in->outer + inner, rest.n, NOT_GUARDED);
        int a = in->loop[in->outer + q];
        s = seq(s, loop(k, a, expr_index(k, 1), k->axis.at[a].extent, update));
        from[q] = at[q];
    }
    Stmt *update = wrap(in, put(k, S_UPDATE, it, to, expr_load(k, acc, from), in->c->how), last, last + 1, NOT_GUARDED);
    if (update->loop >= LOOP_THREAD_X) update->loop = LOOP_SERIAL; /* every thread folds the shared array for itself */
    return seq(put(k, S_STORE, it, to, reduce_identity(k, in->c->how, type), P_NONE), seq(s, update));
}

/* How many values an axis has when every free size is 1: of one item of a batch. */
static int64_t extent_of_one(Kernel *k, int axis)
{
    ExprNode n = *expr_node(k, k->axis.at[axis].extent);
    int64_t v, *ones = NEW_ARRAY(k->mem, int64_t, dim_symbols(k->dim) + 1);
    for (uint32_t i = 0; i < dim_symbols(k->dim); i++) ones[i] = 1;
    if (n.kind == E_INT) return n.u.i;
    return n.kind == E_SYM && dim_eval(k->dim, (Dim){n.id}, ones, &v) && v > 0 ? v : 1;
}

/* The length of a block: the rounding error of one chain of sums grows with its length. The lengths are those of MLAS (ONNX Runtime's
 * matrix products), so that long sums round alike, which shows where a quantized model amplifies the last bit: 256 for a matrix times
 * weights; for an image 128, doubled while half of 128 pixels would do. */
static bool uses_axis(Kernel *k, Expr e, int axis) /* said with its parts or not */
{
    const Axis *a = &k->axis.at[axis];
    bool uses = expr_uses(k, e, axis);
    for (int i = 0; i < a->parts; i++) uses = uses || expr_uses(k, e, a->part + i);
    return uses;
}

static int block_of(Kernel *k, const Compute *c, const Tile *t)
{
    int64_t pixels = 1, block = 128;
    int whole = k->axis.at[t->lane].parent ? k->axis.at[t->lane].parent : t->lane, rank = k->buf.at[c->out].rank,
        lane = 0;
    for (int d = 0; d < rank; d++)
        if (uses_axis(k, c->at[d], whole)) lane = d;
    if (lane == rank - 1) return 256;
    for (int i = 0; i < c->rank; i++) {
        bool pixel = false;
        for (int d = lane + 1; d < rank; d++) pixel = pixel || uses_axis(k, c->at[d], c->space[i]);
        if (pixel) pixels *= extent_of_one(k, c->space[i]);
    }
    for (int64_t width = 128; width > 16 && width / 2 >= pixels; width /= 2) block *= 2;
    return (int)block;
}

static Expr sum_with_it(Kernel *k, Expr e, Expr it,
                        int *uses) /* the addition to `it` in e; uses: how often `it` stands in e */
{
    ExprNode n = *expr_node(k, e);
    Expr found = 0;
    if (e == it) ++*uses;
    if (n.kind != E_PRIM) return 0;
    for (int i = 0; i < 3 && n.arg[i]; i++) {
        Expr inner = sum_with_it(k, n.arg[i], it, uses);
        if (inner) found = inner;
    }
    return n.prim == P_add && (n.arg[0] == it || n.arg[1] == it) ? e : found;
}

/* A matrix product's bias joins the first of several blocks, as in MLAS, where it lies in the output before the product. A sum of words of
 * floats may begin with it: that is an addition less for every result. */
static void take_start(Kernel *k, const Compute *c, Tile *t)
{
    Expr it = expr_it(k, t->acc);
    int uses = 0;
    if (t->scale) return;
    int64_t depth = t->depths == 1 ? expr_constant(k, k->axis.at[t->depth[0]].extent, 0) : 0;
    bool matrix = t->block == 256 && t->acc == DT_f32 && !t->dot && c->rank == 2 && k->buf.at[c->out].rank == 2;
    bool words = t->dot && t->acc == DT_f32;
    Expr sum = words || (matrix && depth > t->block) ? sum_with_it(k, t->epilogue, it, &uses) : 0;
    if (!sum || (!words && uses != 1)) return;
    if (expr_uses_it(k, expr_replace(k, t->epilogue, sum, expr_float(k, t->acc, 0)))) return;
    ExprNode n = *expr_node(k, sum);
    Expr bias = n.arg[0] == it ? n.arg[1] : n.arg[0];
    if (expr_uses_it(k, bias) || expr_uses(k, bias, t->row) || expr_uses(k, bias, t->line)) return;
    t->start = bias, t->epilogue = expr_replace(k, t->epilogue, sum, it);
}

/* Does the axis count the elements of 32-bit words, as dot products take them? */
static bool is_word(const Kernel *k, const Tile *t, int axis)
{
    DType l = (DType)expr_node(k, t->left)->type, r = (DType)expr_node(k, t->right)->type;
    bool bytes = t->acc == DT_i32, pairs = t->acc == DT_f32 && l == DT_bf16 && r == DT_bf16;
    return (bytes && expr_is(k, k->axis.at[axis].extent, 4)) || (pairs && expr_is(k, k->axis.at[axis].extent, 2));
}

/* What the loops of all calls have in common: axes and guards. The innermost n loops that are not summed are the tile's; those of a
 * product may be within lines. */
static bool tile_of_loops(const Nest *x, const Nest *in, int n, Tile *t)
{
    Kernel *k = x->k;
    const Compute *c = x->c;
    bool lines = n > 2 && in->n - in->outer == n + 1;
    const int *own = in->loop + in->outer + lines;
    if (in->n - in->outer != n + lines || c->keep || c->where || c->update) return false;
    *t = (Tile){.line = lines ? own[-1] : 0, .row = own[0], .lane = own[n - 1]};
    t->acc = (DType)expr_node(k, c->value)->type;
    if (n > 2) t->col = own[1];
    if (t->acc != DT_f32 && t->acc != DT_i32) return false;
    t->epilogue = c->epilogue ? c->epilogue : expr_it(k, t->acc);
    for (int i = x->outer; i < x->n; i++)
        if (reduced(x, x->loop[i])) {
            if (t->depths == MAX_RANK) return false;
            t->depth[t->depths++] = x->loop[i];
        }
    int line = k->axis.at[t->line].parent, rows = k->axis.at[t->row].parent, lanes = k->axis.at[t->lane].parent;
    if (line && k->axis.at[line].ragged) t->line_guard = guard(k, line);
    if (rows && k->axis.at[rows].ragged) t->row_guard = guard(k, rows);
    if (lanes && k->axis.at[lanes].ragged) t->lane_guard = guard(k, lanes);
    return true;
}

/* The loops that choose scale and zero point come first (contraction_of()). */
static void take_blocks(Kernel *k, const Summand *p, Tile *t)
{
    t->scale = p->scale, t->zero = p->zero, t->sum = p->sum, t->steps = p->steps;
    t->shift = p->packed.shift, t->mask = p->packed.mask;
    for (int d = 0; d < t->depths; d++)
        if (chooses_block(k, p, t->depth[d])) t->blocks = d + 1;
}

static bool tile_of_products(const Nest *x, const Nest *in, int n, Tile *t)
{
    Kernel *k = x->k;
    Summand p;
    if (x->c->how != P_add || !summand_of(k, x->c->value, &p) || !tile_of_loops(x, in, n, t)) return false;
    t->left = p.a, t->right = p.b, t->acc = p.acc;
    if (p.scale) take_blocks(k, &p, t);
    int inner = t->depths ? t->depth[t->depths - 1] : 0, whole = inner ? k->axis.at[inner].parent : 0;
    bool last = whole && inner == k->axis.at[whole].part + k->axis.at[whole].parts - 1;
    if (last && is_word(k, t, inner)) t->dot = inner;
    return true;
}

static void swap_factors(Tile *t)
{
    Expr left = t->left;
    t->left = t->right, t->right = left;
}

/* Passes: the loops that do not move the panels, inside one that does. The last of those before them moves to the panels that come next. */
static void take_pass(const Nest *x, Tile *t)
{
    Kernel *k = x->k;
    t->pass = expr_index(k, 0), t->passes = expr_index(k, 1);
    for (int i = 0; i < x->outer; i++) {
        Expr axis = expr_axis(k, x->loop[i]), extent = k->axis.at[x->loop[i]].extent;
        if (expr_is(k, extent, 1)) continue;
        bool moves = expr_uses(k, t->right, x->loop[i]);
        t->again = !moves ? FACTOR_RIGHT : expr_uses(k, t->left, x->loop[i]) ? FACTOR_NONE : FACTOR_LEFT;
        if (moves && expr_is(k, t->passes, 1)) t->ahead = x->loop[i];
        if (moves || !t->ahead) continue;
        t->pass = expr_add(k, expr_mul(k, t->pass, extent), axis), t->passes = expr_mul(k, t->passes, extent);
    }
}

static bool contract_match(const Nest *x, const Nest *in, Tile *t)
{
    Kernel *k = x->k;
    if (!tile_of_products(x, in, 3, t)) return false;
    bool crossed = expr_uses(k, t->left, t->lane) || expr_uses(k, t->left, t->col);
    if (t->scale && (crossed || (t->zero && expr_uses(k, t->zero, t->row)))) return false;
    if (crossed) swap_factors(t);
    t->block = block_of(k, x->c, t);
    take_start(k, x->c, t), take_pass(x, t);
    if (expr_uses(k, t->right, t->line)) return false;
    return !expr_uses(k, t->left, t->col) && !expr_uses(k, t->left, t->lane) && !expr_uses(k, t->right, t->row);
}

static bool window_match(const Nest *x, const Nest *in, Tile *t)
{
    Kernel *k = x->k;
    if (!tile_of_products(x, in, 2, t) || t->scale) return false;
    if (expr_uses(k, t->right, t->row)) swap_factors(t);
    take_start(k, x->c, t);
    return expr_uses(k, t->left, t->lane) && expr_uses(k, t->right, t->lane) && !expr_uses(k, t->right, t->row);
}

static bool pool_match(const Nest *x, const Nest *in, Tile *t)
{
    Kernel *k = x->k;
    if ((x->c->how != P_max && x->c->how != P_add) || !tile_of_loops(x, in, 2, t)) return false;
    t->left = x->c->value;
    return expr_node(k, uncast(k, t->left, t->acc))->kind == E_LOAD && expr_uses(k, t->left, t->lane);
}

/* By the name of the call: what its tile must be. */
static const struct {
    const char *name;
    bool (*match)(const Nest *, const Nest *, Tile *);
} calls[] = {{"contract", contract_match}, {"tiles", contract_match}, {"window", window_match}, {"pool", pool_match}};

static bool call_match(const Nest *x, const Nest *in, Stmt *call)
{
    call->how = x->c->how;
    for (size_t i = 0; i < COUNT_OF(calls); i++)
        if (!strcmp(calls[i].name, call->name)) return calls[i].match(x, in, &call->tile);
    return contract_match(x, in, &call->tile); /* a name nobody knows is a product, whose body says what it means */
}

/* Where a result goes: stored or combined, and only where the stage says so. */
static Stmt *deliver(Kernel *k, const Compute *c, Expr result)
{
    Expr at[MAX_RANK] = {0}, it = expr_it(k, (DType)expr_node(k, c->value)->type), where = c->where;
    memcpy(at, c->at, sizeof at);
    for (int d = 0; d < k->buf.at[c->out].rank; d++) at[d] = expr_replace(k, at[d], it, result);
    if (where) where = expr_replace(k, where, it, result);
    Stmt *s = put(k, c->update ? S_UPDATE : S_STORE, c->out, at, result, c->update);
    return where ? when(k, where, 0, s) : s;
}

/* Is the one partial axis the loop around all others that are summed, and a loop? Then its values need no accumulators side by side:
 * each is summed and added to `it` before the next one begins, in the same order. */
static bool is_chain(const Nest *x, const Nest *in, int partials)
{
    int outer = x->outer < x->n ? x->loop[x->outer] : 0;
    return partials == 1 && !x->c->keep && !x->check && in->loop[in->n - 1] == outer && axis_of(x, outer)->kind == LOOP_SERIAL;
}

static Stmt *chain(Nest *x, Nest *in, int inner)
{
    Kernel *k = x->k;
    const Compute *c = x->c;
    DType type = (DType)expr_node(k, c->value)->type;
    Expr at[MAX_RANK] = {0}, none = reduce_identity(k, c->how, type);
    int block = x->loop[x->outer];
    in->n--;
    indices(k, in->loop + in->outer, inner, at);
    int acc = local(k, "acc", type, in->loop + in->outer, inner, x->error), it = local(k, "it", type, in->loop + in->outer, inner, x->error);
    Expr first = partial_identity(k, c->how, type);
    Stmt *each = wrap(in, put(k, S_STORE, acc, at, first, P_NONE), in->outer, in->n, NOT_GUARDED);
    each = seq(each, wrap(x, put(k, S_UPDATE, acc, at, c->value, c->how), x->outer + 1, x->n, GUARD_ALL));
    each = seq(each, wrap(in, put(k, S_UPDATE, it, at, expr_load(k, acc, at), c->how), in->outer, in->n, NOT_GUARDED));
    Stmt *s = wrap(in, put(k, S_STORE, it, at, none, P_NONE), in->outer, in->n, NOT_GUARDED);
    s = seq(s, loop(k, block, expr_index(k, 0), k->axis.at[block].extent, alloc(k, acc, each)));
    Expr result = expr_load(k, it, at);
    if (c->epilogue) result = expr_replace(k, c->epilogue, expr_it(k, type), result);
    return alloc(k, it, seq(s, wrap(in, deliver(k, c, result), in->outer, in->n, GUARD_SPACE)));
}

static Stmt *reduction(Nest *x, const char *micro)
{
    Kernel *k = x->k;
    const Compute *c = x->c;
    DType type = (DType)expr_node(k, c->value)->type;
    Nest in = *x; /* the loops acc has an element for */
    in.n = x->outer;
    for (int partial = 0; partial < 2; partial++)
        for (int i = x->outer; i < x->n; i++) {
            const Axis *a = axis_of(x, x->loop[i]);
            bool r = reduced(x, x->loop[i]);
            if (partial ? r && a->partial : !r) in.loop[in.n++] = x->loop[i];
            if (r && a->kind >= LOOP_THREAD_X && !a->partial) *x->error = "a reduction over threads must be partial";
        }
    int rank = in.n - in.outer, inner = 0;
    while (inner < rank && !reduced(x, in.loop[in.outer + inner])) inner++;
    if (rank > MAX_RANK) return *x->error = "too many accumulator axes", NULL;
    Expr spot[MAX_RANK] = {0}, it_at[MAX_RANK] = {0};
    indices(k, in.loop + in.outer, rank, spot), indices(k, in.loop + in.outer, inner, it_at);
    if (!micro && is_chain(x, &in, rank - inner)) return chain(x, &in, inner);
    int acc = local(k, "acc", type, in.loop + in.outer, rank, x->error), it = acc;
    Expr none = inner < rank ? partial_identity(k, c->how, type) : reduce_identity(k, c->how, type);
    Stmt *s = wrap(&in, put(k, S_STORE, acc, spot, none, P_NONE), in.outer, in.n, NOT_GUARDED);
    Stmt *body = put(k, S_UPDATE, acc, spot, c->keep ? c->keep : c->value, c->how);
    if (c->keep) {
        const ExprNode *place = expr_node(k, c->keep);
        body = seq(put(k, S_STORE, (int)place->id, place->arg, c->value, P_NONE), body);
    }
    s = seq(s, wrap(x, body, x->outer, x->n, GUARD_ALL));
    if (k->buf.at[acc].kind == BUF_SHARED) s = seq(s, stmt(k, S_BARRIER, NULL));
    Stmt *last = NULL;
    if (inner < rank) {
        it = local(k, "it", type, in.loop + in.outer, inner, x->error);
        last = wrap(&in, fold(&in, acc, it, inner), in.outer, in.outer + inner, NOT_GUARDED);
    }
    Expr result = expr_load(k, it, it_at);
    if (c->epilogue) result = expr_replace(k, c->epilogue, expr_it(k, type), result);
    in.n = in.outer + inner, in.check = 0;
    s = seq(s, seq(last, wrap(&in, deliver(k, c, result), in.outer, in.n, GUARD_SPACE)));
    s = alloc(k, acc, it == acc ? s : alloc(k, it, s));
    if (!micro) return s;
    Stmt *call = stmt(k, S_CALL, s);
    call->name = micro, call->buf = c->out;
    memcpy(call->at, c->at, sizeof call->at);
    in.n = in.outer + rank;
    if (!call_match(x, &in, call)) *x->error = "this stage is not what the micro-kernel computes";
    return call;
}

static void add_axis(Nest *x, int a)
{
    for (int i = 0; i < x->n; i++)
        if (x->loop[i] == a) return;
    if (x->n == MAX_LOOPS) *x->error = "too many loops";
    else x->loop[x->n++] = a;
}

static void add_parts(Nest *x, int a, bool shared)
{
    const Axis *whole = axis_of(x, a);
    for (int i = 0; i < (whole->parts ? whole->parts : 1); i++) {
        int leaf = whole->parts ? whole->part + i : a;
        if (!shared || is_shared(x, leaf)) add_axis(x, leaf);
    }
}

static int own_axes(const Nest *x, const Step *t)
{
    int own = 0;
    for (int i = 0; t->what == STEP_ORDER && i < t->n; i++) own += has(x, t->axis[i]);
    return own;
}

static void add_order(Nest *x, const Step *t)
{
    for (int i = 0; i < t->n; i++)
        if (!axis_of(x, t->axis[i])->parts && has(x, t->axis[i]))
            add_axis(x, t->axis[i]); /* a split axis has no loop of its own */
}

/* An order that names only axes of this stage was meant for it, of several the one that names most (rows of a block are axes of all
 * stages of a group); others say something of it when they name some. */
static void add_orders(Nest *x)
{
    const Schedule *s = &x->k->schedule;
    const Step *best = NULL, *end = s->step.at + s->step.n;
    for (const Step *t = s->step.at; t < end; t++)
        if (t->what == STEP_ORDER && own_axes(x, t) == t->n && (!best || t->n > best->n)) best = t;
    if (best) add_order(x, best);
    for (int whole = 1; whole >= 0; whole--)
        for (const Step *t = s->step.at; t < end; t++)
            if (t->what == STEP_ORDER && (own_axes(x, t) == t->n) == whole) add_order(x, t);
}

static Nest nest_of(Kernel *k, const Compute *c, const char **error)
{
    Nest x = {.k = k, .c = c, .check_at = -1, .error = error};
    for (const Step *t = k->schedule.step.at; t < k->schedule.step.at + k->schedule.step.n; t++)
        for (int i = 0; t->what == STEP_SHARE && i < t->n; i++)
            if (has(&x, t->axis[i]) && whole_of(k, t->axis[i]) != c->scan) add_parts(&x, t->axis[i], true);
    if (c->scan) add_parts(&x, c->scan, true);
    x.shared = x.n;
    add_orders(&x);
    for (int d = 0; d < c->rank; d++) add_parts(&x, c->space[d], false);
    for (int d = 0; d < c->reduces; d++) add_parts(&x, c->reduce[d], false);
    while (x.outer < x.n && !reduced(&x, x.loop[x.outer])) x.outer++;
    x.check = c->check ? expr_split(k, c->check) : 0;
    if (c->check && c->where)
        x.check = expr_prim(k, P_or, expr_prim(k, P_not, expr_split(k, c->where), 0, 0), x.check, 0);
    for (int i = 0; i < x.n; i++)
        if (x.check && expr_uses(k, x.check, x.loop[i])) x.check_at = i;
    if (x.check && x.check_at < x.shared)
        x.check_at = x.shared < x.n ? x.shared : x.n - 1; /* a group's loops belong to no stage */
    return x;
}

static Expr split(Kernel *k, Expr e) { return e ? expr_split(k, e) : 0; }

static const char *called(const Nest *x)
{
    for (const Step *t = x->k->schedule.step.at; t < x->k->schedule.step.at + x->k->schedule.step.n; t++)
        if (t->what == STEP_CALL && t->n == 1 && reduced(x, t->axis[0])) return t->name;
    return NULL;
}

/* A condition on places that holds for all values of these loops when it holds for their last ones: then that one test is made. */
static bool grows(Kernel *k, Expr cond, int axis)
{
    ExprNode n = *expr_node(k, cond);
    if (n.kind != E_PRIM || !expr_uses(k, cond, axis)) return true;
    if (n.prim == P_and) return grows(k, n.arg[0], axis) && grows(k, n.arg[1], axis);
    int64_t by;
    Expr step = n.prim == P_lt || n.prim == P_le ? expr_step(k, expr_sub(k, n.arg[0], n.arg[1]), axis) : 0;
    return step && expr_is_index(k, step, &by) && by >= 0;
}

static Expr holds_for_all(Nest *x, int from)
{
    Kernel *k = x->k;
    Expr *map = NEW_ARRAY(k->mem, Expr, k->axis.n);
    for (int i = from; i < x->n; i++) {
        int a = x->loop[i];
        if (!grows(k, x->c->where, a)) return 0;
        map[a] = expr_sub(k, k->axis.at[a].extent, expr_index(k, 1));
    }
    return expr_map(k, x->c->where, map);
}

/* The loops of a stage that stores where a condition holds: unrolled ones once without it, for when it holds for all they make (what
 * neighbours have in common is then computed once), and once with it. */
static Stmt *wrap_where(Nest *x, Stmt *body)
{
    Kernel *k = x->k;
    int from = x->n, unrolled = 0;
    while (from > x->shared && axis_of(x, x->loop[from - 1])->kind != LOOP_SERIAL &&
           axis_of(x, x->loop[from - 1])->kind != LOOP_PARALLEL && is_constant(k, axis_of(x, x->loop[from - 1])->extent))
        from--, unrolled += axis_of(x, x->loop[from])->kind == LOOP_UNROLL;
    Expr all = unrolled && body->kind == S_IF && !x->check ? holds_for_all(x, from) : 0;
    if (!all || all == x->c->where) return wrap(x, body, x->shared, x->n, GUARD_ALL);
    Stmt *whole = wrap(x, unguarded(k, body->body, -1), from, x->n, GUARD_ALL);
    Stmt *rest = wrap(x, body, from, x->n, GUARD_ALL);
    Stmt *both = seq(when(k, all, 0, whole), when(k, expr_prim(k, P_not, all, 0, 0), 0, rest));
    return wrap(x, both, x->shared, from, GUARD_ALL);
}

static Stmt *stage(Kernel *k, const Compute *said, const char **error)
{
    Compute own = *said, *c = &own; /* the stage stays as it was said; its loops are made of the parts */
    Nest x = nest_of(k, c, error);
    const char *micro = called(&x);
    c->value = split(k, c->value), c->epilogue = split(k, c->epilogue), c->keep = split(k, c->keep),
    c->where = split(k, c->where);
    for (int d = 0; d < k->buf.at[c->out].rank; d++) c->at[d] = split(k, c->at[d]);
    Stmt *body = c->how ? reduction(&x, micro) : deliver(k, c, c->value);
    if (!c->how && c->keep) {
        const ExprNode *place = expr_node(k, c->keep);
        body = seq(put(k, S_STORE, (int)place->id, place->arg, c->value, P_NONE), body);
    }
    bool inside = x.check && (x.check_at < 0 || x.check_at < x.shared); /* no loop of the stage's own to put it in */
    if (*error || !body) return NULL;
    if (inside) body = with_check(&x, body), x.check = 0;
    if (c->where && !c->how) return wrap_where(&x, body);
    return wrap(&x, body, x.shared, c->how ? x.outer : x.n, GUARD_ALL);
}

/* ---- groups ---- */
static bool same_group(const Nest *a, const Nest *b)
{
    return a->shared && a->shared == b->shared && a->c->scan == b->c->scan &&
           !memcmp(a->loop, b->loop, sizeof(int) * (size_t)a->shared);
}

typedef struct Reads {
    Kernel *k;
    int buf;
    const Compute *def;
    bool any, elsewhere;
} Reads;

static bool note_read(void *ctx, Expr load)
{
    Reads *r = ctx;
    const ExprNode *n = expr_node(r->k, load);
    if ((int)n->id != r->buf) return true;
    r->any = true;
    const Buf *b = &r->k->buf.at[r->buf];
    for (int d = 0; d < b->rank; d++)
        if (b->block[d] && n->arg[d] != r->def->at[d]) r->elsewhere = true;
    return true;
}

static void note_reads(Reads *r, const Compute *c)
{
    Expr e[] = {c->value, c->epilogue, c->keep, c->check, c->where};
    for (size_t i = 0; i < COUNT_OF(e); i++)
        if (e[i]) expr_loads(r->k, e[i], note_read, r);
    for (int d = 0; d < r->k->buf.at[c->out].rank; d++) expr_loads(r->k, c->at[d], note_read, r);
}

static int axis_at(const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_AXIS ? (int)n->id : 0;
}

static bool is_threaded(const Kernel *k)
{
    for (uint32_t a = 1; a < k->axis.n; a++)
        if (k->axis.at[a].kind >= LOOP_THREAD_X) return true;
    return false;
}

/* How many elements of an axis the loops inside the shared ones run over: 1 when all its parts are shared, 0 when all elements are
 * needed because no part is, or a part outside an inner one is not. */
static int64_t inside_shared(const Nest *x, int a)
{
    const Axis *axis = axis_of(x, a);
    int64_t kept = 1, n;
    int shared = 0;
    if (!axis->parts) return is_shared(x, a);
    while (shared < axis->parts && is_shared(x, axis->part + shared)) shared++;
    for (int i = shared; i < axis->parts; i++) {
        if (is_shared(x, axis->part + i) || !expr_is_index(x->k, axis_of(x, axis->part + i)->extent, &n)) return 0;
        kept *= n;
    }
    return shared ? kept : 0;
}

/* What a group keeps of a temporary: of a dimension whose loop it shares one block. False: nothing is gained. A size that only the
 * call knows is possible where a stack is not all there is; rows are whole vectors, so that they can be stored without a mask. */
static bool shrink(Nest *x, Buf *b)
{
    Kernel *k = x->k;
    int64_t size = 1, n;
    bool any = false;
    for (int d = 0; d < b->rank; d++) {
        int a = axis_at(k, x->c->at[d]);
        b->block[d] = a ? (int32_t)inside_shared(x, a) : 0;
        any = any || b->block[d];
        if (b->block[d]) b->dim[d] = expr_index(k, b->block[d]);
        else if (d == b->rank - 1 && (!expr_is_index(k, b->dim[d], &n) || n > ROW))
            b->dim[d] = expr_mul(k, expr_div(k, expr_add(k, b->dim[d], expr_index(k, ROW - 1)), expr_index(k, ROW)),
                                 expr_index(k, ROW));
        if (expr_is_index(k, b->dim[d], &n)) size *= n;
        else if (is_threaded(k)) return false;
        if (size > LOCAL_ELEMENTS) return false;
    }
    return any;
}

/* The first stage that writes the buffer, its `at` where it does; false: not all that write it are plain stages of the group. */
static bool first_writer(const Kernel *k, int buf, int first, int last, Compute *place)
{
    bool found = false;
    for (int i = 0; i < (int)k->stage.n; i++) {
        const Compute *s = &k->stage.at[i];
        if (!stage_writes(k, s, buf)) continue;
        if (i < first || i >= last || s->scan || s->update || s->where) return false;
        if (!found) *place = *s;
        if (!found && s->out != buf) memcpy(place->at, expr_node(k, s->keep)->arg, sizeof place->at);
        found = true;
    }
    return found;
}

/* A temporary needs no room for a dimension whose loop its whole group shares: m[r] inside `for r` is one number. */
static void contract(Kernel *k, int buf, int first, int last, const char **error)
{
    Compute place;
    if (!first_writer(k, buf, first, last, &place)) return;
    Nest x = nest_of(k, &place, error);
    Buf b = k->buf.at[buf], whole = b;
    if (!shrink(&x, &b)) return;
    k->buf.at[buf] = b;
    Reads r = {.k = k, .buf = buf, .def = &place};
    bool outside = false;
    for (int i = 0; i < (int)k->stage.n; i++) {
        const Compute *s = &k->stage.at[i];
        r.any = false;
        note_reads(&r, s);
        outside = outside || (r.any && (i < first || i >= last));
        for (int d = 0; s->out == buf && d < b.rank; d++)
            r.elsewhere = r.elsewhere || (b.block[d] && s->at[d] != place.at[d]);
    }
    k->buf.at[buf] = whole;
    if (outside || r.elsewhere) return;
    b.kind = BUF_LOCAL, b.layout.n = 0;
    k->buf.at[buf] = b;
}

/* Only loops that enclose everything, one directly in the other, are parallel; any other stays in its thread. */
static void settle_parallel(Stmt *s, bool leading)
{
    bool alone = leading && s && !s->next;
    for (; s; s = s->next) {
        bool is = s->kind == S_FOR && s->loop == LOOP_PARALLEL;
        if (is && !alone) s->loop = LOOP_SERIAL;
        settle_parallel(s->body, is && alone);
    }
}

/* A later stage of one loop nest may run on another slice than the stage it reads: then nothing is parallel. The kernel's
 * top level is one statement exactly when it is one group. */
Kernel *schedule_apply(const Kernel *source, const char **error)
{
    Kernel *k = NEW(source->mem, Kernel);
    *k = *source;
    k->buf.at = arena_copy(k->mem, k->buf.at, sizeof *k->buf.at * k->buf.n), k->buf.cap = k->buf.n;
    k->axis.at = arena_copy(k->mem, k->axis.at, sizeof *k->axis.at * k->axis.n), k->axis.cap = k->axis.n;
    k->stage.at = arena_copy(k->mem, k->stage.at, sizeof *k->stage.at * k->stage.n), k->stage.cap = k->stage.n;
    uint32_t bufs = k->buf.n;
    const char *text = axes_apply(k);
    Stmt *all = NULL;
    bool threaded = is_threaded(k);
    for (uint32_t i = 0, next; i < k->stage.n && !text; i = next) {
        Nest top = nest_of(k, &k->stage.at[i], &text);
        for (next = i + 1; next < k->stage.n; next++) {
            Nest other = nest_of(k, &k->stage.at[next], &text);
            if (!same_group(&top, &other)) break;
        }
        Stmt *body = NULL, *temps = NULL;
        for (uint32_t b = 1; b < bufs && top.shared; b++) {
            if (k->buf.at[b].kind != BUF_TMP) continue;
            contract(k, (int)b, (int)i, (int)next, &text);
            if (k->buf.at[b].kind == BUF_LOCAL) temps = alloc(k, (int)b, temps);
        }
        for (uint32_t j = i; j < next && !text; j++) {
            if (threaded && j) body = seq(body, stmt(k, S_BARRIER, NULL));
            body = seq(body, stage(k, &k->stage.at[j], &text));
        }
        top.n = top.shared, top.check = 0;
        all = seq(all, top.shared ? wrap(&top, seq(temps, body), 0, top.shared, GUARD_ALL) : body);
    }
    settle_parallel(all, true);
    k->loops = all;
    if (error) *error = text;
    return text ? NULL : k;
}

Expr kernel_range(Kernel *k)
{
    Expr range = expr_index(k, 1);
    for (const Stmt *s = k->loops; s && !s->next && s->kind == S_FOR && s->loop == LOOP_PARALLEL; s = s->body)
        range = expr_mul(k, range, s->hi);
    return range;
}

/* kernel_text.c - kernels as text: what a person writes, what a golden file holds.
 *
 *   kernel NAME(SIZE, ...) {
 *     in X[R, C], I: i64[N]     out Y[R, C]     tmp m[R]     const W: i8[K, N] layout(1/16, 0, 1%16)
 *     m[r]    = max(c: C) X[r, c]                               # how(axis: extent, ...) value
 *     s[r]    = sum(c: C) exp(X[r, c] - m[r]) keep Y[r, c] then 1 / it     # `it`: the reduced value
 *     Y[r, c] = Y[r, c] * s[r] check r < R                      # clauses: keep then check where when scan share apart
 *     Y[r + 1, c] for r: R - 1, c: C = ...                      # the axes, where the indices do not say them
 *     Y[I[i]] for i: N add= X[i]                                # update
 *     schedule: share r; split c 4 16; vectorize c.2
 *   }
 * The type f32 is not written. A layout lists physical axes, the last contiguous: dimension, / div, % size. */
#include "ir/scalar.h"
#include <assert.h>
#include <ctype.h>
#include <math.h>
#include <stdlib.h>

const char *const loop_kinds[LOOP_KINDS] = {"for",     "unroll",  "vectorize", "parallel",
                                            "block.x", "block.y", "thread.x",  "thread.y"};
static const struct {
    const char *name;
    Prim how;
} reductions[] = {{"sum", P_add},  {"max", P_max}, {"larger", P_larger}, {"min", P_min},
                  {"prod", P_mul}, {"all", P_and}, {"any", P_or}};
static const char *const step_names[] = {"split", "order", "share", "partial", "guard", "", "call"};
static const struct {
    const char *name;
    BufKind kind;
} buf_kinds[] = {{"in", BUF_IN},       {"out", BUF_OUT},     {"tmp", BUF_TMP},
                 {"const", BUF_CONST}, {"local", BUF_LOCAL}, {"shared", BUF_SHARED}};

/* Sizes are printed from their programs: functions of two sizes or one. */
static const struct {
    DimOp op;
    const char *name;
    int args;
} size_functions[] = {{DIMOP_FDIV, "fdiv", 2}, {DIMOP_TDIV, "tdiv", 2}, {DIMOP_POS, "pos", 1},
                      {DIMOP_GE0, "ge0", 1},   {DIMOP_EQ0, "eq0", 1},   {DIMOP_SCALE, "scale", 2}};

/* ================ printing ================ */
static void print_level(const Kernel *k, Expr e, int level, FILE *f);

static bool is_word(const char *s)
{
    if (!isalpha((unsigned char)*s) && *s != '_') return false;
    while (isalnum((unsigned char)*s) || *s == '_') s++;
    return !*s;
}

static void print_symbol(const char *name, FILE *f) { fprintf(f, is_word(name) ? "%s" : "'%s'", name); }

typedef struct SizeText {
    const char *at[32];
    int n;
} SizeText;

static const char *size_function(DimOp op, const char *a, const char *b, Arena *mem)
{
    for (size_t i = 0; i < COUNT_OF(size_functions); i++)
        if (size_functions[i].op == op)
            return size_functions[i].args == 1 ? arena_printf(mem, "%s(%s)", size_functions[i].name, a)
                                               : arena_printf(mem, "%s(%s, %s)", size_functions[i].name, a, b);
    return arena_printf(mem, op == DIMOP_ADD ? "(%s + %s)" : "(%s * %s)", a, b);
}

static const char *size_text(const Kernel *k, Dim d, Arena *mem)
{
    const DimCode *code;
    SizeText s = {.n = 0};
    uint32_t n = dim_code(k->dim, d, mem, &code);
    for (uint32_t i = 0; i < n; i++) {
        DimOp op = (DimOp)code[i].op;
        const char *t;
        if (op == DIMOP_CONST) t = arena_printf(mem, "%lld", (long long)code[i].arg);
        else if (op == DIMOP_SYM) {
            const char *name = dim_symbol_name(k->dim, (uint32_t)code[i].arg);
            t = is_word(name) ? name : arena_printf(mem, "'%s'", name);
        } else if (op == DIMOP_SCALE) {
            t = size_function(op, s.at[--s.n], arena_printf(mem, "%lld", (long long)code[i].arg), mem);
        } else if (op == DIMOP_POS || op == DIMOP_GE0 || op == DIMOP_EQ0) {
            t = size_function(op, s.at[--s.n], "", mem);
        } else {
            s.n -= 2;
            t = size_function(op, s.at[s.n], s.at[s.n + 1], mem);
        }
        assert(s.n < (int)COUNT_OF(s.at));
        s.at[s.n++] = t;
    }
    return s.at[0];
}

static void print_size(const Kernel *k, Dim d, FILE *f)
{
    Arena mem = {0};
    fputs(size_text(k, d, &mem), f);
    arena_drop(&mem);
}

static void print_float(double v, DType t, FILE *f)
{
    if (isnan(v)) {
        fputs("nan", f);
        return;
    }
    if (isinf(v)) {
        fputs(v < 0 ? "-inf" : "inf", f);
        return;
    }
    if (v == trunc(v) && fabs(v) < 1e15) fprintf(f, "%.1f", v);
    else fprintf(f, t == DT_f64 ? "%.17g" : "%.9g", v);
}

static void print_list(const Kernel *k, const Expr *at, int n, const char *open, const char *close, FILE *f)
{
    for (int d = 0; d < n; d++) fputs(d ? ", " : open, f), print_level(k, at[d], 0, f);
    if (n) fputs(close, f);
}

void place_print(const Kernel *k, int buf, const Expr *at, FILE *f)
{
    fputs(k->buf.at[buf].name, f);
    print_list(k, at, k->buf.at[buf].rank, "[", "]", f);
}

static bool print_infix(const Kernel *k, const ExprNode *n, int level, FILE *f)
{
    for (int i = 0; i < SCALAR_SIGNS; i++) {
        const ScalarSign *s = &scalar_signs[i];
        if (s->prim != (Prim)n->prim || (s->level < 2 && n->type != DT_bool)) continue;
        if (s->level < level) fputc('(', f);
        print_level(k, n->arg[0], s->level, f);
        fprintf(f, " %s ", s->sign);
        print_level(k, n->arg[1], s->level + 1, f);
        if (s->level < level) fputc(')', f);
        return true;
    }
    return false;
}

static void print_prim(const Kernel *k, const ExprNode *n, int level, FILE *f)
{
    if (print_infix(k, n, level, f)) return;
    if (n->prim == P_cast || n->prim == P_sat) fprintf(f, "%s%s", n->prim == P_sat ? "sat_" : "", dtypes[n->type].name);
    else fputs(prims[n->prim].name, f);
    print_list(k, n->arg, prims[n->prim].arity, "(", ")", f);
}

static void print_level(const Kernel *k, Expr e, int level, FILE *f)
{
    const ExprNode *n = expr_node(k, e);
    switch (n->kind) {
    case E_FLOAT: print_float(n->u.f, (DType)n->type, f); break;
    case E_INT:
        if (n->type == DT_bool) fputs(n->u.i ? "true" : "false", f);
        else fprintf(f, n->type == DT_u64 ? "%llu" : "%lld", (long long)n->u.i);
        break;
    case E_SYM: print_size(k, (Dim){n->id}, f); break;
    case E_AXIS: fputs(k->axis.at[n->id].name, f); break;
    case E_IT: fputs("it", f); break;
    case E_LOAD: place_print(k, (int)n->id, n->arg, f); break;
    default: print_prim(k, n, level, f);
    }
}

void expr_print(const Kernel *k, Expr e, FILE *f)
{
    if (e) print_level(k, e, 0, f);
}

const char *expr_text(const Kernel *k, Expr e, Arena *mem)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    assert(f);
    expr_print(k, e, f);
    fclose(f);
    const char *copy = arena_text(mem, text, n);
    free(text); /* open_memstream's, not ours */
    return copy;
}

static void print_clause(const Kernel *k, const char *what, Expr e, FILE *f)
{
    if (e) fputs(what, f), print_level(k, e, 0, f);
}

static void print_axes(const Kernel *k, const int *axis, int n, FILE *f)
{
    for (int i = 0; i < n; i++) {
        fprintf(f, "%s%s: ", i ? ", " : "", k->axis.at[axis[i]].name);
        print_level(k, k->axis.at[axis[i]].extent, 0, f);
    }
}

/* Do the indices themselves say the axes: each one an axis over that whole dimension, in order? */
static bool says_axes(const Kernel *k, const Compute *c)
{
    const Buf *b = &k->buf.at[c->out];
    if (c->rank != b->rank) return false;
    for (int d = 0; d < c->rank; d++) {
        const ExprNode *n = expr_node(k, c->at[d]);
        if (n->kind != E_AXIS || (int)n->id != c->space[d] || k->axis.at[n->id].extent != b->dim[d]) return false;
    }
    return true;
}

static const char *how_name(Prim how)
{
    for (size_t i = 0; i < COUNT_OF(reductions); i++)
        if (reductions[i].how == how) return reductions[i].name;
    return "";
}

static void print_compute(const Kernel *k, const Compute *c, FILE *f)
{
    fputs("  ", f);
    place_print(k, c->out, c->at, f);
    if (!says_axes(k, c)) fputs(" for ", f), print_axes(k, c->space, c->rank, f);
    fprintf(f, " %s= ", c->update ? prims[c->update].name : "");
    if (c->how) fprintf(f, "%s(", how_name(c->how)), print_axes(k, c->reduce, c->reduces, f), fputs(") ", f);
    print_clause(k, "", c->value, f);
    print_clause(k, " keep ", c->keep, f);
    print_clause(k, " then ", c->epilogue, f);
    print_clause(k, " check ", c->check, f);
    print_clause(k, " where ", c->where, f);
    print_clause(k, " when ", c->when, f);
    if (c->scan) fprintf(f, " scan %s", k->axis.at[c->scan].name);
    if (c->share) fprintf(f, " share %d", c->share);
    if (c->apart) fputs(" apart", f);
    fputc('\n', f);
}

static void print_buf(const Kernel *k, const Buf *b, FILE *f)
{
    for (size_t i = 0; i < COUNT_OF(buf_kinds); i++)
        if (buf_kinds[i].kind == b->kind) fprintf(f, "  %s ", buf_kinds[i].name);
    fputs(b->name, f);
    if (b->type != DT_f32) fprintf(f, ": %s", dtypes[b->type].name);
    print_list(k, b->dim, b->rank, "[", "]", f);
    for (int i = 0; i < b->layout.n; i++) {
        const LayoutAxis *a = &b->layout.axis[i];
        fprintf(f, "%s%d", i ? ", " : " layout(", a->dim);
        if (a->div > 1) fprintf(f, "/%d", a->div);
        if (a->size) fprintf(f, "%%%d", a->size);
    }
    fprintf(f, "%s%s\n", b->layout.n ? ")" : "", b->slack ? " slack" : "");
}

static void print_step(const Kernel *k, const Step *s, FILE *f)
{
    fputs(s->what == STEP_LOOP ? loop_kinds[s->loop] : step_names[s->what], f);
    if (s->what == STEP_CALL) fprintf(f, " %s", s->name);
    for (int i = 0; i < (s->what == STEP_SPLIT ? 1 : s->n); i++) fprintf(f, " %s", k->axis.at[s->axis[i]].name);
    for (int i = 0; s->what == STEP_SPLIT && i < s->n; i++) fprintf(f, " %d", s->factor[i]);
}

void kernel_print(const Kernel *k, FILE *f)
{
    fprintf(f, "kernel %s(", k->name);
    for (uint32_t i = 0; i < dim_symbols(k->dim); i++)
        fputs(i ? ", " : "", f), print_symbol(dim_symbol_name(k->dim, i), f);
    fputs(") {\n", f);
    for (uint32_t i = 1; i < k->buf.n; i++)
        if (k->buf.at[i].kind <= BUF_CONST) print_buf(k, &k->buf.at[i], f);
    for (uint32_t i = 0; i < k->stage.n; i++) print_compute(k, &k->stage.at[i], f);
    for (uint32_t i = 0; i < k->schedule.step.n; i++)
        fputs(i ? "; " : "  schedule: ", f), print_step(k, &k->schedule.step.at[i], f);
    fputs(k->schedule.step.n ? "\n}\n" : "}\n", f);
}

static void print_stmt(const Kernel *k, const Stmt *s, FILE *f)
{
    switch (s->kind) {
    case S_FOR:
        fprintf(f, "%s %s in [", loop_kinds[s->loop], k->axis.at[s->axis].name);
        print_level(k, s->lo, 0, f), fputs(", ", f), print_level(k, s->hi, 0, f), fputc(')', f);
        break;
    case S_IF: print_clause(k, "if ", s->cond, f); break;
    case S_CHECK: print_clause(k, "check ", s->cond, f); break;
    case S_ALLOC: fprintf(f, "alloc "), place_print(k, s->buf, k->buf.at[s->buf].dim, f); break;
    case S_BARRIER: fputs("barrier", f); break;
    case S_CALL: fprintf(f, "call %s, which means", s->name); break;
    case S_STORE: place_print(k, s->buf, s->at, f), print_clause(k, " = ", s->value, f); break;
    case S_UPDATE:
        place_print(k, s->buf, s->at, f);
        fprintf(f, " %s= ", prims[s->how].name), print_level(k, s->value, 0, f);
        break;
    }
}

void loops_print(const Kernel *k, const Stmt *s, int depth, FILE *f)
{
    for (; s; s = s->next) {
        fprintf(f, "%*s", 2 * depth, "");
        print_stmt(k, s, f);
        fputc('\n', f);
        loops_print(k, s->body, depth + 1, f);
    }
}

/* ================ parsing ================ */
typedef struct Reader {
    Scalar s;
    DType it;
} Reader;

static char *text_of(Reader *r, const char *at, size_t n) { return arena_text(r->s.k->mem, at, n); }

static const char *word(Reader *r, const char *what)
{
    const char *at;
    size_t n = scalar_word(&r->s, &at);
    if (!n) scalar_fail(&r->s, "expected %s", what);
    return text_of(r, at, n);
}

static int number(Reader *r, const char *what) /* below 2^31 */
{
    char *end;
    const char *text = word(r, what);
    long v = strtol(text, &end, 10);
    if (*end || v > INT32_MAX) scalar_fail(&r->s, "expected %s", what);
    return (int)v;
}

static const char *axis_word(Reader *r) /* c.1 */
{
    scalar_skip(&r->s);
    const char *at = r->s.p;
    while (isalnum((unsigned char)*r->s.p) || *r->s.p == '_' || *r->s.p == '.') r->s.p++;
    if (r->s.p == at) scalar_fail(&r->s, "expected an axis");
    return text_of(r, at, (size_t)(r->s.p - at));
}

static int find_buf(const Kernel *k, const char *name, size_t n)
{
    for (uint32_t i = 1; i < k->buf.n; i++)
        if (strlen(k->buf.at[i].name) == n && !memcmp(k->buf.at[i].name, name, n)) return (int)i;
    return 0;
}

static int find_axis(const Kernel *k, const char *name, size_t n)
{
    for (uint32_t i = 1; i < k->axis.n; i++)
        if (strlen(k->axis.at[i].name) == n && !memcmp(k->axis.at[i].name, name, n)) return (int)i;
    return 0;
}

static Expr read_load(Reader *r, int buf)
{
    Expr at[MAX_RANK] = {0};
    int rank = r->s.k->buf.at[buf].rank;
    if (rank) scalar_expect(&r->s, "[");
    for (int d = 0; d < rank && !r->s.error; d++)
        at[d] = scalar_index(&r->s), scalar_expect(&r->s, d + 1 < rank ? "," : "]");
    return r->s.error ? 0 : expr_load(r->s.k, buf, at);
}

static bool size_of(const Kernel *k, Expr e, Dim *d)
{
    const ExprNode *n = e ? expr_node(k, e) : NULL;
    if (!n || (n->kind != E_SYM && n->kind != E_INT)) return false;
    return *d = n->kind == E_SYM ? (Dim){n->id} : dim_const(k->dim, n->u.i), true;
}

static Dim size_apply(Dims *d, DimOp op, Dim a, Dim b)
{
    Dim zero = dim_const(d, 0);
    int64_t v = 0;
    uint32_t bits;
    float scale;
    switch (op) {
    case DIMOP_FDIV: return dim_fdiv(d, a, b);
    case DIMOP_TDIV: return dim_tdiv(d, a, b);
    case DIMOP_POS: return dim_max(d, a, zero);
    case DIMOP_GE0: return dim_ge(d, a, zero);
    case DIMOP_EQ0: return dim_eq(d, a, zero);
    default:
        dim_is_const(d, b, &v), bits = (uint32_t)v;
        memcpy(&scale, &bits, sizeof scale);
        return dim_scale(d, a, scale);
    }
}

static Expr read_size(Reader *r, const char *name, size_t n)
{
    for (size_t i = 0; i < COUNT_OF(size_functions); i++) {
        if (strlen(size_functions[i].name) != n || memcmp(size_functions[i].name, name, n) != 0 ||
            !scalar_accept(&r->s, "("))
            continue;
        Dim a = {0}, b = {0};
        Expr x = scalar_index(&r->s), y = 0;
        if (size_functions[i].args == 2) scalar_expect(&r->s, ","), y = scalar_index(&r->s);
        scalar_expect(&r->s, ")");
        if (r->s.error) return 0;
        if (!size_of(r->s.k, x, &a) || (size_functions[i].args == 2 && !size_of(r->s.k, y, &b)))
            return scalar_fail(&r->s, "%s of what is no size", size_functions[i].name), 0;
        return expr_dim(r->s.k, size_apply(r->s.k->dim, size_functions[i].op, a, b));
    }
    return 0;
}

static Expr read_name(Scalar *s, const char *name, size_t n)
{
    Reader *r = s->ctx;
    int buf = find_buf(s->k, name, n), axis = find_axis(s->k, name, n);
    if (buf && (*s->p == '[' || !s->k->buf.at[buf].rank)) return read_load(r, buf);
    if (axis) return expr_axis(s->k, axis);
    if (r->it && n == 2 && !memcmp(name, "it", 2)) return expr_it(s->k, r->it);
    for (uint32_t i = 0; i < dim_symbols(s->k->dim); i++) {
        const char *symbol = dim_symbol_name(s->k->dim, i);
        if (strlen(symbol) == n && !memcmp(symbol, name, n))
            return expr_dim(s->k, dim_symbol(s->k->dim, symbol, DIM_INPUT, 0));
    }
    return read_size(r, name, n);
}

static void read_layout(Reader *r, Buf *b)
{
    scalar_expect(&r->s, "(");
    do {
        LayoutAxis a = {.div = 1};
        a.dim = number(r, "a dimension");
        if (scalar_accept(&r->s, "/")) a.div = number(r, "a divisor");
        if (scalar_accept(&r->s, "%")) a.size = number(r, "a size");
        if (b->layout.n == MAX_PHYS || a.dim < 0 || a.dim >= b->rank || a.div < 1 || a.size < 0)
            scalar_fail(&r->s, "not a layout");
        else b->layout.axis[b->layout.n++] = a;
    } while (!r->s.error && scalar_accept(&r->s, ","));
    scalar_expect(&r->s, ")");
}

static void read_buffers(Reader *r, BufKind kind)
{
    do {
        Buf b = {.name = word(r, "a buffer"), .kind = kind, .type = DT_f32};
        if (scalar_accept(&r->s, ":")) {
            const char *type = word(r, "a type");
            b.type = dtype_find(type, (int)strlen(type));
            if (!b.type) scalar_fail(&r->s, "no type '%s'", type);
        }
        if (scalar_accept(&r->s, "[")) {
            do b.dim[b.rank++] = scalar_index(&r->s);
            while (!r->s.error && b.rank < MAX_RANK && scalar_accept(&r->s, ","));
            scalar_expect(&r->s, "]");
        }
        if (scalar_accept(&r->s, "layout")) read_layout(r, &b);
        b.slack = scalar_accept(&r->s, "slack");
        if (find_buf(r->s.k, b.name, strlen(b.name))) scalar_fail(&r->s, "two buffers '%s'", b.name);
        if (!r->s.error) kernel_buf(r->s.k, b);
    } while (!r->s.error && scalar_accept(&r->s, ","));
}

static int bind_axis(Reader *r, const char *name, Expr extent)
{
    int a = find_axis(r->s.k, name, strlen(name));
    if (r->s.error) return 0;
    if (a && r->s.k->axis.at[a].extent != extent) scalar_fail(&r->s, "axis '%s' has two extents", name);
    return a ? a : kernel_axis(r->s.k, name, extent);
}

static int read_axes(Reader *r, int *axis) /* r: R, c: C */
{
    int n = 0;
    do {
        const char *name = word(r, "an axis");
        scalar_expect(&r->s, ":");
        Expr extent = scalar_index(&r->s);
        if (n == MAX_RANK) scalar_fail(&r->s, "too many axes");
        else axis[n++] = bind_axis(r, name, extent);
    } while (!r->s.error && scalar_accept(&r->s, ","));
    return n;
}

static void read_reduction(Reader *r, Compute *c)
{
    const char *start = r->s.p, *at;
    size_t n = scalar_word(&r->s, &at);
    Prim how = P_NONE;
    for (size_t i = 0; i < COUNT_OF(reductions); i++)
        if (strlen(reductions[i].name) == n && !memcmp(reductions[i].name, at, n)) how = reductions[i].how;
    bool call = how && scalar_accept(&r->s, "("), none = call && scalar_accept(&r->s, ")");
    bool binds = none || (call && scalar_word(&r->s, &at) && scalar_accept(&r->s, ":"));
    r->s.p = start;
    if (!binds) return;
    c->how = how;
    scalar_word(&r->s, &at), scalar_expect(&r->s, "(");
    if (!none) c->reduces = read_axes(r, c->reduce);
    scalar_expect(&r->s, ")");
}

static const char *past_brackets(const char *p)
{
    int depth = 0;
    do {
        depth += *p == '[', depth -= *p == ']';
        p++;
    } while (depth && *p);
    return p;
}

/* Y[at...] or Y[at...] for axes: the axes are bound before the indices are read. */
static void read_target(Reader *r, Compute *c)
{
    const char *name;
    size_t n = scalar_word(&r->s, &name);
    Kernel *k = r->s.k;
    c->out = find_buf(k, name, n);
    if (!c->out) {
        scalar_fail(&r->s, "unknown buffer '%.*s'", (int)n, name);
        return;
    }
    int rank = k->buf.at[c->out].rank;
    const char *open = r->s.p, *end;
    r->s.p = rank ? past_brackets(open) : open;
    bool bound = scalar_accept(&r->s, "for");
    scalar_skip(&r->s);
    if (bound && *r->s.p != '=') c->rank = read_axes(r, c->space);
    end = r->s.p, r->s.p = open;
    if (rank) scalar_expect(&r->s, "[");
    for (int d = 0; d < rank && !r->s.error; d++) {
        if (!bound) c->space[c->rank++] = bind_axis(r, word(r, "an axis"), k->buf.at[c->out].dim[d]);
        c->at[d] = r->s.error ? 0 : bound ? scalar_index(&r->s) : expr_axis(k, c->space[d]);
        scalar_expect(&r->s, d + 1 < rank ? "," : "]");
    }
    if (bound) r->s.p = end;
}

static Prim read_update(Reader *r) /* = or PRIM= */
{
    if (scalar_accept(&r->s, "=")) return P_NONE;
    const char *name = word(r, "'='");
    scalar_expect(&r->s, "=");
    for (Prim p = 1; p < PRIM_COUNT; p++)
        if (!strcmp(prims[p].name, name)) return p;
    return scalar_fail(&r->s, "no update '%s'", name), P_NONE;
}

static void read_clauses(Reader *r, Compute *c)
{
    Kernel *k = r->s.k;
    DType t = k->buf.at[c->out].type;
    if (scalar_accept(&r->s, "keep")) c->keep = scalar_expr(&r->s);
    if (scalar_accept(&r->s, "then")) c->epilogue = scalar_fit(&r->s, scalar_expr(&r->s), t);
    r->s.number = DT_i64;
    if (scalar_accept(&r->s, "check")) c->check = scalar_expr(&r->s);
    if (scalar_accept(&r->s, "where")) c->where = scalar_expr(&r->s);
    if (scalar_accept(&r->s, "when")) c->when = scalar_expr(&r->s);
    if (scalar_accept(&r->s, "scan")) {
        const char *name = word(r, "an axis");
        c->scan = find_axis(k, name, strlen(name));
    }
    if (scalar_accept(&r->s, "share")) c->share = number(r, "a number");
    c->apart = scalar_accept(&r->s, "apart");
}

static void read_compute(Reader *r)
{
    Compute c = {0};
    Kernel *k = r->s.k;
    read_target(r, &c);
    if (r->s.error) return;
    DType t = k->buf.at[c.out].type;
    c.update = read_update(r);
    read_reduction(r, &c);
    r->s.number = t;
    Expr value = scalar_expr(&r->s);
    if (!value) return;
    bool number = expr_is_const(k, value);
    c.value = number ? scalar_fit(&r->s, value, t) : value;
    r->it = c.value ? (DType)expr_node(k, c.value)->type : t;
    read_clauses(r, &c);
    r->it = DT_NONE, r->s.number = DT_f32;
    if (!r->s.error) vec_push(k->mem, &k->stage, c);
}

/* ---- schedules ---- */
static int step_axis(Reader *r)
{
    const char *name = axis_word(r);
    int a = find_axis(r->s.k, name, strlen(name));
    if (!a) scalar_fail(&r->s, "no axis '%s'", name);
    return a;
}

static void name_parts(Kernel *k, int a, const Step *s) /* as schedule_split numbers them */
{
    k->axis.at[a].part = (int)k->axis.n, k->axis.at[a].parts = s->n + 1;
    for (int i = 0; i <= s->n; i++) {
        Axis part = {.name = arena_printf(k->mem, "%s.%d", k->axis.at[a].name, i), .parent = a};
        part.extent = expr_index(k, i ? s->factor[i - 1] : 1);
        vec_push(k->mem, &k->axis, part);
    }
}

static bool at_operand(Reader *r)
{
    r->s.p += strspn(r->s.p, " ");
    return isalnum((unsigned char)*r->s.p) || *r->s.p == '_';
}

static void read_step(Reader *r)
{
    Step t = {.what = STEP_LOOP};
    const char *w = axis_word(r);
    for (StepKind i = 0; i <= STEP_CALL; i++)
        if (*step_names[i] && !strcmp(step_names[i], w)) t.what = i;
    for (LoopKind l = LOOP_UNROLL; l < LOOP_KINDS; l++)
        if (!strcmp(loop_kinds[l], w)) t.loop = l;
    if (t.what == STEP_LOOP && t.loop == LOOP_SERIAL) scalar_fail(&r->s, "no directive '%s'", w);
    if (t.what == STEP_CALL) t.name = word(r, "the name of a call");
    if (t.what == STEP_SPLIT) t.axis[0] = step_axis(r);
    while (!r->s.error && at_operand(r)) {
        if (t.n == MAX_STEP) scalar_fail(&r->s, "directive too long");
        else if (t.what == STEP_SPLIT) t.factor[t.n++] = number(r, "a factor");
        else t.axis[t.n++] = step_axis(r);
    }
    if (r->s.error) return;
    if (t.what == STEP_SPLIT && (t.n < 1 || r->s.k->axis.at[t.axis[0]].parts)) scalar_fail(&r->s, "not a split");
    else if (t.what == STEP_SPLIT) name_parts(r->s.k, t.axis[0], &t);
    if (!r->s.error) vec_push(r->s.k->mem, &r->s.k->schedule.step, t);
}

static void read_symbols(Reader *r)
{
    scalar_expect(&r->s, "(");
    while (!r->s.error && !scalar_accept(&r->s, ")")) {
        const char *name;
        if (scalar_accept(&r->s, "'")) {
            size_t n = strcspn(r->s.p, "'");
            name = text_of(r, r->s.p, n), r->s.p += n;
            scalar_expect(&r->s, "'");
        } else name = word(r, "a size");
        dim_symbol(r->s.k->dim, name, DIM_INPUT, 0);
        scalar_accept(&r->s, ",");
    }
}

static void read_item(Reader *r)
{
    for (size_t i = 0; i < 4; i++)
        if (scalar_accept(&r->s, buf_kinds[i].name)) {
            read_buffers(r, buf_kinds[i].kind);
            return;
        }
    if (!scalar_accept(&r->s, "schedule")) {
        read_compute(r);
        return;
    }
    scalar_expect(&r->s, ":");
    do read_step(r);
    while (!r->s.error && scalar_accept(&r->s, ";"));
}

Kernel *kernel_parse(Arena *mem, Dims *dim, const char *text, Diag *diag)
{
    Kernel *k = kernel_new(mem, dim, "");
    Reader r = {.s = {.k = k, .p = text, .number = DT_f32, .name = read_name}};
    r.s.ctx = &r;
    scalar_expect(&r.s, "kernel");
    k->name = word(&r, "a name");
    read_symbols(&r);
    scalar_expect(&r.s, "{");
    while (!r.s.error && !scalar_accept(&r.s, "}")) read_item(&r);
    if (!r.s.error) return k;
    int line = 1;
    for (const char *c = text; c < r.s.p; c++) line += *c == '\n';
    diag_error(diag, NULL, "line %d: %s", line, r.s.error);
    return NULL;
}

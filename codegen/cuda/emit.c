/* emit.c - loops -> CUDA C++. The sibling of codegen/llvm/emit.c; read them side by side.
 *
 * A bound loop becomes its index; every other loop is a `for`. Values are written in SSA form, one constant per node,
 * because text has no sharing and polynomials use their argument many times; what a guard protects is written inside
 * its own `if`. Types narrower than float hold floats that the type has. A failed check sets *status and ends its
 * thread, which barriers allow. The text includes octet_device.h (prelude.c); a host function run_NAME(), seen where
 * OCTET_HOST is defined (tests/cuda), launches it. */
#include "codegen/cuda/cuda.h"
#include <ctype.h>
#include <math.h>

typedef struct Emit {
    Kernel *k;
    FILE *f;
    Arena mem;   /* marks of this text */
    bool *named; /* per expression: v<e> is in scope */
    uint32_t cap;
    VEC(Expr) order; /* the named ones, innermost scope last */
    const char *symbol;
} Emit;

static const char *const index_of[LOOP_KINDS] = {[LOOP_BLOCK_X] = "blockIdx.x",
                                                 [LOOP_BLOCK_Y] = "blockIdx.y",
                                                 [LOOP_THREAD_X] = "threadIdx.x",
                                                 [LOOP_THREAD_Y] = "threadIdx.y"};

static void emit_expr(Emit *x, Expr e);
static void emit_stmt(Emit *x, const Stmt *s);

/* ---- types ---- */
static bool is_narrow(DType t) { return dtype_is_float(t) && t != DT_f32 && t != DT_f64; }

static const char *value_type(DType t)
{
    static const char *const word[][9] = {[DC_INT] = {[1] = "i8", [2] = "i16", [4] = "i32", [8] = "i64"},
                                          [DC_UINT] = {[1] = "u8", [2] = "u16", [4] = "u32", [8] = "u64"}};
    if (dtype_is_float(t)) return t == DT_f64 ? "double" : "float";
    return t == DT_bool ? "bool" : word[dtypes[t].cls][dtypes[t].bytes];
}

static const char *cell_type(DType t) { return !is_narrow(t) ? value_type(t) : dtypes[t].bytes == 2 ? "u16" : "u8"; }

/* ---- scopes ---- */
static bool is_named(const Emit *x, Expr e) { return e < x->cap && x->named[e]; }

static void name(Emit *x, Expr e)
{
    if (e >= x->cap) {
        uint32_t cap = x->cap ? x->cap : 1024;
        while (cap <= e) cap *= 2;
        bool *named = NEW_ARRAY(&x->mem, bool, cap);
        if (x->cap) memcpy(named, x->named, x->cap * sizeof *named);
        x->named = named, x->cap = cap;
    }
    x->named[e] = true;
    vec_push(&x->mem, &x->order, e);
}

static void close_scope(Emit *x, uint32_t from)
{
    while (x->order.n > from) x->named[x->order.at[--x->order.n]] = false;
}

/* ---- expressions ---- */
static void emit_axis(Emit *x, int a) /* c.1 -> c_1 */
{
    for (const char *c = x->k->axis.at[a].name; *c; c++) fputc(isalnum((unsigned char)*c) ? *c : '_', x->f);
}

static void emit_buf(Emit *x, int buf)
{
    for (const char *c = x->k->buf.at[buf].name; *c; c++) fputc(isalnum((unsigned char)*c) ? *c : '_', x->f);
    fprintf(x->f, "_%d", buf);
}

static void emit_place(Emit *x, int buf, Expr address)
{
    emit_buf(x, buf);
    fputc('[', x->f), emit_expr(x, address), fputc(']', x->f);
}

static const char *dim_binary(DimOp op)
{
    return op == DIMOP_ADD    ? "(%s + %s)"
           : op == DIMOP_MUL  ? "(%s * %s)"
           : op == DIMOP_FDIV ? "size_fdiv(%s, %s)"
                              : "size_tdiv(%s, %s)";
}

static const char *dim_unary(DimOp op)
{
    return op == DIMOP_POS     ? "size_pos("
           : op == DIMOP_GE0   ? "size_ge0("
           : op == DIMOP_EQ0   ? "size_eq0("
           : op == DIMOP_SCALE ? "size_scale("
                               : NULL;
}

static const char *joined(Arena *mem, DimOp op, const char *a, const char *b)
{
    const char *form = dim_binary(op), *second = strstr(form + 1, "%s");
    int head = (int)(strstr(form, "%s") - form);
    second = strstr(form + head + 2, "%s");
    return arena_printf(mem, "%.*s%s%.*s%s%s", head, form, a, (int)(second - form) - head - 2, form + head + 2, b,
                        second + 2);
}

static void emit_size(Emit *x, Dim d)
{
    enum { DEPTH = 64 };
    const DimCode *code;
    const char *stack[DEPTH];
    uint32_t n = dim_code(x->k->dim, d, &x->mem, &code), top = 0;
    for (uint32_t i = 0; i < n; i++) {
        DimOp op = (DimOp)code[i].op;
        long long v = (long long)code[i].arg;
        const char *call = dim_unary(op);
        if (op == DIMOP_CONST) stack[top++] = arena_printf(&x->mem, "%lldLL", v);
        else if (op == DIMOP_SYM) stack[top++] = arena_printf(&x->mem, "n%lld", v);
        else if (op == DIMOP_SCALE) stack[top - 1] = arena_printf(&x->mem, "%s%s, %lld)", call, stack[top - 1], v);
        else if (call) stack[top - 1] = arena_printf(&x->mem, "%s%s)", call, stack[top - 1]);
        else top--, stack[top - 1] = joined(&x->mem, op, stack[top - 1], stack[top]);
    }
    fputs(stack[0], x->f);
}

static void emit_float(Emit *x, DType t, double v)
{
    if (isnan(v) || isinf(v)) fputs(isnan(v) ? "NOT_A_NUMBER" : v < 0 ? "-INF" : "INF", x->f);
    else if (t == DT_f64) fprintf(x->f, "%#.17g", v);
    else fprintf(x->f, "%#.9gf", v);
}

static void emit_int(Emit *x, DType t, int64_t v)
{
    if (t == DT_bool) fputs(v ? "true" : "false", x->f);
    else if (t == DT_u64) fprintf(x->f, "%lluull", (unsigned long long)v);
    else if (v == INT64_MIN) fputs("(-9223372036854775807ll - 1)", x->f);
    else if (t == DT_i64) fprintf(x->f, v > INT32_MAX || v < -INT32_MAX ? "%lldll" : "%lld", (long long)v);
    else fprintf(x->f, "(%s)%lld", value_type(t), (long long)v);
}

/* The first operand of a helper fixes its type: a plain number says too little there. */
static void emit_operand(Emit *x, Expr e, bool typed)
{
    const ExprNode *n = expr_node(x->k, e);
    if (typed && n->kind == E_INT && n->type == DT_i64) fputs("(i64)", x->f);
    emit_expr(x, e);
}

static void emit_template(Emit *x, const char *t, const Expr *arg)
{
    for (; *t; t++)
        if (*t == '$') t++, emit_operand(x, arg[*t - '0'], *t == '0');
        else fputc(*t, x->f);
}

/* Signed arithmetic that may wrap is done on the unsigned type. */
static bool wraps(Prim p, DType t) { return t == DT_i32 && (p == P_add || p == P_sub || p == P_mul || p == P_neg); }

static void emit_wrapping(Emit *x, Prim p, const Expr *arg)
{
    const char *sign = p == P_add ? "+" : p == P_mul ? "*" : "-";
    fputs("(i32)(", x->f);
    if (prims[p].arity == 2) fputs("(u32)", x->f), emit_expr(x, arg[0]);
    fprintf(x->f, " %s (u32)", sign), emit_expr(x, arg[prims[p].arity - 1]), fputc(')', x->f);
}

static void emit_convert(Emit *x, const ExprNode *n)
{
    DType from = (DType)expr_node(x->k, n->arg[0])->type, to = (DType)n->type;
    const char *close = ")";
    if (to == DT_bool) fputs("(", x->f), close = " != 0)";
    else if (is_narrow(to)) fprintf(x->f, "%s::round((float)", dtypes[to].name);
    else if (dtype_is_float(to)) fprintf(x->f, "(%s)(", value_type(to));
    else if (n->prim == P_sat && to == DT_u64) fputs("sat_u64((double)(", x->f), close = "))";
    else if (n->prim == P_sat) fprintf(x->f, "(%s)sat(", value_type(to)), close = "";
    else if (dtype_is_float(from) && to != DT_u64) fprintf(x->f, "(%s)to_i64(", value_type(to));
    else fprintf(x->f, "(%s)(", value_type(to));
    emit_expr(x, n->arg[0]);
    if (*close) {
        fputs(close, x->f);
        return;
    }
    fputs(", ", x->f), emit_int(x, DT_i64, dtype_min(to)), fputs(", ", x->f), emit_int(x, DT_i64, dtype_max(to)),
        fputc(')', x->f);
}

/* Operators narrower than int are computed as int: brought back to their type, and 4- or 2-bit ones to their bits. */
static void emit_prim(Emit *x, const ExprNode *n)
{
    DType of = (DType)expr_node(x->k, n->arg[0])->type, t = (DType)n->type;
    if (n->prim == P_cast || n->prim == P_sat) {
        emit_convert(x, n);
        return;
    }
    if (wraps((Prim)n->prim, of)) {
        emit_wrapping(x, (Prim)n->prim, n->arg);
        return;
    }
    const char *text = dtype_is_float(of) ? prims[n->prim].c : prims[n->prim].c_int, *close = "";
    if (is_narrow(t)) fprintf(x->f, "%s::round(", dtypes[t].name), close = ")";
    else if (t != DT_i64 && !dtype_is_float(t)) fprintf(x->f, "(%s)(", value_type(t)), close = ")";
    emit_template(x, text, n->arg);
    fputs(close, x->f);
}

static void emit_expr(Emit *x, Expr e)
{
    const ExprNode n = *expr_node(x->k, e);
    if (is_named(x, e)) {
        fprintf(x->f, "v%u", e);
        return;
    }
    switch (n.kind) {
    case E_FLOAT: emit_float(x, (DType)n.type, n.u.f); break;
    case E_INT: emit_int(x, (DType)n.type, n.u.i); break;
    case E_SYM: emit_size(x, (Dim){n.id}); break;
    case E_AXIS: emit_axis(x, (int)n.id); break;
    case E_LOAD:
        if (is_narrow((DType)n.type)) fprintf(x->f, "%s::decode(", dtypes[n.type].name);
        emit_place(x, (int)n.id, buf_address(x->k, (int)n.id, n.arg));
        if (is_narrow((DType)n.type)) fputc(')', x->f);
        break;
    default: emit_prim(x, &n);
    }
}

/* ---- definitions ---- */
static void define(Emit *x, Expr e);

static bool plain(const ExprNode *n) /* short enough to be written where it is used */
{
    if (n->kind != E_PRIM) return n->kind != E_LOAD;
    return n->type == DT_i64 && (n->prim == P_add || n->prim == P_sub || n->prim == P_mul);
}

static bool loads(void *ctx, Expr load)
{
    (void)ctx, (void)load;
    return false;
}

static void define_guard(Emit *x, Expr e, const ExprNode *n)
{
    define(x, n->arg[0]), define(x, n->arg[2]);
    fprintf(x->f, "%s v%u = ", value_type((DType)n->type), e), emit_expr(x, n->arg[2]);
    fputs("; if (", x->f), emit_expr(x, n->arg[0]), fputs(") { ", x->f);
    uint32_t scope = x->order.n;
    define(x, n->arg[1]);
    fprintf(x->f, "v%u = ", e), emit_expr(x, n->arg[1]), fputs("; } ", x->f);
    close_scope(x, scope);
    name(x, e);
}

static void define(Emit *x, Expr e)
{
    const ExprNode n = *expr_node(x->k, e);
    if (is_named(x, e)) return;
    if (n.kind == E_PRIM && n.prim == P_guard && !expr_loads(x->k, n.arg[1], loads, NULL)) {
        define_guard(x, e, &n);
        return;
    }
    if (n.kind == E_LOAD) define(x, buf_address(x->k, (int)n.id, n.arg));
    else
        for (int i = 0; n.kind == E_PRIM && i < prims[n.prim].arity; i++) define(x, n.arg[i]);
    if (plain(&n)) return;
    fprintf(x->f, "const %s v%u = ", value_type((DType)n.type), e);
    emit_expr(x, e), fputs("; ", x->f);
    name(x, e);
}

static Expr emit_value(Emit *x, Expr e) /* in a scope of its own, which the caller opened */
{
    e = expr_expand(x->k, e);
    define(x, e);
    return e;
}

/* ---- statements ---- */
static void emit_loop(Emit *x, const Stmt *s)
{
    if (index_of[s->loop]) {
        fputs("{ const i64 ", x->f), emit_axis(x, s->axis), fprintf(x->f, " = %s;\nif (", index_of[s->loop]);
        emit_axis(x, s->axis), fputs(" >= ", x->f), emit_expr(x, s->lo), fputs(" && ", x->f);
        emit_axis(x, s->axis), fputs(" < ", x->f), emit_expr(x, s->hi), fputs(") {\n", x->f);
        emit_stmt(x, s->body);
        fputs("} }\n", x->f);
        return;
    }
    if (s->loop == LOOP_UNROLL || s->loop == LOOP_VECTOR) fputs("_Pragma(\"unroll\") ", x->f);
    fputs("for (i64 ", x->f), emit_axis(x, s->axis), fputs(" = ", x->f), emit_expr(x, s->lo), fputs("; ", x->f);
    emit_axis(x, s->axis), fputs(" < ", x->f), emit_expr(x, s->hi), fputs("; ", x->f);
    emit_axis(x, s->axis), fputs("++) {\n", x->f);
    emit_stmt(x, s->body);
    fputs("}\n", x->f);
}

static void emit_if(Emit *x, Expr cond, const Stmt *body)
{
    uint32_t scope = x->order.n;
    fputs("{ ", x->f);
    cond = emit_value(x, cond);
    fputs("if (", x->f), emit_expr(x, cond), fputs(") {\n", x->f);
    close_scope(x, scope); /* the body's statements name their own */
    emit_stmt(x, body);
    fputs("} }\n", x->f);
}

static void emit_check(Emit *x, Expr cond)
{
    uint32_t scope = x->order.n;
    fputs("{ ", x->f);
    cond = emit_value(x, cond);
    fputs("if (!", x->f), emit_expr(x, cond), fprintf(x->f, ") { *status = %d; return; } }\n", OCTET_ERR_INDEX);
    close_scope(x, scope);
}

static void emit_alloc(Emit *x, int buf)
{
    const Buf *b = &x->k->buf.at[buf];
    int64_t n = 1, d;
    expr_is_index(x->k, buf_elements(x->k, buf), &n);
    d = n > 0 ? n : 1;
    fprintf(x->f, "%s%s ", b->kind == BUF_SHARED ? "__shared__ " : "", cell_type(b->type));
    emit_buf(x, buf);
    fprintf(x->f, "[%lld];\n", (long long)d);
}

static void emit_store(Emit *x, const Stmt *s)
{
    uint32_t scope = x->order.n;
    DType t = x->k->buf.at[s->buf].type;
    fputs("{ ", x->f);
    Expr address = expr_expand(x->k, buf_address(x->k, s->buf, s->at)), v = s->value;
    if (s->kind == S_UPDATE) v = expr_prim(x->k, s->how, expr_load(x->k, s->buf, s->at), v, 0);
    v = emit_value(x, v);
    define(x, address);
    emit_place(x, s->buf, address), fputs(" = ", x->f);
    if (is_narrow(t)) fprintf(x->f, "(%s)%s::encode(", cell_type(t), dtypes[t].name);
    emit_expr(x, v);
    fputs(is_narrow(t) ? "); }\n" : "; }\n", x->f);
    close_scope(x, scope);
}

static void emit_stmt(Emit *x, const Stmt *s)
{
    for (; s; s = s->next) {
        switch (s->kind) {
        case S_FOR: emit_loop(x, s); break;
        case S_IF: emit_if(x, s->cond, s->body); break;
        case S_CHECK: emit_check(x, s->cond); break;
        case S_ALLOC: emit_alloc(x, s->buf); break;
        case S_STORE:
        case S_UPDATE: emit_store(x, s); break;
        case S_BARRIER: fputs("__syncthreads();\n", x->f); break;
        case S_CALL: emit_stmt(x, s->body); break;
        }
    }
}

/* ---- the kernel and its launch ---- */
static void emit_extents(Emit *x, const Stmt *s, LoopKind bind,
                         Expr *seen) /* the largest one: max_int(a, max_int(b, ...)) */
{
    for (; s; s = s->next) {
        if (s->kind == S_FOR && s->loop == bind && s->hi != *seen)
            *seen = s->hi, fputs("max_int((i64)(", x->f), emit_expr(x, s->hi), fputs("), ", x->f);
        emit_extents(x, s->body, bind, seen);
    }
}

static int count_extents(const Stmt *s, LoopKind bind, Expr *seen)
{
    int n = 0;
    for (; s; s = s->next) {
        if (s->kind == S_FOR && s->loop == bind && s->hi != *seen) *seen = s->hi, n++;
        n += count_extents(s->body, bind, seen);
    }
    return n;
}

static void emit_extent(Emit *x, LoopKind bind)
{
    Expr seen = 0, again = 0;
    int n = count_extents(x->k->loops, bind, &seen);
    fputs(", ", x->f);
    emit_extents(x, x->k->loops, bind, &again);
    fputc(n ? '0' : '1', x->f);
    for (int i = 0; i < n; i++) fputc(')', x->f);
}

static bool is_param(const Buf *b) { return b->kind >= BUF_IN && b->kind <= BUF_CONST; }

static void emit_signature(Emit *x)
{
    fprintf(x->f, "extern \"C\" __global__ void %s(", x->symbol);
    for (uint32_t i = 0; i < dim_symbols(x->k->dim); i++) fprintf(x->f, "i64 n%u, ", i);
    for (uint32_t b = 1; b < x->k->buf.n; b++) {
        const Buf *buf = &x->k->buf.at[b];
        if (!is_param(buf)) continue;
        fprintf(x->f, "%s%s *__restrict__ ", buf->kind == BUF_IN || buf->kind == BUF_CONST ? "const " : "",
                cell_type(buf->type));
        emit_buf(x, (int)b), fputs(", ", x->f);
    }
    fputs("int *status)\n{\n", x->f);
}

static void emit_launch(Emit *x)
{
    fprintf(x->f, "#ifdef OCTET_HOST\nextern \"C\" int run_%s(const i64 *size, void *const *buf)\n{\n", x->symbol);
    for (uint32_t i = 0; i < dim_symbols(x->k->dim); i++) fprintf(x->f, "    const i64 n%u = size[%u];\n", i, i);
    fprintf(x->f, "    (void)size;\n    return LAUNCH(%s", x->symbol);
    for (LoopKind b = LOOP_BLOCK_X; b <= LOOP_THREAD_Y; b++) emit_extent(x, b);
    for (uint32_t i = 0; i < dim_symbols(x->k->dim); i++) fprintf(x->f, ", n%u", i);
    uint32_t n = 0;
    for (uint32_t b = 1; b < x->k->buf.n; b++)
        if (is_param(&x->k->buf.at[b])) fprintf(x->f, ", (%s *)buf[%u]", cell_type(x->k->buf.at[b].type), n++);
    fputs(");\n}\n#endif\n", x->f);
}

void cuda_emit(Kernel *k, const char *symbol, FILE *f)
{
    Emit x = {.k = k, .f = f, .symbol = symbol};
    fputs("#include \"octet_device.h\"\n", f);
    emit_signature(&x);
    emit_stmt(&x, k->loops);
    fputs("}\n", f);
    emit_launch(&x);
    arena_drop(&x.mem);
}

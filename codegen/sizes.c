/* sizes.c - the size table: which symbols a call defines, and the programs that compute every other size from them.
 *
 * Sizes are collected while the tables are built (size_ref) and numbered at the end, because the runtime wants them
 * sorted by the phase in which they become known. */
#include "codegen/image.h"
#include <assert.h>

enum { GUESS = 64 };

void sizes_new(Sizes *z, Arena *mem, Dims *dim)
{
    *z = (Sizes){.mem = mem, .dim = dim, .phases = 1};
    z->symbol = NEW_ARRAY(mem, SizeSymbol, dim_symbols(dim) + 1);
    z->phase_step = NEW(mem, uint32_t);
}

static void symbol_define(Sizes *z, Dim d, OctetSymbol how)
{
    uint32_t i;
    if (!dim_known(d) || !dim_is_symbol(z->dim, d, &i) || z->symbol[i].defined) return;
    z->symbol[i] = (SizeSymbol){.how = how, .defined = true};
}

/* A free size is what an input's dimension says; a size in the data of an input (a shape that is fed) is read from
 * there. */
void sizes_inputs(Sizes *z, const Graph *g)
{
    for (uint32_t i = 0; i < g->input.n; i++)
        for (int a = 0; a < val_type(g, g->input.at[i])->rank; a++)
            symbol_define(z, val_type(g, g->input.at[i])->dim[a], (OctetSymbol){SOURCE_DIM, i, (uint32_t)a, 0, UINT32_MAX});
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Value *v = graph_val(g, g->input.at[i]);
        for (uint32_t k = 0; v->elem && k < v->elems; k++)
            symbol_define(z, v->elem[k], (OctetSymbol){SOURCE_VALUE, i, k, (int32_t)v->type.dtype, UINT32_MAX});
    }
}

int dim_code_depth(const DimCode *code, uint32_t n)
{
    int depth = 0, most = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool pushes = code[i].op == DIMOP_CONST || code[i].op == DIMOP_SYM;
        bool unary =
            code[i].op == DIMOP_POS || code[i].op == DIMOP_GE0 || code[i].op == DIMOP_EQ0 || code[i].op == DIMOP_SCALE;
        depth += pushes ? 1 : unary ? 0 : -1;
        if (depth > most) most = depth;
    }
    return most;
}

uint32_t size_ref_raw(Sizes *z, Dim d)
{
    assert(dim_known(d));
    const char *key = arena_printf(z->mem, "%u", (unsigned)d.id);
    uint32_t found = map_get(&z->found, key);
    if (found) return found - 1;
    SizeEntry e = {.dim = d};
    e.n = dim_code(z->dim, d, z->mem, &e.code);
    assert(dim_code_depth(e.code, e.n) <= OCTET_CODE_DEPTH);
    for (uint32_t i = 0; i < e.n; i++)
        if (e.code[i].op == DIMOP_SYM) z->symbol[e.code[i].arg].used = true;
    uint32_t ref = vec_push(z->mem, &z->entry, e);
    map_put(z->mem, &z->found, key, ref + 1);
    return ref;
}

uint32_t size_ref(Sizes *z, Dim d) { return size_ref_raw(z, dim_canon(z->dim, d)); }

const char *sizes_undefined(const Sizes *z)
{
    for (uint32_t i = 0; i < dim_symbols(z->dim); i++)
        if (z->symbol[i].used && !z->symbol[i].defined) return dim_symbol_name(z->dim, i);
    return NULL;
}

uint32_t size_phase(const Sizes *z, uint32_t ref)
{
    const SizeEntry *e = &z->entry.at[ref];
    uint32_t phase = 0;
    for (uint32_t i = 0; i < e->n; i++)
        if (e->code[i].op == DIMOP_SYM && z->symbol[e->code[i].arg].phase > phase)
            phase = z->symbol[e->code[i].arg].phase;
    return phase;
}

/* A size that is just a symbol is that symbol's own entry. */
static bool entry_is_symbol(const SizeEntry *e) { return e->n == 1 && e->code[0].op == DIMOP_SYM; }

void sizes_number(Sizes *z)
{
    uint32_t at = 0;
    for (uint32_t phase = 0; phase < z->phases; phase++)
        for (uint32_t i = 0; i < dim_symbols(z->dim); i++)
            if (z->symbol[i].used && z->symbol[i].phase == phase) z->symbol[i].at = at++;
    z->symbols = at;
    for (uint32_t i = 0; i < z->entry.n; i++) z->entry.at[i].phase = size_phase(z, i);
    for (uint32_t phase = 0; phase < z->phases; phase++)
        for (uint32_t i = 0; i < z->entry.n; i++)
            if (z->entry.at[i].phase == phase && !entry_is_symbol(&z->entry.at[i])) z->entry.at[i].at = at++;
}

uint32_t size_at(const Sizes *z, uint32_t ref)
{
    const SizeEntry *e = &z->entry.at[ref];
    return entry_is_symbol(e) ? z->symbol[e->code[0].arg].at : e->at;
}

bool size_const(const Sizes *z, uint32_t ref, int64_t *v) { return dim_is_const(z->dim, z->entry.at[ref].dim, v); }

int64_t size_guess(const Sizes *z, Dim d)
{
    int64_t v = 1, *symbol = NEW_ARRAY(z->mem, int64_t, dim_symbols(z->dim) + 1);
    if (dim_is_const(z->dim, d, &v)) return v;
    for (uint32_t i = 0; i < dim_symbols(z->dim); i++) symbol[i] = GUESS;
    return dim_eval(z->dim, d, symbol, &v) && v > 0 ? v : 1;
}

/* ---- from a kernel's private sizes to the program's ---- */
static float scale_of(int64_t bits)
{
    uint32_t u = (uint32_t)bits;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static Dim dim_import(Dims *to, const Kernel *k, Dim d, const Dim *symbol)
{
    if (!symbol) return d;
    const DimCode *code;
    Arena mem = {0};
    uint32_t n = dim_code(k->dim, d, &mem, &code), top = 0;
    Dim s[OCTET_CODE_DEPTH];
    assert(dim_code_depth(code, n) <= OCTET_CODE_DEPTH);
    for (uint32_t i = 0; i < n; i++) {
        Dim a = top > 1 ? s[top - 2] : (Dim){0}, b = top ? s[top - 1] : (Dim){0};
        switch ((DimOp)code[i].op) {
        case DIMOP_CONST: s[top++] = dim_const(to, code[i].arg); break;
        case DIMOP_SYM: s[top++] = symbol[code[i].arg]; break;
        case DIMOP_ADD: s[--top - 1] = dim_add(to, a, b); break;
        case DIMOP_MUL: s[--top - 1] = dim_mul(to, a, b); break;
        case DIMOP_FDIV: s[--top - 1] = dim_fdiv(to, a, b); break;
        case DIMOP_TDIV: s[--top - 1] = dim_tdiv(to, a, b); break;
        case DIMOP_POS: s[top - 1] = dim_max(to, b, dim_const(to, 0)); break;
        case DIMOP_GE0: s[top - 1] = dim_ge(to, b, dim_const(to, 0)); break;
        case DIMOP_EQ0: s[top - 1] = dim_eq(to, b, dim_const(to, 0)); break;
        case DIMOP_SCALE: s[top - 1] = dim_scale(to, b, scale_of(code[i].arg)); break;
        }
    }
    Dim r = s[0];
    arena_drop(&mem);
    return r;
}

static Dim dim_lt(Dims *d, Dim a, Dim b) { return dim_ge(d, b, dim_add(d, a, dim_const(d, 1))); }
static Dim dim_le(Dims *d, Dim a, Dim b) { return dim_ge(d, b, a); }
typedef struct PrimDim {
    Prim prim;
    Dim (*make)(Dims *, Dim, Dim);
} PrimDim;
static const PrimDim prim_dims[] = {{P_add, dim_add}, {P_sub, dim_sub}, {P_mul, dim_mul}, {P_div, dim_fdiv},
                                    {P_mod, dim_mod}, {P_min, dim_min}, {P_max, dim_max}, {P_lt, dim_lt},
                                    {P_le, dim_le},   {P_eq, dim_eq}};

Dim dim_of_expr(Dims *to, Kernel *k, Expr e, const Dim *symbol)
{
    ExprNode n = *expr_node(k, e);
    if (n.kind == E_INT) return dim_const(to, n.u.i);
    if (n.kind == E_SYM) return dim_import(to, k, (Dim){n.id}, symbol);
    assert(n.kind == E_PRIM && "extents are made of sizes");
    Dim a = dim_of_expr(to, k, n.arg[0], symbol);
    if (n.prim == P_cast) return a;
    Dim b = dim_of_expr(to, k, n.arg[1], symbol);
    if (n.prim == P_select) return dim_select(to, a, b, dim_of_expr(to, k, n.arg[2], symbol));
    for (size_t i = 0; i < COUNT_OF(prim_dims); i++)
        if (prim_dims[i].prim == n.prim) return prim_dims[i].make(to, a, b);
    assert(0 && "extents are integer arithmetic");
    return a;
}

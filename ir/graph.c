/* graph.c - graphs of operators; everything is born in graph_emit(), see graph.h.
 *
 * graph_emit: arity and types against the row's schema, an equal node if there is one, the row's shape rule, folding,
 * append. */
#include "ir/graph.h"
#include "ir/base/checked.h"
#include "ir/lower.h"
#include <assert.h>
#include <math.h>

/* ---- values ---- */
static Val value_push(Graph *g, Value v) { return (Val){vec_push(g->mem, &g->val, v)}; }

Graph *graph_new(Module *m, Arena *mem, const char *name)
{
    Graph *g = NEW(mem, Graph);
    g->module = m, g->mem = mem, g->name = name;
    value_push(g, (Value){.type = {.rank = -1}, .def = NO_NODE});
    return g;
}

Val graph_input(Graph *g, const char *name, Type type)
{
    Val v = value_push(g, (Value){.type = type, .def = NO_NODE, .name = name});
    vec_push(g->mem, &g->input, v);
    return v;
}

void graph_output(Graph *g, Val v, const char *name)
{
    vec_push(g->mem, &g->output, v);
    vec_push(g->mem, &g->output_name, name);
}

Type type_of_tensor(Module *m, const Tensor *t)
{
    Type type = {.dtype = t->type, .rank = t->rank};
    for (int i = 0; i < t->rank; i++) type.dim[i] = dim_const(m->dim, t->dim[i]);
    return type;
}

/* Equal small tensors are one value; a large one is the same when its data is. */
enum { SMALL_BYTES = 1024 };

static bool tensor_small(const Tensor *t) { return t->type != DT_str && tensor_bytes(t) <= SMALL_BYTES; }

static uint32_t tensor_hash(const Tensor *t)
{
    uint64_t h = hash_bytes(t->dim, (size_t)t->rank * sizeof *t->dim, (uint64_t)t->type);
    return (uint32_t)(tensor_small(t) ? hash_bytes(t->data, tensor_bytes(t), h)
                                      : hash_bytes(&t->data, sizeof t->data, h));
}

static bool tensor_shared(const Tensor *a, const Tensor *b)
{
    return (a->data == b->data || (tensor_small(a) && tensor_small(b))) && tensor_equal(a, b);
}

static void consts_grow(Graph *g)
{
    if (g->consts * 4 < g->const_cap * 3) return;
    do g->const_cap = g->const_cap ? g->const_cap * 2 : 64;
    while (g->consts * 4 >= g->const_cap * 3);
    g->const_hash = NEW_ARRAY(g->mem, uint32_t, g->const_cap);
    for (uint32_t v = 1; v < g->val.n; v++) {
        if (!g->val.at[v].konst) continue;
        uint32_t i = tensor_hash(g->val.at[v].konst) & (g->const_cap - 1);
        while (g->const_hash[i]) i = (i + 1) & (g->const_cap - 1);
        g->const_hash[i] = v;
    }
}

Val graph_const(Graph *g, const Tensor *t, const char *name)
{
    consts_grow(g);
    uint32_t i = tensor_hash(t) & (g->const_cap - 1);
    for (; g->const_hash[i]; i = (i + 1) & (g->const_cap - 1))
        if (tensor_shared(g->val.at[g->const_hash[i]].konst, t)) return (Val){g->const_hash[i]};
    Val v = value_push(g, (Value){.type = type_of_tensor(g->module, t), .def = NO_NODE, .konst = t, .name = name});
    g->const_hash[i] = v.id, g->consts++;
    return v;
}

uint16_t *graph_uses(const Graph *g, Arena *scratch)
{
    uint16_t *uses = NEW_ARRAY(scratch, uint16_t, g->val.n);
    const bool *live = graph_live(g, scratch);
    for (uint32_t i = 0; i < g->node.n; i++)
        for (uint32_t k = 0; live[i] && k < g->node.at[i].nin; k++) {
            uint16_t *u = &uses[node_in(g, &g->node.at[i], k).id];
            *u += *u < UINT16_MAX;
        }
    for (uint32_t i = 0; i < g->output.n; i++) uses[g->output.at[i].id] += uses[g->output.at[i].id] < UINT16_MAX;
    return uses;
}

/* ---- attributes ---- */
const Attr *node_attr(const Node *n, const char *attr)
{
    int i = op_attr_index(n->op, attr);
    assert(i >= 0);
    return &n->attr[i];
}

int64_t node_int(const Node *n, const char *attr)
{
    const Attr *a = node_attr(n, attr);
    assert(a->kind == ATTR_INT);
    return a->i;
}

double node_float(const Node *n, const char *attr)
{
    const Attr *a = node_attr(n, attr);
    assert(a->kind == ATTR_FLOAT);
    return (double)a->f;
}

const char *node_str(const Node *n, const char *attr)
{
    const Attr *a = node_attr(n, attr);
    assert(a->kind == ATTR_STRING || a->kind == ATTR_NONE);
    return a->kind ? a->s : NULL;
}

const int64_t *node_ints(const Node *n, const char *attr, uint32_t *count)
{
    const Attr *a = node_attr(n, attr);
    assert(a->kind == ATTR_INTS || a->kind == ATTR_NONE);
    *count = a->kind ? a->n : 0;
    return a->kind ? a->ints : NULL;
}

bool node_is(const Node *n, const char *op)
{
    const char *domain = n->op->domain;
    return !strcmp(n->op->name, op) && (!domain || !*domain || !strcmp(domain, "ai.onnx") || !strcmp(domain, "octet"));
}

static bool strings_equal(const Attr *a, const Attr *b)
{
    for (uint32_t i = 0; i < a->n; i++)
        if (strcmp(a->strings[i], b->strings[i])) return false;
    return true;
}

bool attr_equal(const Attr *a, const Attr *b)
{
    bool plural = a->kind == ATTR_INTS || a->kind == ATTR_FLOATS || a->kind == ATTR_STRINGS;
    if (a->kind != b->kind || (plural && a->n != b->n)) return false;
    switch (a->kind) {
    case ATTR_NONE: return true;
    case ATTR_INT: return a->i == b->i;
    case ATTR_FLOAT: return !memcmp(&a->f, &b->f, sizeof a->f);
    case ATTR_STRING: return !strcmp(a->s, b->s);
    case ATTR_INTS: return !a->n || !memcmp(a->ints, b->ints, a->n * sizeof *a->ints);
    case ATTR_FLOATS: return !a->n || !memcmp(a->floats, b->floats, a->n * sizeof *a->floats);
    case ATTR_STRINGS: return strings_equal(a, b);
    case ATTR_TENSOR: return a->tensor == b->tensor || tensor_equal(a->tensor, b->tensor);
    case ATTR_GRAPH: return a->graph == b->graph;
    }
    return false;
}

static uint64_t attr_hash(const Attr *a, uint64_t h)
{
    h = hash_bytes(&a->kind, sizeof a->kind, h);
    switch (a->kind) {
    case ATTR_INT: return hash_bytes(&a->i, sizeof a->i, h);
    case ATTR_FLOAT: return hash_bytes(&a->f, sizeof a->f, h);
    case ATTR_STRING: return hash_bytes(a->s, strlen(a->s), h);
    case ATTR_INTS: return hash_bytes(a->ints, a->n * sizeof *a->ints, h);
    case ATTR_FLOATS: return hash_bytes(a->floats, a->n * sizeof *a->floats, h);
    case ATTR_TENSOR: return h ^ tensor_hash(a->tensor) * (uint64_t)tensor_small(a->tensor);
    default: return h;
    }
}

/* The graph's own copy of a caller's attribute values; tensors and graphs live as long as the module anyway. */
static const Attr *attrs_own(Arena *mem, const Attr *attr, uint32_t n)
{
    Attr *own = arena_copy(mem, attr, n * sizeof *attr);
    for (uint32_t i = 0; i < n; i++) {
        Attr *a = &own[i];
        if (a->kind == ATTR_STRING) a->s = arena_text(mem, a->s, strlen(a->s));
        if (a->kind == ATTR_INTS) a->ints = arena_copy(mem, a->ints, a->n * sizeof *a->ints);
        if (a->kind == ATTR_FLOATS) a->floats = arena_copy(mem, a->floats, a->n * sizeof *a->floats);
        if (a->kind != ATTR_STRINGS) continue;
        const char **s = NEW_ARRAY(mem, const char *, a->n + 1);
        for (uint32_t k = 0; k < a->n; k++) s[k] = arena_text(mem, a->strings[k], strlen(a->strings[k]));
        a->strings = s;
    }
    return own;
}

/* ---- sharing ---- */
static uint32_t node_hash(const Graph *g, const Node *n)
{
    uint64_t h = hash_bytes(&n->op, sizeof n->op, (uint64_t)n->nout << 32 | n->nin);
    h = hash_bytes(g->operand.at + n->in, n->nin * sizeof(Val), h);
    uint32_t nattr = op_attrs(n->op);
    for (uint32_t i = 0; i < nattr; i++) h = attr_hash(&n->attr[i], h);
    return (uint32_t)(h ^ h >> 32);
}

static bool node_equal(const Graph *g, const Node *a, const Node *b)
{
    if (a->op != b->op || a->nin != b->nin || a->nout != b->nout) return false;
    if (a->nin && memcmp(g->operand.at + a->in, g->operand.at + b->in, a->nin * sizeof(Val))) return false;
    uint32_t nattr = op_attrs(a->op);
    for (uint32_t i = 0; i < nattr; i++)
        if (!attr_equal(&a->attr[i], &b->attr[i])) return false;
    return true;
}

static void nodes_grow(Graph *g)
{
    if (g->node.n * 4 < g->hash_cap * 3) return;
    g->hash_cap = g->hash_cap ? g->hash_cap * 2 : 64;
    g->hash = NEW_ARRAY(g->mem, uint32_t, g->hash_cap);
    for (uint32_t k = 0; k < g->node.n; k++) {
        if (g->node.at[k].op->flags & OP_UNIQUE) continue;
        uint32_t i = node_hash(g, &g->node.at[k]) & (g->hash_cap - 1);
        while (g->hash[i]) i = (i + 1) & (g->hash_cap - 1);
        g->hash[i] = k + 1;
    }
}

/* The slot of an equal node, or where it would go; the caller has left room. */
static uint32_t *node_slot(Graph *g, const Node *n)
{
    nodes_grow(g);
    uint32_t i = node_hash(g, n) & (g->hash_cap - 1);
    while (g->hash[i] && !node_equal(g, &g->node.at[g->hash[i] - 1], n)) i = (i + 1) & (g->hash_cap - 1);
    return &g->hash[i];
}

/* ---- types against the signature ---- */
static bool type_in_class(DType t, const char *word, size_t n)
{
    static const struct {
        const char *name;
        bool member[DC_OTHER + 1];
    } classes[] = {
        {"int", {[DC_INT] = true, [DC_UINT] = true}},
        {"uint", {[DC_UINT] = true}},
        {"bool", {[DC_BOOL] = true}},
        {"number", {[DC_FLOAT] = true, [DC_INT] = true, [DC_UINT] = true, [DC_BOOL] = true}},
        {"any", {true, true, true, true, true, true}},
    };
    for (uint32_t i = 0; i < COUNT_OF(classes); i++)
        if (strlen(classes[i].name) == n && !strncmp(classes[i].name, word, n)) return classes[i].member[dtypes[t].cls];
    if (n == 5 && !strncmp(word, "float", n)) return t == DT_f16 || t == DT_bf16 || t == DT_f32 || t == DT_f64;
    return dtype_find(word, (int)n) == t;
}

static bool type_allowed(DType t, const char *list)
{
    for (const char *w = list; w && *w;) {
        size_t n = strcspn(w, " ");
        if (n && type_in_class(t, w, n)) return true;
        w += n, w += *w == ' ';
    }
    return !list;
}

typedef struct Binding {
    const char *variable, *by;
    DType type;
} Binding;
typedef struct Bindings {
    Binding at[8];
    uint32_t n;
} Bindings;

static Binding *binding(Bindings *b, const char *variable)
{
    for (uint32_t i = 0; i < b->n; i++)
        if (!strcmp(b->at[i].variable, variable)) return &b->at[i];
    return NULL;
}

static const char *allowed_types(const OpDef *op, const char *variable)
{
    if (variable[1]) return NULL;
    return *variable == 'T' ? op->T : *variable == 'U' ? op->U : *variable == 'V' ? op->V : NULL;
}

static bool is_type_variable(const char *type) { return *type >= 'A' && *type <= 'Z'; }

bool op_takes(const OpDef *op, uint32_t input, DType t)
{
    const OpSchema *s = op_schema(op);
    const char *type = schema_in(s, input)->type;
    return is_type_variable(type) ? type_allowed(t, allowed_types(op, type)) : !strcmp(dtypes[t].name, type);
}

static bool bind_input(Infer *c, Bindings *b, const OpArg *arg, Val v)
{
    DType t = val_type(c->g, v)->dtype;
    const char *found = dtypes[t].name;
    if (!is_type_variable(arg->type))
        return !strcmp(found, arg->type) || infer_error(c, "input %s is %s, expected %s", arg->name, found, arg->type);
    Binding *known = binding(b, arg->type);
    if (known)
        return known->type == t ||
               infer_error(c, "input %s is %s, but %s is %s", arg->name, found, known->by, dtypes[known->type].name);
    const char *allowed = allowed_types(c->n->op, arg->type);
    if (!type_allowed(t, allowed))
        return infer_error(c, "input %s is %s, expected one of: %s", arg->name, found, allowed);
    assert(b->n < COUNT_OF(b->at));
    b->at[b->n++] = (Binding){arg->type, arg->name, t};
    return true;
}

static bool check_arity(Infer *c, const OpSchema *s)
{
    const Node *n = c->n;
    bool more = s->nin && s->in[s->nin - 1].variadic, more_out = s->out[s->nout - 1].variadic;
    if (n->nin > s->nin && !more) return infer_error(c, "%u inputs, at most %u expected", n->nin, s->nin);
    if (n->nout > s->nout && !more_out) return infer_error(c, "%u outputs, at most %u expected", n->nout, s->nout);
    for (uint32_t i = 0; i < s->nin; i++)
        if (!s->in[i].optional && !node_in(c->g, n, i).id) return infer_error(c, "input %s is missing", s->in[i].name);
    for (uint32_t i = s->nin; i < n->nin; i++)
        if (!node_in(c->g, n, i).id)
            return infer_error(c, "input %u of %s is missing", i - s->nin + 1, s->in[s->nin - 1].name);
    for (uint32_t i = 0; i < s->nattr; i++) {
        if (s->attr[i].required && !n->attr[i].kind) return infer_error(c, "attribute %s is missing", s->attr[i].name);
        assert(!n->attr[i].kind || n->attr[i].kind == s->attr[i].kind);
    }
    return true;
}

static bool check_types(Infer *c, const OpSchema *s)
{
    Bindings b = {.n = 0};
    for (uint32_t i = 0; i < c->n->nin; i++) {
        Val v = node_in(c->g, c->n, i);
        const OpArg *arg = schema_in(s, i);
        if (v.id && !bind_input(c, &b, arg, v)) return false;
    }
    for (uint32_t o = 0; o < c->n->nout; o++) {
        const char *type = schema_out(s, o)->type;
        const Binding *known = binding(&b, type);
        c->out[o].dtype = known ? known->type : dtype_find(type, (int)strlen(type));
    }
    return true;
}

/* ---- shapes ---- */
static bool infer_broadcast(Infer *c)
{
    uint32_t in[64];
    if (c->n->nin > COUNT_OF(in))
        return infer_error(c, "%u inputs, at most %u supported", c->n->nin, (unsigned)COUNT_OF(in));
    for (uint32_t i = 0; i < c->n->nin; i++) in[i] = i;
    for (uint32_t o = 0; o < c->n->nout; o++)
        if (!out_broadcast(c, o, c->n->nin, in)) return false;
    return true;
}

static bool inputs_ranked(const Infer *c)
{
    for (uint32_t i = 0; i < c->n->nin; i++)
        if (in_has(c, i) && in_rank(c, i) < 0) return false;
    return true;
}

/* What the rule requires of sizes counts where the node does. */
static bool infer_shapes(Infer *c)
{
    Dim before = dim_assume(c->d, (Dim){c->loc ? c->loc->when : 0});
    bool ok = (c->n->op->infer ? c->n->op->infer : infer_broadcast)(c);
    dim_assume(c->d, before);
    return ok;
}

static bool infer_node(Infer *c)
{
    const OpSchema *s = op_schema(c->n->op);
    if (!check_types(c, s)) return false;
    bool call = inputs_ranked(c) || c->n->op->flags & OP_UNRANKED;
    if (call && !infer_shapes(c)) return false;
    for (uint32_t o = 0; o < c->n->nout; o++) {
        const OpArg *arg = schema_out(s, o);
        const char *allowed = is_type_variable(arg->type) ? allowed_types(c->n->op, arg->type) : NULL;
        DType t = c->out[o].dtype;
        if (!t) return infer_error(c, "the element type of output %s is not known", arg->name);
        if (allowed && !type_allowed(t, allowed))
            return infer_error(c, "output %s is %s, expected one of: %s", arg->name, dtypes[t].name, allowed);
    }
    return true;
}

/* ---- folding ---- */
enum {
    FOLD_WORK = 1 << 26,
    FOLD_FREE_BYTES = 1 << 18,
    FOLD_GROWTH = 4,
    FOLD_MADE_BYTES = 4 << 20,
    FOLD_MADE_ALL = 64 << 20
};

static bool elements_known(const Graph *g, const Infer *c, uint32_t o)
{
    const Type *t = &c->out[o];
    if (!c->elem[o] || t->rank < 0 || dtypes[t->dtype].cls == DC_OTHER) return false;
    for (int i = 0; i < t->rank; i++)
        if (!dim_is_const(g->module->dim, t->dim[i], NULL)) return false;
    for (uint32_t k = 0; k < c->elems[o]; k++)
        if (!dim_is_const(g->module->dim, c->elem[o][k], NULL)) return false;
    return true;
}

static Tensor *tensor_of_elements(Graph *g, const Type *t, const Dim *elem, uint32_t n)
{
    int64_t dim[MAX_RANK], v;
    for (int i = 0; i < t->rank; i++) dim_is_const(g->module->dim, t->dim[i], &dim[i]);
    Tensor *r = tensor_new(g->module->mem, t->dtype, t->rank, dim);
    assert(tensor_count(r) == n);
    for (uint32_t k = 0; k < n; k++)
        if (dim_is_const(g->module->dim, elem[k], &v)) dtype_store_int(t->dtype, (void *)r->data, k, v);
    return r;
}

/* Every output's elements were found by the shape rule: the node is these constants. */
static bool fold_elements(Graph *g, const Infer *c, Val *out)
{
    for (uint32_t o = 0; o < c->n->nout; o++)
        if (!elements_known(g, c, o)) return false;
    for (uint32_t o = 0; o < c->n->nout; o++)
        out[o] = graph_const(g, tensor_of_elements(g, &c->out[o], c->elem[o], c->elems[o]), NULL);
    return true;
}

/* Elements and bytes of a type of constant sizes; false when they are not, or absurd. */
static bool type_size(const Graph *g, const Type *t, int64_t *elements, int64_t *bytes)
{
    int64_t n = 1, d;
    if (t->rank < 0) return false;
    for (int i = 0; i < t->rank; i++)
        if (!dim_is_const(g->module->dim, t->dim[i], &d) || d < 0 || !checked_mul(n, d, &n)) return false;
    *elements = n;
    return checked_mul(n, dtypes[t->dtype].bytes, bytes);
}

/* Folding must neither take long (the interpreter needs some 50 ns an operation) nor make the model much bigger. What arithmetic makes of
 * floats (a filter's sines) may be larger than copies and masks, which cost little where they are read, up to a bound for all. */
static bool fold_pays(Graph *g, const Infer *c)
{
    double in_elements = 0, out_elements = 0, product = 1;
    int64_t in_bytes = 0, out_bytes = 0, n, b;
    for (uint32_t i = 0; i < c->n->nin; i++) {
        Val v = node_in(g, c->n, i);
        if (!v.id) continue;
        if (!graph_val(g, v)->konst || !type_size(g, val_type(g, v), &n, &b)) return false;
        in_elements += (double)n, in_bytes += b;
        if (i < 2) product *= (double)n;
    }
    for (uint32_t i = 0; i < op_attrs(c->n->op); i++)
        if (c->n->attr[i].kind == ATTR_TENSOR) in_bytes += (int64_t)tensor_bytes(c->n->attr[i].tensor);
    for (uint32_t o = 0; o < c->n->nout; o++) {
        if (!type_size(g, &c->out[o], &n, &b) || !checked_add(out_bytes, b, &out_bytes)) return false;
        out_elements += (double)n;
    }
    /* M*N*K = sqrt(M*K * K*N * M*N): exact for a matrix product, close for a convolution. */
    bool contraction = c->n->op->quant == QUANT_INTEGER;
    double work = contraction ? sqrt(product * out_elements) : in_elements + out_elements;
    if (work > FOLD_WORK) return false;
    if (out_bytes <= FOLD_FREE_BYTES || out_bytes <= FOLD_GROWTH * in_bytes) return true;
    bool made = c->n->op->body && dtype_is_float(c->out[0].dtype);
    if (!made || out_bytes > FOLD_MADE_BYTES || g->made + out_bytes > FOLD_MADE_ALL) return false;
    g->made += out_bytes;
    return true;
}

/* Codes of few bits made floats: weights that a cast and a product dequantize. Passes make a DequantizeLinear of it (integer.c). */
static bool widens_codes(const Graph *g, const Infer *c)
{
    enum { MANY = 8192 };
    const Type *from = c->n->nin == 1 ? val_type(g, node_in(g, c->n, 0)) : NULL;
    int64_t n, bytes;
    return from && !g->fold_edges && dtype_is_float(c->out[0].dtype) && !dtype_is_float(from->dtype) &&
           dtypes[from->dtype].bits <= 8 && from->dtype != DT_bool && type_size(g, from, &n, &bytes) && n >= MANY;
}

static bool may_fold(Graph *g, const Infer *c)
{
    const OpDef *op = c->n->op;
    if (op->flags & OP_UNIQUE || (!op->body && !op->lower && !op->expand)) return false;
    if (op->quant == QUANT_EDGE && dtype_is_float(c->out[0].dtype) && !g->fold_edges) return false;
    if (widens_codes(g, c)) return false;
    for (uint32_t i = 0; i < op_attrs(op); i++)
        if (c->n->attr[i].kind == ATTR_GRAPH) return false;
    return fold_pays(g, c);
}

/* A composite of constants becomes its parts, which fold in turn. */
static bool fold_expand(Graph *g, const Node *n, Val *out)
{
    Val *in = NEW_ARRAY(g->mem, Val, n->nin + 1);
    for (uint32_t i = 0; i < n->nin; i++) in[i] = node_in(g, n, i);
    Expand x = {.g = g, .m = g->module, .n = n, .in = in, .out = out, .loc = n->loc};
    return n->op->expand(&x);
}

/* The node stands last in the graph. */
static bool fold_eval(Graph *g, const Node *n, Val *out)
{
    const Tensor **result = NEW_ARRAY(g->mem, const Tensor *, n->nout);
    if (!lower_eval(g, n, g->module->mem, result)) return false;
    g->node.n--, g->val.n -= n->nout;
    for (uint32_t o = 0; o < n->nout; o++) out[o] = graph_const(g, result[o], NULL);
    return true;
}

/* ---- emission ---- */
static uint32_t node_append(Graph *g, Node *n, const Infer *c)
{
    uint32_t id = g->node.n;
    n->out = (Val){g->val.n};
    for (uint32_t o = 0; o < n->nout; o++)
        value_push(g, (Value){.type = c->out[o], .def = id, .elem = c->elem[o], .elems = c->elems[o]});
    vec_push(g->mem, &g->node, *n);
    return id;
}

static Val outputs(const Node *n, Val *out)
{
    for (uint32_t o = 0; out && o < n->nout; o++) out[o] = node_out(n, o);
    return n->out;
}

static Val keep_node(Graph *g, Node *n, const Infer *c, Val *out)
{
    n->attr = attrs_own(g->mem, n->attr, op_attrs(n->op));
    uint32_t *slot = n->op->flags & OP_UNIQUE ? NULL : node_slot(g, n);
    uint32_t id = node_append(g, n, c);
    if (slot) *slot = id + 1;
    return outputs(n, out);
}

static Val emit_unknown(Graph *g, Node *n, Infer *c, Val *out)
{
    for (uint32_t o = 0; o < n->nout; o++) c->out[o] = (Type){.rank = -1}, c->elem[o] = NULL, c->elems[o] = 0;
    g->failed = true;
    return keep_node(g, n, c, out);
}

static bool inputs_typed(const Graph *g, const Node *n)
{
    for (uint32_t i = 0; i < n->nin; i++)
        if (node_in(g, n, i).id && !val_type(g, node_in(g, n, i))->dtype) return false;
    return true;
}

/* Constants in place of the node, or of the parts of a composite. */
static bool fold(Graph *g, Node *n, const Infer *c, Val *out, bool *failed)
{
    if (fold_elements(g, c, out)) return true;
    if (!may_fold(g, c)) return false;
    if (n->op->body || n->op->lower) {
        Node last = *n;
        node_append(g, &last, c);
        if (fold_eval(g, &last, out)) return true;
        g->node.n--, g->val.n -= n->nout;
        return false;
    }
    *failed = !fold_expand(g, n, out);
    return true;
}

static Infer infer_new(Graph *g, const Node *n)
{
    Infer c = {.g = g, .m = g->module, .d = g->module->dim, .n = n, .loc = n->loc};
    c.out = NEW_ARRAY(g->mem, Type, n->nout), c.elem = NEW_ARRAY(g->mem, const Dim *, n->nout),
    c.elems = NEW_ARRAY(g->mem, uint32_t, n->nout);
    for (uint32_t o = 0; o < n->nout; o++) c.out[o].rank = -1;
    return c;
}

/* A node that several branches have in common counts where either does, and so does what it requires. */
static void node_join(Graph *g, Node *n, const Loc *loc)
{
    if (!n->loc || !n->loc->when || (loc && loc->when == n->loc->when)) return;
    Dims *d = g->module->dim;
    Loc *both = arena_copy(g->module->mem, n->loc, sizeof *both);
    both->when = loc && loc->when ? dim_either(d, (Dim){n->loc->when}, (Dim){loc->when}).id : 0;
    if (dim_is(d, (Dim){both->when}, 1)) both->when = 0;
    n->loc = both;
    Infer c = infer_new(g, n);
    if (inputs_typed(g, n)) infer_node(&c);
}

Val graph_emit(Graph *g, const OpDef *op, const Attr *attr, const Val *in, uint32_t nin, uint32_t nout, const Loc *loc,
               Val *out)
{
    assert(op && nout);
    Node n = {.op = op,
              .in = g->operand.n,
              .nin = nin,
              .nout = nout,
              .attr = attr ? attr : op_attr_defaults(g->mem, op),
              .loc = loc};
    for (uint32_t i = 0; i < nin; i++) {
        assert(in[i].id < g->val.n);
        vec_push(g->mem, &g->operand, in[i]);
    }
    if (!(op->flags & OP_UNIQUE)) {
        uint32_t same = *node_slot(g, &n);
        if (same) {
            g->operand.n = n.in;
            node_join(g, &g->node.at[same - 1], loc);
            return outputs(&g->node.at[same - 1], out);
        }
    }
    Infer c = infer_new(g, &n);
    if (!inputs_typed(g, &n) || !check_arity(&c, op_schema(op)) || !infer_node(&c)) return emit_unknown(g, &n, &c, out);

    bool failed = false;
    Val *folded = out ? out : NEW_ARRAY(g->mem, Val, nout);
    if (!fold(g, &n, &c, folded, &failed)) return keep_node(g, &n, &c, out);
    return failed ? emit_unknown(g, &n, &c, out) : folded[0];
}

Val emit(Graph *g, const char *op, const Loc *loc, int nin, ...)
{
    enum { MOST = 16 };
    Val in[MOST];
    va_list args;
    assert(nin <= MOST);
    va_start(args, nin);
    for (int i = 0; i < nin; i++) in[i] = va_arg(args, Val);
    va_end(args);
    const OpDef *row = op_find(NULL, op);
    assert(row && "no such operator");
    return graph_emit(g, row, NULL, in, (uint32_t)nin, 1, loc, NULL);
}

Val graph_copy_node(Graph *to, const Graph *from, uint32_t node, Val *map)
{
    const Node *n = &from->node.at[node];
    Val *in = NEW_ARRAY(to->mem, Val, n->nin + 1), *out = NEW_ARRAY(to->mem, Val, n->nout);
    for (uint32_t i = 0; i < n->nin; i++) {
        Val v = node_in(from, n, i);
        in[i] = v.id ? map[v.id] : v;
        assert(!v.id == !in[i].id && "an operand was not mapped");
    }
    graph_emit(to, n->op, n->attr, in, n->nin, n->nout, n->loc, out);
    for (uint32_t o = 0; o < n->nout; o++) {
        Val old = node_out(n, o);
        map[old.id] = out[o];
        graph_stand_for(to, out[o], graph_val(from, old));
    }
    return out[0];
}

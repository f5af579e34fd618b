/* nodes.c - the nodes of a graph or function body, imported in an order where definitions precede uses.
 *
 * Names live in scopes: a branch of If sees the names around it, a function sees only its inputs. If with a known condition
 * becomes its branch, model-local functions are inlined, Constant becomes a constant; every other operator is a Call.
 * What cannot be compiled is collected by operator, so that one run names every blocker of the model. */
#include "frontend/importer.h"

static const char missing[] = "operator is not supported";

const char *domain_of(const char *domain) { return domain && strcmp(domain, "ai.onnx") ? domain : ""; }

/* ---- operator sets ---- */

static int opset_version(const Opsets *o, const char *domain)
{
    for (uint32_t i = 0; i < o->at.n; i++)
        if (!strcmp(o->at.at[i].domain, domain)) return o->at.at[i].version;
    return 0;
}

bool opsets_read(Import *im, Onnx__OperatorSetIdProto *const *set, size_t n, const Loc *loc, Opsets *out)
{
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        const char *domain = copy_name(im, domain_of(set[i]->domain));
        int64_t v = set[i]->version;
        int oldest = 1, newest = !*domain                           ? OPSET_NEWEST
                                 : !strcmp(domain, "com.microsoft") ? MICROSOFT_OPSET
                                                                    : INT32_MAX;
        if (v < oldest || v > newest)
            ok = diag_error(im->diag, loc, "opset %lld of %s is not supported (%d to %d are)", (long long)v,
                            *domain ? domain : "ai.onnx", oldest, newest);
        int before = opset_version(out, domain);
        if (before && before != v)
            ok = diag_error(im->diag, loc, "opsets %d and %lld of %s in one model", before, (long long)v,
                            *domain ? domain : "ai.onnx");
        if (!before && v >= oldest && v <= newest) vec_push(im->scratch, &out->at, (Opset){domain, (int)v});
    }
    return ok;
}

/* ---- names ---- */

Val scope_find(const Scope *s, const char *name)
{
    uint32_t id = 0;
    for (; s && !id; s = s->outer) id = map_get(&s->name, name);
    return (Val){id};
}

/* An input of a function that its caller left out. */
static bool scope_absent(const Scope *s, const char *name)
{
    bool absent = false;
    for (; s && !absent; s = s->outer) absent = map_get(&s->absent, name) != 0;
    return absent;
}

/* Of a value, for the whole model: passes and samples know values by it, but functions that are called twice, and branches, have the same names
 * inside. Those of functions begin as those of its nodes do, others that are taken get a number. */
static const char *name_taken(Import *im, const Scope *s, const char *name)
{
    const char *want = s->prefix ? arena_printf(im->scratch, "%s%s", s->prefix, name) : name, *own = want;
    for (uint32_t n = map_get(&im->taken, want); map_get(&im->taken, own);) {
        own = arena_printf(im->scratch, "%s_%u", want, ++n);
        map_put(im->scratch, &im->taken, want, n);
    }
    own = copy_name(im, own);
    map_put(im->scratch, &im->taken, own, 1);
    return own;
}

bool scope_bind(Import *im, Scope *s, const char *name, Val v, const Loc *loc)
{
    if (map_get(&s->name, name)) return diag_error(im->diag, loc, "name '%s' is defined twice", name);
    map_put(im->scratch, &s->name, copy_name(im, name), v.id);
    const char *has = graph_val(im->g, v)->name;
    if (!has) graph_name(im->g, v, name_taken(im, s, name));
    else if (!s->outer && !s->prefix) map_put(im->scratch, &im->taken, has, 1);
    return true;
}

Val value_placeholder(Import *im, const char *name)
{
    Type unknown = {.dtype = DT_NONE, .rank = -1};
    im->g->failed = true;
    return graph_input(im->g, copy_name(im, name), unknown);
}

/* ---- blockers ---- */

static const struct {
    const char *prefix, *why;
} reasons[] = {
    {"Loop", "loops are not supported"},
    {"Scan", "loops are not supported"},
    {"Sequence", "sequences are not supported"},
    {"ConcatFromSequence", "sequences are not supported"},
    {"SplitToSequence", "sequences are not supported"},
    {"Optional", "optional values are not supported"},
    {"ai.onnx.ml:", "operators of ai.onnx.ml are not supported"},
    {"String", "text processing is not supported"},
    {"Regex", "text processing is not supported"},
    {"ImageDecoder", "image files are not supported"},
};

static void block(Import *im, const char *domain, const char *op, const char *why, const Loc *loc)
{
    const char *key = *domain ? arena_printf(im->scratch, "%s:%s", domain, op) : op;
    uint32_t at = map_get(&im->blocked_at, key);
    im->g->failed = true;
    if (at) {
        Blocked *b = &im->blocked.at[at - 1];
        if (b->n - 1 < BLOCKED_NAMES)
            b->more[b->n - 1] = *loc->node ? loc->node : arena_printf(im->scratch, "#%d", loc->index);
        b->n++;
        return;
    }
    for (size_t i = 0; i < COUNT_OF(reasons) && why == missing; i++)
        if (!strncmp(key, reasons[i].prefix, strlen(reasons[i].prefix))) why = reasons[i].why;
    Loc copy = *loc;
    copy.op = copy_name(im, key);
    map_put(im->scratch, &im->blocked_at, copy.op,
            vec_push(im->scratch, &im->blocked, (Blocked){copy.op, why, copy, 1, {NULL}}) + 1);
}

void blocked_report(Import *im)
{
    for (uint32_t i = 0; i < im->blocked.n; i++) {
        const Blocked *b = &im->blocked.at[i];
        diag_error(im->diag, &b->loc, "%s", b->why);
        if (b->n == 1) continue;
        const char *names = "";
        for (uint32_t k = 0; k < BLOCKED_NAMES && b->more[k]; k++)
            names = arena_printf(im->scratch, "%s%s'%s'", names, k ? ", " : "", b->more[k]);
        diag_note(im->diag, "%u more %s node%s: %s%s", b->n - 1, b->op, b->n > 2 ? "s" : "", names,
                  b->n - 1 > BLOCKED_NAMES ? ", ..." : "");
    }
}

/* ---- functions of the model ---- */

static const char *function_key(Arena *a, const char *domain, const char *name, const char *overload)
{
    return arena_printf(a, "%s:%s:%s", domain_of(domain), text_of(name), text_of(overload));
}

void functions_index(Import *im)
{
    for (size_t i = 0; i < im->model->n_functions; i++) {
        const Onnx__FunctionProto *f = im->model->functions[i];
        const char *key = function_key(im->scratch, f->domain, f->name, f->overload);
        if (map_get(&im->function, key)) diag_error(im->diag, NULL, "function '%s' is defined twice", text_of(f->name));
        map_put(im->scratch, &im->function, key, (uint32_t)i + 1);
    }
}

static const Onnx__FunctionProto *function_find(const Import *im, const Onnx__NodeProto *n)
{
    if (!im->function.n) return NULL;
    uint32_t at = map_get(&im->function, function_key(im->scratch, n->domain, n->op_type, n->overload));
    return at ? im->model->functions[at - 1] : NULL;
}

/* ---- one node ---- */

typedef struct NodeIn {
    Scope *scope;
    const Onnx__NodeProto *n;
    const Loc *loc;
    Call *call;
} NodeIn;
static void nodes_import(Import *im, Scope *s, Onnx__NodeProto *const *node, size_t n);

static bool call_constant(Import *im, NodeIn *x)
{
    Call *c = x->call;
    if (c->attr.n != 1) return diag_error(im->diag, x->loc, "Constant has %u values, expected one", c->attr.n);
    const Attr *a = &c->attr.at[0].value;
    static const DType type_of[] = {[ATTR_INT] = DT_i64,    [ATTR_INTS] = DT_i64,   [ATTR_FLOAT] = DT_f32,
                                    [ATTR_FLOATS] = DT_f32, [ATTR_STRING] = DT_str, [ATTR_STRINGS] = DT_str};
    const Tensor *t = a->kind == ATTR_TENSOR ? a->tensor : NULL;
    if (!t) {
        bool list = a->kind == ATTR_INTS || a->kind == ATTR_FLOATS || a->kind == ATTR_STRINGS;
        const void *from = a->kind == ATTR_INT      ? (const void *)&a->i
                           : a->kind == ATTR_FLOAT  ? (const void *)&a->f
                           : a->kind == ATTR_STRING ? (const void *)&a->s
                                                    : a->ints;
        int64_t n = list ? a->n : 1;
        Tensor *made = tensor_new(im->mem, type_of[a->kind], list, &n);
        if (n) memcpy((void *)made->data, from, tensor_bytes(made));
        t = made;
    }
    c->out[0] = graph_const(im->g, t, copy_name(im, text_of(x->n->output[0])));
    return true;
}

/* A condition is known when folding found its value, also through sizes. */
static bool known_condition(const Graph *g, Val v, bool *value)
{
    const Value *x = graph_val(g, v);
    int64_t i;
    if (x->konst && tensor_count(x->konst) == 1)
        return *value = dtype_load_int(x->konst->type, x->konst->data, 0) != 0, true;
    if (x->elem && x->elems == 1 && dim_is_const(g->module->dim, x->elem[0], &i)) return *value = i != 0, true;
    return false;
}

static const Onnx__GraphProto *graph_attr(const Onnx__NodeProto *n, const char *name)
{
    for (size_t i = 0; i < n->n_attribute; i++)
        if (n->attribute[i]->name && !strcmp(n->attribute[i]->name, name)) return n->attribute[i]->g;
    return NULL;
}

/* Names every operator inside that cannot be compiled, though the body is never imported. */
static void block_inside(Import *im, const Onnx__GraphProto *g)
{
    for (size_t i = 0; i < g->n_node; i++) {
        const Onnx__NodeProto *n = g->node[i];
        const char *domain = domain_of(n->domain), *op = text_of(n->op_type);
        Loc loc = {copy_name(im, n->name), copy_name(im, op), (int)i, 0, 0};
        if (!function_find(im, n) && !op_supported(im, domain, op)) block(im, domain, op, missing, &loc);
        for (size_t k = 0; k < n->n_attribute; k++)
            if (n->attribute[k]->g) block_inside(im, n->attribute[k]->g);
    }
}

/* when: the condition under which the branch is taken, in which the branches around it are taken already; id 0: it counts always. */
static bool branch_import(Import *im, NodeIn *x, const Onnx__GraphProto *g, Dim when, Val *out)
{
    if (g->n_output != x->n->n_output)
        return diag_error(im->diag, x->loc, "the branch has %zu outputs, the node %zu", g->n_output, x->n->n_output);
    Scope inner = *x->scope;
    inner.outer = x->scope, inner.name = (Map){0}, inner.absent = (Map){0};
    if (when.id) inner.when = inner.when.id ? dim_mul(im->g->module->dim, inner.when, when) : when;
    body_import(im, &inner, g);
    for (size_t i = 0; i < g->n_output; i++) {
        const char *name = text_of(g->output[i]->name);
        out[i] = scope_find(&inner, name);
        if (!out[i].id) diag_error(im->diag, x->loc, "output '%s' of the branch is not computed", name);
    }
    return true;
}

enum { CONDITION_CODE = 32 }; /* operations of a condition at most: it is multiplied with those of the Ifs inside */

/* The condition as a size, when what is known before the model runs decides it: sizes of inputs, and elements of inputs that are
 * tracked. id 0: it does not. */
static Dim decided_before(const Import *im, Val v)
{
    Dims *d = im->g->module->dim;
    const Value *x = graph_val(im->g, v);
    if (!x->elem || x->elems != 1 || !dim_known(x->elem[0])) return (Dim){0};
    Dim condition = dim_canon(d, x->elem[0]);
    Arena scratch = {0};
    const DimCode *code;
    bool known = dim_code(d, condition, &scratch, &code) <= CONDITION_CODE && graph_knows_size(im->g, condition);
    arena_drop(&scratch);
    return known ? condition : (Dim){0};
}

static bool same_kind(const Import *im, Val a, Val b)
{
    if (!a.id || !b.id) return false;
    const Type *s = val_type(im->g, a), *t = val_type(im->g, b);
    return s->dtype == t->dtype && s->rank == t->rank && s->rank >= 0;
}

/* Proven to be equal, or two free sizes of inputs, which the model means to be; nothing else is taken to be equal. */
static bool same_sizes(const Import *im, Val a, Val b)
{
    Dims *d = im->g->module->dim;
    const Type *s = val_type(im->g, a), *t = val_type(im->g, b);
    for (int i = 0; i < s->rank; i++) {
        uint32_t symbol;
        Dim x = dim_canon(d, s->dim[i]), y = dim_canon(d, t->dim[i]);
        bool free =
            dim_is_symbol(d, x, &symbol) && dim_is_symbol(d, y, &symbol) && !dim_has_data(d, x) && !dim_has_data(d, y);
        if (!dim_same(x, y) && !free) return false;
    }
    return true;
}

/* Sizes may differ where the condition is a size (sizes_too): then so are they. */
static bool may_select(Import *im, Val a, Val b, bool sizes_too, const Loc *loc)
{
    if (!same_kind(im, a, b) || (!sizes_too && !same_sizes(im, a, b))) return false;
    const Type *s = val_type(im->g, a), *t = val_type(im->g, b);
    Dims *d = im->g->module->dim;
    Dim before = dim_assume(d, (Dim){loc->when});
    bool equal = true;
    for (int i = 0; equal && !sizes_too && i < s->rank; i++)
        equal = dim_require(d, GUARD_EQ, s->dim[i], t->dim[i], loc, "the branches of If give one size");
    dim_assume(d, before);
    return equal;
}

/* Branches that differ in shape: where sizes decide (a squeeze of what may have one element, as PyTorch exports it) the first is
 * meant, under a guard; data cannot decide a shape. */
static bool first_branch(Import *im, NodeIn *x, const Val *yes)
{
    Dims *d = im->g->module->dim;
    Dim condition = decided_before(im, x->call->in.at[0]);
    if (!condition.id || dim_has_data(d, condition)) {
        block(im, "", "If",
              "the data decides between branches whose results differ in shape; --freeze fixes the condition", x->loc);
        return false;
    }
    Dim before = dim_assume(d, (Dim){x->loc->when});
    bool possible =
        dim_require(d, GUARD_EQ, condition, dim_const(d, 1), x->loc, "the sizes choose the first branch of If");
    dim_assume(d, before);
    if (!possible)
        return diag_error(im->diag, x->loc,
                          "the sizes decide between branches whose results differ in shape; --dim fixes them");
    for (size_t i = 0; i < x->n->n_output; i++) x->call->out[i] = yes[i];
    return true;
}

static bool differ_in_size(const Import *im, const NodeIn *x, const Val *yes, const Val *no)
{
    for (size_t i = 0; i < x->n->n_output; i++)
        if (same_kind(im, yes[i], no[i]) && !same_sizes(im, yes[i], no[i])) return true;
    return false;
}

/* One of two branches by what is known only when the model is called (docs/adr/0002). Decided before it runs, `octet.Choose` keeps the
 * branches apart and only one is computed; decided by data, both are, which pure operators allow, and each output selects: an index
 * that is out of range in either branch is an error of the call then. */
static bool select_outputs(Import *im, NodeIn *x, bool decided, const Val *yes, const Val *no)
{
    Val in[3] = {x->call->in.at[0]};
    for (size_t i = 0; i < x->n->n_output; i++) {
        if (val_type(im->g, yes[i])->rank < 0 || val_type(im->g, no[i])->rank < 0)
            return false; /* its node is reported */
        if (!may_select(im, yes[i], no[i], decided, x->loc)) return first_branch(im, x, yes);
        in[1] = yes[i], in[2] = no[i];
        x->call->out[i] = graph_emit(im->g, decided ? op_find("octet", "Choose") : op_find(NULL, "Where"), NULL, in, 3,
                                     1, x->loc, NULL);
    }
    return true;
}

static Val cast(Import *im, Val v, DType to, const Loc *loc)
{
    const OpDef *op = op_find(NULL, "Cast");
    Attr *attr = op_attr_defaults(im->mem, op);
    attr_set_int(op, attr, "to", to);
    return graph_emit(im->g, op, attr, &v, 1, 1, loc, NULL);
}

/* A condition of computed data as one that sizes may depend on: they are known when it is. */
static Val tracked_condition(Import *im, Val v, const Loc *loc)
{
    Val whole = cast(im, v, DT_i64, loc);
    graph_track(im->g, whole);
    return cast(im, whole, DT_bool, loc);
}

static bool import_branches(Import *im, NodeIn *x, Dim condition, Val *yes, Val *no)
{
    Dim otherwise = condition.id ? dim_not(im->g->module->dim, condition) : condition;
    unsigned errors = im->diag->errors;
    bool ok = branch_import(im, x, graph_attr(x->n, "then_branch"), condition, yes) &&
              branch_import(im, x, graph_attr(x->n, "else_branch"), otherwise, no);
    if (im->diag->errors > errors)
        diag_note(
            im->diag,
            "it is in a branch of an If that is decided while the model runs: --freeze or --dim decides it before");
    return ok;
}

static bool call_if(Import *im, NodeIn *x)
{
    Call *c = x->call;
    bool known;
    const Onnx__GraphProto *yes = graph_attr(x->n, "then_branch"), *no = graph_attr(x->n, "else_branch");
    if (!yes || !no) return diag_error(im->diag, x->loc, "If needs a then_branch and an else_branch");
    if (c->in.n != 1 || !c->in.at[0].id) return diag_error(im->diag, x->loc, "If needs one input");
    if (known_condition(im->g, c->in.at[0], &known)) return branch_import(im, x, known ? yes : no, (Dim){0}, c->out);
    Val *a = NEW_ARRAY(im->mem, Val, x->n->n_output), *b = NEW_ARRAY(im->mem, Val, x->n->n_output);
    Dim condition = decided_before(im, c->in.at[0]);
    Val tracked = condition.id ? c->in.at[0]
                               : tracked_condition(im, c->in.at[0], x->loc); /* comes before what may depend on it */
    if (!import_branches(im, x, condition, a, b)) return false;
    if (!condition.id && differ_in_size(im, x, a, b)) {
        c->in.at[0] = tracked, condition = graph_condition(im->g, tracked);
        if (!import_branches(im, x, condition, a, b)) return false;
    }
    return select_outputs(im, x, condition.id, a, b);
}

/* A plain tensor given where an optional value may stand. */
static bool call_has_element(Import *im, NodeIn *x)
{
    bool here = x->call->in.n && x->call->in.at[0].id;
    x->call->out[0] = graph_const(im->g, tensor_scalar(im->mem, DT_bool, here), NULL);
    return true;
}

static bool call_get_element(Import *im, NodeIn *x)
{
    if (!x->call->in.n || !x->call->in.at[0].id)
        return diag_error(im->diag, x->loc, "the optional value is always absent");
    x->call->out[0] = x->call->in.at[0];
    return true;
}

/* Operators the importer itself resolves. */
static const struct Direct {
    const char *op;
    bool (*make)(Import *, NodeIn *);
    bool graphs;
} direct[] = {
    {"Constant", call_constant, false},
    {"If", call_if, true},
    {"OptionalHasElement", call_has_element, false},
    {"OptionalGetElement", call_get_element, false},
};

static const struct Direct *direct_find(const char *domain, const char *op)
{
    for (size_t i = 0; i < COUNT_OF(direct) && !*domain; i++)
        if (!strcmp(direct[i].op, op)) return &direct[i];
    return NULL;
}

bool op_supported(const Import *im, const char *domain, const char *op)
{
    return direct_find(domain, op) || call_row(domain, op) ||
           map_get(&im->function, function_key(im->scratch, domain, op, ""));
}

static bool read_attrs(Import *im, NodeIn *x, bool graphs)
{
    bool ok = true;
    for (size_t i = 0; i < x->n->n_attribute; i++) {
        const Onnx__AttributeProto *a = x->n->attribute[i];
        CallAttr out;
        bool absent;
        if (graphs && a->g) continue;
        if (call_attr(x->call, text_of(a->name)))
            ok = diag_error(im->diag, x->loc, "attribute '%s' is given twice", text_of(a->name));
        else if (!read_attr(im, x->scope, a, x->loc, &out, &absent)) ok = false;
        else if (!absent) vec_push(im->mem, &x->call->attr, out);
    }
    return ok;
}

static bool call_function(Import *im, NodeIn *x, const Onnx__FunctionProto *f)
{
    Call *c = x->call;
    if (x->scope->calls == MAX_CALLS)
        return diag_error(im->diag, x->loc, "functions call each other more than %d deep", MAX_CALLS);
    if (c->in.n > f->n_input || x->n->n_output > f->n_output)
        return diag_error(im->diag, x->loc, "function takes %zu inputs and gives %zu outputs", f->n_input, f->n_output);
    if (!read_attrs(im, x, false)) return false;
    Opsets opset = {0};
    if (!opsets_read(im, f->opset_import, f->n_opset_import, x->loc, &opset)) return false;
    Scope inner = {
        .opset = f->n_opset_import ? &opset : x->scope->opset, .calls = x->scope->calls + 1, .when = x->scope->when};
    for (size_t i = 0; i < f->n_attribute_proto; i++) { /* defaults */
        CallAttr a;
        bool absent;
        if (call_attr(c, text_of(f->attribute_proto[i]->name))) continue;
        if (!read_attr(im, &inner, f->attribute_proto[i], x->loc, &a, &absent)) return false;
        vec_push(im->mem, &c->attr, a);
    }
    inner.attr = c->attr.at, inner.attrs = c->attr.n;
    inner.prefix = arena_printf(im->scratch, "%s/", *x->loc->node ? x->loc->node : x->loc->op);
    for (uint32_t i = 0; i < f->n_input; i++) {
        if (call_in(c, i).id) scope_bind(im, &inner, text_of(f->input[i]), call_in(c, i), x->loc);
        else map_put(im->scratch, &inner.absent, text_of(f->input[i]), 1);
    }
    nodes_import(im, &inner, f->node, f->n_node);
    for (size_t i = 0; i < x->n->n_output; i++) {
        c->out[i] = scope_find(&inner, text_of(f->output[i]));
        if (!c->out[i].id && c->used[i])
            return diag_error(im->diag, x->loc, "output '%s' of the function is not computed", text_of(f->output[i]));
    }
    return true;
}

static bool read_inputs(Import *im, NodeIn *x)
{
    bool ok = true;
    for (size_t i = 0; i < x->n->n_input; i++) {
        const char *name = text_of(x->n->input[i]);
        Val v = *name ? scope_find(x->scope, name) : (Val){0};
        if (*name && !v.id && !scope_absent(x->scope, name))
            ok = diag_error(im->diag, x->loc, "input '%s' is not defined", name);
        vec_push(im->mem, &x->call->in, v);
    }
    return ok;
}

static bool call_make(Import *im, NodeIn *x)
{
    const char *domain = domain_of(x->n->domain), *op = text_of(x->n->op_type);
    const Onnx__FunctionProto *f = function_find(im, x->n);
    const struct Direct *own = f ? NULL : direct_find(domain, op);
    if (!f && !own && !call_row(domain, op)) {
        block(im, domain, op, missing, x->loc);
        for (size_t k = 0; k < x->n->n_attribute; k++)
            if (x->n->attribute[k]->g) block_inside(im, x->n->attribute[k]->g);
        return false;
    }
    if (!read_inputs(im, x)) return false;
    if (f) return call_function(im, x, f);
    x->call->opset = opset_version(x->scope->opset, domain);
    if (!x->call->opset && !strcmp(domain, "com.microsoft"))
        x->call->opset = MICROSOFT_OPSET; /* some quantizers forget to import it */
    if (!x->call->opset)
        return diag_error(im->diag, x->loc, "the model imports no opset of %s", *domain ? domain : "ai.onnx");
    if (!read_attrs(im, x, own && own->graphs)) return false;
    if (!x->call->nout) return true; /* computes nothing */
    return own ? own->make(im, x) : call_emit(x->call);
}

static void node_import(Import *im, Scope *s, const Onnx__NodeProto *n, int index)
{
    Loc *loc = NEW(im->m->mem, Loc);
    const char *name = text_of(n->name);
    if (*name && s->prefix) name = arena_printf(im->scratch, "%s%s", s->prefix, name);
    *loc = (Loc){copy_name(im, name), copy_name(im, text_of(n->op_type)), index, s->when.id, 0};
    if (++im->nodes > MAX_NODES) {
        if (im->nodes == MAX_NODES + 1)
            diag_error(im->diag, loc, "more than %d nodes after inlining functions", MAX_NODES);
        im->g->failed = true;
        return;
    }
    bool *used = NEW_ARRAY(im->mem, bool, n->n_output);
    for (size_t i = 0; i < n->n_output; i++) used[i] = *text_of(n->output[i]) && map_get(&im->read, n->output[i]);
    Call call = {.g = im->g,
                 .mem = im->mem,
                 .diag = im->diag,
                 .loc = loc,
                 .domain = copy_name(im, domain_of(n->domain)),
                 .op = loc->op,
                 .nout = (uint32_t)n->n_output,
                 .out = NEW_ARRAY(im->mem, Val, n->n_output),
                 .used = used};
    NodeIn x = {s, n, loc, &call};
    bool ok = call_make(im, &x);
    for (size_t i = 0; i < n->n_output; i++)
        if (ok && used[i] && !call.out[i].id)
            ok = diag_error(im->diag, loc, "output '%s' is one more than the operator has", n->output[i]);
    if (!ok) im->g->failed = true;
    for (size_t i = 0; i < n->n_output; i++) {
        Val v = ok ? call.out[i] : (Val){0};
        if (!v.id && used[i]) v = value_placeholder(im, n->output[i]);
        if (v.id && *text_of(n->output[i])) scope_bind(im, s, n->output[i], v, loc);
    }
}

/* ---- order: definitions before uses, whatever the file's order ---- */

typedef struct Order {
    Import *im;
    Scope *scope;
    Onnx__NodeProto *const *node;
    Map producer; /* name to node number + 1 */
    uint8_t *state;
    VEC(uint32_t) open;
} Order;
enum { FRESH, OPEN, DONE };

static uint32_t producer_wanted(const Order *o, const char *name)
{
    uint32_t at = name && *name ? map_get(&o->producer, name) : 0;
    return at && o->state[at - 1] != DONE ? at : 0;
}

/* A node of this body that must come before n: the maker of an input, or of a name that a graph inside n captures. */
static uint32_t first_missing(const Order *o, const Onnx__NodeProto *n)
{
    uint32_t at = 0;
    for (size_t i = 0; i < n->n_input && !at; i++) at = producer_wanted(o, n->input[i]);
    for (size_t k = 0; k < n->n_attribute && !at; k++) {
        const Onnx__GraphProto *g = n->attribute[k]->g;
        for (size_t i = 0; g && i < g->n_node && !at; i++) at = first_missing(o, g->node[i]);
        for (size_t i = 0; g && i < g->n_output && !at; i++) at = producer_wanted(o, g->output[i]->name);
    }
    return at;
}

static void visit(Order *o, uint32_t first)
{
    vec_push(o->im->scratch, &o->open, first);
    o->state[first] = OPEN;
    while (o->open.n) {
        uint32_t at = o->open.at[o->open.n - 1], need = first_missing(o, o->node[at]);
        if (need && o->state[need - 1] == FRESH) {
            o->state[need - 1] = OPEN;
            vec_push(o->im->scratch, &o->open, need - 1);
            continue;
        }
        if (need) {
            const Onnx__NodeProto *n = o->node[at];
            Loc loc = {copy_name(o->im, n->name), copy_name(o->im, n->op_type), (int)at, 0, 0};
            diag_error(o->im->diag, &loc, "the node needs its own result: the graph has a cycle through '%s'",
                       text_of(o->node[need - 1]->name));
            o->im->g->failed = true;
            for (size_t i = 0; i < n->n_output; i++)
                if (*text_of(n->output[i]) && !map_get(&o->scope->name, n->output[i]))
                    scope_bind(o->im, o->scope, n->output[i], value_placeholder(o->im, n->output[i]), &loc);
        } else {
            node_import(o->im, o->scope, o->node[at], (int)at);
        }
        o->state[at] = DONE;
        o->open.n--;
    }
}

static void nodes_import(Import *im, Scope *s, Onnx__NodeProto *const *node, size_t n)
{
    Order o = {.im = im, .scope = s, .node = node, .state = NEW_ARRAY(im->scratch, uint8_t, n)};
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < node[i]->n_output; k++)
            if (*text_of(node[i]->output[k])) map_put(im->scratch, &o.producer, node[i]->output[k], (uint32_t)i + 1);
    for (size_t i = 0; i < n; i++)
        if (o.state[i] == FRESH) visit(&o, (uint32_t)i);
}

/* ---- a graph's body ---- */

static void initializer(Import *im, Scope *s, const char *name, const Tensor *t)
{
    Val v = t ? graph_const(im->g, t, copy_name(im, name)) : value_placeholder(im, name);
    scope_bind(im, s, name, v, NULL);
}

void body_import(Import *im, Scope *s, const Onnx__GraphProto *g)
{
    for (size_t i = 0; i < g->n_initializer; i++) {
        const char *name = text_of(g->initializer[i]->name);
        if (!*name) diag_error(im->diag, NULL, "initializer #%zu has no name", i);
        else
            initializer(im, s, name,
                        weights_tensor(&im->weights, g->initializer[i], NULL,
                                       arena_printf(im->scratch, "initializer '%s'", name)));
    }
    for (size_t i = 0; i < g->n_sparse_initializer; i++) {
        const Onnx__SparseTensorProto *t = g->sparse_initializer[i];
        const char *name = t->values ? text_of(t->values->name) : "";
        if (!*name) diag_error(im->diag, NULL, "sparse initializer #%zu has no name", i);
        else
            initializer(im, s, name,
                        weights_sparse(&im->weights, t, NULL, arena_printf(im->scratch, "initializer '%s'", name)));
    }
    nodes_import(im, s, g->node, g->n_node);
}

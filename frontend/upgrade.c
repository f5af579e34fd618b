/* upgrade.c - old forms of operators rewritten into the newest one.
 *
 * The table at the end has one row per incompatible change in ONNX's history: operator, the first opset that does not need
 * the step, the step. Rows of one operator are in order of opset, so a call climbs from its version to the newest. Changes
 * that only add types or attributes whose default is the old meaning need no row. */
#include "frontend/upgrade.h"
#include <inttypes.h>
#include <math.h>

typedef struct Upgrade {
    const char *domain, *op;
    int below; /* applies to opsets under this */
    bool (*step)(Call *, const struct Upgrade *);
    const char *attr; /* parameters of the step */
    uint32_t slot;
} Upgrade;

/* ---- the call as a mutable thing ---- */

const Attr *call_attr(const Call *c, const char *name)
{
    for (uint32_t i = 0; i < c->attr.n; i++)
        if (!strcmp(c->attr.at[i].name, name)) return &c->attr.at[i].value;
    return NULL;
}

int64_t call_int(const Call *c, const char *name, int64_t otherwise)
{
    const Attr *a = call_attr(c, name);
    return a && a->kind == ATTR_INT ? a->i : otherwise;
}

Val call_in(const Call *c, uint32_t i) { return i < c->in.n ? c->in.at[i] : (Val){0}; }

static void drop_attr(Call *c, const char *name)
{
    for (uint32_t i = 0; i < c->attr.n; i++)
        if (!strcmp(c->attr.at[i].name, name)) c->attr.at[i--] = c->attr.at[--c->attr.n];
}

static void set_attr(Call *c, const char *name, Attr value)
{
    drop_attr(c, name);
    vec_push(c->mem, &c->attr, (CallAttr){name, value});
}

static void set_int(Call *c, const char *name, int64_t v)
{
    set_attr(c, name, (Attr){.kind = ATTR_INT, .n = 1, .i = v});
}
static void set_str(Call *c, const char *name, const char *v)
{
    set_attr(c, name, (Attr){.kind = ATTR_STRING, .n = 1, .s = v});
}

static bool str_is(const Call *c, const char *name, const char *v)
{
    const Attr *a = call_attr(c, name);
    return a && a->kind == ATTR_STRING && !strcmp(a->s, v);
}

static void set_in(Call *c, uint32_t i, Val v)
{
    while (c->in.n <= i) vec_push(c->mem, &c->in, (Val){0});
    c->in.at[i] = v;
}

static Val ints_const(Call *c, const int64_t *v, int64_t n)
{
    return graph_const(c->g, tensor_ints(c->mem, v, n), NULL);
}
static bool has(Val v) { return v.id != 0; }

/* A float attribute as a scalar of the type of input 0. */
static Val float_const(Call *c, double v)
{
    DType t = val_type(c->g, call_in(c, 0))->dtype;
    return graph_const(c->g, tensor_scalar(c->mem, t == DT_NONE ? DT_f32 : t, v), NULL);
}

static Val emit_with_int(Call *c, const char *op, const char *attr, int64_t v, Val a, Val b)
{
    const OpDef *def = op_find(NULL, op);
    Attr *attrs = op_attr_defaults(c->mem, def);
    attr_set_int(def, attrs, attr, v);
    Val in[2] = {a, b};
    return graph_emit(c->g, def, attrs, in, has(b) ? 2 : 1, 1, c->loc, NULL);
}

static bool finish(Call *c, Val first)
{
    c->out[0] = first;
    c->done = true;
    return true;
}

/* ---- steps used by many rows ---- */

static bool ints_to_input(Call *c, const Upgrade *u)
{
    const Attr *a = call_attr(c, u->attr);
    if (!a) return true;
    if (a->kind != ATTR_INTS) return diag_error(c->diag, c->loc, "attribute '%s' must be a list of integers", u->attr);
    set_in(c, u->slot, ints_const(c, a->ints, a->n));
    drop_attr(c, u->attr);
    return true;
}

static bool float_to_input(Call *c, const Upgrade *u)
{
    const Attr *a = call_attr(c, u->attr);
    if (!a) return true;
    if (a->kind != ATTR_FLOAT) return diag_error(c->diag, c->loc, "attribute '%s' must be a float", u->attr);
    set_in(c, u->slot, float_const(c, (double)a->f));
    drop_attr(c, u->attr);
    return true;
}

static bool int_to_input(Call *c, const Upgrade *u)
{
    const Attr *a = call_attr(c, u->attr);
    if (!a) return true;
    if (a->kind != ATTR_INT) return diag_error(c->diag, c->loc, "attribute '%s' must be an integer", u->attr);
    set_in(c, u->slot, ints_const(c, &a->i, 1));
    drop_attr(c, u->attr);
    return true;
}

static bool drop(Call *c, const Upgrade *u)
{
    drop_attr(c, u->attr);
    return true;
}

static bool rename_op(Call *c, const Upgrade *u)
{
    c->op = u->attr;
    return true;
}

static bool to_standard_domain(Call *c, const Upgrade *u)
{
    (void)u;
    c->domain = "";
    c->opset = INT32_MAX;
    return true;
}

static bool refuse(Call *c, const Upgrade *u)
{
    return diag_error(c->diag, c->loc,
                      "the form of opset %d is not supported (%s); convert the model to opset %d or newer", c->opset,
                      u->attr, u->below);
}

/* The default was another number; what the model says stays. */
static bool default_int(Call *c, const Upgrade *u)
{
    if (!call_attr(c, u->attr)) set_int(c, u->attr, (int64_t)u->slot);
    return true;
}

/* ---- single operators ---- */

/* Before opset 7 the second operand was aligned by `axis` and only with broadcast=1. */
static bool old_broadcast(Call *c, const Upgrade *u)
{
    (void)u;
    const Type *a = val_type(c->g, call_in(c, 0)), *b = val_type(c->g, call_in(c, 1));
    int64_t axis = call_int(c, "axis", a->rank - b->rank);
    bool aligned = call_int(c, "broadcast", 0) && call_attr(c, "axis") && a->rank >= 0 && b->rank >= 0;
    drop_attr(c, "axis"), drop_attr(c, "broadcast");
    if (!aligned) return true;
    if (axis < 0) axis += a->rank;
    int64_t tail = a->rank - b->rank - axis, axes[MAX_RANK];
    if (axis < 0 || tail < 0 || tail > MAX_RANK)
        return diag_error(c->diag, c->loc, "attribute 'axis' does not fit ranks %d and %d", a->rank, b->rank);
    for (int64_t i = 0; i < tail; i++) axes[i] = b->rank + i;
    if (tail) set_in(c, 1, emit(c->g, "Unsqueeze", c->loc, 2, call_in(c, 1), ints_const(c, axes, tail)));
    return true;
}

static bool prelu_slope(Call *c, const Upgrade *u)
{
    (void)u;
    const Type *x = val_type(c->g, call_in(c, 0)), *s = val_type(c->g, call_in(c, 1));
    if (s->rank != 1 || x->rank < 3 || dim_is(c->g->module->dim, s->dim[0], 1)) return true;
    int64_t axes[MAX_RANK];
    for (int i = 0; i < x->rank - 2; i++) axes[i] = 1 + i;
    set_in(c, 1, emit(c->g, "Unsqueeze", c->loc, 2, call_in(c, 1), ints_const(c, axes, x->rank - 2)));
    return true;
}

/* `to` was the name of a type. */
static bool cast_by_name(Call *c, const Upgrade *u)
{
    (void)u;
    static const struct {
        const char *name;
        DType type;
    } names[] = {{"FLOAT", DT_f32},  {"UINT8", DT_u8},   {"INT8", DT_i8},   {"UINT16", DT_u16},  {"INT16", DT_i16},
                 {"INT32", DT_i32},  {"INT64", DT_i64},  {"BOOL", DT_bool}, {"FLOAT16", DT_f16}, {"DOUBLE", DT_f64},
                 {"UINT32", DT_u32}, {"UINT64", DT_u64}, {"STRING", DT_str}};
    const Attr *to = call_attr(c, "to");
    if (!to || to->kind != ATTR_STRING) return true;
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (!strcmp(names[i].name, to->s)) return set_int(c, "to", names[i].type), true;
    return diag_error(c->diag, c->loc, "attribute 'to': unknown type '%.40s'", to->s);
}

static bool unused_outputs(Call *c, uint32_t from, const char *why)
{
    for (uint32_t i = from; i < c->nout; i++)
        if (c->used[i]) return diag_error(c->diag, c->loc, "output %u is used: %s", i, why);
    c->nout = c->nout > from ? from : c->nout;
    return true;
}

/* spatial=0: a scale for every element instead of every channel. */
static bool batch_norm_elementwise(Call *c)
{
    Graph *g = c->g;
    const Loc *l = c->loc;
    const Attr *e = call_attr(c, "epsilon");
    Val x = call_in(c, 0), eps = float_const(c, e && e->kind == ATTR_FLOAT ? (double)e->f : 1e-5);
    Val deviation = emit(g, "Sqrt", l, 1, emit(g, "Add", l, 2, call_in(c, 4), eps));
    Val normal = emit(g, "Div", l, 2, emit(g, "Sub", l, 2, x, call_in(c, 3)), deviation);
    return finish(c, emit(g, "Add", l, 2, emit(g, "Mul", l, 2, normal, call_in(c, 1)), call_in(c, 2)));
}

static bool batch_norm(Call *c, const Upgrade *u)
{
    (void)u;
    static const char training[] = "batch normalization in training mode is not supported";
    if (!unused_outputs(c, 1, training)) return false;
    if (c->opset < 7 && !call_int(c, "is_test", 0)) return diag_error(c->diag, c->loc, "%s", training);
    bool spatial = call_int(c, "spatial", 1) != 0;
    drop_attr(c, "is_test"), drop_attr(c, "spatial");
    return spatial || batch_norm_elementwise(c);
}

/* Inference: the identity. The mask was of the data's type before opset 10. */
static bool old_dropout(Call *c, const Upgrade *u)
{
    (void)u;
    drop_attr(c, "is_test"), drop_attr(c, "ratio");
    return c->opset >= 10 || unused_outputs(c, 1, "the mask of Dropout before opset 10 is not supported");
}

static bool old_split(Call *c, const Upgrade *u)
{
    (void)u;
    if (!has(call_in(c, 1)) && !call_attr(c, "num_outputs")) set_int(c, "num_outputs", c->nout);
    return true;
}

/* Before opset 13: everything from `axis` on is one axis. */
static bool flat_softmax(Call *c, const Upgrade *u)
{
    (void)u;
    Val x = call_in(c, 0);
    const Type *t = val_type(c->g, x);
    int64_t axis = call_int(c, "axis", 1);
    if (t->rank < 0) return set_int(c, "axis", axis), true;
    if (axis < 0) axis += t->rank;
    if (axis < 0 || axis > t->rank)
        return diag_error(c->diag, c->loc, "axis %" PRId64 " is outside a tensor of rank %d", axis, t->rank);
    if (axis == t->rank - 1) return set_int(c, "axis", -1), true;
    Val flat = emit_with_int(c, "Flatten", "axis", axis, x, (Val){0});
    Val y = emit_with_int(c, c->op, "axis", -1, flat, (Val){0});
    return finish(c, emit(c->g, "Reshape", c->loc, 2, y, emit(c->g, "Shape", c->loc, 1, x)));
}

static bool scales_const(Call *c, const float *v, uint32_t n)
{
    int64_t dim = n;
    Tensor *t = tensor_new(c->mem, DT_f32, 1, &dim);
    if (n) memcpy((void *)t->data, v, n * sizeof *v);
    set_in(c, 1, graph_const(c->g, t, NULL));
    return true;
}

static bool upsample_scales(Call *c, const Upgrade *u)
{
    (void)u;
    const Attr *s = call_attr(c, "scales"), *w = call_attr(c, "width_scale"), *h = call_attr(c, "height_scale");
    if (w && h && w->kind == ATTR_FLOAT && h->kind == ATTR_FLOAT) scales_const(c, (float[]){1, 1, h->f, w->f}, 4);
    else if (s && s->kind == ATTR_FLOATS) scales_const(c, s->floats, s->n);
    else return diag_error(c->diag, c->loc, "attribute 'scales' is missing");
    drop_attr(c, "scales"), drop_attr(c, "width_scale"), drop_attr(c, "height_scale");
    return true;
}

/* Upsample, and Resize before opset 11, are Resize with these modes. */
static bool resize_10(Call *c, const Upgrade *u)
{
    (void)u;
    Val scales = call_in(c, 1);
    c->op = "Resize";
    set_in(c, 1, (Val){0}), set_in(c, 2, scales);
    if (str_is(c, "mode", "bilinear")) set_str(c, "mode", "linear");
    set_str(c, "coordinate_transformation_mode", "asymmetric"), set_str(c, "nearest_mode", "floor");
    return true;
}

/* Exporters say "absent" with an empty constant. */
static bool empty_is_absent(Call *c, const Upgrade *u)
{
    (void)u;
    for (uint32_t i = 1; i < c->in.n; i++) {
        const Tensor *t = graph_val(c->g, c->in.at[i])->konst;
        if (has(c->in.at[i]) && t && !tensor_count(t)) c->in.at[i] = (Val){0};
    }
    return true;
}

static bool roi_align_mode(Call *c, const Upgrade *u)
{
    (void)u;
    if (!call_attr(c, "coordinate_transformation_mode"))
        set_str(c, "coordinate_transformation_mode", "output_half_pixel");
    return true;
}

static bool grid_sample_mode(Call *c, const Upgrade *u)
{
    (void)u;
    if (str_is(c, "mode", "bilinear")) set_str(c, "mode", "linear");
    if (str_is(c, "mode", "bicubic")) set_str(c, "mode", "cubic");
    return true;
}

/* One scale and bias a group became one a channel. */
static bool group_norm(Call *c, const Upgrade *u)
{
    (void)u;
    const Type *x = val_type(c->g, call_in(c, 0));
    int64_t channels, groups = call_int(c, "num_groups", 0), one = 1, minus = -1;
    if (x->rank < 2 || !dim_is_const(c->g->module->dim, x->dim[1], &channels))
        return diag_error(c->diag, c->loc, "the number of channels must be known");
    if (groups <= 0 || channels % groups)
        return diag_error(c->diag, c->loc, "%" PRId64 " channels do not make %" PRId64 " groups", channels, groups);
    int64_t wide[2] = {groups, channels / groups};
    for (uint32_t i = 1; i <= 2; i++) {
        Val column = emit(c->g, "Unsqueeze", c->loc, 2, call_in(c, i), ints_const(c, &one, 1));
        Val each = emit(c->g, "Expand", c->loc, 2, column, ints_const(c, wide, 2));
        set_in(c, i, emit(c->g, "Reshape", c->loc, 2, each, ints_const(c, &minus, 1)));
    }
    return true;
}

static bool dft_axis(Call *c, const Upgrade *u)
{
    set_in(c, u->slot, graph_const(c->g, tensor_scalar(c->mem, DT_i64, (double)call_int(c, u->attr, 1)), NULL));
    drop_attr(c, u->attr);
    return true;
}

static bool p_norm_int(Call *c, const Upgrade *u)
{
    (void)u;
    const Attr *p = call_attr(c, "p");
    if (!p || p->kind != ATTR_FLOAT) return true;
    if (p->f != floorf(p->f) || fabsf(p->f) > 1e6f)
        return diag_error(c->diag, c->loc, "attribute 'p' must be a whole number");
    set_int(c, "p", (int64_t)p->f);
    return true;
}

#define BROADCAST(op)                                                                                                  \
    {                                                                                                                  \
        "", op, 7, old_broadcast, NULL, 0                                                                              \
    }
#define AXES_18(op)                                                                                                    \
    {                                                                                                                  \
        "", op, 18, ints_to_input, "axes", 1                                                                           \
    }
#define FLAT(op)                                                                                                       \
    {                                                                                                                  \
        "", op, 13, flat_softmax, NULL, 0                                                                              \
    }
static const Upgrade upgrades[] = {
    BROADCAST("Add"),
    BROADCAST("Sub"),
    BROADCAST("Mul"),
    BROADCAST("Div"),
    BROADCAST("Pow"),
    BROADCAST("And"),
    BROADCAST("Or"),
    BROADCAST("Xor"),
    BROADCAST("Equal"),
    BROADCAST("Greater"),
    BROADCAST("Less"),
    AXES_18("ReduceL1"),
    AXES_18("ReduceL2"),
    AXES_18("ReduceLogSum"),
    AXES_18("ReduceLogSumExp"),
    AXES_18("ReduceMax"),
    AXES_18("ReduceMean"),
    AXES_18("ReduceMin"),
    AXES_18("ReduceProd"),
    AXES_18("ReduceSumSquare"),
    FLAT("Softmax"),
    FLAT("LogSoftmax"),
    FLAT("Hardmax"),
    {"", "BatchNormalization", 14, batch_norm, NULL, 0},
    {"", "Cast", 6, cast_by_name, NULL, 0},
    {"", "Clip", 11, float_to_input, "min", 1},
    {"", "Clip", 11, float_to_input, "max", 2},
    {"", "Concat", 4, default_int, "axis", 1},
    {"", "DFT", 20, dft_axis, "axis", 2},
    {"", "Dropout", 12, old_dropout, NULL, 0},
    {"", "Gemm", 7, drop, "broadcast", 0},
    {"", "GlobalLpPool", 2, p_norm_int, NULL, 0},
    {"", "GridSample", 20, grid_sample_mode, NULL, 0},
    {"", "GroupNormalization", 21, group_norm, NULL, 0},
    {"", "GRU", 7, drop, "output_sequence", 0},
    {"", "LpPool", 2, p_norm_int, NULL, 0},
    {"", "LSTM", 7, drop, "output_sequence", 0},
    {"", "Pad", 2, refuse, "Pad with 'paddings'", 0},
    {"", "Pad", 11, ints_to_input, "pads", 1},
    {"", "Pad", 11, float_to_input, "value", 2},
    {"", "PRelu", 7, prelu_slope, NULL, 0},
    {"", "ReduceSum", 13, ints_to_input, "axes", 1},
    {"", "Reshape", 5, ints_to_input, "shape", 1},
    {"", "Resize", 11, resize_10, NULL, 0},
    {"", "Resize", INT32_MAX, empty_is_absent, NULL, 0},
    {"", "RNN", 7, drop, "output_sequence", 0},
    {"", "RoiAlign", 16, roi_align_mode, NULL, 0},
    {"", "Scatter", INT32_MAX, rename_op, "ScatterElements", 0},
    {"", "Slice", 10, ints_to_input, "starts", 1},
    {"", "Slice", 10, ints_to_input, "ends", 2},
    {"", "Slice", 10, ints_to_input, "axes", 3},
    {"", "Split", 13, ints_to_input, "split", 1},
    {"", "Split", 18, old_split, NULL, 0},
    {"", "Squeeze", 13, ints_to_input, "axes", 1},
    {"", "Tile", 6, refuse, "Tile along one axis", 0},
    {"", "TopK", 10, int_to_input, "k", 1},
    {"", "Unsqueeze", 13, ints_to_input, "axes", 1},
    {"", "Upsample", 9, upsample_scales, NULL, 0},
    {"", "Upsample", INT32_MAX, resize_10, NULL, 0},
    {"com.microsoft", "QuantizeLinear", INT32_MAX, to_standard_domain, NULL, 0},
    {"com.microsoft", "DequantizeLinear", INT32_MAX, to_standard_domain, NULL, 0},
};

const OpDef *call_row(const char *domain, const char *op)
{
    const OpDef *row = op_find(domain, op);
    for (uint32_t i = 0; !row && i < COUNT_OF(upgrades); i++) {
        const Upgrade *u = &upgrades[i];
        if (strcmp(u->op, op) || strcmp(u->domain, domain)) continue;
        if (u->step == rename_op) row = op_find(domain, u->attr);
        if (u->step == resize_10) row = op_find(domain, "Resize");
        if (u->step == to_standard_domain) row = op_find(NULL, op);
    }
    return row;
}

int call_opset(const OpDef *row)
{
    int since = row->since;
    for (uint32_t i = 0; i < COUNT_OF(upgrades); i++) {
        const Upgrade *u = &upgrades[i];
        if (!strcmp(u->op, row->name) && u->below != INT32_MAX && u->below > since && !*u->domain == !row->domain)
            since = u->below;
    }
    return since;
}

bool call_upgrade(Call *c)
{
    const char *op = c->op, *domain = c->domain;
    int opset = c->opset;
    if (!*domain && opset < 6) drop_attr(c, "consumed_inputs"); /* a hint about memory */
    bool own_row = *domain && op_find(domain, op);
    for (uint32_t i = 0; i < COUNT_OF(upgrades) && !c->done && !own_row; i++) {
        const Upgrade *u = &upgrades[i];
        bool applies = opset < u->below && !strcmp(u->op, op) && !strcmp(u->domain, domain);
        if (applies && !u->step(c, u)) return false;
    }
    return true;
}

/* ---- emitting ---- */

static const char *const kind_names[] = {
    "none",     "an integer", "a float", "a string", "a list of integers", "a list of floats", "a list of strings",
    "a tensor", "a graph"};

/* An empty list does not say what of. */
static bool fits(const Attr *a, AttrKind want)
{
    bool list = want == ATTR_INTS || want == ATTR_FLOATS || want == ATTR_STRINGS;
    return a->kind == want ||
           (list && !a->n && (a->kind == ATTR_INTS || a->kind == ATTR_FLOATS || a->kind == ATTR_STRINGS));
}

static bool fill_attrs(Call *c, const OpDef *row, Attr *attrs)
{
    const OpSchema *schema = op_schema(row);
    bool ok = true;
    for (uint32_t i = 0; i < c->attr.n; i++) {
        const CallAttr *a = &c->attr.at[i];
        int at = op_attr_index(row, a->name);
        if (at < 0) {
            ok = diag_error(c->diag, c->loc, "unknown attribute '%s'", a->name);
        } else if (!fits(&a->value, schema->attr[at].kind)) {
            ok = diag_error(c->diag, c->loc, "attribute '%s' is %s, expected %s", a->name, kind_names[a->value.kind],
                            kind_names[schema->attr[at].kind]);
        } else {
            attrs[at] = a->value;
            attrs[at].kind = schema->attr[at].kind;
        }
    }
    for (uint32_t i = 0; i < schema->nattr; i++)
        if (schema->attr[i].required && !call_attr(c, schema->attr[i].name))
            ok = diag_error(c->diag, c->loc, "attribute '%s' is missing", schema->attr[i].name);
    return ok;
}

bool call_emit(Call *c)
{
    if (!call_upgrade(c)) return false;
    if (c->done) return true;
    const OpDef *row = op_find(c->domain, c->op);
    if (!row) return diag_error(c->diag, c->loc, "operator is not supported");
    Attr *attrs = op_attr_defaults(c->mem, row);
    if (!fill_attrs(c, row, attrs)) return false;
    graph_emit(c->g, row, attrs, c->in.at, c->in.n, c->nout, c->loc, c->out);
    return true;
}

/* export.c - see export.h. First every value gets a name, then the messages are made, their tensors pointing at the constants of the graph,
 * then they are written as a stream. */
#include "frontend/export.h"
#include "frontend/importer.h"
#include "octet_compiler.h"
#include <errno.h>

enum { OPSET_LEAST = 13 };               /* scales per channel; the newest forms of most operators */
enum { INLINE_BYTES = 1024, ALIGN = 64 }; /* of external data: smaller tensors stay in the file, larger ones begin at a multiple */
static const size_t MESSAGE_LIMIT = INT32_MAX;

typedef struct Outside {
    const void *at;
    size_t n;
    uint64_t offset;
} Outside; /* a tensor in the external file */

typedef struct Writer {
    const Graph *g;
    const Origin *origin;
    Arena *mem;
    Diag *diag;
    const bool *live;
    Map values, nodes; /* names taken, with the last number that made one unique */
    const char **name; /* per Val; NULL: not needed */
    uint32_t *reader;  /* per Val: number + 1 of the first live node that reads it */
    const char *data_name; /* of the external file, as the model says it; NULL: none */
    uint64_t data_end;
    VEC(Outside) outside;
    VEC(Onnx__NodeProto *) node;
    VEC(Onnx__TensorProto *) tensor;
} Writer;

/* ---- names ---- */
static const char *unique(Arena *mem, Map *taken, const char *want)
{
    uint32_t n = map_get(taken, want);
    const char *name = want;
    while (map_get(taken, name)) name = arena_printf(mem, "%s_%u", want, ++n);
    if (n) map_put(mem, taken, want, n);
    map_put(mem, taken, name, 1);
    return name;
}

static void name_value(Writer *w, Val v, const char *want)
{
    if (v.id && want && !w->name[v.id]) w->name[v.id] = unique(w->mem, &w->values, want);
}

static bool is_edge(const Node *n) { return n && n->op->quant == QUANT_EDGE; }

/* "x_scale" as "scale": the stem says of what. */
static const char *operand_name(const Node *n, uint32_t k)
{
    const OpSchema *s = op_schema(n->op);
    const char *name = schema_in(s, k)->name;
    return name[0] && name[1] == '_' ? name + 2 : name;
}

static const char *node_stem(const Node *n) { return *n->loc->node ? n->loc->node : n->loc->op; }

/* A value without a name, after the operand it becomes: "fc1_B". */
static const char *operand_stem(const Writer *w, Val v)
{
    const Node *n = NULL;
    while (w->reader[v.id] && is_edge(n = &w->g->node.at[w->reader[v.id] - 1])) v = n->out;
    if (!n || !w->reader[v.id]) return "value";
    uint32_t k = 0;
    while (node_in(w->g, n, k).id != v.id) k++;
    return arena_printf(w->mem, "%s_%s", node_stem(n), operand_name(n, k));
}

/* What an added node and its values are named after: a quantizer after the tensor it quantizes, others after the node of the model. */
static const char *stem_of(const Writer *w, const Node *n)
{
    if (!is_edge(n)) return node_stem(n);
    while (is_edge(val_def(w->g, node_in(w->g, n, 0)))) n = val_def(w->g, node_in(w->g, n, 0));
    const char *name = w->name[node_in(w->g, n, 0).id];
    return name ? name : operand_stem(w, node_in(w->g, n, 0));
}

/* Constants that quantizers read are what they are named after. */
static const char *operand_want(const Writer *w, const Node *n, uint32_t k)
{
    if (is_edge(n) && k == 0) return operand_stem(w, node_in(w->g, n, 0));
    return arena_printf(w->mem, "%s_%s", stem_of(w, n), operand_name(n, k));
}

static void find_readers(Writer *w)
{
    w->reader = NEW_ARRAY(w->mem, uint32_t, w->g->val.n + 1);
    for (uint32_t i = w->g->node.n; i-- > 0;)
        for (uint32_t k = 0; w->live[i] && k < w->g->node.at[i].nin; k++)
            w->reader[node_in(w->g, &w->g->node.at[i], k).id] = i + 1;
}

static void name_kept(Writer *w)
{
    const Graph *g = w->g;
    for (uint32_t i = 0; i < g->input.n; i++) name_value(w, g->input.at[i], graph_val(g, g->input.at[i])->name);
    for (uint32_t i = 0; i < g->output.n; i++) {
        bool computed = val_def(g, g->output.at[i]) != NULL;
        if (computed && !w->name[g->output.at[i].id]) name_value(w, g->output.at[i], g->output_name.at[i]);
        else unique(w->mem, &w->values, g->output_name.at[i]); /* taken: an Identity will make it */
    }
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        for (uint32_t k = 0; w->live[i] && k < n->nin; k++)
            name_value(w, node_in(g, n, k), graph_val(g, node_in(g, n, k))->name);
        for (uint32_t k = 0; w->live[i] && k < n->nout; k++)
            name_value(w, node_out(n, k), graph_val(g, node_out(n, k))->name);
    }
}

static void name_made(Writer *w)
{
    const Graph *g = w->g;
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        if (!w->live[i]) continue;
        for (uint32_t k = 0; k < n->nin; k++)
            if (node_in(g, n, k).id && !w->name[node_in(g, n, k).id])
                name_value(w, node_in(g, n, k), operand_want(w, n, k));
        for (uint32_t k = 0; k < n->nout; k++)
            name_value(w, node_out(n, k), arena_printf(w->mem, "%s_%s_Output", stem_of(w, n), n->op->name));
    }
    for (uint32_t i = 0; i < g->output.n; i++)
        name_value(w, g->output.at[i], arena_printf(w->mem, "%s_value", g->output_name.at[i]));
}

static const char *node_name(Writer *w, const Node *n)
{
    if (!*n->loc->node && !is_edge(n)) return "";
    const char *own = !strcmp(n->op->name, n->loc->op) && !is_edge(n) ? n->loc->node : NULL;
    return unique(w->mem, &w->nodes, own ? own : arena_printf(w->mem, "%s_%s", stem_of(w, n), n->op->name));
}

/* ---- tensors ---- */
static const uint8_t *packed_bits(Arena *mem, const Tensor *t, int bits, size_t bytes)
{
    uint8_t *out = arena_alloc(mem, bytes);
    const uint8_t *in = t->data;
    for (int64_t i = 0, each = 8 / bits, n = tensor_count(t); i < n; i++)
        out[i / each] |= (uint8_t)((in[i] & ((1 << bits) - 1)) << (i % each * bits));
    return out;
}

static void tensor_strings(Writer *w, Onnx__TensorProto *p, const Tensor *t)
{
    const char *const *s = t->data;
    p->n_string_data = (size_t)tensor_count(t);
    p->string_data = NEW_ARRAY(w->mem, ProtobufCBinaryData, p->n_string_data);
    for (size_t i = 0; i < p->n_string_data; i++)
        p->string_data[i] = (ProtobufCBinaryData){strlen(s[i]), (uint8_t *)s[i]};
}

static void add_entry(Writer *w, Onnx__TensorProto *p, const char *key, const char *value)
{
    Onnx__StringStringEntryProto *e = NEW(w->mem, Onnx__StringStringEntryProto);
    onnx__string_string_entry_proto__init(e);
    e->key = (char *)key, e->value = (char *)value;
    p->external_data[p->n_external_data++] = e;
}

static void tensor_outside(Writer *w, Onnx__TensorProto *p, const void *at, size_t n)
{
    w->data_end = (w->data_end + ALIGN - 1) / ALIGN * ALIGN;
    vec_push(w->mem, &w->outside, (Outside){at, n, w->data_end});
    p->has_data_location = 1, p->data_location = 1;
    p->external_data = NEW_ARRAY(w->mem, Onnx__StringStringEntryProto *, 3);
    add_entry(w, p, "location", w->data_name);
    add_entry(w, p, "offset", arena_printf(w->mem, "%llu", (unsigned long long)w->data_end));
    add_entry(w, p, "length", arena_printf(w->mem, "%zu", n));
    w->data_end += n;
}

static Onnx__TensorProto *tensor_proto(Writer *w, const Tensor *t, const char *name, bool outside)
{
    Onnx__TensorProto *p = NEW(w->mem, Onnx__TensorProto);
    const DTypeInfo *type = &dtypes[t->type];
    onnx__tensor_proto__init(p);
    p->n_dims = (size_t)t->rank, p->dims = arena_copy(w->mem, t->dim, sizeof *t->dim * (size_t)t->rank);
    p->has_data_type = 1, p->data_type = t->type, p->name = (char *)name;
    if (t->type == DT_str) return tensor_strings(w, p, t), p;
    size_t bytes = type->bits < 8 ? ((size_t)tensor_count(t) * (size_t)type->bits + 7) / 8 : tensor_bytes(t);
    const void *at = type->bits < 8 ? packed_bits(w->mem, t, type->bits, bytes) : t->data;
    if (outside && w->data_name && bytes >= INLINE_BYTES) return tensor_outside(w, p, at, bytes), p;
    p->has_raw_data = 1, p->raw_data = (ProtobufCBinaryData){bytes, (uint8_t *)at};
    return p;
}

/* ---- attributes ---- */
static void put_float(Writer *w, Onnx__AttributeProto *p, const Attr *a) { (void)w, p->has_f = 1, p->f = a->f; }
static void put_int(Writer *w, Onnx__AttributeProto *p, const Attr *a) { (void)w, p->has_i = 1, p->i = a->i; }
static void put_floats(Writer *w, Onnx__AttributeProto *p, const Attr *a)
{
    (void)w, p->n_floats = a->n, p->floats = (float *)a->floats;
}
static void put_ints(Writer *w, Onnx__AttributeProto *p, const Attr *a)
{
    (void)w, p->n_ints = a->n, p->ints = (int64_t *)a->ints;
}
static void put_tensor(Writer *w, Onnx__AttributeProto *p, const Attr *a)
{
    p->t = tensor_proto(w, a->tensor, "", false);
}
static void put_string(Writer *w, Onnx__AttributeProto *p, const Attr *a)
{
    (void)w, p->has_s = 1, p->s = (ProtobufCBinaryData){strlen(a->s), (uint8_t *)a->s};
}
static void put_strings(Writer *w, Onnx__AttributeProto *p, const Attr *a)
{
    p->n_strings = a->n, p->strings = NEW_ARRAY(w->mem, ProtobufCBinaryData, a->n);
    for (uint32_t i = 0; i < a->n; i++)
        p->strings[i] = (ProtobufCBinaryData){strlen(a->strings[i]), (uint8_t *)a->strings[i]};
}

static const struct {
    int type;
    void (*put)(Writer *, Onnx__AttributeProto *, const Attr *);
} attr_kinds[] = {
    [ATTR_INT] = {PB_INT, put_int},          [ATTR_FLOAT] = {PB_FLOAT, put_float},
    [ATTR_STRING] = {PB_STRING, put_string}, [ATTR_INTS] = {PB_INTS, put_ints},
    [ATTR_FLOATS] = {PB_FLOATS, put_floats}, [ATTR_STRINGS] = {PB_STRINGS, put_strings},
    [ATTR_TENSOR] = {PB_TENSOR, put_tensor},
};

/* Attributes that say what is so anyway are left out: older operator sets do not know all of them. */
static bool is_said(const OpAttr *row, const Attr *a)
{
    return a->kind != ATTR_NONE && (row->required || !attr_equal(a, &row->fallback));
}

static void node_attrs(Writer *w, const Node *n, Onnx__NodeProto *p)
{
    const OpSchema *s = op_schema(n->op);
    p->attribute = NEW_ARRAY(w->mem, Onnx__AttributeProto *, s->nattr + 1);
    for (uint32_t i = 0; i < s->nattr; i++) {
        const Attr *a = &n->attr[i];
        if (!is_said(&s->attr[i], a)) continue;
        Onnx__AttributeProto *out = NEW(w->mem, Onnx__AttributeProto);
        onnx__attribute_proto__init(out);
        out->name = (char *)s->attr[i].name, out->has_type = 1, out->type = attr_kinds[a->kind].type;
        attr_kinds[a->kind].put(w, out, a);
        p->attribute[p->n_attribute++] = out;
    }
}

/* ---- nodes ---- */
static Onnx__NodeProto *node_new(Writer *w, const char *domain, const char *op, const char *name, uint32_t nin,
                                 uint32_t nout)
{
    Onnx__NodeProto *p = NEW(w->mem, Onnx__NodeProto);
    onnx__node_proto__init(p);
    p->op_type = (char *)op, p->name = (char *)name, p->domain = *domain ? (char *)domain : NULL;
    p->n_input = nin, p->input = NEW_ARRAY(w->mem, char *, nin + 1);
    p->n_output = nout, p->output = NEW_ARRAY(w->mem, char *, nout + 1);
    vec_push(w->mem, &w->node, p);
    return p;
}

static bool write_node(Writer *w, const Node *n)
{
    const char *domain = n->op->domain ? n->op->domain : "";
    if (!strcmp(domain, "octet"))
        return diag_error(w->diag, n->loc,
                          "cannot be written as ONNX: '%s' is an operator of Octet's own; --freeze or --dim may decide beforehand what "
                          "it is there for",
                          n->op->name);
    Onnx__NodeProto *p = node_new(w, domain, n->op->name, node_name(w, n), n->nin, n->nout);
    for (uint32_t k = 0; k < n->nin; k++) {
        Val v = node_in(w->g, n, k);
        p->input[k] = v.id ? (char *)w->name[v.id] : "";
    }
    while (p->n_input && !*p->input[p->n_input - 1]) p->n_input--;
    for (uint32_t k = 0; k < n->nout; k++) p->output[k] = (char *)w->name[n->out.id + k];
    node_attrs(w, n, p);
    return true;
}

/* An output that is an input, a constant, or another output too. */
static void write_outputs(Writer *w)
{
    for (uint32_t i = 0; i < w->g->output.n; i++) {
        const char *want = w->g->output_name.at[i], *have = w->name[w->g->output.at[i].id];
        if (!strcmp(want, have)) continue;
        Onnx__NodeProto *p = node_new(w, "", "Identity", unique(w->mem, &w->nodes, want), 1, 1);
        p->input[0] = (char *)have, p->output[0] = (char *)want;
    }
}

static void write_constants(Writer *w)
{
    for (uint32_t v = 1; v < w->g->val.n; v++) {
        const Value *val = &w->g->val.at[v];
        if (w->name[v] && val->konst && val->def == NO_NODE)
            vec_push(w->mem, &w->tensor, tensor_proto(w, val->konst, w->name[v], true));
    }
}

/* ---- inputs and outputs ---- */
static Onnx__TensorShapeProto__Dimension *dim_proto(Writer *w, Dim dim)
{
    const Dims *d = w->g->module->dim;
    Onnx__TensorShapeProto__Dimension *p = NEW(w->mem, Onnx__TensorShapeProto__Dimension);
    onnx__tensor_shape_proto__dimension__init(p);
    int64_t v;
    if (dim_is_const(d, dim, &v)) p->has_dim_value = 1, p->dim_value = v;
    else if (dim_known(dim) && !dim_has_data(d, dim)) p->dim_param = (char *)dim_text(d, dim, w->mem);
    return p;
}

static Onnx__ValueInfoProto *value_info(Writer *w, const char *name, const Type *t)
{
    Onnx__ValueInfoProto *p = NEW(w->mem, Onnx__ValueInfoProto);
    Onnx__TypeProto__Tensor *tensor = NEW(w->mem, Onnx__TypeProto__Tensor);
    onnx__value_info_proto__init(p), onnx__type_proto__tensor__init(tensor);
    p->name = (char *)name, p->type = NEW(w->mem, Onnx__TypeProto);
    onnx__type_proto__init(p->type);
    p->type->tensor_type = tensor;
    tensor->has_elem_type = 1, tensor->elem_type = t->dtype;
    if (t->rank < 0) return p;
    tensor->shape = NEW(w->mem, Onnx__TensorShapeProto);
    onnx__tensor_shape_proto__init(tensor->shape);
    tensor->shape->dim = NEW_ARRAY(w->mem, Onnx__TensorShapeProto__Dimension *, t->rank + 1);
    for (int i = 0; i < t->rank; i++) tensor->shape->dim[tensor->shape->n_dim++] = dim_proto(w, t->dim[i]);
    return p;
}

/* ---- versions ---- */

/* What quantizers and dequantizers learnt after OPSET_LEAST: element types and attributes. */
static const struct {
    DType type;
    int since;
} edge_types[] = {{DT_u16, 21},        {DT_i16, 21},      {DT_u4, 21},         {DT_i4, 21},     {DT_u2, 25},  {DT_i2, 25},
                  {DT_f8e4m3fn, 19},   {DT_f8e5m2, 19},   {DT_f8e4m3fnuz, 19}, {DT_f8e5m2fnuz, 19},
                  {DT_f4e2m1, 23},     {DT_f16, 19},      {DT_bf16, 19}};
static const struct {
    const char *attr;
    int since, since_float; /* of what yields codes, of what yields floats */
} edge_attrs[] = {{"block_size", 21, 21}, {"output_dtype", 21, 23}, {"saturate", 19, 19}, {"precision", 23, 23}};

static int edge_since(const Graph *g, const Node *n)
{
    int since = OPSET_LEAST;
    const OpSchema *s = op_schema(n->op);
    for (uint32_t k = 0; k < n->nin + n->nout; k++) {
        Val v = k < n->nin ? node_in(g, n, k) : node_out(n, k - n->nin);
        for (size_t i = 0; v.id && i < COUNT_OF(edge_types); i++)
            if (val_type(g, v)->dtype == edge_types[i].type && edge_types[i].since > since) since = edge_types[i].since;
    }
    for (size_t i = 0; i < COUNT_OF(edge_attrs); i++) {
        int at = op_attr_index(n->op, edge_attrs[i].attr);
        bool floats = dtype_is_float(val_type(g, n->out)->dtype);
        int needs = floats ? edge_attrs[i].since_float : edge_attrs[i].since;
        if (at >= 0 && is_said(&s->attr[at], &n->attr[at]) && needs > since) since = needs;
    }
    return since;
}

static void opset_need(Writer *w, Opsets *o, const char *domain, int version)
{
    for (uint32_t i = 0; i < o->at.n; i++) {
        if (strcmp(o->at.at[i].domain, domain)) continue;
        if (o->at.at[i].version < version) o->at.at[i].version = version;
        return;
    }
    vec_push(w->mem, &o->at, (Opset){domain, version});
}

/* The model's own sets of the domains that are used, raised to what its operators need: their rows are the newest forms. */
static Opsets opsets_of(Writer *w)
{
    Opsets o = {{0}};
    opset_need(w, &o, "", OPSET_LEAST);
    for (uint32_t i = 0; i < w->g->node.n; i++) {
        const Node *n = &w->g->node.at[i];
        if (!w->live[i]) continue;
        opset_need(w, &o, n->op->domain ? n->op->domain : "", call_opset(n->op));
        if (is_edge(n) && !n->op->domain) opset_need(w, &o, "", edge_since(w->g, n));
    }
    for (uint32_t i = 0; i < w->origin->opset.at.n; i++)
        for (uint32_t k = 0; k < o.at.n; k++)
            if (!strcmp(o.at.at[k].domain, w->origin->opset.at.at[i].domain))
                opset_need(w, &o, o.at.at[k].domain, w->origin->opset.at.at[i].version);
    return o;
}

static int64_t ir_version(const Writer *w, const Opsets *o)
{
    static const struct {
        int opset, ir;
    } released[] = {{13, 7}, {15, 8}, {19, 9}, {21, 10}, {23, 11}, {24, 12}, {25, 13}, {28, 14}};
    int64_t ir = w->origin->ir_version;
    for (size_t i = 0; i < COUNT_OF(released); i++)
        if (o->at.at[0].version >= released[i].opset && ir < released[i].ir) ir = released[i].ir;
    return ir;
}

/* ---- the model ---- */
static bool graph_proto(Writer *w, Onnx__GraphProto *p)
{
    const Graph *g = w->g;
    bool ok = true;
    onnx__graph_proto__init(p);
    w->live = graph_live(g, w->mem), w->name = NEW_ARRAY(w->mem, const char *, g->val.n + 1);
    find_readers(w), name_kept(w), name_made(w);
    write_constants(w);
    for (uint32_t i = 0; i < g->node.n; i++)
        if (w->live[i]) ok = write_node(w, &g->node.at[i]) && ok;
    write_outputs(w);
    p->name = (char *)(*w->origin->graph ? w->origin->graph : g->module->name);
    p->has_doc_string = *w->origin->graph_doc != 0;
    p->doc_string = (ProtobufCBinaryData){strlen(w->origin->graph_doc), (uint8_t *)w->origin->graph_doc};
    p->n_node = w->node.n, p->node = w->node.at;
    p->n_initializer = w->tensor.n, p->initializer = w->tensor.at;
    p->input = NEW_ARRAY(w->mem, Onnx__ValueInfoProto *, g->input.n + 1);
    p->output = NEW_ARRAY(w->mem, Onnx__ValueInfoProto *, g->output.n + 1);
    for (uint32_t i = 0; i < g->input.n; i++)
        p->input[p->n_input++] = value_info(w, w->name[g->input.at[i].id], val_type(g, g->input.at[i]));
    for (uint32_t i = 0; i < g->output.n; i++)
        p->output[p->n_output++] = value_info(w, g->output_name.at[i], val_type(g, g->output.at[i]));
    return ok;
}

static void model_opsets(Writer *w, Onnx__ModelProto *m)
{
    Opsets o = opsets_of(w);
    m->ir_version = ir_version(w, &o), m->has_ir_version = 1;
    m->opset_import = NEW_ARRAY(w->mem, Onnx__OperatorSetIdProto *, o.at.n + 1);
    for (uint32_t i = 0; i < o.at.n; i++) {
        Onnx__OperatorSetIdProto *p = NEW(w->mem, Onnx__OperatorSetIdProto);
        onnx__operator_set_id_proto__init(p);
        p->domain = (char *)o.at.at[i].domain, p->has_version = 1, p->version = o.at.at[i].version;
        m->opset_import[m->n_opset_import++] = p;
    }
}

static void model_metadata(Writer *w, Onnx__ModelProto *m)
{
    const Origin *o = w->origin;
    m->metadata_props = NEW_ARRAY(w->mem, Onnx__MetadataProto *, o->metadata.n + 1);
    for (uint32_t i = 0; i < o->metadata.n; i++) {
        Onnx__MetadataProto *p = NEW(w->mem, Onnx__MetadataProto);
        const char *key = o->metadata.at[i].key, *value = o->metadata.at[i].value;
        onnx__metadata_proto__init(p);
        p->has_key = p->has_value = 1;
        p->key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
        p->value = (ProtobufCBinaryData){strlen(value), (uint8_t *)value};
        m->metadata_props[m->n_metadata_props++] = p;
    }
}

static bool model_proto(Writer *w, Onnx__ModelProto *m)
{
    const Origin *o = w->origin;
    onnx__model_proto__init(m);
    m->graph = NEW(w->mem, Onnx__GraphProto);
    m->producer_name = "octet", m->producer_version = (char *)octet_version();
    m->domain = *o->domain ? (char *)o->domain : NULL;
    m->has_model_version = o->model_version != 0, m->model_version = o->model_version;
    m->has_doc_string = *o->doc != 0, m->doc_string = (ProtobufCBinaryData){strlen(o->doc), (uint8_t *)o->doc};
    if (!graph_proto(w, m->graph)) return false;
    model_opsets(w, m);
    model_metadata(w, m);
    return true;
}

/* ---- files ---- */
typedef struct Stream {
    ProtobufCBuffer base;
    FILE *f;
} Stream;

static void stream_append(ProtobufCBuffer *b, size_t n, const uint8_t *at) { fwrite(at, 1, n, ((Stream *)b)->f); }

static bool write_message(Arena *mem, const Onnx__ModelProto *m, const char *out, Diag *d)
{
    const char *temporary = NULL;
    bool standard = !strcmp(out, "-");
    FILE *f = standard ? stdout : file_create(mem, d, out, &temporary);
    if (!f) return false;
    Stream s = {{stream_append}, f};
    protobuf_c_message_pack_to_buffer(&m->base, &s.base);
    if (!standard) return file_commit(d, f, temporary, out, true);
    return (!fflush(f) && !ferror(f)) || diag_error(d, NULL, "cannot write to standard output: %s", strerror(errno));
}

static bool write_outside(const Writer *w, const char *path)
{
    static const uint8_t zero[ALIGN];
    const char *temporary = NULL;
    FILE *f = file_create(w->mem, w->diag, path, &temporary);
    uint64_t at = 0;
    if (!f) return false;
    for (uint32_t i = 0; i < w->outside.n; i++) {
        const Outside *o = &w->outside.at[i];
        fwrite(zero, 1, o->offset - at, f), fwrite(o->at, 1, o->n, f);
        at = o->offset + o->n;
    }
    return file_commit(w->diag, f, temporary, path, true);
}

static bool write_model(Arena *mem, const Graph *g, const Origin *origin, const char *out, bool external, Diag *d)
{
    Writer w = {.g = g, .origin = origin, .mem = mem, .diag = d};
    const char *slash = strrchr(out, '/'), *path = arena_printf(mem, "%s.data", out);
    Onnx__ModelProto m;
    if (external) w.data_name = slash ? path + (slash + 1 - out) : path;
    if (!model_proto(&w, &m)) return false;
    bool fits = protobuf_c_message_get_packed_size(&m.base) <= MESSAGE_LIMIT;
    if (!fits && external) return diag_error(d, NULL, "the model is larger than 2 GB without its weights");
    if (!fits) return write_model(mem, g, origin, out, true, d);
    if (external && !strcmp(out, "-"))
        return diag_error(d, NULL, "weights beside the model need a file: -o OUT.onnx, not standard output");
    return (!external || write_outside(&w, path)) && write_message(mem, &m, out, d);
}

bool export_model(const Graph *g, const Origin *origin, const char *out, bool external, Diag *d)
{
    Arena mem = {0};
    bool ok = write_model(&mem, g, origin, out, external, d);
    arena_drop(&mem);
    return ok;
}

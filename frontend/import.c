/* import.c - a model file becomes a Graph: scan, parse, inputs with their sizes, body, outputs. See import.h. */
#include "frontend/importer.h"
#include "frontend/npz.h"
#include "frontend/scan.h"
#include <stdlib.h>

static const uint64_t DEFAULT_MEMORY = (uint64_t)8 << 30;

/* ---- parsing into an arena ---- */

static void *parser_alloc(void *arena, size_t n) { return arena_alloc(arena, n); }
static void parser_free(void *arena, void *p) { (void)arena, (void)p; }

static ProtobufCMessage *parse(Arena *scratch, Diag *d, const ProtobufCMessageDescriptor *type, FileBytes file,
                               uint64_t budget)
{
    Scan scan;
    if (!scan_message(scratch, d, type, file.at, file.n, budget, &scan)) return NULL;
    ProtobufCAllocator allocator = {parser_alloc, parser_free, scratch};
    ProtobufCMessage *m = protobuf_c_message_unpack(type, &allocator, scan.n, scan.at);
    if (!m) diag_error(d, NULL, "not a valid ONNX file");
    return m;
}

Tensor *import_tensor(Arena *mem, Diag *diag, const char *path, const char **name)
{
    FileBytes file;
    Arena scratch = {0};
    if (!file_bytes(mem, NULL, diag, path, &file)) return NULL;
    const Onnx__TensorProto *t =
        (const void *)parse(&scratch, diag, &onnx__tensor_proto__descriptor, file, DEFAULT_MEMORY);
    Weights w = {.mem = mem, .diag = diag, .model = file, .left = DEFAULT_MEMORY};
    Tensor *out = t ? weights_tensor(&w, t, NULL, arena_printf(&scratch, "tensor '%s'", text_of(t->name))) : NULL;
    if (t && name) *name = arena_text(mem, text_of(t->name), strlen(text_of(t->name)));
    arena_drop(&scratch);
    return out;
}

/* ---- module ---- */

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static const char *identifier(Arena *mem, const char *file)
{
    size_t n = strcspn(file, ".");
    bool digit = *file >= '0' && *file <= '9';
    char *id = arena_printf(mem, "%s%.*s", digit || !n ? "model_" : "", (int)n, file);
    for (char *p = id; *p; p++)
        if (!is_word(*p)) *p = '_';
    return id;
}

Module *module_new(Arena *mem, Diag *diag, const char *path)
{
    Module *m = NEW(mem, Module);
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    m->mem = mem, m->diag = diag, m->dim = dims_new(mem);
    m->name = strcmp(path, "-") ? identifier(mem, file) : "model";
    m->folder = slash == path ? "/" : arena_text(mem, path, slash ? (size_t)(slash - path) : 0);
    diag->subject = strcmp(path, "-") ? arena_text(mem, file, strlen(file)) : "standard input";
    return m;
}

/* ---- inputs ---- */

static bool is_unnamed(const char *param)
{
    static const char *const nothing[] = {"", "?", "None", "-1"};
    for (size_t i = 0; i < COUNT_OF(nothing); i++)
        if (!strcmp(param, nothing[i])) return true;
    return false;
}

static Dim free_dim(Import *im, const ImportOptions *o, const char *name, bool *used)
{
    for (uint32_t i = 0; i < o->dims; i++)
        if (!strcmp(o->dim[i].name, name)) return used[i] = true, dim_const(im->m->dim, o->dim[i].value);
    return dim_symbol(im->m->dim, copy_name(im, name), DIM_INPUT, 0);
}

/* --dim INPUT:AXIS=VALUE speaks of one axis of one input, --dim NAME=VALUE of every size of that name. */
static Dim input_dim(Import *im, const ImportOptions *o, const char *input, size_t axis,
                     const Onnx__TensorShapeProto__Dimension *d, bool *used)
{
    bool fixed = d->has_dim_value && d->dim_value >= 0;
    const char *place = arena_printf(im->scratch, "%s:%zu", input, axis);
    for (uint32_t i = 0; i < o->dims; i++) {
        if (strcmp(o->dim[i].name, place)) continue;
        if (fixed && d->dim_value != o->dim[i].value)
            diag_error(im->diag, NULL, "--dim %s=%lld: the model fixes that size to %lld", place,
                       (long long)o->dim[i].value, (long long)d->dim_value);
        return used[i] = true, dim_const(im->m->dim, o->dim[i].value);
    }
    if (fixed) return dim_const(im->m->dim, d->dim_value);
    const char *param = text_of(d->dim_param);
    return free_dim(im, o, is_unnamed(param) ? arena_printf(im->scratch, "%s_d%zu", input, axis) : param, used);
}

static bool input_type(Import *im, const ImportOptions *o, const Onnx__ValueInfoProto *v, Type *type, bool *used)
{
    const char *name = text_of(v->name);
    const Onnx__TypeProto *t = v->type;
    if (!t || !t->tensor_type)
        return diag_error(im->diag, NULL, "input '%s' is %s; only tensors are supported", name,
                          !t                      ? "of no declared type"
                          : t->sequence_type      ? "a sequence"
                          : t->optional_type      ? "an optional value"
                          : t->map_type           ? "a map"
                          : t->sparse_tensor_type ? "a sparse tensor"
                                                  : "of an unknown kind");
    int32_t dtype = t->tensor_type->elem_type;
    if (dtype <= DT_NONE || dtype >= DT_COUNT)
        return diag_error(im->diag, NULL, "input '%s' has unknown element type %d", name, dtype);
    const Onnx__TensorShapeProto *shape = t->tensor_type->shape;
    if (!shape) return diag_error(im->diag, NULL, "input '%s' has no declared number of dimensions", name);
    if (shape->n_dim > MAX_RANK)
        return diag_error(im->diag, NULL, "input '%s' has %zu dimensions, at most %d are supported", name, shape->n_dim,
                          MAX_RANK);
    *type = (Type){.dtype = (DType)dtype, .rank = (int)shape->n_dim};
    for (size_t i = 0; i < shape->n_dim; i++) type->dim[i] = input_dim(im, o, name, i, shape->dim[i], used);
    return true;
}

/* ---- --freeze: an input whose value is known ---- */

static Tensor *frozen_number(Import *im, const Frozen *f, const Type *type)
{
    char *end;
    double v = strtod(f->text, &end);
    int64_t dim[MAX_RANK];
    if (!*f->text || *end)
        return diag_error(im->diag, NULL, "--freeze %s=%s: expected a number, FILE.npy or FILE.pb", f->name, f->text),
               NULL;
    for (int i = 0; i < type->rank; i++)
        if (!dim_is_const(im->m->dim, type->dim[i], &dim[i]) || dim[i] > MAX_ELEMS)
            return diag_error(im->diag, NULL,
                              "--freeze %s=%s: the input is not a small tensor of fixed size; give a file", f->name,
                              f->text),
                   NULL;
    if (dtypes[type->dtype].cls == DC_OTHER)
        return diag_error(im->diag, NULL, "--freeze %s=%s: the input is not numeric", f->name, f->text), NULL;
    Tensor *t = tensor_new(im->mem, type->dtype, type->rank, dim);
    for (int64_t i = 0, n = tensor_count(t); i < n; i++) dtype_store(t->type, (void *)t->data, i, v);
    return t;
}

static bool ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && !strcmp(s + n - m, suffix);
}

static const Tensor *frozen_tensor(Import *im, const Frozen *f, const Type *type)
{
    const Tensor *t = ends_with(f->text, ".npy")  ? npy_read(im->mem, im->diag, f->text)
                      : ends_with(f->text, ".pb") ? import_tensor(im->mem, im->diag, f->text, NULL)
                                                  : frozen_number(im, f, type);
    bool fits = t && t->type == type->dtype && t->rank == type->rank;
    for (int i = 0; fits && i < t->rank; i++) {
        int64_t fixed;
        fits = !dim_is_const(im->m->dim, type->dim[i], &fixed) || fixed == t->dim[i];
    }
    if (t && !fits)
        diag_error(im->diag, NULL, "--freeze %s=%s: the data is not %s", f->name, f->text,
                   type_text(im->m, type, im->scratch));
    return fits ? t : NULL;
}

static const Frozen *find_frozen(const ImportOptions *o, const char *name)
{
    for (uint32_t i = 0; i < o->frozens; i++)
        if (!strcmp(o->frozen[i].name, name)) return &o->frozen[i];
    return NULL;
}

static Val make_input(Import *im, const ImportOptions *o, const char *name, Type type)
{
    const Frozen *f = find_frozen(o, name);
    if (!f) {
        Val v = graph_input(im->g, copy_name(im, name), type);
        graph_track(im->g, v); /* a shape that is fed says sizes before anything runs */
        return v;
    }
    const Tensor *t = frozen_tensor(im, f, &type);
    return t ? graph_const(im->g, t, copy_name(im, name)) : value_placeholder(im, name);
}

static bool is_initializer(const Map *initializers, const char *name) { return map_get(initializers, name) != 0; }

static void unused_dim(Import *im, const char *name)
{
    const char *all = "";
    for (uint32_t i = 0, n = dim_symbols(im->m->dim); i < n; i++)
        if (dim_symbol_kind(im->m->dim, i) == DIM_INPUT)
            all = arena_printf(im->scratch, "%s%s%s", all, *all ? ", " : "", dim_symbol_name(im->m->dim, i));
    diag_error(im->diag, NULL, "--dim %s: no input has a free size of that name", name);
    if (*all) diag_note(im->diag, "free sizes: %s", all);
}

static void import_inputs(Import *im, Scope *s, const ImportOptions *o)
{
    const Onnx__GraphProto *g = im->model->graph;
    bool *used = NEW_ARRAY(im->scratch, bool, o->dims + 1);
    Map initializers = {0};
    for (size_t i = 0; i < g->n_initializer; i++)
        map_put(im->scratch, &initializers, text_of(g->initializer[i]->name), 1);
    for (size_t i = 0; i < g->n_sparse_initializer; i++)
        if (g->sparse_initializer[i]->values)
            map_put(im->scratch, &initializers, text_of(g->sparse_initializer[i]->values->name), 1);
    for (size_t i = 0; i < g->n_input; i++) {
        const char *name = text_of(g->input[i]->name);
        Type type;
        if (is_initializer(&initializers, name)) continue; /* a default that nobody overrides: a constant */
        if (!*name) diag_error(im->diag, NULL, "input #%zu has no name", i);
        else if (!input_type(im, o, g->input[i], &type, used))
            scope_bind(im, s, name, value_placeholder(im, name), NULL);
        else scope_bind(im, s, name, make_input(im, o, name, type), NULL);
    }
    for (uint32_t i = 0; i < o->dims; i++)
        if (!used[i]) unused_dim(im, o->dim[i].name);
    for (uint32_t i = 0; i < o->frozens; i++)
        if (!scope_find(s, o->frozen[i].name).id)
            diag_error(im->diag, NULL, "--freeze %s: no input has that name", o->frozen[i].name);
}

/* Every name that something reads: an output that nobody reads need not be supported. */
static void collect_reads(Import *im, const Onnx__GraphProto *g)
{
    for (size_t i = 0; i < g->n_output; i++) map_put(im->scratch, &im->read, text_of(g->output[i]->name), 1);
    for (size_t i = 0; i < g->n_node; i++) {
        for (size_t k = 0; k < g->node[i]->n_input; k++)
            map_put(im->scratch, &im->read, text_of(g->node[i]->input[k]), 1);
        for (size_t k = 0; k < g->node[i]->n_attribute; k++)
            if (g->node[i]->attribute[k]->g) collect_reads(im, g->node[i]->attribute[k]->g);
    }
}

static void collect_function_reads(Import *im, const Onnx__FunctionProto *f)
{
    const Onnx__GraphProto body = {.n_node = f->n_node, .node = f->node};
    for (size_t i = 0; i < f->n_output; i++) map_put(im->scratch, &im->read, text_of(f->output[i]), 1);
    collect_reads(im, &body);
}

static void import_outputs(Import *im, const Scope *s)
{
    const Onnx__GraphProto *g = im->model->graph;
    Map seen = {0};
    if (!g->n_output) diag_error(im->diag, NULL, "the graph has no outputs");
    for (size_t i = 0; i < g->n_output; i++) {
        const char *name = text_of(g->output[i]->name);
        Val v = scope_find(s, name);
        if (!map_put(im->scratch, &seen, name, 1)) diag_error(im->diag, NULL, "output '%s' is listed twice", name);
        else if (!v.id) diag_error(im->diag, NULL, "output '%s' is not computed by any node", name);
        else graph_output(im->g, v, copy_name(im, name));
    }
}

/* ---- the whole file ---- */

static bool import_open(Import *im, const char *path, const ImportOptions *o)
{
    FileBytes file;
    uint64_t budget = o->max_memory ? o->max_memory : DEFAULT_MEMORY;
    if (!file_bytes(im->mem, o->files, im->diag, path, &file)) return false;
    im->model = (const void *)parse(im->scratch, im->diag, &onnx__model_proto__descriptor, file, budget);
    if (!im->model) return false;
    im->weights = (Weights){.mem = im->mem,
                            .diag = im->diag,
                            .files = o->files,
                            .model = file,
                            .folder = strcmp(path, "-") ? im->m->folder : NULL,
                            .left = budget};
    int64_t ir = im->model->ir_version;
    if (!im->model->graph) return diag_error(im->diag, NULL, "not an ONNX model: it has no graph");
    if (ir < IR_OLDEST || ir > IR_NEWEST)
        return diag_error(im->diag, NULL, "IR version %lld is not supported (%d to %d are)", (long long)ir, IR_OLDEST,
                          IR_NEWEST);
    functions_index(im);
    collect_reads(im, im->model->graph);
    for (size_t i = 0; i < im->model->n_functions; i++) collect_function_reads(im, im->model->functions[i]);
    return opsets_read(im, im->model->opset_import, im->model->n_opset_import, NULL, &im->opset);
}

static const char *kept_text(Import *im, const char *s) { return arena_text(im->mem, text_of(s), strlen(text_of(s))); }

/* What ends at a zero byte ends there. */
static const char *kept_bytes(Import *im, ProtobufCBinaryData b)
{
    return b.len ? arena_text(im->mem, (const char *)b.data, b.len) : "";
}

static void read_origin(Import *im, Origin *o)
{
    const Onnx__ModelProto *m = im->model;
    *o = (Origin){.ir_version = m->ir_version, .model_version = m->model_version};
    o->graph = kept_text(im, m->graph->name), o->domain = kept_text(im, m->domain);
    o->doc = kept_bytes(im, m->doc_string), o->graph_doc = kept_bytes(im, m->graph->doc_string);
    for (uint32_t i = 0; i < im->opset.at.n; i++) vec_push(im->mem, &o->opset.at, im->opset.at.at[i]);
    for (size_t i = 0; i < m->n_metadata_props; i++)
        vec_push(im->mem, &o->metadata,
                 (Metadata){kept_bytes(im, m->metadata_props[i]->key), kept_bytes(im, m->metadata_props[i]->value)});
}

Graph *import_file(Module *m, Arena *mem, const char *path, const ImportOptions *o)
{
    static const ImportOptions none;
    Arena scratch = {0};
    Import im = {.m = m, .mem = mem, .scratch = &scratch, .diag = m->diag};
    unsigned before = m->diag->errors;
    if (!o) o = &none;
    if (import_open(&im, path, o)) {
        if (o->origin) read_origin(&im, o->origin);
        im.g = graph_new(m, mem, copy_name(&im, m->name));
        Scope top = {.opset = &im.opset};
        import_inputs(&im, &top, o);
        body_import(&im, &top, im.model->graph);
        blocked_report(&im);
        import_outputs(&im, &top);
    }
    arena_drop(&scratch);
    return m->diag->errors == before ? im.g : NULL;
}

/* ---- facts ---- */

typedef struct Counting {
    Import *im;
    ModelFacts *facts;
    Map at;
} Counting;

static void count_nodes(Counting *c, Onnx__NodeProto *const *node, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char *domain = domain_of(node[i]->domain), *op = text_of(node[i]->op_type);
        const char *key = copy_name(c->im, arena_printf(c->im->scratch, "%s:%s", domain, op));
        uint32_t at = map_get(&c->at, key);
        if (!at) {
            OpCount fresh = {copy_name(c->im, domain), copy_name(c->im, op), 0, op_supported(c->im, domain, op)};
            at = vec_push(c->im->mem, &c->facts->op, fresh) + 1;
            map_put(c->im->scratch, &c->at, key, at);
        }
        c->facts->op.at[at - 1].n++;
        c->facts->nodes++;
        for (size_t k = 0; k < node[i]->n_attribute; k++)
            if (node[i]->attribute[k]->g)
                count_nodes(c, node[i]->attribute[k]->g->node, node[i]->attribute[k]->g->n_node);
    }
}

static void sort_ops(ModelFacts *f)
{
    for (uint32_t i = 1; i < f->op.n; i++)
        for (uint32_t k = i; k && strcmp(f->op.at[k - 1].name, f->op.at[k].name) > 0; k--) {
            OpCount swap = f->op.at[k];
            f->op.at[k] = f->op.at[k - 1], f->op.at[k - 1] = swap;
        }
}

static void count_weights(const Onnx__GraphProto *g, ModelFacts *f)
{
    for (size_t i = 0; i < g->n_initializer; i++) {
        const Onnx__TensorProto *t = g->initializer[i];
        double bytes = t->data_type > DT_NONE && t->data_type < DT_COUNT ? dtypes[t->data_type].bits / 8.0 : 0;
        for (size_t k = 0; k < t->n_dims; k++) bytes *= (double)t->dims[k];
        uint64_t whole = bytes > 0 && bytes < 1e18 ? (uint64_t)bytes : 0;
        f->weight_bytes += whole;
        if (t->data_type == DT_f32 && t->n_dims >= 2) f->float_bytes += whole;
    }
}

bool import_facts(Module *m, Arena *mem, const char *path, const ImportOptions *o, ModelFacts *facts)
{
    static const ImportOptions none;
    Arena scratch = {0};
    Import im = {.m = m, .mem = mem, .scratch = &scratch, .diag = m->diag};
    bool ok = import_open(&im, path, o ? o : &none);
    *facts = (ModelFacts){0};
    if (ok) {
        Counting c = {.im = &im, .facts = facts};
        facts->ir_version = im.model->ir_version;
        for (uint32_t i = 0; i < im.opset.at.n; i++)
            if (!*im.opset.at.at[i].domain) facts->opset = im.opset.at.at[i].version;
        facts->producer = copy_name(&im, im.model->producer_name);
        facts->initializers = (uint32_t)im.model->graph->n_initializer;
        facts->functions = (uint32_t)im.model->n_functions;
        count_nodes(&c, im.model->graph->node, im.model->graph->n_node);
        for (size_t i = 0; i < im.model->n_functions; i++)
            count_nodes(&c, im.model->functions[i]->node, im.model->functions[i]->n_node);
        sort_ops(facts);
        count_weights(im.model->graph, facts);
    }
    arena_drop(&scratch);
    return ok;
}

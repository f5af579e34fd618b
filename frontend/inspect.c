/* inspect.c - `octet inspect`: what a model holds, and everything that keeps it from being compiled, in one run. */
#include "frontend/cli.h"
#include "frontend/compile.h"
#include "passes/pass.h"
#include <cjson/cJSON.h>
#include <inttypes.h>

typedef struct Inspect {
    const Options *o;
    Module *m;
    Arena *mem;
    ModelFacts facts;
    const Graph *graph;
    uint32_t quantizable, contractions;
} Inspect;

/* Contractions with constant float weights: what --quantize int8 turns into integer arithmetic. */
static void count_contractions(Inspect *x)
{
    Arena scratch = {0};
    PassCtx ctx = {.module = x->m, .mem = x->mem, .scratch = &scratch};
    const PassRun run = {.text = stdout};
    if (!x->graph) return;
    const Graph *g = passes_run(x->graph, &ctx, NULL, "expand", &run);
    arena_drop(&scratch);
    for (uint32_t i = 0; g && i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        if (n->op->quant != QUANT_INTEGER && n->op->quant != QUANT_STATE) continue;
        Val w = node_in(g, n, 1);
        x->contractions++;
        x->quantizable += w.id && graph_val(g, w)->konst && val_type(g, w)->dtype == DT_f32;
    }
}

static const char *bytes_text(Arena *mem, uint64_t n)
{
    if (n < 10000) return arena_printf(mem, "%" PRIu64 " bytes", n);
    if (n < 10000000) return arena_printf(mem, "%.1f kB", (double)n / 1e3);
    return arena_printf(mem, "%.1f MB", (double)n / 1e6);
}

static void print_text(Inspect *x)
{
    const ModelFacts *f = &x->facts;
    printf("model    %s\nformat   ONNX IR %" PRId64 ", opset %" PRId64 "%s%s\n", x->m->name, f->ir_version, f->opset,
           *f->producer ? ", by " : "", f->producer);
    printf("size     %u nodes, %u constants, %s of weights\n", f->nodes, f->initializers,
           bytes_text(x->mem, f->weight_bytes));
    for (uint32_t i = 0; x->graph && i < x->graph->input.n; i++) {
        const Value *v = graph_val(x->graph, x->graph->input.at[i]);
        printf("input    %s %s\n", v->name, type_text(x->m, &v->type, x->mem));
    }
    for (uint32_t i = 0; x->graph && i < x->graph->output.n; i++)
        printf("output   %s %s\n", x->graph->output_name.at[i],
               type_text(x->m, val_type(x->graph, x->graph->output.at[i]), x->mem));
    printf("operators\n");
    for (uint32_t i = 0; i < f->op.n; i++) {
        const OpCount *c = &f->op.at[i];
        printf("%8u %s%s%s%s\n", c->n, c->domain, *c->domain ? ":" : "", c->name,
               c->supported ? "" : "  (not supported)");
    }
    if (x->quantizable)
        printf("int8     %u of %u contractions have constant float weights; --quantize int8 makes %s of weights %s\n",
               x->quantizable, x->contractions, bytes_text(x->mem, f->float_bytes),
               bytes_text(x->mem, f->float_bytes / 4));
}

static cJSON *value_json(Inspect *x, const char *name, const Type *t)
{
    cJSON *j = cJSON_CreateObject(), *dims = cJSON_AddArrayToObject(j, "shape");
    cJSON_AddStringToObject(j, "name", name);
    cJSON_AddStringToObject(j, "type", dtypes[t->dtype].ort ? dtypes[t->dtype].ort : "");
    for (int i = 0; i < t->rank; i++) {
        int64_t v;
        bool fixed = dim_is_const(x->m->dim, t->dim[i], &v);
        cJSON_AddItemToArray(dims, fixed ? cJSON_CreateNumber((double)v)
                                         : cJSON_CreateString(dim_text(x->m->dim, t->dim[i], x->mem)));
    }
    return j;
}

static void print_json(Inspect *x)
{
    const ModelFacts *f = &x->facts;
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "model", x->m->name);
    cJSON_AddNumberToObject(j, "ir_version", (double)f->ir_version);
    cJSON_AddNumberToObject(j, "opset", (double)f->opset);
    cJSON_AddNumberToObject(j, "nodes", f->nodes);
    cJSON_AddNumberToObject(j, "weight_bytes", (double)f->weight_bytes);
    cJSON *in = cJSON_AddArrayToObject(j, "inputs"), *out = cJSON_AddArrayToObject(j, "outputs");
    for (uint32_t i = 0; x->graph && i < x->graph->input.n; i++) {
        const Value *v = graph_val(x->graph, x->graph->input.at[i]);
        cJSON_AddItemToArray(in, value_json(x, v->name, &v->type));
    }
    for (uint32_t i = 0; x->graph && i < x->graph->output.n; i++)
        cJSON_AddItemToArray(out,
                             value_json(x, x->graph->output_name.at[i], val_type(x->graph, x->graph->output.at[i])));
    cJSON *ops = cJSON_AddArrayToObject(j, "operators");
    for (uint32_t i = 0; i < f->op.n; i++) {
        cJSON *op = cJSON_CreateObject();
        cJSON_AddStringToObject(op, "domain", f->op.at[i].domain);
        cJSON_AddStringToObject(op, "name", f->op.at[i].name);
        cJSON_AddNumberToObject(op, "count", f->op.at[i].n);
        cJSON_AddBoolToObject(op, "supported", f->op.at[i].supported);
        cJSON_AddItemToArray(ops, op);
    }
    cJSON_AddNumberToObject(j, "quantizable", x->quantizable);
    cJSON *blockers = cJSON_AddArrayToObject(j, "blockers");
    for (uint32_t i = 0; i < x->m->diag->line.n; i++)
        cJSON_AddItemToArray(blockers, cJSON_CreateString(x->m->diag->line.at[i]));
    char *text = cJSON_Print(j);
    if (text) puts(text);
    cJSON_free(text);
    cJSON_Delete(j);
}

int command_inspect(const Options *o, Diag *d)
{
    Arena mem = {0};
    Files files = {.mem = &mem};
    const char *path = o->arg.at[0];
    Inspect x = {.o = o, .m = module_new(&mem, d, path), .mem = &mem};
    ImportOptions io;
    if (!import_options(o, d, &io)) return EXIT_USAGE;
    io.files = &files;
    bool ok = import_facts(x.m, &mem, path, &io, &x.facts);
    if (ok) {
        x.graph = import_file(x.m, &mem, path, &io);
        count_contractions(&x);
        if (o->value[OPT_json]) print_json(&x);
        else print_text(&x);
    }
    files_drop(&files);
    arena_drop(&mem);
    return ok && x.graph && !d->errors ? 0 : EXIT_MODEL;
}
